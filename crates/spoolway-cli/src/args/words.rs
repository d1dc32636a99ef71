//! The words that options take.

use clap::ValueEnum;
use serde::Serialize;
use spoolway::Durability;
use spoolway::consumer::{Dedup, OnDead, Retries, RetryPolicy};

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

/// A value for all types, or for those that are named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OfTypes<T> {
    /// A type, or `prefix*`.
    pub(crate) types: Option<String>,
    pub(crate) value: T,
}

impl<T> OfTypes<T> {
    /// Reads `VALUE` or `TYPE=VALUE`.
    fn parse(text: &str, value: fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let (types, rest) = match text.rsplit_once('=') {
            Some(("", _)) => return Err("write it as TYPE=VALUE, or as VALUE for all types".into()),
            Some((types, rest)) => (Some(types.to_owned()), rest),
            None => (None, text),
        };
        let value = value(rest)?;
        Ok(Self { types, value })
    }
}

/// Reads `4` or `mail=10`.
pub(super) fn parse_attempts(text: &str) -> Result<OfTypes<u32>, String> {
    OfTypes::parse(text, |text| match text.parse() {
        Ok(attempts @ 1..) => Ok(attempts),
        _ => Err(format!(
            "{text:?} is no number of attempts; write 1 or more"
        )),
    })
}

/// Reads `5s`, `fixed:5s` or `candle:*=fixed:1s`.
pub(super) fn parse_retry(text: &str) -> Result<OfTypes<RetryPolicy>, String> {
    OfTypes::parse(text, parse_policy)
}

/// What the two options say together: of types that only one names, the other says what it says for all.
pub(crate) fn retries(attempts: &[OfTypes<u32>], waits: &[OfTypes<RetryPolicy>]) -> Retries {
    fn of<T: Clone>(given: &[OfTypes<T>], types: Option<&str>, otherwise: &T) -> T {
        let last = given.iter().rfind(|one| one.types.as_deref() == types);
        last.map_or_else(|| otherwise.clone(), |one| one.value.clone())
    }
    let policy = |types: Option<&str>, otherwise: &RetryPolicy| RetryPolicy {
        attempts_max: of(attempts, types, &otherwise.attempts_max),
        ..of(waits, types, otherwise)
    };
    let mut retries = Retries::from(policy(None, &RetryPolicy::default()));
    let named = attempts.iter().map(|one| &one.types);
    for types in named.chain(waits.iter().map(|one| &one.types)).flatten() {
        let own = policy(Some(types), &retries.default);
        retries.set(types, own);
    }
    retries
}

fn parse_policy(text: &str) -> Result<RetryPolicy, String> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn attempts_and_waits_are_for_all_types_or_for_those_that_are_named() {
        let waits = ["2s", "candle:*=fixed:1s", "a=b=7s"].map(|text| parse_retry(text).unwrap());
        let attempts = ["3", "mail=10"].map(|text| parse_attempts(text).unwrap());
        assert_eq!(waits[2].types.as_deref(), Some("a=b"));
        let set = retries(&attempts, &waits);
        let seen: Vec<_> = set
            .iter()
            .map(|one| (one.attempts_max, one.first.as_secs(), one.doubles))
            .collect();
        assert_eq!(seen[0], (3, 2, true), "of all types");
        for one in [(3, 7, true), (10, 2, true), (3, 1, false)] {
            assert!(seen[1..].contains(&one), "{one:?}: {seen:?}");
        }
        assert_eq!(retries(&[], &[]).default, RetryPolicy::default());
        assert_eq!(set.default.max, Duration::from_secs(300));
        for wrong in ["=5s", "mail=", "mail=5"] {
            assert!(parse_retry(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "mail=0", "many"] {
            assert!(parse_attempts(wrong).is_err(), "{wrong}");
        }
    }
}
