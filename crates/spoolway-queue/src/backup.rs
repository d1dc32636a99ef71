//! A copy of a queue file that is in use, and the space that it no longer needs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;
use spoolway_proto::QueueId;
use uuid::Uuid;

use crate::lock::side_file;
use crate::sql::{self, upkeep};
use crate::{QueueError, SqliteQueue, file, reader, schema};

/// Pages of one step: 1 MiB.
const STEP_PAGES: i32 = 256;

/// How long compaction waits for readers that use the write-ahead log.
const READERS_WAIT: Duration = Duration::from_secs(5);

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackedUp {
    /// Where it is.
    pub path: PathBuf,
    /// Its identity, which is not that of the file it was made of.
    pub identity: QueueId,
    /// Its size.
    pub bytes: u64,
    /// Messages in it, whatever their state.
    pub messages: u64,
}

/// What a compaction has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// Size of the file before.
    pub file_bytes_before: u64,
    /// Size of the file.
    pub file_bytes: u64,
    /// Size of its write-ahead log before.
    pub wal_bytes_before: u64,
    /// Size of its write-ahead log.
    pub wal_bytes: u64,
    /// A reader kept the write-ahead log from being emptied: the next checkpoint goes on with it.
    pub held_up: bool,
}

impl SqliteQueue {
    /// Copies the file, as it is at one moment, to a path that nothing has; consumer and producers
    /// go on meanwhile, and the write-ahead log grows by what they write. `progress` is told the
    /// pages that are copied, and how many there are. The copy appears under its name only when it
    /// is whole, checked (as [`check`](crate::check) does when it is not to be full) and synced.
    ///
    /// It has an identity of its own: in a place of its own it is another queue, into which no
    /// producer spools by mistake while the consumer reads the first one. Put in the place of the
    /// first one, with no consumer running, it is what all of them find there. What was claimed
    /// when it was made is suspect in it. Blocks.
    ///
    /// # Errors
    ///
    /// [`QueueError::Exists`], [`QueueError::Corrupt`] when the copy is damaged as the file must
    /// be; or what reading or writing either ran into. Then there is no copy.
    pub fn backup(
        &self,
        to: impl AsRef<Path>,
        progress: impl FnMut(u64, u64),
    ) -> Result<BackedUp, QueueError> {
        let to = file::resolve(to.as_ref())?;
        if to.symlink_metadata().is_ok() {
            return Err(QueueError::Exists { path: to });
        }
        let partial = side_file(&to, &format!(".partial-{}", std::process::id()));
        let made = self.copy_to(&partial, progress).and_then(|made| {
            sync(&partial).map_err(|error| QueueError::io(&partial, error))?;
            match file::place(&partial, &to) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(QueueError::Exists { path: to.clone() });
                }
                Err(error) => return Err(QueueError::io(&to, error)),
            }
            let parent = to.parent().unwrap_or(Path::new("/"));
            sync(parent).map_err(|error| QueueError::io(parent, error))?;
            Ok(made)
        });
        if made.is_err() {
            for suffix in ["", "-journal", "-wal", "-shm"] {
                // What is not there need not be removed, and what cannot be is named by its suffix.
                let _ = fs::remove_file(side_file(&partial, suffix));
            }
        }
        let (identity, messages) = made?;
        let bytes = fs::metadata(&to).map_or(0, |found| found.len());
        Ok(BackedUp {
            path: to,
            identity,
            bytes,
            messages,
        })
    }

    fn copy_to(
        &self,
        partial: &Path,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(QueueId, u64), QueueError> {
        let here = |error| QueueError::sql(self.path(), error);
        let there = |error| QueueError::sql(partial, error);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(partial)
            .map_err(|error| QueueError::io(partial, error))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | file::COMMON_FLAGS;
        let mut copy = Connection::open_with_flags(partial, flags).map_err(there)?;
        {
            let from = reader::connect(self.path()).map_err(here)?;
            // One snapshot for all steps: otherwise each commit of another would start it again.
            let from = from.unchecked_transaction().map_err(here)?;
            schema::identity(&from).map_err(here)?;
            let backup = Backup::new(&from, &mut copy).map_err(there)?;
            loop {
                let step = backup.step(STEP_PAGES).map_err(there)?;
                let pages = backup.progress();
                let total = u64::try_from(pages.pagecount).unwrap_or(0);
                let left = u64::try_from(pages.remaining).unwrap_or(0);
                progress(total.saturating_sub(left), total);
                match step {
                    StepResult::Done => break,
                    StepResult::More => {}
                    _ => thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        let made = claim_identity(&copy).map_err(there)?;
        let damage: Vec<String> = crate::check::pages(&copy, false).map_err(there)?;
        // Closing copies the log too, and does not say if it cannot; and the file is given its name without it.
        file::checkpoint(&copy, "TRUNCATE").map_err(there)?;
        copy.close().map_err(|(_, error)| there(error))?;
        match damage.first() {
            None => Ok(made),
            Some(damage) => Err(QueueError::Corrupt {
                path: self.path().into(),
                source: std::sync::Arc::new(io::Error::other(damage.clone())),
            }),
        }
    }

    /// Gives free space in the file back to the file system, and empties the write-ahead log. In
    /// slices with pauses beside a running consumer and producers; never rewrites the whole file.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// [`QueueError::Misuse`] for a file that was made without incremental vacuum; or why a slice
    /// was not written.
    pub fn compact(&self) -> Result<Compacted, QueueError> {
        let failed = |error| QueueError::sql(self.path(), error);
        let mode: i64 = self
            .shared()
            .read(|conn| conn.pragma_query_value(None, "auto_vacuum", |row| row.get(0)))?;
        if mode != 2 {
            let what = "it was made without incremental vacuum, and only rewriting it would make \
                        it smaller: with no consumer and no producer running, run \
                        `PRAGMA auto_vacuum = 2; VACUUM` on it in sqlite3";
            return Err(QueueError::misuse(self.path(), what));
        }
        let (file_bytes_before, wal_bytes_before) = file::sizes(self.path());
        self.shrink_to(0)?;
        let held_up = {
            let file = file::open(self.path(), self.options(), &mut None)?;
            file.conn.busy_timeout(READERS_WAIT).map_err(failed)?;
            !file::checkpoint(&file.conn, "TRUNCATE").map_err(failed)?
        };
        let (file_bytes, wal_bytes) = file::sizes(self.path());
        Ok(Compacted {
            file_bytes_before,
            file_bytes,
            wal_bytes_before,
            wal_bytes,
            held_up,
        })
    }
}

/// Makes the copy a file of its own. A copy remembers less than the world has seen since, so it is
/// no file that was given up in order.
fn claim_identity(copy: &Connection) -> rusqlite::Result<(QueueId, u64)> {
    // A plain file, which can be read from a place where nothing can be written; whoever opens it
    // as a queue puts it back into WAL mode.
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    copy.execute_batch("PRAGMA synchronous = FULL")?;
    let identity = QueueId::from_u128(Uuid::new_v4().as_u128());
    copy.execute(
        sql::META_SET,
        params![schema::META_IDENTITY, identity.to_string()],
    )?;
    copy.execute(sql::META_CLEAR, [schema::META_CLEAN])?;
    let mut messages = 0;
    for count in [
        upkeep::COUNT_PENDING,
        upkeep::COUNT_PROCESSED,
        upkeep::COUNT_DEAD,
    ] {
        messages += copy.query_row(count, (), |row| row.get::<_, u64>(0))?;
    }
    Ok((identity, messages))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
