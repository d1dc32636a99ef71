//! Sends what an outbox holds: one thread, with a connection of its own.
//!
//! It reads committed messages in order and hands them to the sender, many at once but one of a
//! key, and deletes those that the sender answered for, together, in as few transactions as there
//! are. Killed between the two it sends them again under the same ids.
//!
//! Nobody can signal a commit from inside the transaction, so `PRAGMA data_version` is asked every
//! 10 ms; that costs some microseconds.

mod runner;
mod ticket;
mod window;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use spoolway_proto::Message;

use crate::lock::side_file;
use crate::{ConsumerLock, Outbox, QueueError, schema};

use runner::Runner;
use ticket::Event;

pub use ticket::Ticket;

/// Sends what an [`Outbox`] holds; ends with its value.
///
/// ```
/// use rusqlite::Connection;
/// use spoolway_proto::Message;
/// use spoolway_queue::{Outbox, Relay};
///
/// # fn post(_: &Message) -> std::io::Result<()> { Ok(()) }
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("app.db");
/// # let db = Connection::open(&path)?;
/// let outbox = Outbox::default();
/// outbox.create(&db)?;
/// let relay = Relay::start(&path, &outbox, move |message, ticket| match post(&message) {
///     Ok(()) => ticket.sent(),
///     Err(error) => ticket.later(error),
/// })?;
/// # drop(relay);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Relay {
    events: Sender<Event>,
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<RelayStatus>>,
    thread: Option<JoinHandle<()>>,
}

/// Numbers of a relay at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// Messages that were sent and deleted.
    pub sent: u64,
    /// Messages that were refused for good and are kept aside.
    pub refused: u64,
    /// Messages that the sender has, or that wait to be tried again.
    pub out: usize,
    /// What went wrong last, until a message is sent again.
    pub error: Option<String>,
}

impl Relay {
    /// Starts a thread that sends what is committed to `outbox` in the database at `path`.
    ///
    /// `send` gets each message with its [`Ticket`], in the order they were enqueued. It may send
    /// and answer at once, which holds up the next message, or hand both to others and return: up
    /// to 1,000 messages and 8 MiB (or one larger message) are out at a time, and of a key one, the
    /// first. A message that is out of order at the receiver is thus always of another key. One
    /// that can never be sent has to be refused, else it takes up a place for ever.
    ///
    /// The relay deletes what was sent, so writers of the database meet its short transactions:
    /// give their connections a `busy_timeout`.
    ///
    /// # Errors
    ///
    /// [`QueueError::Owned`] when the outbox has a relay already, in this process or another (the
    /// lock is on a file beside the database); [`QueueError::Misuse`] when the table was not
    /// created; or why the database could not be opened.
    pub fn start(
        path: impl AsRef<Path>,
        outbox: &Outbox,
        send: impl FnMut(Message, Ticket) + Send + 'static,
    ) -> Result<Self, QueueError> {
        schema::check_sqlite(rusqlite::version_number(), rusqlite::version())?;
        let path = path.as_ref();
        // Whatever name a program has for the database, there is one lock.
        let path = path
            .canonicalize()
            .map_err(|error| QueueError::io(path, error))?;
        let lock = side_file(&path, &format!(".{}.lock", outbox.table.name()));
        let lock = ConsumerLock::acquire(&lock)?;
        let (events, inlet) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let status = Arc::new(Mutex::new(RelayStatus::default()));
        let ends = (events.clone(), inlet);
        let mut runner = Runner::new(&path, outbox, send, ends, &stop, &status)?;
        let thread = thread::Builder::new()
            .name("spoolway-relay".into())
            .spawn(move || {
                runner.run();
                drop(lock);
            })
            .map_err(|error| QueueError::io(&path, error))?;
        Ok(Self {
            events,
            stop,
            status,
            thread: Some(thread),
        })
    }

    /// Where its messages stand.
    pub fn status(&self) -> RelayStatus {
        lock(&self.status).clone()
    }

    /// Hands nothing out any more, waits at most `limit` for the answers that the sender owes, and
    /// ends. Blocks. What is not answered by then is sent again by the next relay.
    ///
    /// Dropping the relay does the same without waiting for answers.
    pub fn close(mut self, limit: Duration) {
        self.end(limit);
    }

    fn end(&mut self, limit: Duration) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.stop.store(true, Ordering::Release);
        // A thread that is gone needs no word.
        let _ = self.events.send(Event::Stop(Instant::now() + limit));
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the relay of an outbox had panicked");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn lock(status: &Mutex<RelayStatus>) -> MutexGuard<'_, RelayStatus> {
    // Nothing that can panic runs under this lock.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
