//! Counting what became of a stream of messages.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spoolway::{Outcome, Path, Receipt, SendError};

use crate::failure::{exit, send_exit};
use crate::units::{count, span};

/// The summary of a stream; as JSON with `--json`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Summary {
    /// Messages with an `Ok`.
    pub(crate) sent: u64,
    pub(crate) by_socket: u64,
    pub(crate) by_queue: u64,
    /// Of those by socket: what the consumer answered.
    pub(crate) processed: u64,
    pub(crate) stored: u64,
    pub(crate) dead: u64,
    pub(crate) received: u64,
    /// Of those sent: taken before.
    pub(crate) duplicates: u64,
    /// Lines that are no message, and messages that are not valid.
    pub(crate) bad: u64,
    /// Messages that were good and not taken, or may not be.
    pub(crate) not_taken: u64,
    pub(crate) seconds: f64,
    /// The exit code of the first message that was not taken.
    #[serde(skip)]
    pub(crate) not_taken_exit: Option<u8>,
}

impl Summary {
    pub(crate) fn add(&mut self, answer: &Result<Receipt, SendError>) {
        match answer {
            Ok(receipt) => self.add_receipt(receipt),
            Err(error) if send_exit(error) == exit::BAD_DATA => self.bad += 1,
            Err(error) => {
                self.not_taken += 1;
                self.not_taken_exit.get_or_insert(send_exit(error));
            }
        }
    }

    fn add_receipt(&mut self, receipt: &Receipt) {
        self.sent += 1;
        self.duplicates += u64::from(receipt.duplicate);
        match receipt.path {
            Path::Queue => self.by_queue += 1,
            Path::Socket => {
                self.by_socket += 1;
                *match receipt.outcome {
                    Outcome::Processed => &mut self.processed,
                    Outcome::Stored => &mut self.stored,
                    Outcome::Dead => &mut self.dead,
                    Outcome::Received => &mut self.received,
                } += 1;
            }
        }
    }

    /// What was not taken outweighs what was wrong: it can be sent again.
    pub(crate) fn exit(&self) -> u8 {
        match (self.not_taken_exit, self.bad) {
            (Some(code), _) => code,
            (None, 0) => exit::OK,
            (None, _) => exit::BAD_DATA,
        }
    }

    pub(crate) fn sentence(&self) -> String {
        let outcomes = [
            (self.processed, "processed"),
            (self.stored, "stored"),
            (self.dead, "dead"),
            (self.received, "received"),
        ];
        let mut text = format!(
            "{} sent: {} by socket",
            count(self.sent),
            count(self.by_socket)
        );
        text += &listed(&outcomes);
        text += &format!(", {} by queue; ", count(self.by_queue));
        if self.duplicates > 0 {
            text += &format!("{} taken before; ", count(self.duplicates));
        }
        text += &format!("{} failed", count(self.bad + self.not_taken));
        text += &listed(&[(self.bad, "bad"), (self.not_taken, "not taken")]);
        let time = Duration::try_from_secs_f64(self.seconds).unwrap_or_default();
        format!("{text}; {}", span(time))
    }
}

/// ` (790 processed, 10 stored)`, or nothing.
fn listed(parts: &[(u64, &str)]) -> String {
    let parts: Vec<String> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{} {what}", count(*number)))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_sums_up_by_path() {
        let summary = Summary {
            sent: 1_000,
            by_socket: 800,
            by_queue: 200,
            processed: 790,
            stored: 10,
            seconds: 1.2,
            ..Summary::default()
        };
        assert_eq!(
            summary.sentence(),
            "1,000 sent: 800 by socket (790 processed, 10 stored), 200 by queue; 0 failed; 1.2 s"
        );
        assert_eq!(summary.exit(), 0);
    }

    #[test]
    fn failures_are_named_and_decide_the_exit_code() {
        let mut summary = Summary {
            bad: 2,
            ..Summary::default()
        };
        assert_eq!(summary.exit(), 65);
        summary.not_taken = 1;
        summary.not_taken_exit = Some(74);
        assert_eq!(summary.exit(), 74);
        let text = summary.sentence();
        assert!(text.contains("; 3 failed (2 bad, 1 not taken); "), "{text}");
    }
}
