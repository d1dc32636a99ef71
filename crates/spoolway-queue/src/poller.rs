//! The queue as a worker: a thread that hands messages to a function, and settles them by what it returns.

use std::collections::HashSet;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use spoolway_proto::Key;

use crate::{Claimed, QueueError, Settlement, SqliteQueue, Watch};

/// How long the thread sleeps at most: what wakes it is [`Watch`].
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// No wait between two attempts is longer.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// How often processed messages are looked at for cleanup.
const CLEANUP_EVERY: Duration = Duration::from_secs(60);

/// How a [`SqliteQueuePoller`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollerOptions {
    /// Messages claimed, and settled, in one commit. A kill repeats those of them that had run. Default 50.
    pub batch: usize,
    /// Handler starts before a message is dead. Default 4.
    pub attempts_max: u32,
    /// The wait after the first failure; it doubles up to 5 min. Default 5 s.
    pub retry_wait: Duration,
    /// How long processed messages are kept; `None` keeps them. Default 24 h.
    pub retention: Option<Duration>,
}

impl Default for PollerOptions {
    fn default() -> Self {
        Self {
            batch: 50,
            attempts_max: 4,
            retry_wait: Duration::from_secs(5),
            retention: Some(Duration::from_secs(24 * 60 * 60)),
        }
    }
}

/// What a handler may return: nothing, a result whose error means "try again", or a [`Settlement`].
pub trait IntoSettlement {
    /// `failed` makes the settlement of a failure out of its text.
    fn into_settlement(self, failed: impl FnOnce(String) -> Settlement) -> Settlement;
}

impl IntoSettlement for () {
    fn into_settlement(self, _: impl FnOnce(String) -> Settlement) -> Settlement {
        Settlement::Processed
    }
}

impl<E: Display> IntoSettlement for Result<(), E> {
    fn into_settlement(self, failed: impl FnOnce(String) -> Settlement) -> Settlement {
        match self {
            Ok(()) => Settlement::Processed,
            Err(error) => failed(error.to_string()),
        }
    }
}

impl IntoSettlement for Settlement {
    fn into_settlement(self, _: impl FnOnce(String) -> Self) -> Self {
        self
    }
}

/// A thread that dequeues, runs a handler and settles, until it is stopped.
///
/// It is the one consumer of its file. A message that failed, or whose handler panicked, is tried again later and in
/// the end a dead letter; the messages of its key behind it wait. Dropping it is [`stop`](Self::stop).
///
/// ```
/// use spoolway_proto::Message;
/// use spoolway_queue::{PollerOptions, SqliteQueue, SqliteQueuePoller};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("mail.db");
/// let queue = SqliteQueue::open(&path, Default::default())?;
/// queue.enqueue(&Message::new("mail", "hello")?)?;
///
/// let (told, hear) = std::sync::mpsc::channel();
/// let poller = SqliteQueuePoller::start(&queue, PollerOptions::default(), move |claimed| {
///     told.send(claimed.message.payload.to_string())
/// })?;
/// assert_eq!(hear.recv()?, "\"hello\"");
/// poller.stop()?;
/// assert_eq!(queue.stats()?.processed, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SqliteQueuePoller {
    stop: Arc<AtomicBool>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<Result<(), QueueError>>>,
}

impl SqliteQueuePoller {
    /// Takes the file's lock and starts the thread.
    ///
    /// # Errors
    ///
    /// [`QueueError::Owned`] when another consumes this file, or what taking it over ran into.
    pub fn start<R: IntoSettlement>(
        queue: &SqliteQueue,
        options: PollerOptions,
        handler: impl FnMut(&Claimed) -> R + Send + 'static,
    ) -> Result<Self, QueueError> {
        if options.batch == 0 || options.attempts_max == 0 {
            let what = "`batch` and `attempts_max` must be at least 1";
            return Err(QueueError::misuse(queue.path(), what));
        }
        drop(queue.owned()?);
        let stop = Arc::new(AtomicBool::new(false));
        // One is enough: it says "look", not at what. A thread's own parking would not do, which every wait for a
        // commit uses up.
        let (wake, woken) = mpsc::sync_channel(1);
        let changed = wake.clone();
        let watch = Watch::start(queue, move || _ = changed.try_send(()))?;
        let mut worker = Worker {
            queue: queue.clone(),
            options,
            handler,
            stop: Arc::clone(&stop),
            woken,
            _watch: watch,
        };
        let thread = thread::Builder::new()
            .name("spoolway-poller".into())
            .spawn(move || worker.run())
            .map_err(|error| QueueError::io(queue.path(), error))?;
        let thread = Some(thread);
        Ok(Self { stop, wake, thread })
    }

    /// Waits for the batch in hand, settles it, and gives the file up in order.
    ///
    /// # Errors
    ///
    /// What ended the thread before: an error that trying again does not help.
    pub fn stop(mut self) -> Result<(), QueueError> {
        self.end()
    }

    /// Whether it works on; if not, [`stop`](Self::stop) says why.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    fn end(&mut self) -> Result<(), QueueError> {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let _ = self.wake.try_send(());
        match thread.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for SqliteQueuePoller {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "a queue poller had ended");
        }
    }
}

struct Worker<H> {
    queue: SqliteQueue,
    options: PollerOptions,
    handler: H,
    stop: Arc<AtomicBool>,
    woken: Receiver<()>,
    _watch: Watch,
}

impl<R: IntoSettlement, H: FnMut(&Claimed) -> R> Worker<H> {
    fn run(&mut self) -> Result<(), QueueError> {
        let mut cleaned: Option<Instant> = None;
        while !self.stop.load(Ordering::Acquire) {
            match self.batch() {
                Ok(0) => {
                    if cleaned.is_none_or(|at| at.elapsed() >= CLEANUP_EVERY) {
                        cleaned = Some(Instant::now());
                        self.clean_up();
                    }
                    self.rest();
                }
                Ok(_) => {}
                // Another file: what was claimed in the old one means nothing here.
                Err(QueueError::Moved { .. }) => {}
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "the queue file cannot be worked on; trying again");
                    self.rest();
                }
                Err(error) => return Err(error),
            }
        }
        self.queue.shutdown_clean(Vec::new())
    }

    /// Claims, runs and settles; how many there were.
    fn batch(&mut self) -> Result<usize, QueueError> {
        let claimed = self.queue.dequeue(self.options.batch)?;
        let mut blocked: HashSet<Key> = HashSet::new();
        let mut settled = Vec::with_capacity(claimed.len());
        for claimed in &claimed {
            let key = claimed.message.key.as_ref();
            if key.is_some_and(|key| blocked.contains(key)) {
                settled.push((claimed, Settlement::Release));
                continue;
            }
            let settlement = self.handle(claimed);
            if matches!(settlement, Settlement::Retry { .. } | Settlement::Release) {
                blocked.extend(key.cloned());
            }
            settled.push((claimed, settlement));
        }
        // Until it is written, nothing else is: what has run must not run again while this process lives.
        while let Err(error) = self.queue.settle(&settled) {
            if !error.is_retryable() || self.stop.load(Ordering::Acquire) {
                return Err(error);
            }
            tracing::warn!(%error, "outcomes cannot be written to the queue file; trying again");
            self.rest();
        }
        Ok(claimed.len())
    }

    fn rest(&self) {
        // Whether woken or not: it looks again.
        let _ = self.woken.recv_timeout(LOOK_EVERY);
    }

    fn handle(&mut self, claimed: &Claimed) -> Settlement {
        let dead = |reason: &str, error| {
            let reason = reason.to_owned();
            let error = Some(error);
            Settlement::Dead { reason, error }
        };
        if claimed.attempts >= self.options.attempts_max {
            // Failures are buried with their last attempt, so these were kills.
            return dead("killed", "the process died each time it ran".to_owned());
        }
        let (attempt, options) = (claimed.attempts + 1, &self.options);
        let after = wait(options.retry_wait, claimed.attempts);
        let failed = |error: String| match attempt >= options.attempts_max {
            true => dead("attempts", error),
            false => Settlement::Retry { after, error },
        };
        // A handler that panicked may have left what it works on in any state; that is its own to look after.
        match catch_unwind(AssertUnwindSafe(|| (self.handler)(claimed))) {
            Ok(returned) => returned.into_settlement(failed),
            Err(panic) => failed(format!("the handler panicked: {}", text_of(&*panic))),
        }
    }

    fn clean_up(&self) {
        if let Some(retention) = self.options.retention
            && let Err(error) = self.queue.cleanup(retention)
        {
            tracing::warn!(%error, "processed messages cannot be deleted; trying again");
        }
    }
}

/// How long a failure waits after so many attempts before it.
fn wait(first: Duration, before: u32) -> Duration {
    first
        .saturating_mul(1 << before.min(16))
        .min(RETRY_WAIT_MAX)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}
