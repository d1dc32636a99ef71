//! What can be set about a consumer.

use std::time::Duration;

use spoolway_proto::{FRAME_BYTES_CEILING, Limits};
use spoolway_queue::Durability;

use crate::ConsumerError;
use crate::machine::MachineConfig;

/// What can be set about a [`Consumer`](crate::Consumer).
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Handlers, windows, holds and retries.
    pub machine: MachineConfig,
    /// What a commit survives. Default: power loss.
    pub durability: Durability,
    /// How long processed messages stay for replay. Default 24 h; zero deletes them with the next cleanup.
    pub retention: Duration,
    /// Connections at a time; more are told `busy` and closed. Default 100.
    pub connections_max: usize,
    /// The largest message that is taken, in bytes by [`Message::size`](spoolway_proto::Message::size).
    /// Default 10 MiB, at most 12 MiB: a message may grow on the wire, and a frame holds less than 16 MiB.
    pub message_bytes_max: usize,
    /// How long a shutdown waits for handlers; then what has not finished is stored. Default 30 s.
    pub shutdown_max: Duration,
    /// How long producers hold new messages when the consumer goes away, before they spool them: about the time
    /// a successor takes to start. Default 1 s.
    pub goodbye: Duration,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            machine: MachineConfig::default(),
            durability: Durability::default(),
            retention: Duration::from_secs(24 * 60 * 60),
            connections_max: 100,
            message_bytes_max: Limits::default().message_bytes_max,
            shutdown_max: Duration::from_secs(30),
            goodbye: Duration::from_secs(1),
        }
    }
}

/// What a frame may hold beyond its message: escapes and the names of members.
const FRAME_SPARE: usize = 4 << 20;

impl ConsumerConfig {
    /// Refuses values with which nothing would ever be processed.
    pub(crate) fn check(&self) -> Result<(), ConsumerError> {
        let machine = &self.machine;
        let rules = [
            (machine.slots > 0, "`slots` must be at least 1"),
            (machine.page > 0, "`page` must be at least 1"),
            (machine.claimed_max > 0, "`claimed_max` must be at least 1"),
            (machine.pending_max > 0, "`pending_max` must be at least 1"),
            (machine.window_max > 0, "`window_max` must be at least 1"),
            (
                machine.retries.iter().all(|policy| policy.attempts_max > 0),
                "`attempts_max` must be at least 1",
            ),
            (
                self.connections_max > 0,
                "`connections_max` must be at least 1",
            ),
            (
                self.message_bytes_max > 0,
                "`message_bytes_max` must be at least 1",
            ),
            (
                self.message_bytes_max <= FRAME_BYTES_CEILING - FRAME_SPARE,
                "`message_bytes_max` must be below 12 MiB",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ConsumerError::Config(rule)),
            None => Ok(()),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            message_bytes_max: self.message_bytes_max,
            ..Limits::default()
        }
    }
}
