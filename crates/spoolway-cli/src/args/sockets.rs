//! `spoolway sockets`, and whom `serve` lets in.

use std::path::PathBuf;
use std::time::Duration;

use spoolway::consumer::Access;

use crate::people::{parse_group, parse_user};
use crate::units::parse_duration;

/// List the sockets of a directory, and whether each answers
///
/// Each is sent a ping. `live`: it answers. `stale`: nobody listens, and the next consumer replaces the file. `not
/// permitted`: you may not connect. `not answering`: somebody listens and says nothing, such as a consumer that was stopped.
/// Only `CHANNEL-INSTANCE.sock` is listed; the last dash splits. Nothing is changed or removed.
#[derive(Debug, clap::Args)]
#[command(help_template = super::TEMPLATE, before_help = "\
Examples:
  spoolway sockets                              those of the socket directory
  spoolway sockets --dir /run/app --channel orders
  spoolway sockets --json | jq -r '.sockets[] | select(.state != \"live\").path'")]
pub(crate) struct Sockets {
    /// The directory [default: the socket directory, see --socket]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How long each may take to answer
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub(crate) timeout: Duration,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Who may connect beside the user of the process and root.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Access to the socket")]
pub(crate) struct Allowed {
    /// Let this user send, by name or number; may be given again
    ///
    /// Without it and --allow-gid the socket has the mode 0600: only your own user and root may connect. With either it is
    /// 0660, and whoever is named may send, not administer. One group becomes the group of the socket; several of them,
    /// and users, are put on its access control list (`getfacl`). Each user named by neither is refused.
    #[arg(long, value_name = "USER", value_parser = parse_user)]
    pub(crate) allow_uid: Vec<u32>,
    /// Let members of this group send, by name or number; may be given again
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    pub(crate) allow_gid: Vec<u32>,
}

impl From<Allowed> for Access {
    fn from(
        Allowed {
            allow_uid: uids,
            allow_gid: gids,
        }: Allowed,
    ) -> Self {
        Self { uids, gids }
    }
}
