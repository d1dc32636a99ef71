//! How large a queue file may grow: what makes room before a message is refused, and the alarm for its log.
//!
//! A disk is never filled to its end: a log that finds no room to be copied to could not be cut either, and then not
//! even deleting would be possible. So messages are refused while there is still room for that.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::{QueueError, file, sql};

/// A log above this is pinned by a reader, or was not copied for a long time: twice what one is cut to.
pub(crate) const WAL_BYTES_ALARM: u64 = 64 << 20;

/// Processed rows that go at a time to make room.
const ROWS_FREED: i64 = 64;

/// What is left free of a disk: room to delete what is processed. Of a small disk an eighth is enough.
pub(crate) const DISK_BYTES_KEPT: u64 = 1 << 20;

/// With this much to spare the disk is not looked at for a while.
const AMPLE: u64 = 256 << 20;
const AMPLE_FOR: Duration = Duration::from_millis(100);

/// How old a count of the rows may be: others insert too. A large file is counted less often.
const COUNTED_FOR: Duration = Duration::from_secs(1);
const COUNTING_SHARE: u32 = 20;

/// What the queue file may hold, and what its disk keeps free.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) bytes_max: Option<u64>,
    pub(crate) messages_max: Option<u64>,
    pub(crate) disk_bytes_kept: u64,
}

/// How much of the limits is taken, as far as this writer knows.
#[derive(Debug, Default)]
pub(crate) struct Room {
    limits: Limits,
    rows: u64,
    /// There is no space for messages.
    full: bool,
    /// Until when there is space without looking.
    ample_until: Option<Instant>,
    /// Until when `rows` is used without counting.
    counted_until: Option<Instant>,
}

impl Room {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Looks whether the disk has space for so many bytes of messages: in the log, and again in the file. Where little
    /// is left the log is copied first.
    pub(crate) fn look(&mut self, conn: &Connection, path: &Path, bytes: usize) {
        let now = Instant::now();
        if self.ample_until.is_some_and(|until| now < until) && (bytes as u64) < AMPLE / 8 {
            return;
        }
        self.full = false;
        let Some((free, kept)) = self.space(path) else {
            return;
        };
        let bytes = bytes as u64;
        let needed = 2 * bytes + kept + file::sizes(path).1;
        if free >= needed {
            self.ample_until = (free >= needed + AMPLE).then(|| now + AMPLE_FOR);
            return;
        }
        self.ample_until = None;
        // What cannot be copied is counted below.
        let _ = file::checkpoint(conn, "PASSIVE");
        let uncopied = uncopied(conn).unwrap_or(0);
        // A log that is copied starts again from its beginning, and free pages of the file are used first.
        let log = if uncopied == 0 {
            file::sizes(path).1
        } else {
            0
        };
        let pages = conn.query_row(sql::FREE_BYTES, (), |row| row.get(0));
        let needed = uncopied
            + (bytes + kept).saturating_sub(log)
            + bytes.saturating_sub(pages.unwrap_or(0));
        self.full = self.space(path).is_some_and(|(free, _)| free < needed);
    }

    /// Bytes that are free where the file is, and those that are to stay so.
    fn space(&self, path: &Path) -> Option<(u64, u64)> {
        let found = rustix::fs::statvfs(path.parent()?).ok()?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let total = found.f_blocks.saturating_mul(found.f_frsize);
        // Some file systems do not say.
        (total > 0).then(|| (free, self.limits.disk_bytes_kept.min(total / 8)))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.full || self.limits.bytes_max.is_some() || self.limits.messages_max.is_some()
    }

    /// Makes room for one more message of so many bytes, or says which limit is in the way. Processed messages go
    /// first, oldest first, whatever their age.
    pub(crate) fn make(
        &mut self,
        conn: &Connection,
        bytes: usize,
    ) -> rusqlite::Result<Result<(), &'static str>> {
        if let Some(max) = self.limits.messages_max {
            self.count(conn)?;
            while self.rows >= max {
                if self.free(conn)? == 0 {
                    return Ok(Err("queue_messages_max"));
                }
            }
        }
        if let Some(max) = self.limits.bytes_max {
            while used(conn)? + bytes as u64 > max {
                if self.free(conn)? == 0 {
                    return Ok(Err("queue_bytes_max"));
                }
            }
        }
        Ok(Ok(()))
    }

    /// A row was made.
    pub(crate) fn took(&mut self) {
        self.rows += 1;
    }

    /// What was counted is no longer so: a transaction was undone, or the file is another one.
    pub(crate) fn forget(&mut self) {
        self.counted_until = None;
    }

    fn free(&mut self, conn: &Connection) -> rusqlite::Result<usize> {
        let freed = conn
            .prepare_cached(sql::FREE_OLDEST)?
            .execute([ROWS_FREED])?;
        self.rows = self.rows.saturating_sub(freed as u64);
        Ok(freed)
    }

    fn count(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let now = Instant::now();
        if self.counted_until.is_none_or(|until| until <= now) {
            self.rows = conn
                .prepare_cached(sql::COUNT_ALL)?
                .query_row((), |row| row.get(0))?;
            let took = now.elapsed();
            self.counted_until = Some(now + COUNTED_FOR.max(took * COUNTING_SHARE));
        }
        Ok(())
    }
}

/// Bytes of the file that are in use.
fn used(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached(sql::USED_BYTES)?
        .query_row((), |row| row.get(0))
}

/// What a limit says to whoever it stops.
pub(crate) fn over(path: &Path, limit: &'static str) -> QueueError {
    QueueError::Limit {
        path: path.into(),
        limit,
    }
}

/// Bytes of the log that are not in the file yet.
pub(crate) fn uncopied(conn: &Connection) -> rusqlite::Result<u64> {
    let page: u64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    conn.query_row("PRAGMA wal_checkpoint(NOOP)", (), |row| {
        let (frames, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
        // Each frame is a page and a header of 24 bytes.
        Ok((frames - copied).max(0).unsigned_abs() * (page + 24))
    })
}

/// How often the size of the log is asked: meanwhile a fast disk takes some 10 MB.
const MEASURE_EVERY: Duration = Duration::from_millis(100);

/// How often a large log is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Says once that a reader keeps the log from being copied, and once that it is over.
#[derive(Debug)]
pub(crate) struct LogAlarm {
    bytes: u64,
    raised: bool,
    measured: Option<Instant>,
    looked: Option<Instant>,
}

impl LogAlarm {
    /// For a log above so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            raised: false,
            measured: None,
            looked: None,
        }
    }

    /// Whether it is time to ask for the size of the log.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self
            .measured
            .is_none_or(|measured| now >= measured + MEASURE_EVERY);
        if is_due {
            self.measured = Some(now);
        }
        is_due
    }

    /// Looks at the log, and cuts one that is large and copied.
    pub(crate) fn look(&mut self, conn: &Connection, path: &Path) {
        if file::sizes(path).1 <= self.bytes && !self.raised {
            return;
        }
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now < looked + LOOK_EVERY) {
            return;
        }
        self.looked = Some(now);
        // Copies what it can; neither waits for anyone.
        let cut = file::checkpoint(conn, "PASSIVE").and_then(|whole| {
            whole
                .then(|| file::checkpoint(conn, "TRUNCATE"))
                .transpose()
        });
        let pinned = cut.is_ok() && uncopied(conn).is_ok_and(|bytes| bytes > self.bytes);
        match (pinned, self.raised) {
            (true, false) => tracing::warn!(
                queue = %path.display(), wal_bytes = file::sizes(path).1,
                "a reader keeps the log of the queue file from being copied, and it grows: \
                 end the transaction that some program has had open for long"
            ),
            (false, true) => tracing::info!(queue = %path.display(), "the log is copied again"),
            _ => {}
        }
        self.raised = pinned;
    }
}

#[cfg(test)]
mod tests;
