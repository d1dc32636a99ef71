//! A queue file that is not a healthy database: renamed, with its side files, and replaced by a new one.
//!
//! ```text
//!  1  q.db.quarantine ─► q.db.corrupt-<time>   a symbolic link: there whole, or not at all, also on a full disk
//!  2  -wal, 3 -shm, 4 the file                 renamed; from here on the path names nothing
//!  5  a new file                               appears complete, with the identity and after the numbers of the old
//!  6  the link becomes q.db.salvage            others may use the new file
//!  7  rows are copied, 8 the link goes         see `salvage`
//! ```
//!
//! All but 7 and 8 under the guard that every open takes, and only in the process that holds the consumer's lock.
//! While the first link is there nobody else opens the file. Killed at any step, the next consumer goes on from what
//! it finds. Nothing is deleted.
//!
//! The new file has the identity of the old one and its rows keep their numbers, so to its consumer it is the same
//! file. Whoever else has the old one open commits to it once more at most: it then finds that the file has moved, and
//! writes again into the new one.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use spoolway_proto::{QueueId, Timestamp};

use crate::clock::Now;
use crate::lock::{Guard, is_held_here, side_file};
use crate::queue::{QueueOptions, Role};
use crate::{QueueError, file, reader, salvage, schema};

/// Damaged files that may lie beside a queue file: each start of a consumer on a bad disk could make one more.
const ASIDE_MAX: usize = 16;

const LINK: &str = ".quarantine";
const HINT: &str = ".damaged";

/// Whether this handle may set the file aside: it is the consumer's, and its process holds the lock.
pub(crate) fn may(path: &Path, options: &QueueOptions) -> bool {
    options.role == Role::Consumer && is_held_here(&side_file(path, ".lock"))
}

/// Where a file is going that someone began to set aside.
pub(crate) fn begun(path: &Path) -> Option<PathBuf> {
    linked(path, LINK)
}

/// What the link with that suffix names.
pub(crate) fn linked(path: &Path, suffix: &str) -> Option<PathBuf> {
    let target = fs::read_link(side_file(path, suffix)).ok()?;
    Some(path.with_file_name(target.file_name()?))
}

/// What others are told while the file is being set aside.
pub(crate) fn in_progress(path: &Path) -> QueueError {
    let what = "its consumer has begun to set it aside and has not finished";
    QueueError::Corrupt {
        path: path.into(),
        source: Arc::new(io::Error::other(what)),
    }
}

/// Sets the file aside because of `error`. `identity`: what the file had, where that is known.
pub(crate) fn start(
    guard: &Guard,
    path: &Path,
    identity: Option<QueueId>,
    error: &QueueError,
) -> Result<(), QueueError> {
    if aside(path) >= ASIDE_MAX {
        let what = format!(
            "{ASIDE_MAX} damaged files lie beside it already: check the disk, then move them away"
        );
        return Err(QueueError::Corrupt {
            path: path.into(),
            source: Arc::new(io::Error::other(what)),
        });
    }
    let time = Timestamp(Now::read().wall_ms)
        .to_rfc3339()
        .replace([':', '-'], "");
    let target = side_file(path, &format!(".corrupt-{time}"));
    let cause = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
    tracing::error!(
        queue = %path.display(), to = %target.display(), cause,
        "the queue file is damaged: it is set aside, and what can be read is saved into a new one"
    );
    let name = target.file_name().unwrap_or_default();
    symlink(name, side_file(path, LINK)).map_err(|error| QueueError::io(path, error))?;
    reached("linked");
    finish(guard, path, &target, identity)
}

/// Goes on with what [`start`] began, wherever that ended.
pub(crate) fn finish(
    _guard: &Guard,
    path: &Path,
    target: &Path,
    identity: Option<QueueId>,
) -> Result<(), QueueError> {
    let failed = |error| QueueError::io(path, error);
    if fs::symlink_metadata(target).is_err() {
        // The log first: a file without its log looks healthy, and misses commits.
        for suffix in ["-wal", "-shm", ""] {
            move_aside(&side_file(path, suffix), &side_file(target, suffix)).map_err(failed)?;
            reached(match suffix {
                "" => "moved",
                other => other,
            });
        }
    }
    if fs::symlink_metadata(path).is_err() {
        replace(path, target, identity)?;
        reached("replaced");
    }
    if let Some(before) = linked(path, salvage::LINK) {
        tracing::error!(file = %before.display(), "what was not saved of this file yet stays there");
    }
    fs::rename(side_file(path, LINK), side_file(path, salvage::LINK)).map_err(failed)?;
    reached("let in");
    if let Some(parent) = path.parent() {
        // What a power loss undoes of it is done again by the next consumer.
        let _ = fs::File::open(parent).and_then(|dir| dir.sync_all());
    }
    Ok(())
}

/// Renames what is there. A program that is none of ours may have made a second log meanwhile: it keeps that.
fn move_aside(from: &Path, to: &Path) -> io::Result<()> {
    match file::place(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let orphan = side_file(from, &format!(".orphan-{}", Now::read().wall_ms));
            fs::rename(from, orphan)
        }
        done => done,
    }
}

/// Makes the new file beside the path, complete, and gives it the name.
fn replace(path: &Path, target: &Path, identity: Option<QueueId>) -> Result<(), QueueError> {
    let fresh = side_file(path, ".fresh");
    let failed = |error| QueueError::io(path, error);
    // Of a consumer that was killed here; it holds copies only.
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(side_file(&fresh, suffix));
    }
    let old = fs::symlink_metadata(target).ok();
    let mode = old
        .as_ref()
        .map_or(0o600, |old| old.permissions().mode() & 0o777);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(failed)?;
    // Others who could use the old file should be able to use this one; only root can do it for every group.
    if let Some(old) = old {
        let _ = chown(&fresh, None, Some(old.gid()));
    }
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).map_err(failed)?;
    fill(&fresh, target, identity).map_err(|error| QueueError::sql(path, error))?;
    reached("made");
    match file::place(&fresh, path) {
        // A program that is none of ours was faster: its file is used, and numbers that are taken are given anew.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&fresh).map_err(failed)
        }
        placed => placed.map_err(failed),
    }
}

fn fill(fresh: &Path, target: &Path, identity: Option<QueueId>) -> rusqlite::Result<()> {
    let conn = Connection::open_with_flags(
        fresh,
        OpenFlags::SQLITE_OPEN_READ_WRITE | file::COMMON_FLAGS,
    )?;
    conn.execute_batch(schema::PAGES)?;
    let filling = conn.unchecked_transaction()?;
    schema::build(&filling)?;
    if let Ok(old) = source(target) {
        salvage::begin(&filling, &old)?;
    }
    if let Some(identity) = identity {
        schema::set_identity(&filling, identity)?;
    }
    filling.commit()?;
    // Closing copies the log too, and does not say if it cannot; and the file is given its name without it.
    file::checkpoint(&conn, "TRUNCATE")?;
    conn.close().map_err(|(_, error)| error)
}

/// A connection to a file that was set aside, which changes nothing of it.
pub(crate) fn source(target: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | file::COMMON_FLAGS;
    let conn = Connection::open_with_flags(target, flags)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.execute_batch(
        "PRAGMA query_only = ON; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF;",
    )?;
    Ok(conn)
}

/// Whether a file that cannot be opened may be another program's database: then it is not moved.
pub(crate) fn may_be_foreign(path: &Path) -> bool {
    let Ok(conn) = source(path) else { return false };
    let id: rusqlite::Result<i64> =
        conn.pragma_query_value(None, "application_id", |row| row.get(0));
    // Where not even the header can be read there are no tables to be lost.
    id.is_ok_and(|id| id != schema::APPLICATION_ID)
        && !matches!(schema::inspect(&conn), Ok(schema::Found::Damaged(_)))
}

/// Tells the consumer that a producer found the file damaged: it may never come to that place itself.
pub(crate) fn report(path: &Path) {
    let hint = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(side_file(path, HINT));
    if let Err(error) = hint
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        tracing::debug!(queue = %path.display(), %error, "the consumer is not told of the damage");
    }
}

/// Whether a producer said so since the last call.
pub(crate) fn reported(path: &Path) -> bool {
    fs::remove_file(side_file(path, HINT)).is_ok()
}

/// Whether the file is damaged indeed. Reads all of it, through a connection that remembers no page.
pub(crate) fn examine(path: &Path) -> Result<(), QueueError> {
    let found = reader::connect(path).and_then(|conn| {
        conn.query_row("PRAGMA integrity_check(1)", (), |row| {
            row.get::<_, String>(0)
        })
    });
    let found = found.map_err(|error| QueueError::sql(path, error))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(QueueError::Corrupt {
            path: path.into(),
            source: Arc::new(io::Error::other(found)),
        }),
    }
}

/// How many damaged files lie beside it.
fn aside(path: &Path) -> usize {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return 0;
    };
    let prefix = format!("{}.corrupt-", name.to_string_lossy());
    let Ok(entries) = fs::read_dir(parent) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix) && name.ends_with('Z'))
        .count()
}

/// A step at which tests kill the process.
pub(crate) fn reached(_step: &str) {
    #[cfg(test)]
    crate::killed::at(_step);
}

#[cfg(test)]
mod tests;
