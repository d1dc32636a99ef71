//! The words that options take.

use clap::ValueEnum;
use serde::Serialize;
use spoolway::Durability;
use spoolway::consumer::{Dedup, OnDead, RetryPolicy};

use crate::units::parse_duration;

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Survives {
    /// Power loss
    #[default]
    Full,
    /// The end of the process, not of the machine
    Process,
}

impl From<Survives> for Durability {
    fn from(survives: Survives) -> Self {
        match survives {
            Survives::Full => Self::Full,
            Survives::Process => Self::Process,
        }
    }
}

/// What survives a consumer that is killed of the outcomes it has answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Remembers {
    /// Nothing: what was not confirmed may run again
    #[default]
    Memory,
    /// All: each is committed before it is answered
    Durable,
}

impl From<Remembers> for Dedup {
    fn from(remembers: Remembers) -> Self {
        match remembers {
            Remembers::Memory => Self::Memory,
            Remembers::Durable => Self::Durable,
        }
    }
}

/// What a key does when one of its messages is dead.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum KeyDoes {
    /// The next message runs
    #[default]
    Continue,
    /// The key stops until it is released; what comes is stored
    Hold,
}

impl From<KeyDoes> for OnDead {
    fn from(key: KeyDoes) -> Self {
        match key {
            KeyDoes::Continue => Self::Continue,
            KeyDoes::Hold => Self::Hold,
        }
    }
}

/// Reads `5s` or `fixed:5s`.
pub(super) fn parse_retry(text: &str) -> Result<RetryPolicy, String> {
    match text.strip_prefix("fixed:") {
        Some(wait) => parse_duration(wait).map(RetryPolicy::fixed),
        None => parse_duration(text).map(|first| RetryPolicy {
            first,
            ..RetryPolicy::default()
        }),
    }
}

/// What goes wrong in a torture.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fault {
    /// Consumer and producers are killed, and started again within 0.5 s
    Kill,
    /// The consumer is stopped for 50 ms to 7 s
    Stop,
    /// Connections are cut, ten times a second
    Flap,
    /// Nothing, to compare with
    None,
}
