//! What a producer was told, in a file of its own: one line an event, written before it counts.
//!
//! ```text
//! reserve 256               numbers below 256 may have been sent
//! ok 12 socket processed 345    message 12 was answered after 345 µs
//! err 13 unknown unanswered 10000000
//! end 14                    the run sent 14 messages and ended by itself
//! ```

use std::fmt;
use std::str::FromStr;

/// A line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    /// Numbers below this one may have been sent.
    Reserve(u32),
    /// The `send` of message `n` returned after `micros`.
    Told { n: u32, told: Told, micros: u64 },
    /// The run is over: it sent so many messages.
    End(u32),
}

/// What `send` returned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Told {
    /// `Ok` with path and outcome, as their words.
    Ok { path: String, outcome: String },
    /// `Err` with fate (`not_taken`, `unknown`) and code.
    Err { fate: String, code: String },
}

pub(super) const NOT_TAKEN: &str = "not_taken";
pub(super) const UNKNOWN: &str = "unknown";
pub(super) const CONFLICT: &str = "conflict";

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve(below) => write!(f, "reserve {below}"),
            Self::Told { n, told, micros } => match told {
                Told::Ok { path, outcome } => write!(f, "ok {n} {path} {outcome} {micros}"),
                Told::Err { fate, code } => write!(f, "err {n} {fate} {code} {micros}"),
            },
            Self::End(sent) => write!(f, "end {sent}"),
        }
    }
}

/// The line is none of a journal.
#[derive(Debug)]
pub(super) struct NoEntry;

impl FromStr for Entry {
    type Err = NoEntry;

    fn from_str(line: &str) -> Result<Self, NoEntry> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse().map_err(|_| NoEntry);
        match words[..] {
            ["reserve", below] => Ok(Self::Reserve(number(below)?)),
            ["end", sent] => Ok(Self::End(number(sent)?)),
            [kind @ ("ok" | "err"), n, first, second, micros] => {
                let (first, second) = (first.to_owned(), second.to_owned());
                let told = match kind {
                    "ok" => Told::Ok {
                        path: first,
                        outcome: second,
                    },
                    _ => Told::Err {
                        fate: first,
                        code: second,
                    },
                };
                let micros = micros.parse().map_err(|_| NoEntry)?;
                Ok(Self::Told {
                    n: number(n)?,
                    told,
                    micros,
                })
            }
            _ => Err(NoEntry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for line in [
            "reserve 256",
            "ok 12 socket processed 345",
            "err 13 unknown unanswered 10000000",
            "end 14",
        ] {
            assert_eq!(line.parse::<Entry>().unwrap().to_string(), line);
        }
        for line in [
            "",
            "ok",
            "ok 1 socket processed",
            "end x",
            "reserve -1",
            "ok 1 a b 2 3",
        ] {
            assert!(line.parse::<Entry>().is_err(), "{line}");
        }
    }
}
