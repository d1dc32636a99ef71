//! What the writer, the readers and the handles of one queue share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;
use spoolway_proto::QueueId;

use crate::QueueError;
use crate::file::OpenFile;
use crate::queue::QueueOptions;
use crate::reader::{self, Reader};
use crate::tray::Tray;

type Pool = r2d2::Pool<SqliteConnectionManager>;

pub(crate) struct Shared {
    /// With its directory resolved.
    pub(crate) path: Arc<Path>,
    pub(crate) options: QueueOptions,
    pub(crate) tray: Tray,
    /// The process that opened it.
    pub(crate) pid: AtomicU32,
    opened: RwLock<Opened>,
    commits: AtomicU64,
    /// The opening, counted from 1, in which a reader found the file damaged; 0: none did.
    damaged: AtomicU64,
    /// What commits to come do instead, before they fail.
    #[cfg(test)]
    faults: std::sync::Mutex<Vec<&'static str>>,
}

/// The file that is open.
struct Opened {
    pool: Pool,
    identity: QueueId,
    /// How often the path named another file.
    generation: u64,
    /// How often a file was opened, the same one again included.
    openings: u64,
}

impl Shared {
    pub(crate) fn new(
        path: PathBuf,
        options: QueueOptions,
        file: &OpenFile,
    ) -> Result<Self, QueueError> {
        let opened = Opened {
            pool: reader::pool(&path, Reader::BesideWriter),
            identity: file.identity,
            generation: 0,
            openings: 1,
        };
        Ok(Self {
            path: path.into(),
            options,
            tray: Tray::default(),
            pid: AtomicU32::new(std::process::id()),
            opened: RwLock::new(opened),
            commits: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            #[cfg(test)]
            faults: std::sync::Mutex::default(),
        })
    }

    /// Takes up `another` file, or the same one again. Readers of the old one finish on it.
    pub(crate) fn opened(&self, file: &OpenFile, another: bool) -> Result<(), QueueError> {
        let pool = reader::pool(&self.path, Reader::BesideWriter);
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        opened.pool = pool;
        opened.identity = file.identity;
        opened.generation += u64::from(another);
        opened.openings += 1;
        Ok(())
    }

    /// Ends the readers, so that the writer's connection is the last: of those, only it can leave no log behind.
    pub(crate) fn close_readers(&self) {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        opened.pool = reader::pool(&self.path, Reader::Alone);
    }

    pub(crate) fn identity(&self) -> QueueId {
        self.read_opened(|opened| opened.identity)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.read_opened(|opened| opened.generation)
    }

    fn read_opened<T>(&self, get: impl FnOnce(&Opened) -> T) -> T {
        get(&self.opened.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `get` on a reader of the pool. Blocks.
    pub(crate) fn read<T>(
        &self,
        get: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        self.read_generation(|conn, _| get(conn))
    }

    fn read_generation<T>(
        &self,
        get: impl FnOnce(&Connection, u64) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        if self.is_forked() {
            return Err(self.forked());
        }
        let (pool, generation, opening) =
            self.read_opened(|opened| (opened.pool.clone(), opened.generation, opened.openings));
        let conn = pool
            .get()
            .map_err(|error| QueueError::pool(&self.path, error))?;
        get(&conn, generation).map_err(|error| {
            let error = QueueError::sql(&self.path, error);
            if matches!(error, QueueError::Corrupt { .. }) {
                self.damaged.store(opening, Ordering::Relaxed);
            }
            error
        })
    }

    /// What a reader found.
    pub(crate) fn read_damage(&self) -> QueueError {
        QueueError::Corrupt {
            path: self.path.to_path_buf(),
            source: Arc::new(io::Error::other("a page of it could not be read")),
        }
    }

    /// Whether this process is not the one that opened the file: the writer and the locks stayed in the parent, and
    /// whatever is done with the descriptors here would be done to it.
    pub(crate) fn is_forked(&self) -> bool {
        self.pid.load(Ordering::Relaxed) != std::process::id()
    }

    pub(crate) fn forked(&self) -> QueueError {
        QueueError::Forked {
            path: self.path.to_path_buf(),
        }
    }

    /// Whether a reader found damage in the file that is open now, not in one before it.
    pub(crate) fn is_damaged(&self) -> bool {
        let damaged = self.damaged.load(Ordering::Relaxed);
        damaged != 0 && damaged == self.read_opened(|opened| opened.openings)
    }

    /// Runs `get` on one snapshot of the file, and tells it the generation of that. Blocks.
    pub(crate) fn snapshot<T>(
        &self,
        get: impl FnOnce(&Connection, u64) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        self.read_generation(|conn, generation| {
            let snapshot = conn.unchecked_transaction()?;
            let got = get(&snapshot, generation)?;
            snapshot.commit()?;
            Ok(got)
        })
    }

    #[cfg(test)]
    pub(crate) fn set_faults(&self, faults: &[&'static str]) {
        *self.faults.lock().unwrap() = faults.iter().rev().copied().collect();
    }

    #[cfg(test)]
    pub(crate) fn next_fault(&self) -> Option<&'static str> {
        self.faults.lock().unwrap().pop()
    }

    pub(crate) fn count_commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}
