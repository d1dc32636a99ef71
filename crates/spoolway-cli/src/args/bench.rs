//! `spoolway bench` and its processes.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;
use spoolway::{AckLevel, Outcome, Path};

use super::TEMPLATE;
use crate::commands::bench::side::Part;

/// Bytes of a window that nobody chose.
const WINDOW_BYTES: usize = 32 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// One message at a time, each processed before the next is sent
    Rtt,
    /// A window of messages on their way, a receipt each
    Stream,
    /// The same in batches of 64
    Batch,
    /// The stream, spread over 10,000 keys
    Keyed,
    /// Each stored in the queue file before its receipt, and processed then
    Stored,
    /// Without a consumer: into the queue file
    Spool,
    /// From the queue file, by a consumer that starts with all of them
    Drain,
}

impl Work {
    pub(crate) fn ack(self) -> AckLevel {
        match self {
            Self::Stored => AckLevel::Stored,
            _ => AckLevel::Processed,
        }
    }

    /// What a receipt of it says.
    pub(crate) fn answer(self) -> (Path, Outcome) {
        match self {
            Self::Stored => (Path::Socket, Outcome::Stored),
            Self::Spool | Self::Drain => (Path::Queue, Outcome::Stored),
            _ => (Path::Socket, Outcome::Processed),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Measure what messages cost on this machine, against its own ceilings
///
/// Consumer and producers are processes of their own on a directory that goes afterwards. The ceiling is the same
/// bytes between two bare programs, each envelope parsed and answered; or, where the queue file is used, the plain
/// SQLite statements. Measure while nothing else runs.
#[derive(Debug, clap::Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  spoolway bench                                everything, some seconds each
  spoolway bench rtt stream                     two of them
  spoolway bench stream --producers 4           four processes that send
  spoolway bench stream --bytes 65536 --json    large messages, one JSON object a line")]
pub(crate) struct Bench {
    /// What to measure [default: everything]
    #[arg(value_enum, value_name = "WORK")]
    works: Vec<Work>,
    /// How many messages in all [default: what takes a few seconds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// Bytes of a message on the wire; 108 at least
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) bytes: usize,
    /// Producer processes
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) producers: u32,
    /// Messages on their way at most, for each producer [default: 1 for `rtt`, else 1024, of large ones 32 MiB]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Where the files of the run are made [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// One JSON object a line for each
    #[arg(long)]
    pub(crate) json: bool,
}

impl Bench {
    pub(crate) fn works(&self) -> Vec<Work> {
        match &self.works[..] {
            [] => Work::value_variants().to_vec(),
            works => works.to_vec(),
        }
    }

    pub(crate) fn messages_of(&self, work: Work) -> u64 {
        // Large messages are fewer, so that a run stays short.
        let less = (self.bytes as u64 / 200).max(1);
        let usual = match work {
            Work::Rtt => 50_000,
            Work::Stream | Work::Batch | Work::Keyed => 1_000_000,
            Work::Stored | Work::Spool | Work::Drain => 200_000,
        };
        self.messages.unwrap_or((usual / less).max(2_000))
    }

    pub(crate) fn window_of(&self, work: Work) -> usize {
        // A producer holds 64 MiB at most.
        let usual = (WINDOW_BYTES / self.bytes.max(1)).min(1_024);
        let usual = if work == Work::Rtt { 1 } else { usual };
        self.window.unwrap_or(usual).max(1)
    }
}

/// One process of the bench
#[derive(Debug, clap::Args)]
pub(crate) struct BenchSide {
    #[arg(long)]
    pub(crate) part: Part,
    #[arg(long)]
    pub(crate) work: Work,
    #[arg(long)]
    pub(crate) messages: u64,
    #[arg(long)]
    pub(crate) bytes: usize,
    #[arg(long)]
    pub(crate) window: usize,
    #[arg(long)]
    pub(crate) number: u32,
}
