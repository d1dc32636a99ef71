//! What can be set about a consumer.

use std::time::Duration;

use spoolway_proto::{FRAME_BYTES_CEILING, Limits};
use spoolway_queue::{Durability, QueueOptions, Role};
use spoolway_socket::{Access, Room};

use crate::ConsumerError;
use crate::http::HttpConfig;
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
    /// Bytes that the queue file may have in use, its log apart, for this consumer to add a message; default none.
    /// Before one is refused processed messages go, oldest first, whatever their age.
    pub queue_bytes_max: Option<u64>,
    /// Messages that the queue file may hold, processed and dead ones included; default none. As above.
    pub queue_messages_max: Option<u64>,
    /// Bytes of the disk that messages leave free, at most an eighth of it. Default 1 MiB.
    pub disk_bytes_kept: u64,
    /// Bytes of the write-ahead log that no reader lets go, above which there is a warning. Default 64 MiB.
    pub wal_bytes_alarm: u64,
    /// Connections at a time; more are told `busy` and closed. Default 100.
    ///
    /// The last 8 (of fewer than 32, a quarter) are for the consumer's own user and root. When there is no room, a
    /// connection that has never said anything gives way, the oldest first; then one without hello that is idle.
    pub connections_max: usize,
    /// Connections at a time of one user that is there by [`access`](Self::access). Default: half of `connections_max`.
    pub connections_per_uid_max: Option<usize>,
    /// How long a message may take to arrive, the first one from the moment of connecting; more ends the connection with
    /// `busy`. It does not concern producers that have said hello. Default 30 s.
    pub arrival_max: Duration,
    /// How long a connection without hello may say nothing before it gives way to another, when there is no room. With room
    /// it stays for ever. Default 10 min.
    pub idle_max: Duration,
    /// Who may connect beside the user of the process and root. Others may send, not administer. Default: nobody.
    pub access: Access,
    /// The largest message that is taken, in bytes by [`Message::size`](spoolway_proto::Message::size).
    /// Default 10 MiB, at most 12 MiB: a message may grow on the wire, and a frame holds less than 16 MiB.
    pub message_bytes_max: usize,
    /// How long a shutdown waits for handlers; then what has not finished is stored. Default 30 s.
    pub shutdown_max: Duration,
    /// How long producers hold new messages when the consumer goes away, before they spool them: about the time
    /// a successor takes to start. Default 1 s.
    pub goodbye: Duration,
    /// Times and sizes of HTTP requests.
    pub http: HttpConfig,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        let queue = QueueOptions::default();
        Self {
            machine: MachineConfig::default(),
            durability: Durability::default(),
            retention: Duration::from_secs(24 * 60 * 60),
            queue_bytes_max: queue.queue_bytes_max,
            queue_messages_max: queue.queue_messages_max,
            disk_bytes_kept: queue.disk_bytes_kept,
            wal_bytes_alarm: queue.wal_bytes_alarm,
            connections_max: 100,
            connections_per_uid_max: None,
            arrival_max: Duration::from_secs(30),
            idle_max: Duration::from_secs(10 * 60),
            access: Access::default(),
            message_bytes_max: Limits::default().message_bytes_max,
            shutdown_max: Duration::from_secs(30),
            goodbye: Duration::from_secs(1),
            http: HttpConfig::default(),
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
                !self.arrival_max.is_zero(),
                "`arrival_max` must be more than 0",
            ),
            (
                self.message_bytes_max > 0,
                "`message_bytes_max` must be at least 1",
            ),
            (
                self.http.body_bytes_max > 0,
                "`body_bytes_max` must be at least 1",
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

    /// How the queue file is opened.
    pub(crate) fn queue_options(&self) -> QueueOptions {
        QueueOptions {
            role: Role::Consumer,
            durability: self.durability,
            limits: self.limits(),
            queue_bytes_max: self.queue_bytes_max,
            queue_messages_max: self.queue_messages_max,
            disk_bytes_kept: self.disk_bytes_kept,
            wal_bytes_alarm: self.wal_bytes_alarm,
            ..QueueOptions::default()
        }
    }

    /// How many connections there may be.
    pub(crate) fn room(&self) -> Room {
        Room {
            max: self.connections_max,
            share: self
                .connections_per_uid_max
                .unwrap_or(self.connections_max / 2),
            max_is: "connections_max",
            share_is: "connections_per_uid_max",
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            message_bytes_max: self.message_bytes_max,
            ..Limits::default()
        }
    }
}
