//! `spoolway queue …`.

use std::path::PathBuf;

use clap::Subcommand;

/// Look into the queue file, check, copy and move it: all beside a running consumer
#[derive(Debug, Subcommand)]
#[command(help_template = super::TEMPLATE, before_help = "\
Examples:
  spoolway queue stats                          what it holds, by state
  spoolway queue check --full                   every page, every row
  spoolway queue backup /backup/monday.db       a copy of one moment
  spoolway queue export | gzip > queue.jsonl.gz
  spoolway queue import --move stray.db         take what another file holds")]
pub(crate) enum QueueCommand {
    Stats(Stats),
    Check(Check),
    Backup(Backup),
    Compact(Compact),
    Export(Export),
    Import(Import),
    #[command(subcommand)]
    Migrate(MigrateCommand),
}

/// Count what the queue file holds
///
/// All counts are exact. Types and keys are those of the first 100,000 messages of the backlog.
#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check that the queue file is what it should be; only reads
///
/// Every page, the schema, the counts of producers against their rows, claims. Exit code 70 when
/// something is wrong; each finding says what to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The indexes too, and of each row the CRC and that payload and attributes are JSON
    #[arg(long)]
    pub(crate) full: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Copy the queue file as it is at one moment
///
/// Never overwrites (exit code 73). The copy is checked, synced, and has an identity of its own; put
/// in the place of the queue file while no consumer runs, it is the queue file.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// Where the copy goes
    pub(crate) path: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Give free space in the queue file back to the file system, and empty its write-ahead log
#[derive(Debug, clap::Args)]
pub(crate) struct Compact {
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write every message with its state, one JSON object a line
///
/// Messages are read page by page, so each is in the state of its moment. Counts of producers and
/// stopped keys are not in it: `queue backup` has them.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// A file that is not there yet (exit code 73 if it is) [default: the standard output]
    pub(crate) file: Option<PathBuf>,
    /// With FILE: one JSON object that counts, instead of text
    #[arg(long, requires = "file")]
    pub(crate) json: bool,
}

/// Take messages from an export, a file of plain messages, another queue file or an outbox
///
/// An id that is here is left as it is. What cannot be taken is named with its line (exit code 65).
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Lines of JSON (`-`: the standard input), or a SQLite database: a queue file, one of FlowTrace, or one with
    /// outboxes in it
    pub(crate) file: PathBuf,
    /// Delete from the database what is safe here; no consumer and no relay may run on it
    #[arg(long = "move")]
    pub(crate) moves: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Look at the schema of the queue file; the consumer brings it up to date when it starts
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    Status(MigrateStatus),
}

/// Say which version the file has, which this program has, and what would be applied
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateStatus {
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}
