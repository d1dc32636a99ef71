//! The queue file on disk: made, opened, and found again when it was moved or deleted.
//!
//! A stray `-wal` beside a database that it does not belong to would be replayed into it, and a
//! stray `-shm` would be shared with whoever still has the old file open. So under a guard that
//! each open of ours takes, side files that belong to a file that is gone are set aside first. The
//! `-wal` is renamed, never deleted: its rows can still be wanted.

use std::fs;
use std::io;
#[cfg(not(target_os = "linux"))]
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
#[cfg(target_os = "linux")]
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use spoolway_proto::QueueId;

use crate::alone::Alone;
use crate::clock::Now;
use crate::lock::{Guard, side_file};
use crate::queue::{Durability, QueueOptions, Role};
use crate::{QueueError, ffi, quarantine, schema, sql};

/// How long an open waits for other processes that are making or opening the file.
pub(crate) const OPEN_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often an open starts again because the file was replaced meanwhile.
const REPLACED_MAX: usize = 8;

/// What a WAL is cut to when it starts again from its beginning, and above which a producer's writer copies it. Four of
/// them that never rest let it grow to half as much again.
pub(crate) const WAL_BYTES_KEPT: u64 = 16 << 20;

/// The writer's connection, and the side files that belong to it.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) conn: Connection,
    pub(crate) identity: QueueId,
    /// Whether each commit is synced before it returns.
    pub(crate) syncs: bool,
    sides: Vec<(PathBuf, (u64, u64))>,
    alone: Alone,
}

impl OpenFile {
    /// Whether the path now names another file, or none, or a side file is not the one in use: then a commit went
    /// where nobody looks.
    pub(crate) fn has_moved(&self) -> bool {
        ffi::has_moved(&self.conn) || self.sides.iter().any(|(side, id)| id_of(side) != Some(*id))
    }

    /// Now and then, whether the locks on it are still this process's.
    ///
    /// # Errors
    ///
    /// [`QueueError::NotAlone`].
    pub(crate) fn look(&mut self, path: &Path) -> Result<(), QueueError> {
        match self.alone.look(path) {
            Err(found) if !self.has_moved() => Err(not_alone(path, found)),
            // Where it has moved, the next commit follows it.
            _ => Ok(()),
        }
    }

    /// Sets whether commits are synced from here on. Not inside a transaction.
    pub(crate) fn sync_commits(&mut self, syncs: bool) -> rusqlite::Result<()> {
        let statement = match syncs {
            true => sql::SYNC_COMMITS,
            false => sql::SYNC_LATER,
        };
        self.conn.prepare_cached(statement)?.execute(())?;
        self.syncs = syncs;
        Ok(())
    }

    /// Copies what is in the WAL into the file, wherever that is by now. Best effort: a file that
    /// was moved away should keep its rows even when its WAL stayed behind.
    fn part(&self) {
        let _ = checkpoint(&self.conn, "TRUNCATE");
    }

    /// Its side files were deleted or replaced, and it was not. What is in the old log is saved if nobody has gone on
    /// with another; this process cannot, while any connection of it has the old one.
    fn strand(&self, path: &Path) -> QueueError {
        if id_of(&side_file(path, "-wal")).is_none() {
            self.part();
        }
        QueueError::NotAlone {
            path: path.into(),
            found: "its log was deleted or replaced while it was open",
            unknown: true,
        }
    }
}

impl Drop for OpenFile {
    /// A log that another has taken the place of is not of this file any more.
    fn drop(&mut self) {
        let replaced = |(side, id): &(PathBuf, _)| id_of(side).is_some_and(|found| found != *id);
        if !ffi::has_moved(&self.conn) && self.sides.iter().any(replaced) {
            let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            let _ = self.conn.set_db_config(keep_log, true);
        }
    }
}

fn not_alone(path: &Path, found: &'static str) -> QueueError {
    QueueError::NotAlone {
        path: path.into(),
        found,
        unknown: false,
    }
}

/// The path with its directory resolved: SQLite is told not to follow symbolic links at all, so
/// that the file itself cannot be one.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, QueueError> {
    let Some(name) = path.file_name() else {
        return Err(QueueError::misuse(path, "the path has no file name"));
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).map_err(|error| QueueError::io(parent, error))?;
    Ok(parent.join(name))
}

/// Opens the file for writing; makes it if it is missing. `old` is the connection to a file that
/// the path does not name any more.
pub(crate) fn open(
    path: &Path,
    options: &QueueOptions,
    old: &mut Option<OpenFile>,
) -> Result<OpenFile, QueueError> {
    for _ in 0..REPLACED_MAX {
        let guard = Guard::take(path, OPEN_WAIT_MAX)?;
        let may_heal = quarantine::may(path, options);
        if let Some(target) = quarantine::begun(path) {
            if !may_heal {
                return Err(quarantine::in_progress(path));
            }
            quarantine::finish(&guard, path, &target, None)?;
        }
        if let Some(stranded) = old.as_ref().filter(|old| !ffi::has_moved(&old.conn)) {
            return Err(stranded.strand(path));
        }
        if let Some(old) = old.take() {
            old.part();
            set_aside(path, |side, id| {
                old.sides.iter().any(|own| own.0 == side && own.1 == id)
            });
        }
        make(path)?;
        let opened = connect(path, options).and_then(|conn| {
            let identity =
                schema::identity(&conn).map_err(|error| schema::unreadable(path, error))?;
            Ok((conn, identity))
        });
        let (conn, identity) = match opened {
            Err(error @ QueueError::Corrupt { .. }) if may_heal => {
                if quarantine::may_be_foreign(path) {
                    return Err(error);
                }
                quarantine::start(&guard, path, None, &error)?;
                continue;
            }
            Err(error) => {
                // Where there never was a consumer it may be no queue at all.
                let consumed = fs::symlink_metadata(side_file(path, ".lock")).is_ok();
                if consumed && matches!(error, QueueError::Corrupt { .. }) {
                    quarantine::report(path);
                }
                return Err(error);
            }
            Ok(opened) => opened,
        };
        let sides = sides(path);
        drop(guard);
        let file = OpenFile {
            conn,
            identity,
            syncs: options.durability == Durability::Full,
            sides,
            alone: Alone::new(path).map_err(|found| not_alone(path, found))?,
        };
        if !file.has_moved() {
            return Ok(file);
        }
        // Where only its side files are others', nothing was written to them yet.
        if ffi::has_moved(&file.conn) {
            *old = Some(file);
        }
    }
    Err(QueueError::Moved { path: path.into() })
}

/// Makes an empty file of mode 0600 if there is none. It appears under its name only when it has
/// that mode, and never in place of one that another process has just made.
fn make(path: &Path) -> Result<(), QueueError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let failed = |error| QueueError::io(path, error);
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {
            if found.len() == 0 {
                // SQLite would delete the log of a file that was cut to nothing.
                set_aside(path, |_, _| true);
            }
            return Ok(());
        }
        Ok(found) => {
            let found = if found.is_symlink() {
                "a symbolic link"
            } else {
                "no regular file"
            };
            return Err(QueueError::NotOurs {
                path: path.into(),
                found: found.into(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    set_aside(path, |_, _| true);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let fresh = side_file(path, &format!(".new-{}-{number}", std::process::id()));
    let options = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh);
    drop(options.map_err(failed)?);
    let placed = place(&fresh, path);
    if placed.is_err() {
        // Another process was first, or nobody can be: the empty file is of no use either way.
        let _ = fs::remove_file(&fresh);
    }
    match placed {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Gives `fresh` its name unless something has it.
pub(crate) fn place(fresh: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, fresh, CWD, path, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            fs::hard_link(fresh, path)?;
            fs::remove_file(fresh)
        }
        done => Ok(done?),
    }
}

/// The side files that are there: path, device and inode.
fn sides(path: &Path) -> Vec<(PathBuf, (u64, u64))> {
    ["-wal", "-shm"]
        .into_iter()
        .filter_map(|suffix| {
            let side = side_file(path, suffix);
            let id = id_of(&side)?;
            Some((side, id))
        })
        .collect()
}

/// Device and inode of what has that name.
#[cfg(target_os = "linux")]
fn id_of(path: &Path) -> Option<(u64, u64)> {
    // The inode alone is asked for. Who asks for the times of a file as well makes the next write to it change them on
    // kernels that keep fine times (6.13), and then each sync of the log has an inode to write too: a third of a commit.
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO).ok()?;
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    Some((device, found.stx_ino))
}

#[cfg(not(target_os = "linux"))]
fn id_of(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Renames the `-wal` and removes the `-shm` (a cache of it) that `stray` picks.
fn set_aside(path: &Path, stray: impl Fn(&Path, (u64, u64)) -> bool) {
    for (side, id) in sides(path) {
        if !stray(&side, id) {
            continue;
        }
        let empty = fs::symlink_metadata(&side).is_ok_and(|found| found.len() == 0);
        let done = if empty || side == side_file(path, "-shm") {
            fs::remove_file(&side)
        } else {
            let aside = side_file(&side, &format!(".orphan-{}", Now::read().wall_ms));
            tracing::warn!(wal = %aside.display(), "set aside the WAL of a queue file that is gone");
            fs::rename(&side, aside)
        };
        if let Err(error) = done {
            tracing::warn!(file = %side.display(), %error, "a stray side file stays");
        }
    }
}

fn connect(path: &Path, options: &QueueOptions) -> Result<Connection, QueueError> {
    let failed = |error| QueueError::sql(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | COMMON_FLAGS;
    let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    // What may be damaged is not to be touched by closing it.
    let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    conn.set_db_config(keep_log, true).map_err(failed)?;
    let done = set_up(&conn, path, options);
    if !matches!(done, Err(QueueError::Corrupt { .. })) {
        conn.set_db_config(keep_log, false).map_err(failed)?;
    }
    done.map(|()| conn)
}

fn set_up(conn: &Connection, path: &Path, options: &QueueOptions) -> Result<(), QueueError> {
    let failed = |error| QueueError::sql(path, error);
    // Only while it opens: programs that are not ours take no guard.
    conn.busy_timeout(OPEN_WAIT_MAX).map_err(failed)?;
    schema::prepare(conn, path, options.role == Role::Consumer)?;
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(failed)?;
    if mode != "wal" {
        let found = format!("journal mode {mode}: its file system does not support WAL");
        return Err(QueueError::NotOurs {
            path: path.into(),
            found,
        });
    }
    let synchronous = match options.durability {
        Durability::Full => 2,
        Durability::Process => 1,
    };
    // Only the consumer's commits checkpoint; a producer's writer does it when it is idle.
    let autocheckpoint = match options.role {
        Role::Consumer => 1_000,
        Role::Producer => 0,
    };
    conn.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = {autocheckpoint}; \
         PRAGMA journal_size_limit = {WAL_BYTES_KEPT}; PRAGMA cache_size = -16384; \
         PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;"
    ))
    .map_err(failed)?;
    let found: i64 = conn
        .pragma_query_value(None, "synchronous", |row| row.get(0))
        .map_err(failed)?;
    if found != synchronous {
        return Err(QueueError::misuse(path, "PRAGMA synchronous did not take"));
    }
    conn.busy_timeout(Duration::ZERO).map_err(failed)?;
    keep_statements(conn).map_err(failed)
}

/// Statements stay prepared, and stay as they were prepared: else SQLite plans one anew for each value that it takes for
/// another case of a partial index, which cost a quarter of all reading.
pub(crate) fn keep_statements(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(sql::CACHE_CAPACITY);
    Ok(())
}

/// No URI file names, no symbolic links, no mutex: each connection is used by one thread at a time.
pub(crate) const COMMON_FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX
    .union(OpenFlags::SQLITE_OPEN_NOFOLLOW)
    .union(OpenFlags::SQLITE_OPEN_EXRESCODE);

/// Runs a checkpoint; whether all of the WAL is in the file now.
pub(crate) fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<bool> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| {
        let (busy, frames, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && frames == copied)
    })
}

/// The sizes of the file and of its WAL, in bytes.
pub(crate) fn sizes(path: &Path) -> (u64, u64) {
    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    (size(path), size(&side_file(path, "-wal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_is_set_on_the_connection_that_writes() {
        for (durability, synchronous) in [(Durability::Full, 2), (Durability::Process, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let path = resolve(&dir.path().join("q.db")).unwrap();
            let options = QueueOptions {
                durability,
                ..QueueOptions::default()
            };
            let file = open(&path, &options, &mut None).unwrap();
            let pragma = |name: &str| -> i64 {
                file.conn
                    .pragma_query_value(None, name, |row| row.get(0))
                    .unwrap()
            };
            assert_eq!(pragma("synchronous"), synchronous);
            assert_eq!(
                (pragma("wal_autocheckpoint"), pragma("busy_timeout")),
                (0, 0)
            );
            assert_eq!(file.sides.len(), 2, "both side files are known");
        }
    }

    #[test]
    fn a_path_is_resolved_up_to_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let direct = resolve(&dir.path().join("q.db")).unwrap();
        assert_eq!(resolve(&link.join("q.db")).unwrap(), direct);
        assert_eq!(resolve(Path::new("/")).unwrap_err().code(), "queue_misuse");
    }
}
