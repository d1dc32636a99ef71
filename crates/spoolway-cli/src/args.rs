//! What can be said on the command line.

mod bench;
mod dead;
mod queue;
mod replay;
mod sockets;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand};
use spoolway::consumer::RetryPolicy;
use spoolway::proto::Key;
use spoolway::{AckLevel, Sink};

use crate::paths::Named;
use crate::units::{parse_bytes, parse_duration};

pub(crate) use bench::{Bench, BenchSide, Work};
pub(crate) use dead::{DeadCommand, DeadLs, DeadPurge, DeadRequeue, DeadShow};
pub(crate) use queue::{
    Backup, Check, Compact, Export, Import, MigrateCommand, MigrateStatus, QueueCommand, Stats,
};
pub(crate) use replay::Replay;
pub(crate) use sockets::{Allowed, Sockets};
pub(crate) use words::{Fault, KeyDoes, OfTypes, Remembers, Survives, retries};
use words::{parse_attempts, parse_retry};

/// Examples before options: most people read no further.
const TEMPLATE: &str = "\
{about-with-newline}
{before-help}{usage-heading} {usage}

{all-args}{after-help}";

/// A local message queue: over a Unix socket, or through a SQLite file when nobody listens.
#[derive(Debug, Parser)]
#[command(name = "spoolway", version, help_template = TEMPLATE, max_term_width = 100)]
#[command(before_help = "\
Examples:
  spoolway serve --sink file:orders.jsonl       consume messages into a file
  spoolway send --type order '{\"id\":1}'         send one message
  spoolway send --file events.jsonl             send a file of them, one JSON object a line
  spoolway replay                               wait until the backlog is delivered
  spoolway replay --since 1h --type 'order:*'   deliver once more what was processed
  spoolway dead ls                              what failed for good, and why
  spoolway audit                                account for every message that was sent
  spoolway sockets                              which consumers listen, and whether they answer
  spoolway demo                                 watch it survive a kill -9
  spoolway torture                              let it survive worse, on your own disk
  spoolway bench                                what a message costs on this machine")]
#[command(after_help = "\
Exit codes: 0 ok, 1 failed, 2 usage, 65 bad data, 66 not found, 69 consumer unavailable,
  70 a promise is broken, 73 would overwrite, 74 I/O, 75 try again, 77 permission, 78 configuration, 130 interrupted, 143 terminated")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Log more (-vv: even more); RUST_LOG wins
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    #[arg(help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Serve),
    Send(Box<Send>),
    Replay(Box<Replay>),
    #[command(subcommand)]
    Queue(QueueCommand),
    #[command(subcommand)]
    Dead(DeadCommand),
    Cleanup(Cleanup),
    Audit(Audit),
    #[command(subcommand)]
    Keys(KeysCommand),
    Sockets(Sockets),
    Demo(Demo),
    Torture(Torture),
    Bench(Bench),
    #[command(hide = true)]
    BenchSide(BenchSide),
    #[command(hide = true)]
    TortureProducer(TortureProducer),
}

/// Run the consumer: take messages from the socket and the queue file, and hand them to a sink
#[derive(Debug, clap::Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  spoolway serve                                messages to the standard output
  spoolway serve --sink file:orders.jsonl       appended to a file, each synced before it counts
  spoolway serve --standby                      wait for the consumer that runs, and succeed it
  spoolway serve --retry 'candle:*=fixed:1s'    how long what failed waits, by type
  spoolway serve --on-dead hold                 a dead letter stops its key: see `spoolway keys`
  spoolway serve --channel orders --instance 1  at orders-1.sock, with orders-1.db: see `spoolway sockets`
  spoolway serve --allow-gid orders             members of that group may send too

Started by systemd with a socket unit, it listens with that unit's socket, whose path producers are to be given:
nobody who connects while it restarts is refused.")]
pub(crate) struct Serve {
    /// Where messages go, one JSON line each: `stdout` or `file:PATH`
    #[arg(long, default_value = "stdout")]
    pub(crate) sink: Sink,
    /// What a commit to the queue file survives
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Survives,
    /// How long processed messages stay in the queue file
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "24h")]
    pub(crate) retention: Duration,
    /// What a killed consumer leaves of the outcomes it has answered
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dedup: Remembers,
    /// What a dead letter means for the messages of its key behind it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on_dead: KeyDoes,
    /// How often a message is tried before it is a dead letter [default: 4]; `mail=10` for one type, `candle:*=10` for
    /// all that begin so; may be given again
    #[arg(long, value_name = "[TYPE=]N", value_parser = parse_attempts)]
    pub(crate) attempts: Vec<OfTypes<u32>>,
    /// How long a message that failed waits [default: 5s]: `5s` is random up to 5 s, 10 s, 20 s and so on up to 5 min;
    /// `fixed:5s` is 5 s each time; `candle:*=fixed:1s` is for these types; may be given again
    #[arg(long, value_name = "[TYPE=]DURATION", value_parser = parse_retry)]
    pub(crate) retry: Vec<OfTypes<RetryPolicy>>,
    /// Take messages from files too: DIR/<folder>/messages/<id>.json, answered in DIR/<folder>/acks
    ///
    /// Write the file under a name that begins with a dot, sync it, and rename it. What is refused or dead is in
    /// DIR/<folder>/errors as well. Acks and errors stay for the retention, at least an hour.
    #[arg(long, value_name = "DIR", env = "SPOOLWAY_SPOOL_DIR")]
    pub(crate) spool_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) room: Room,
    /// Wait for the consumer of this socket or queue file to end, and take over at once
    ///
    /// Without it a second consumer is refused. SIGINT and SIGTERM end the wait, with exit code 0.
    #[arg(long)]
    pub(crate) standby: bool,
    #[command(flatten)]
    pub(crate) allowed: Allowed,
    /// End at once when the standard input is closed; for the torture
    #[arg(long, hide = true)]
    pub(crate) tied: bool,
}

/// How large the queue file may grow.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Limits of the queue file")]
pub(crate) struct Room {
    /// Add no message to a queue file with so many bytes in use, its log apart [default: no limit]
    ///
    /// Before one is refused (`queue_limit`) processed messages go, oldest first, whatever their age.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) queue_bytes_max: Option<u64>,
    /// Add no message to a queue file that holds so many, processed and dead ones included [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) queue_messages_max: Option<u64>,
    /// Leave so much of the disk free, at most an eighth of it
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "1MiB")]
    pub(crate) disk_bytes_kept: u64,
    /// Warn when a reader pins more than so many bytes of the write-ahead log
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "64MiB")]
    pub(crate) wal_bytes_alarm: u64,
}

/// Send one message, or a file of them
#[derive(Debug, clap::Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  spoolway send --type order '{\"id\":1}'         one message
  spoolway send --type order --key 7 < order.json
  spoolway send --file events.jsonl             whole messages, one JSON object a line
  tail -f events.jsonl | spoolway send          the same from the standard input")]
pub(crate) struct Send {
    /// The payload, any JSON (`-`: read it from the standard input); needs --type
    pub(crate) payload: Option<String>,
    /// The type of the one message
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// A file of whole messages, one JSON object a line (`-`: the standard input)
    #[arg(long, value_name = "PATH", conflicts_with_all = [
        "payload", "kind", "key", "topic", "id", "priority", "ttl", "sender", "recipient", "header",
    ])]
    pub(crate) file: Option<PathBuf>,
    /// Messages of one key run in order
    #[arg(long, requires = "kind")]
    pub(crate) key: Option<String>,
    /// The topic it is published under
    #[arg(long, requires = "kind")]
    pub(crate) topic: Option<String>,
    /// Its id, for which it is taken once [default: a new UUID]
    #[arg(long, requires = "kind")]
    pub(crate) id: Option<String>,
    /// 0 to 100, higher first [default: 50]
    #[arg(long, requires = "kind")]
    pub(crate) priority: Option<u8>,
    /// How long it is worth processing
    #[arg(long, requires = "kind", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// Who sends it
    #[arg(long, requires = "kind")]
    pub(crate) sender: Option<String>,
    /// To whom it is directed
    #[arg(long, requires = "kind")]
    pub(crate) recipient: Option<String>,
    /// A free header; may be given again
    #[arg(long, requires = "kind", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,
    /// What to wait for: `received`, `stored` or `processed`
    #[arg(long, default_value_t, value_name = "LEVEL")]
    pub(crate) ack: AckLevel,
    /// What a commit to the queue file survives
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Survives,
    #[command(flatten)]
    pub(crate) room: Room,
    /// Messages a second, in bursts; for the demo
    #[arg(long, hide = true)]
    pub(crate) rate: Option<u32>,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Delete messages that were processed long enough ago
#[derive(Debug, clap::Args)]
pub(crate) struct Cleanup {
    /// Keep what was processed within this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "24h")]
    pub(crate) retention: Duration,
    /// Keep so many dead letters, and delete those that died first [default: keep all]
    #[arg(long, value_name = "N")]
    pub(crate) dead_max: Option<u64>,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Account for every message: how many went which way, and whether any is missing
///
/// A running consumer is asked to write down its newest counts first. Exit code 70 when a message is
/// missing. The columns are explained in docs/guarantees.md, section Audit.
#[derive(Debug, clap::Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  spoolway audit                                a table, the worst producers first
  spoolway audit --json | jq .total.missing
  spoolway audit --prometheus > spoolway.tmp; mv spoolway.tmp /var/lib/node_exporter/spoolway.prom")]
pub(crate) struct Audit {
    /// One JSON object with all producers instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Lines for the textfile collector of Prometheus' node_exporter, some for each producer
    #[arg(long, conflicts_with = "json")]
    pub(crate) prometheus: bool,
}

/// List and release the keys that a dead letter has stopped (`serve --on-dead hold`)
#[derive(Debug, Subcommand)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  spoolway keys ls                              which are stopped, by what, since when
  spoolway keys release BTCUSDT                 the messages behind it run, in order
  spoolway keys release --all")]
pub(crate) enum KeysCommand {
    Ls(KeysLs),
    Release(KeysRelease),
}

/// List the keys that are stopped
#[derive(Debug, clap::Args)]
pub(crate) struct KeysLs {
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Let the messages of a key run again, in order; the dead letter stays what it is
#[derive(Debug, clap::Args)]
pub(crate) struct KeysRelease {
    /// The key
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) key: Option<Key>,
    /// Every key that is stopped
    #[arg(long)]
    pub(crate) all: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Kill a consumer mid-stream and count what arrives: real processes, real events
#[derive(Debug, clap::Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  spoolway demo                                 1,707 earthquakes of one week, shipped with it
  spoolway demo --input events.jsonl            your own messages, one JSON object a line")]
pub(crate) struct Demo {
    /// A file of whole messages, one JSON object a line, each with an id of its own or none
    #[arg(long, value_name = "PATH")]
    pub(crate) input: Option<PathBuf>,
    /// The report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Kill, stop and cut real processes at random, and count what becomes of the messages
///
/// At most 20,000 messages a second are sent, 1.2 million in all, which takes less than 1 GiB of
/// disk; producers are slow while 10,000 are unprocessed. The seed decides what goes wrong and what
/// is sent; when processes get their turn is up to the system, so no two runs are quite the same.
/// Exit code 70 and the files of the run are left when a promise is broken.
#[derive(Debug, clap::Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  spoolway torture                              20 s in the directory for temporary files
  spoolway torture --seconds 600 --dir /srv     longer, on the disk that matters
  spoolway torture --faults stop,flap           the consumer survives
  spoolway torture --seed 7                     what went wrong once, again")]
pub(crate) struct Torture {
    /// Producer processes
    #[arg(long, default_value_t = 4, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) producers: u32,
    /// Keys, which all producers share
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) keys: u32,
    /// How long the producers send
    #[arg(long, default_value_t = 20, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// What goes wrong
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULTS")]
    #[arg(default_values_t = [Fault::Kill, Fault::Stop, Fault::Flap])]
    pub(crate) faults: Vec<Fault>,
    /// Where all that is random comes from [default: random, and printed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Where the files of the run are made [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// One producer of the torture
#[derive(Debug, clap::Args)]
pub(crate) struct TortureProducer {
    /// Which of all runs it is
    #[arg(long)]
    pub(crate) run: u32,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) keys: u32,
    /// Messages a second at most
    #[arg(long)]
    pub(crate) rate: u32,
    /// Where it writes down what `send` returned
    #[arg(long)]
    pub(crate) journal: PathBuf,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_file_and_one_message_exclude_each_other() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("spoolway send --file x.jsonl").is_ok());
        assert!(parse("spoolway send --type t 1 --key k --socket s").is_ok());
        assert!(parse("spoolway send --file x.jsonl --type t").is_err());
        assert!(parse("spoolway send --file x.jsonl --key k").is_err());
    }
}
