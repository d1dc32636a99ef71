//! Times and bounds of a route, and what it is told of each message.

use std::time::{Duration, Instant};

/// What becomes of a message that finds the window full: the consumer is connected, and neither this message nor
/// all that wait before it fit. What may have been taken already is not asked: it waits for its answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFull {
    /// It waits for room; without a key for at most [`RouteConfig::full_wait`], then it is spooled. The default.
    #[default]
    Wait,
    /// Without a key it is spooled at once; with one it waits, since a keyed message is never spooled while
    /// connected.
    Spool,
    /// It is given back at once: nothing of it was written, and its number is withdrawn. A later message of its key
    /// may be taken.
    Error,
}

/// Times and bounds of a [`Route`](super::Route).
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// How long the first send waits for a connection, and a later dial may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long unanswered messages wait for a new connection before they are spooled. Default 250 ms.
    pub resume_grace: Duration,
    /// What becomes of a message that finds the window full. Default: it waits.
    pub on_full: OnFull,
    /// How long a keyless message waits for its turn while connected, before it is spooled. Default 1 s.
    pub full_wait: Duration,
    /// Time between pings while anything is unanswered. Default 1 s.
    pub ping_every: Duration,
    /// Silence that ends a connection while anything is unanswered. Default 5 s.
    pub silence_max: Duration,
    /// First delay between dials; it doubles, with full jitter. Default 50 ms.
    pub backoff_min: Duration,
    /// Longest delay between dials. Default 30 s.
    pub backoff_max: Duration,
    /// How long after a failed commit it is tried again for messages that must not be given up. Default 1 s.
    pub spool_retry: Duration,
    /// Unsettled messages held in memory at most. Default 10,000.
    pub messages_max: usize,
    /// Bytes of unsettled messages held in memory at most (one message is always admitted). Default 64 MiB.
    pub bytes_max: usize,
}

impl Default for RouteConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            resume_grace: Duration::from_millis(250),
            on_full: OnFull::default(),
            full_wait: Duration::from_secs(1),
            ping_every: Duration::from_secs(1),
            silence_max: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(30),
            spool_retry: Duration::from_secs(1),
            messages_max: 10_000,
            bytes_max: 64 << 20,
        }
    }
}

/// A message on its way, as the route sees it.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Whether it carries an ordering key.
    pub keyed: bool,
    /// What it counts for in a window (`Message::size`).
    pub bytes: usize,
    /// When its caller stops waiting (`send_timeout`).
    pub deadline: Instant,
}

/// There is no room for another message; it took no number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Full {
    /// In memory: [`RouteConfig::messages_max`], [`RouteConfig::bytes_max`].
    Memory,
    /// In the window, for a message that would not wait ([`Route::try_send`](super::Route::try_send)).
    Window,
}
