//! `spoolway replay`.

use std::time::Duration;

use clap::{ArgGroup, ValueEnum};
use spoolway::proto::Key;
use spoolway::queue::{Filter, Settled};
use spoolway::{MessageId, Timestamp};

use crate::units::{parse_duration, parse_moment};

/// Wait until the running consumer has delivered the backlog; with a filter, deliver once more
///
/// With a filter messages that were processed (or are dead) run at least once more: under their ids, with no attempts
/// counted, outside the order of their keys; the handler is told `replayed`. Only what is in the queue file can be
/// replayed: a message that was processed straight from the socket never was in it, and processed ones stay for
/// `serve --retention` (24 h) only. Ctrl-C stops it and says how to go on; killed at any moment, each message was
/// either replayed or not. Exit code 69 without a consumer, 66 for an id that is not there, 75 after --timeout.
#[derive(Debug, clap::Args)]
#[command(help_template = super::TEMPLATE, before_help = "\
Examples:
  spoolway replay                               wait until the backlog is delivered
  spoolway replay --since 1h --dry-run          how many were processed in the last hour, by type
  spoolway replay --since 1h --type 'candle:*' --rate 500
  spoolway replay --state dead --no-wait        all dead letters; `spoolway dead` shows them")]
#[command(group = ArgGroup::new("some").multiple(true)
    .args(["since", "until", "kind", "key", "id", "state", "all"]))]
pub(crate) struct Replay {
    /// Settled at this time or later: RFC 3339, or so long ago (`1h`)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) since: Option<Timestamp>,
    /// Settled at this time or before [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(crate) until: Option<Timestamp>,
    /// Of a type like this: `*` is any text, `?` any character; may be given again
    #[arg(long = "type", value_name = "GLOB")]
    pub(crate) kind: Vec<String>,
    /// Of this key
    #[arg(long)]
    pub(crate) key: Option<Key>,
    /// The one of this id; may be given again
    #[arg(long)]
    pub(crate) id: Vec<MessageId>,
    /// Processed messages, or dead letters [default: processed]
    #[arg(long, value_enum)]
    pub(crate) state: Option<State>,
    /// Everything in that state
    #[arg(long, conflicts_with_all = ["since", "until", "kind", "key", "id"])]
    pub(crate) all: bool,
    /// Say how many that is, in all and by type, and change nothing
    #[arg(long, requires = "some")]
    pub(crate) dry_run: bool,
    /// At most so many a second [default: as fast as they can be written]
    #[arg(long, value_name = "N", requires = "some")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Go on with a replay that was stopped, behind this number
    #[arg(
        long,
        value_name = "SEQ",
        requires = "some",
        default_value_t = 0,
        hide_default_value = true
    )]
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) after: i64,
    /// Do not wait until they are delivered; needs no consumer
    #[arg(long, requires = "some")]
    pub(crate) no_wait: bool,
    /// Give up after this long, with exit code 75 [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Processed,
    Dead,
}

impl Replay {
    /// What is to be delivered once more; `None`: only the backlog is waited for.
    pub(crate) fn filter(&self) -> Option<Filter> {
        let filter = Filter {
            ids: self.id.clone(),
            types: self.kind.clone(),
            key: self.key.clone(),
            reason: None,
            since: self.since,
            until: self.until,
        };
        (self.all || self.state.is_some() || !filter.is_all()).then_some(filter)
    }

    pub(crate) fn from(&self) -> Settled {
        match self.state {
            None | Some(State::Processed) => Settled::Processed,
            Some(State::Dead) => Settled::Dead,
        }
    }
}
