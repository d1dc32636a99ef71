//! How a producer is opened.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use spoolway_proto::{AckLevel, Limits};
use spoolway_queue::{Durability, QueueOptions, SqliteQueue};
use spoolway_socket::PathTooLong;

use crate::route::{OnFull, RouteConfig};
use crate::shared::Shared;
use crate::{OpenError, Producer};

/// What to do when the consumer reads another queue file than the producer would write.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OtherQueue {
    /// Refuse to start, or stop: a spool that nobody reads is loss. The default.
    #[default]
    Refuse,
    /// Go on: somebody else drains the file.
    Allow,
}

/// The longest name of a program that a consumer takes, in bytes.
const CLIENT_NAME_BYTES_MAX: usize = 255;

/// What the shell is told once; the route has its own.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) socket: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) ack: AckLevel,
    pub(crate) client_name: String,
    pub(crate) other_queue: OtherQueue,
    pub(crate) send_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) hand_over_max: Duration,
    pub(crate) spool_only: bool,
    /// Ours, or the consumer's where that is less.
    message_bytes_max: AtomicUsize,
}

impl Options {
    /// What a message may be.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            message_bytes_max: self.message_bytes_max.load(Ordering::Relaxed),
            ..Limits::default()
        }
    }

    /// The consumer takes messages of up to this size.
    pub(crate) fn limit_messages(&self, bytes_max: u64) {
        let most = Limits::default().message_bytes_max;
        let bytes_max = usize::try_from(bytes_max).map_or(most, |max| max.min(most));
        self.message_bytes_max.store(bytes_max, Ordering::Relaxed);
    }
}

/// A [`Producer`] to be opened. Made by [`Producer::builder`].
#[derive(Debug)]
#[must_use]
pub struct ProducerBuilder {
    options: Options,
    route: RouteConfig,
    queue: QueueOptions,
}

impl ProducerBuilder {
    pub(crate) fn new(socket: &Path, database: &Path) -> Self {
        let route = RouteConfig::default();
        let options = Options {
            socket: socket.to_path_buf(),
            database: database.to_path_buf(),
            ack: AckLevel::default(),
            client_name: concat!("spoolway-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            other_queue: OtherQueue::default(),
            send_timeout: Duration::from_secs(10),
            connect_timeout: route.connect_timeout,
            hand_over_max: Duration::from_secs(5),
            spool_only: false,
            message_bytes_max: AtomicUsize::new(Limits::default().message_bytes_max),
        };
        Self {
            options,
            route,
            queue: QueueOptions::default(),
        }
    }

    /// The outcome that `send` waits for where a message names none. Default `Processed`.
    pub fn ack(mut self, level: AckLevel) -> Self {
        self.options.ack = level;
        self
    }

    /// How long a `send` waits at most. Default 10 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.options.send_timeout = timeout;
        self
    }

    /// How long `open` and the first messages wait for a consumer that does not answer. Default 5 s.
    /// One that is not there is noticed at once.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.route.connect_timeout = timeout;
        self
    }

    /// How long unanswered messages wait for a new connection before they are spooled.
    /// Default 250 ms.
    pub fn resume_grace(mut self, grace: Duration) -> Self {
        self.route.resume_grace = grace;
        self
    }

    /// What becomes of a message that finds the consumer's window full. Default [`OnFull::Wait`].
    ///
    /// It does not change the bounds of memory, `messages_max` and `bytes_max` of [`RouteConfig`]: over those every
    /// send fails with [`SendCode::Full`](crate::SendCode::Full).
    pub fn on_full(mut self, choice: OnFull) -> Self {
        self.route.on_full = choice;
        self
    }

    /// All times and bounds of the path machine, for what has no method here. It overwrites
    /// [`connect_timeout`](Self::connect_timeout), [`resume_grace`](Self::resume_grace) and
    /// [`on_full`](Self::on_full).
    pub fn route(mut self, config: RouteConfig) -> Self {
        self.route = config;
        self
    }

    /// What the queue file survives. Default `Full`: power loss.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.queue.durability = durability;
        self
    }

    /// Bytes that the queue file may have in use, its log apart, for a message to be spooled; more is
    /// `queue_limit`. Before that processed messages go, oldest first, whatever their age. Default: no limit.
    pub fn queue_bytes_max(mut self, bytes: u64) -> Self {
        self.queue.queue_bytes_max = Some(bytes);
        self
    }

    /// Messages that the queue file may hold, processed and dead ones included, for one to be spooled. As above.
    pub fn queue_messages_max(mut self, messages: u64) -> Self {
        self.queue.queue_messages_max = Some(messages);
        self
    }

    /// Bytes of the disk that spooled messages leave free, at most an eighth of it; below that is `queue_full`.
    /// Default 1 MiB.
    pub fn disk_bytes_kept(mut self, bytes: u64) -> Self {
        self.queue.disk_bytes_kept = bytes;
        self
    }

    /// Bytes of the write-ahead log that no reader lets go, above which there is a warning. Default 64 MiB.
    pub fn wal_bytes_alarm(mut self, bytes: u64) -> Self {
        self.queue.wal_bytes_alarm = bytes;
        self
    }

    /// What to do when the consumer reads another queue file. Default: refuse.
    pub fn on_other_queue(mut self, choice: OtherQueue) -> Self {
        self.options.other_queue = choice;
        self
    }

    /// The name of this program in the consumer's log; cut to 255 bytes. Default: name and version
    /// of this crate.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        let mut name = name.into();
        name.truncate(name.floor_char_boundary(CLIENT_NAME_BYTES_MAX));
        self.options.client_name = name;
        self
    }

    /// How long the drop of the last handle waits for what it hands to the queue file. Default 5 s.
    pub fn hand_over_max(mut self, wait: Duration) -> Self {
        self.options.hand_over_max = wait;
        self
    }

    /// Never use the socket; see [`Producer::spooling`]. Off by default.
    pub fn spool_only(mut self) -> Self {
        self.options.spool_only = true;
        self
    }

    /// Opens the queue file, making it if it is missing, and dials the consumer.
    ///
    /// Waits until the consumer answered hello, could not be reached, or the connect timeout is
    /// over. A consumer that does not run is no error.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: no socket can have that path, the queue file cannot be used, or the consumer
    /// reads another one.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without I/O or time.
    pub async fn open(self) -> Result<Producer, OpenError> {
        let Self {
            mut options,
            route,
            queue,
        } = self;
        options.connect_timeout = route.connect_timeout;
        check_paths(&options)?;
        let database = options.database.clone();
        let opening = move || SqliteQueue::open(&database, queue);
        let queue = tokio::task::spawn_blocking(opening)
            .await
            .map_err(|_| OpenError::Runtime)??;
        let (shared, opened) = Shared::start(options, queue, route);
        let producer = Producer::new(shared);
        // An error only means that the runtime ends, which the first send will say.
        let _ = opened.await;
        match producer.other_queue() {
            Some(other) => Err(OpenError::OtherQueue(other)),
            None => Ok(producer),
        }
    }
}

fn check_paths(options: &Options) -> Result<(), OpenError> {
    PathTooLong::check(&options.socket)?;
    match options.database.parent() {
        Some(directory) if !directory.as_os_str().is_empty() && !directory.is_dir() => {
            Err(OpenError::NoDirectory(directory.to_path_buf()))
        }
        _ => Ok(()),
    }
}
