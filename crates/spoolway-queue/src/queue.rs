//! The handle: open a queue file, write to it, take it over, give it up.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::OptionalExtension;
use spoolway_proto::{InstanceId, Limits, QueueId};
use uuid::Uuid;

use crate::apply::{Fault, Owner, Tx};
use crate::dequeue::Dequeuer;
use crate::desk::{self, Desk};
use crate::lock::side_file;
use crate::producer::ProducerRecord;
use crate::shared::Shared;
use crate::tray::{Answer, Job, Request, Run};
use crate::write::{Write, Written};
use crate::writer::Writer;
use crate::{ConsumerLock, QueueError, file, limits, schema, sql};

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss too: each commit is synced (`synchronous=FULL`).
    #[default]
    Full,
    /// The end of the process, not of the machine (`synchronous=NORMAL`).
    Process,
}

/// What a handle is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Makes a missing file, else takes it as it is, and copies a large WAL when idle. What is damaged, or
    /// FlowTrace's, is for the consumer.
    #[default]
    Producer,
    /// Brings an older file up to date, adopts FlowTrace's, and copies the WAL as it grows. In the process that holds
    /// the [`ConsumerLock`] it also sets a damaged file aside, goes on with a new one and saves what can be read.
    Consumer,
}

/// How a queue file is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// What the handle is for; default [`Role::Producer`].
    pub role: Role,
    /// What a commit survives; default [`Durability::Full`].
    pub durability: Durability,
    /// How long a group of writes waits for the write lock of another process; default 30 s.
    pub busy_wait_max: Duration,
    /// What a message must keep within, on the way in and out.
    pub limits: Limits,
    /// Bytes that the file may have in use, its log apart, for this handle to add a message; default none. Before one
    /// is refused ([`QueueError::Limit`]) processed messages go, oldest first, whatever their age.
    pub queue_bytes_max: Option<u64>,
    /// Messages that the file may hold, processed and dead ones included; default none. As above. What other processes
    /// add is counted about once a second.
    pub queue_messages_max: Option<u64>,
    /// Bytes of the disk that messages leave free, at most an eighth of it; default 1 MiB. Below that a message is
    /// refused ([`QueueError::Full`]), so that what is processed can still be deleted.
    pub disk_bytes_kept: u64,
    /// Bytes of the write-ahead log that no reader lets go, above which there is a warning in the log and
    /// [`Stats::wal_pinned`](crate::Stats::wal_pinned) is set; default 64 MiB.
    pub wal_bytes_alarm: u64,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            role: Role::default(),
            durability: Durability::default(),
            busy_wait_max: Duration::from_secs(30),
            limits: Limits::default(),
            queue_bytes_max: None,
            queue_messages_max: None,
            disk_bytes_kept: limits::DISK_BYTES_KEPT,
            wal_bytes_alarm: limits::WAL_BYTES_ALARM,
        }
    }
}

/// What was found when a queue file was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// The last owner gave the file up in order.
    pub clean: bool,
    /// The last owner, if there was one.
    pub last_owner: Option<InstanceId>,
    /// Rows that became suspect: claimed by an owner who is gone.
    pub suspects: u64,
}

/// A queue file. Clones share one writer and one pool of readers.
///
/// Every call but [`submit`](Self::submit), [`identity`](Self::identity) and the paths blocks: call
/// them from a thread that may. Dropping the last handle writes what waits and then closes the
/// file.
///
/// ```
/// use spoolway_proto::Message;
/// use spoolway_queue::{QueueOptions, SqliteQueue};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("orders.db");
/// let queue = SqliteQueue::open(&path, QueueOptions::default())?;
/// queue.enqueue(&Message::new("order", &["a", "b"])?)?;
///
/// for claimed in queue.dequeue(10)? {
///     println!("{}: {}", claimed.message.id, claimed.message.payload);
///     queue.mark_processed(&claimed.message.id)?;
/// }
/// assert_eq!(queue.stats()?.pending, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SqliteQueue {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dequeuer: Mutex<Dequeuer>,
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl SqliteQueue {
    /// Opens the queue file at `path`, and makes it if there is none (mode 0600; the directory has
    /// to exist). What is not a queue file of ours is refused untouched.
    ///
    /// # Errors
    ///
    /// [`QueueError::NotOurs`], [`QueueError::NotAdopted`], [`QueueError::Corrupt`],
    /// [`QueueError::TooNew`], [`QueueError::SqliteTooOld`], or what the file system said.
    pub fn open(path: impl AsRef<Path>, options: QueueOptions) -> Result<Self, QueueError> {
        schema::check_sqlite(rusqlite::version_number(), rusqlite::version())?;
        let path = file::resolve(path.as_ref())?;
        let file = file::open(&path, &options, &mut None)?;
        let shared = Arc::new(Shared::new(path, options, &file)?);
        let owner = Owner {
            instance: InstanceId::from_u128(Uuid::new_v4().as_u128()),
            rows_valid: true,
        };
        let writer = Writer::new(Arc::clone(&shared), file, owner);
        let desk = Arc::new(Desk::new(Arc::clone(&shared), writer));
        let attended = Arc::clone(&desk);
        let thread = thread::Builder::new()
            .name("spoolway-queue".into())
            .spawn(move || attended.attend())
            .map_err(|error| QueueError::io(&shared.path, error))?;
        let inner = Inner {
            shared,
            desk,
            thread: Mutex::new(Some(thread)),
            dequeuer: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Hands writes to the writer thread and returns at once. All of them are committed together,
    /// in order, after everything submitted before, or none is.
    ///
    /// `done` is called exactly once: on the thread that writes, which is the queue's own or that of
    /// a call that waits, when the commit is confirmed or has failed; or on this thread when the
    /// queue is closed. It must not block.
    pub fn submit(
        &self,
        writes: Vec<Write>,
        done: impl FnOnce(Result<Vec<Written>, QueueError>) + Send + 'static,
    ) {
        self.push(Job::Writes(writes, None), Box::new(done));
    }

    /// Like [`submit`](Self::submit), for who knows the rows of the file of that [`generation`](Self::generation):
    /// of another file nothing is written, and the answer is [`QueueError::Moved`].
    pub fn submit_in(
        &self,
        generation: u64,
        writes: Vec<Write>,
        done: impl FnOnce(Result<Vec<Written>, QueueError>) + Send + 'static,
    ) {
        self.push(Job::Writes(writes, Some(generation)), Box::new(done));
    }

    /// Like [`submit`](Self::submit), and waits for the commit.
    ///
    /// # Errors
    ///
    /// Why nothing was written; see [`QueueError::is_unknown`].
    pub fn write(&self, writes: Vec<Write>) -> Result<Vec<Written>, QueueError> {
        self.wait(Job::Writes(writes, None))
    }

    /// Makes this handle the owner of the rows: what others had claimed becomes suspect, and row
    /// numbers are valid again after [`QueueError::Moved`]. `instance` names this run.
    ///
    /// # Errors
    ///
    /// [`QueueError::Misuse`] when `lock` is not on [`lock_path`](Self::lock_path), else why
    /// nothing was written.
    pub fn take_over(
        &self,
        instance: InstanceId,
        lock: &ConsumerLock,
    ) -> Result<TakenOver, QueueError> {
        if file::resolve(lock.path())? != self.lock_path() {
            let what = format!("{} is not its lock", lock.path().display());
            return Err(QueueError::misuse(self.path(), what));
        }
        self.run(move |tx| take_over(tx, instance))
    }

    /// Gives the file up in order: records the producers, ends this owner's claims without an
    /// attempt, and leaves the mark that the next owner's [`take_over`](Self::take_over) finds. Who
    /// has not taken the file over leaves none: its last owner may have been killed.
    ///
    /// # Errors
    ///
    /// Why nothing was written.
    pub fn shutdown_clean(&self, producers: Vec<ProducerRecord>) -> Result<(), QueueError> {
        self.run(move |tx| {
            for record in &producers {
                tx.save_producer(record)?;
            }
            let instance = tx.owner.instance.to_string();
            tx.prepare(sql::CLAIMS_OF)?.execute([&instance])?;
            tx.book.drop_all();
            if meta(tx, schema::META_OWNER)? == Some(instance.clone()) {
                tx.set_meta(schema::META_CLEAN, Some(&instance))?;
            }
            Ok(())
        })
    }

    /// Writes what waits, then closes the file; every later write fails with
    /// [`QueueError::Closed`]. Dropping the last handle does the same. No log is left beside the file, unless somebody
    /// has it open, such as a [`Watch`](crate::Watch) or another process.
    pub fn close(&self) {
        self.inner.close();
    }

    /// The identity of the file that is open, random and made with it.
    pub fn identity(&self) -> QueueId {
        self.shared().identity()
    }

    /// How often the path came to name another file while it was open. When it rises, every row
    /// number and claim of before is void, and [`take_over`](Self::take_over) is due.
    pub fn generation(&self) -> u64 {
        self.shared().generation()
    }

    /// The queue file, its directory resolved.
    pub fn path(&self) -> &Path {
        &self.shared().path
    }

    /// The file beside it that its one consumer locks; see [`ConsumerLock`].
    pub fn lock_path(&self) -> PathBuf {
        side_file(self.path(), ".lock")
    }

    /// How it was opened.
    pub fn options(&self) -> &QueueOptions {
        &self.shared().options
    }

    /// Commits since the handle was opened: fewer than writes, where writes come together.
    pub fn commits(&self) -> u64 {
        self.shared().commits()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn dequeuer(&self) -> &Mutex<Dequeuer> {
        &self.inner.dequeuer
    }

    /// Runs upkeep inside a group of the writer. `job` may run more than once.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.run_as(Job::Run, job)
    }

    /// The same, for what a power loss may undo: nobody waits for a sync of its own.
    pub(crate) fn run_unsynced<T: Send + 'static>(
        &self,
        job: impl FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.run_as(Job::RunUnsynced, job)
    }

    fn run_as<T: Send + 'static>(
        &self,
        kind: fn(Run) -> Job,
        mut job: impl FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, QueueError> {
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        self.wait(kind(Box::new(move |tx| {
            let value = job(tx)?;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(())
        })))?;
        let value = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or_else(|| QueueError::Closed {
            path: self.path().into(),
        })
    }

    fn wait(&self, job: Job) -> Answer {
        if self.shared().is_forked() {
            return Err(self.shared().forked());
        }
        self.inner.desk.call(job)
    }

    fn push(&self, job: Job, done: Box<dyn FnOnce(Answer) + Send>) {
        let shared = self.shared();
        if shared.is_forked() {
            return done(Err(shared.forked()));
        }
        shared.tray.push(Request::new(&shared.path, job, done));
    }
}

fn meta(tx: &Tx<'_>, name: &str) -> rusqlite::Result<Option<String>> {
    tx.prepare(sql::META)?
        .query_row([name], |row| row.get(0))
        .optional()
}

fn take_over(tx: &mut Tx<'_>, instance: InstanceId) -> Result<TakenOver, Fault> {
    let clean = meta(tx, schema::META_CLEAN)?.is_some();
    let last_owner = meta(tx, schema::META_OWNER)?.and_then(|text| text.parse().ok());
    let text = instance.to_string();
    tx.set_meta(schema::META_CLEAN, None)?;
    tx.set_meta(schema::META_OWNER, Some(&text))?;
    if tx.owner.instance != instance {
        tx.book.drop_all();
    }
    tx.owner.instance = instance;
    tx.owner.rows_valid = true;
    let mut suspects = 0;
    let claims: Vec<(i64, i64, i64)> = tx
        .prepare(sql::CLAIMS_FOREIGN)?
        .query_map([&text], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (id, first, last) in claims {
        suspects += tx.prepare(sql::SUSPECT_RANGE)?.execute([first, last])?;
        tx.prepare(sql::CLAIM_END)?.execute([id])?;
    }
    let suspects = suspects as u64;
    Ok(TakenOver {
        clean,
        last_owner,
        suspects,
    })
}

impl Inner {
    fn close(&self) {
        if self.shared.is_forked() {
            return;
        }
        self.shared.tray.close();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && !desk::is_callback()
            && thread.join().is_err()
        {
            tracing::error!(queue = %self.shared.path.display(), "the writer had panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            // The thread is the parent's. What it shares with this value is never freed here, since its share stays.
            let thread = self
                .thread
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(thread.take());
        }
        // From a callback, on the thread that writes, it only says that nothing more will come.
        self.close();
    }
}

#[cfg(test)]
mod tests;
