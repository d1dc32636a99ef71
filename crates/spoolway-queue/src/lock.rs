//! Locks on files beside the real ones: they say who is alive.
//!
//! `flock` on a file that is never unlinked: the kernel drops it with its owner, however that
//! ends. The database file itself is never locked or even opened here, because closing such a
//! descriptor would drop the locks SQLite holds on it in this process.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::QueueError;

/// The file beside `path` that has `suffix` added to its name.
pub fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The right to be the one consumer of a queue file or a socket, for as long as this value lives.
///
/// One type for both: the consumer takes one on the file beside the queue file
/// ([`SqliteQueue::lock_path`](crate::SqliteQueue::lock_path)) and one beside the socket.
#[derive(Debug)]
pub struct ConsumerLock {
    file: File,
    path: PathBuf,
    /// The process that took it, and the file: one forked from it has the descriptor, and no right to end this.
    held: Held,
}

/// The lock files that this process holds: process, device, inode.
static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

type Held = (u32, u64, u64);

/// Whether this process holds the lock on that side file. A forked child does not.
pub(crate) fn is_held_here(side_file: &Path) -> bool {
    let Ok(found) = std::fs::symlink_metadata(side_file) else {
        return false;
    };
    let held = (process::id(), found.dev(), found.ino());
    HELD.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(&held)
}

impl ConsumerLock {
    /// Takes the lock on `side_file`, which is made when missing, and writes this process's id
    /// into it. Does not wait.
    ///
    /// # Errors
    ///
    /// [`QueueError::Owned`] with the owner's process id when another holds it, else what the file
    /// system said.
    pub fn acquire(side_file: &Path) -> Result<Self, QueueError> {
        Self::take(side_file, |file| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(QueueError::Owned {
                path: side_file.into(),
                pid: read_pid(file),
            }),
            Err(TryLockError::Error(error)) => Err(QueueError::io(side_file, error)),
        })
    }

    /// The same, but waits until its owner is gone. Blocks.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn wait(side_file: &Path) -> Result<Self, QueueError> {
        Self::take(side_file, |file| {
            loop {
                match file.lock() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    locked => return locked.map_err(|error| QueueError::io(side_file, error)),
                }
            }
        })
    }

    fn take(
        side_file: &Path,
        lock: impl Fn(&mut File) -> Result<(), QueueError>,
    ) -> Result<Self, QueueError> {
        let failed = |error| QueueError::io(side_file, error);
        loop {
            let mut file = open(side_file).map_err(failed)?;
            lock(&mut file)?;
            // Someone may have removed the file between open and lock: then this lock guards
            // nothing, and the next round takes the one that others will find.
            if names_same_file(side_file, &file) {
                write_pid(&mut file).map_err(failed)?;
                let found = file.metadata().map_err(failed)?;
                let held = (process::id(), found.dev(), found.ino());
                HELD.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(held);
                return Ok(Self {
                    file,
                    path: side_file.into(),
                    held,
                });
            }
        }
    }

    /// Whether someone holds the lock on `side_file`. Ask now and then only: for a moment the question itself holds
    /// it, if nobody does.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn is_held(side_file: &Path) -> Result<bool, QueueError> {
        match File::open(side_file) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(QueueError::io(side_file, error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(QueueError::io(side_file, error)),
        }
    }

    /// The process id written in `side_file`, whether or not it is still alive.
    pub fn owner(side_file: &Path) -> Option<u32> {
        read_pid(&mut File::open(side_file).ok()?)
    }

    /// The file that is locked.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ConsumerLock {
    /// Closing the file is not enough: a process that is being started shares the descriptor until
    /// it runs its program, and the lock would stay that long.
    fn drop(&mut self) {
        let (pid, ..) = self.held;
        if pid != process::id() {
            return;
        }
        HELD.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|held| *held != self.held);
        if let Err(error) = self.file.unlock() {
            tracing::warn!(lock = %self.path.display(), %error, "a lock ends only with its file");
        }
    }
}

/// Short mutual exclusion among our own processes while a queue file is made, opened or replaced,
/// so that nobody clears away side files that another has just begun to use.
#[derive(Debug)]
pub(crate) struct Guard {
    // `None` where the side file may not be opened: opening an existing queue needs no guard.
    _file: Option<File>,
}

impl Guard {
    /// Waits for the guard of the queue at `path`, at most `limit`.
    pub(crate) fn take(path: &Path, limit: Duration) -> Result<Self, QueueError> {
        let side = side_file(path, ".guard");
        let started = Instant::now();
        loop {
            let file = match open(&side) {
                Ok(file) => file,
                Err(error) if unusable(&error) => return Ok(Self { _file: None }),
                Err(error) => return Err(QueueError::io(&side, error)),
            };
            match file.try_lock() {
                Ok(()) if names_same_file(&side, &file) => return Ok(Self { _file: Some(file) }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if started.elapsed() < limit => {
                    thread::sleep(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(QueueError::Busy {
                        path: path.into(),
                        waited: limit,
                    });
                }
                Err(TryLockError::Error(error)) => return Err(QueueError::io(&side, error)),
            }
        }
    }
}

/// Who of several writers is next for SQLite's write lock.
///
/// Whoever commits again and again leaves the lock free for moments only, and those who ask now and then can miss all of
/// them: with every core busy, three of four writers waited for 30 s in vain. So a writer takes the turn before it asks
/// for the lock and ends it when it has the lock: the one that has just committed cannot go before the one that is next,
/// and while one commits the others have all that time to become next. It is a courtesy: without it SQLite's lock counts.
#[derive(Debug)]
pub(crate) struct Turn {
    // `None` where the side file may not be opened.
    file: Option<File>,
}

impl Turn {
    /// The turn of the queue at `path`.
    pub(crate) fn new(path: &Path) -> Self {
        let file = open(&side_file(path, ".turn")).ok();
        Self { file }
    }

    /// Takes it unless another has it.
    pub(crate) fn try_take(&self) -> bool {
        let taken = self.file.as_ref().map(File::try_lock);
        !matches!(taken, Some(Err(TryLockError::WouldBlock)))
    }

    /// Lets another take it.
    pub(crate) fn end(&self) {
        if let Some(Err(error)) = self.file.as_ref().map(File::unlock) {
            tracing::debug!(%error, "a turn ends only with its file");
        }
    }
}

/// A full or foreign directory must not keep an existing queue from being opened.
fn unusable(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        PermissionDenied | ReadOnlyFilesystem | StorageFull | QuotaExceeded
    )
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn names_same_file(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(held)) => (named.dev(), named.ino()) == (held.dev(), held.ino()),
        _ => false,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    // A full disk must not keep a consumer from starting: the text is for people only, and its
    // bytes fit in the block that is there.
    let text = format!("{}\n", process::id());
    file.rewind()?;
    match file
        .set_len(0)
        .and_then(|()| file.write_all(text.as_bytes()))
    {
        Err(error) if !unusable(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_and_told_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let side = side_file(&dir.path().join("q.db"), ".lock");
        assert!(side.ends_with("q.db.lock"));
        let lock = ConsumerLock::acquire(&side).unwrap();
        match ConsumerLock::acquire(&side) {
            Err(QueueError::Owned { path, pid }) => {
                assert_eq!((path, pid), (side.clone(), Some(process::id())));
            }
            other => panic!("{other:?}"),
        }
        assert!(ConsumerLock::is_held(&side).unwrap());
        drop(lock);
        assert!(!ConsumerLock::is_held(&side).unwrap());
        assert_eq!(ConsumerLock::acquire(&side).unwrap().path(), side);
        assert!(side.exists(), "never unlinked");
    }

    /// A test failed under load because another one started a process at that moment: until that
    /// runs its program, it shares every descriptor.
    #[test]
    fn a_lock_ends_with_its_value_though_a_child_shares_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let side = dir.path().join("q.db.lock");
        let lock = ConsumerLock::acquire(&side).unwrap();
        let shared = lock.file.try_clone().unwrap();
        drop(lock);
        ConsumerLock::acquire(&side).unwrap();
        drop(shared);
    }

    #[test]
    fn a_lock_file_that_was_removed_guards_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let side = dir.path().join("q.db.lock");
        let old = ConsumerLock::acquire(&side).unwrap();
        std::fs::remove_file(&side).unwrap();
        assert!(!names_same_file(&side, &old.file));
        ConsumerLock::acquire(&side).unwrap();
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let side = dir.path().join("q.db.lock");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &side).unwrap();
        assert_eq!(ConsumerLock::acquire(&side).unwrap_err().code(), "queue_io");
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn one_writer_at_a_time_is_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.db");
        let (one, other) = (Turn::new(&path), Turn::new(&path));
        assert!(one.try_take() && !other.try_take());
        one.end();
        assert!(other.try_take() && !one.try_take());
        drop(other);
        assert!(one.try_take());
        let nowhere = Turn::new(&dir.path().join("missing/q.db"));
        assert!(nowhere.try_take() && nowhere.try_take());
    }

    #[test]
    fn a_guard_that_is_held_is_waited_for_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.db");
        let guard = Guard::take(&path, Duration::ZERO).unwrap();
        let refused = Guard::take(&path, Duration::from_millis(5)).unwrap_err();
        assert_eq!(refused.code(), "queue_busy");
        drop(guard);
        Guard::take(&path, Duration::ZERO).unwrap();
    }
}
