//! `spoolway dead …`.

use clap::Subcommand;
use spoolway::proto::Key;
use spoolway::queue::Filter;
use spoolway::{MessageId, Timestamp};

use crate::units::parse_moment;

/// List, show, requeue and purge dead letters: messages that will not be tried again by themselves
#[derive(Debug, Subcommand)]
#[command(help_template = super::TEMPLATE, before_help = "\
Examples:
  spoolway dead ls --since 1h                   what died in the last hour
  spoolway dead show 0199c5c2-…                 its payload, attempts and last error
  spoolway dead requeue --type 'candle:*'       let them run again, marked `replayed`
  spoolway dead purge --reason expired          delete them for good")]
pub(crate) enum DeadCommand {
    Ls(DeadLs),
    Show(DeadShow),
    Requeue(DeadRequeue),
    Purge(DeadPurge),
}

/// Which dead letters are meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Of a type like this: `*` is any text, `?` any character; may be given again
    #[arg(long = "type", value_name = "GLOB")]
    kind: Vec<String>,
    /// Of this key
    #[arg(long)]
    key: Option<Key>,
    /// That died of this: `attempts`, `expired`, `no_route`, …
    #[arg(long)]
    reason: Option<String>,
    /// That died at this time or later: RFC 3339, or so long ago (`1h`)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<Timestamp>,
    /// That died at this time or before
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<Timestamp>,
}

impl Which {
    pub(crate) fn filter(&self, id: Option<MessageId>) -> Filter {
        Filter {
            ids: id.into_iter().collect(),
            types: self.kind.clone(),
            key: self.key.clone(),
            reason: self.reason.clone(),
            since: self.since,
            until: self.until,
        }
    }
}

/// List dead letters, those that died last first
#[derive(Debug, clap::Args)]
pub(crate) struct DeadLs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub(crate) limit: usize,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show a dead letter with its payload
#[derive(Debug, clap::Args)]
pub(crate) struct DeadShow {
    /// Its id
    pub(crate) id: String,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Let dead letters run again: no attempts counted, the same id, outside the order of their key
///
/// The handler is told `replayed`. Also beside a running consumer, which is woken. A key that one of them has stopped
/// (`serve --on-dead hold`) is released.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("some").required(true).multiple(true)
    .args(["id", "all", "kind", "key", "reason", "since", "until"]))]
pub(crate) struct DeadRequeue {
    /// The one of this id
    #[arg(conflicts_with = "all")]
    pub(crate) id: Option<MessageId>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Every dead letter
    #[arg(long, conflicts_with_all = ["kind", "key", "reason", "since", "until"])]
    pub(crate) all: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Delete dead letters for good; the audit goes on counting them
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("some").required(true).multiple(true)
    .args(["id", "all", "kind", "key", "reason", "since", "until"]))]
pub(crate) struct DeadPurge {
    /// The one of this id
    #[arg(conflicts_with = "all")]
    pub(crate) id: Option<MessageId>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Every dead letter
    #[arg(long, conflicts_with_all = ["kind", "key", "reason", "since", "until"])]
    pub(crate) all: bool,
    /// Do not ask; needed where there is nobody to ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}
