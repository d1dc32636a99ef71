//! What can be set about HTTP.

use std::time::Duration;

/// How long HTTP requests may take, and how large they may be. Each limit closes what it ends.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Bytes of a body; more are `413`. Default 16 MiB, which holds one message of any allowed size.
    pub body_bytes_max: usize,
    /// From the first byte of a request to the end of its head. Default 10 s.
    pub head_max: Duration,
    /// From there to the end of its body; then it is `408`. Default 30 s.
    pub body_max: Duration,
    /// Between two requests, and for reading an answer. Default 75 s.
    pub idle_max: Duration,
    /// How long a request waits while the consumer is full; then it is `503`. Default 2 s.
    pub full_max: Duration,
    /// How long messages may go unanswered, which is longer than `hold_max` only if the queue file cannot be written;
    /// then they are `503` and may have been taken. Default 10 s.
    pub answer_max: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            head_max: Duration::from_secs(10),
            body_max: Duration::from_secs(30),
            idle_max: Duration::from_secs(75),
            full_max: Duration::from_secs(2),
            answer_max: Duration::from_secs(10),
        }
    }
}
