//! Deleting what has been kept long enough, and giving its space back.

use std::thread;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::{QueueError, SqliteQueue, sql};

/// How long one slice of a cleanup may hold the write lock.
const SLICE_MAX: Duration = Duration::from_micros(500);

/// The least pause after each slice; after one that held others up for longer it is as long as that.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

/// Free pages that stay in the file: 1 MiB, so that a busy file does not shrink and grow in turn.
const FREE_PAGES_KEPT: i64 = 256;

impl SqliteQueue {
    /// Deletes messages that were processed longer than `retention` ago, and gives freed space
    /// back to the file system; returns how many. In slices of half a millisecond with pauses, so
    /// that other writes go on. Blocks.
    ///
    /// No slice waits for a sync of its own. A power loss before the next write that does can bring messages back, as
    /// processed as they were, until the next cleanup.
    ///
    /// # Errors
    ///
    /// Why a slice was not written; earlier ones stay deleted.
    pub fn cleanup(&self, retention: Duration) -> Result<u64, QueueError> {
        let retention = i64::try_from(retention.as_secs()).unwrap_or(i64::MAX);
        let before = Now::read().wall_s().saturating_sub(retention);
        let mut deleted = 0;
        for statement in [sql::TRIM_PROCESSED, sql::TRIM_UNDATED] {
            deleted += self.trim(statement, before)?;
        }
        self.shrink()?;
        Ok(deleted)
    }

    /// Deletes what is recorded of producers of which nothing was heard for `retention`, whose messages are all
    /// settled, and of which nothing is missing; returns how many. For the consumer, which saves the records of the
    /// producers it knows before. Blocks.
    ///
    /// # Errors
    ///
    /// Why a slice was not written; earlier ones stay deleted.
    pub fn cleanup_producers(&self, retention: Duration) -> Result<u64, QueueError> {
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let before = Now::read().wall_ms.saturating_sub(retention);
        self.trim(sql::TRIM_OUTCOMES, before)?;
        self.trim(sql::TRIM_PRODUCERS, before)
    }

    /// Runs a statement that deletes at most so many rows until it finds fewer.
    fn trim(&self, statement: &'static str, before: i64) -> Result<u64, QueueError> {
        let (mut deleted, mut rows) = (0, 32);
        loop {
            let (gone, began, took) = self.slice(statement, before, rows)?;
            let held = began.elapsed();
            deleted += gone;
            if gone < rows.unsigned_abs() {
                return Ok(deleted);
            }
            rows = next_slice(rows, took, SLICE_MAX);
            thread::sleep(PAUSE.max(held));
        }
    }

    /// How many rows it deleted, when it began, and how long that took without the commit.
    fn slice(
        &self,
        statement: &'static str,
        before: i64,
        rows: i64,
    ) -> Result<(u64, Instant, Duration), QueueError> {
        self.run_unsynced(move |tx| {
            let began = Instant::now();
            let gone = tx.prepare(statement)?.execute([before, rows])?;
            Ok((gone as u64, began, began.elapsed()))
        })
    }

    /// Gives free pages back to the file system, a few at a time. A file that was adopted
    /// cannot: its free pages are used for new messages.
    pub(crate) fn shrink(&self) -> Result<(), QueueError> {
        self.shrink_to(FREE_PAGES_KEPT)
    }

    /// The same, until so many are left.
    pub(crate) fn shrink_to(&self, kept: i64) -> Result<(), QueueError> {
        let mut pages: i64 = 16;
        loop {
            let (free, began, took) = self.run_unsynced(move |tx| {
                let began = Instant::now();
                let free: i64 = tx
                    .prepare(sql::FREE_PAGES)?
                    .query_row((), |row| row.get(0))?;
                let vacuum: i64 = tx
                    .prepare(sql::AUTO_VACUUM)?
                    .query_row((), |row| row.get(0))?;
                let free = if vacuum == 0 { 0 } else { free };
                let excess = (free - kept).clamp(0, pages);
                if excess > 0 {
                    // Each page is a row that has to be asked for.
                    let vacuum = format!("PRAGMA incremental_vacuum({excess})");
                    let mut vacuum = tx.conn.prepare(&vacuum)?;
                    let mut steps = vacuum.query(())?;
                    while steps.next()?.is_some() {}
                }
                Ok((free - excess, began, began.elapsed()))
            })?;
            let held = began.elapsed();
            if free <= kept {
                return Ok(());
            }
            pages = next_slice(pages, took, SLICE_MAX);
            thread::sleep(PAUSE.max(held));
        }
    }
}

/// How much the next slice may take on, after one of `size` took so long.
pub(crate) fn next_slice(size: i64, took: Duration, limit: Duration) -> i64 {
    if took > limit {
        (size / 2).max(1)
    } else if took < limit / 3 {
        (size * 2).min(1_024)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_fit_themselves_to_their_time() {
        let next = |size, took| next_slice(size, took, SLICE_MAX);
        assert_eq!(next(32, Duration::from_micros(600)), 16);
        assert_eq!(next(32, Duration::from_micros(300)), 32);
        assert_eq!(next(32, Duration::from_micros(50)), 64);
        assert_eq!(next(1, Duration::from_secs(1)), 1);
        assert_eq!(next(1_024, Duration::ZERO), 1_024);
    }
}
