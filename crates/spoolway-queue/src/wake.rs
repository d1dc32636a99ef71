//! How the consumer learns that the queue file has something new.
//!
//! After a commit a writer sends one byte to a datagram socket that the consumer keeps beside the
//! file; that takes tens of microseconds. Writers that do not know of it are seen through
//! `PRAGMA data_version` within about 10 ms. The last net is a look each second.
//!
//! Watching the `-wal` file is a trap: it changes before the commit is visible.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use crate::lock::side_file;
use crate::shared::Shared;
use crate::{QueueError, SqliteQueue, ffi, reader, sql};

/// How often the file is asked whether it changed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often the consumer is told to look, whatever happens.
const FIRE_EVERY: Duration = Duration::from_millis(1_000);

/// The longest path a Unix socket can have.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where the consumer of a queue file listens for wake-ups.
pub(crate) fn socket_path(path: &Path) -> PathBuf {
    side_file(path, ".wake")
}

/// A socket to send wake-ups from; without one the consumer looks by itself.
pub(crate) fn sender() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// Sends a wake-up. It is a hint: nobody listening, or one who has enough of them, is no error.
pub(crate) fn send(socket: &UnixDatagram, to: &Path) {
    let _ = socket.send_to(&[1], to);
}

/// Calls back when the queue file may have something new; ends with its value.
///
/// Only the holder of the file's [`ConsumerLock`](crate::ConsumerLock) starts one: a socket that
/// is there belongs to a consumer that is gone, and is replaced.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts a thread that calls `on_change` after each wake-up, after commits of others that
    /// added rows, when the path names another file, and at least once a second. `on_change` must
    /// not block for long; once too often is normal.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started. A socket that cannot be made is not an error: changes
    /// are then seen within about 10 ms.
    pub fn start(
        queue: &SqliteQueue,
        on_change: impl Fn() + Send + 'static,
    ) -> Result<Self, QueueError> {
        let shared = Arc::clone(queue.shared());
        let stop = Arc::new(AtomicBool::new(false));
        let mut watcher = Watcher {
            socket: Socket::bind(&shared.path),
            file: None,
            stop: Arc::clone(&stop),
            shared,
        };
        let path = queue.path();
        let thread = thread::Builder::new()
            .name("spoolway-watch".into())
            .spawn(move || watcher.run(on_change))
            .map_err(|error| QueueError::io(path, error))?;
        Ok(Self {
            pid: process::id(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.pid != process::id() {
            // Its thread and its socket are the parent's.
            std::mem::forget(self.thread.take());
            return;
        }
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("the watch of a queue file had panicked");
            }
        }
    }
}

struct Watcher {
    shared: Arc<Shared>,
    socket: Option<Socket>,
    file: Option<WatchedFile>,
    stop: Arc<AtomicBool>,
}

/// The watch's own connection: `data_version` changes with commits of every other one.
struct WatchedFile {
    conn: Connection,
    generation: u64,
    data_version: i64,
    newest_seq: i64,
}

impl Watcher {
    fn run(&mut self, on_change: impl Fn()) {
        let mut fired = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let mut fire = self.wait();
            let overdue = fired.elapsed() >= FIRE_EVERY;
            fire |= overdue | self.look(overdue);
            if fire && !self.stop.load(Ordering::Acquire) {
                on_change();
                fired = Instant::now();
            }
        }
    }

    /// Waits for a wake-up, at most until the next look.
    fn wait(&self) -> bool {
        let Some(socket) = &self.socket else {
            thread::park_timeout(LOOK_EVERY);
            return false;
        };
        let mut byte = [0];
        if socket.socket.recv(&mut byte).is_err() {
            return false;
        }
        // One answer for all that have come.
        if socket.socket.set_nonblocking(true).is_ok() {
            while socket.socket.recv(&mut byte).is_ok() {}
            let _ = socket.socket.set_nonblocking(false);
        }
        true
    }

    /// Whether the file has rows it had not before, or is another one.
    fn look(&mut self, thoroughly: bool) -> bool {
        let generation = self.shared.generation();
        let stale = self.file.as_ref().is_some_and(|file| {
            file.generation != generation || (thoroughly && ffi::has_moved(&file.conn))
        });
        if stale {
            self.file = None;
        }
        if self.file.is_none() {
            // Not there yet, or not ours: the writer says so to whoever writes.
            self.file = WatchedFile::open(&self.shared.path, generation).ok();
            // What was committed before it was watched is news too.
            return stale || self.file.is_some();
        }
        match self.file.as_mut().map(WatchedFile::has_news) {
            Some(Ok(news)) => news,
            _ => {
                self.file = None;
                true
            }
        }
    }
}

impl WatchedFile {
    fn open(path: &Path, generation: u64) -> rusqlite::Result<Self> {
        let conn = reader::connect(path)?;
        let data_version = data_version(&conn)?;
        let newest_seq = newest_seq(&conn)?;
        Ok(Self {
            conn,
            generation,
            data_version,
            newest_seq,
        })
    }

    /// A commit that added no row is not news: most are the consumer's own settlements.
    fn has_news(&mut self) -> rusqlite::Result<bool> {
        let data_version = data_version(&self.conn)?;
        if data_version == self.data_version {
            return Ok(false);
        }
        self.data_version = data_version;
        let newest = newest_seq(&self.conn)?;
        let news = newest != self.newest_seq;
        self.newest_seq = newest;
        Ok(news)
    }
}

/// A number that changes with every commit of another connection.
pub(crate) fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached(sql::DATA_VERSION)?
        .query_row((), |row| row.get(0))
}

fn newest_seq(conn: &Connection) -> rusqlite::Result<i64> {
    let newest = conn
        .prepare_cached(sql::NEWEST_SEQ)?
        .query_row((), |row| row.get(0))
        .optional()?;
    Ok(newest.unwrap_or(0))
}

/// The socket that wake-ups come to.
struct Socket {
    socket: UnixDatagram,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    fn bind(queue: &Path) -> Option<Self> {
        let path = socket_path(queue);
        if path.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
            tracing::debug!(path = %path.display(), "too long for a socket: no wake-ups");
            return None;
        }
        match Self::try_bind(queue, &path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "no wake-ups");
                None
            }
        }
    }

    fn try_bind(queue: &Path, path: &Path) -> std::io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let socket = UnixDatagram::bind(path)?;
        // Whoever may write to the queue may wake its consumer.
        let mode = fs::metadata(queue).map_or(0o600, |found| found.permissions().mode() & 0o777);
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let inode = fs::symlink_metadata(path)?.ino();
        Ok(Self {
            socket,
            path: path.into(),
            inode,
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another consumer may have put its own there since.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a wake-up socket stays");
        }
    }
}
