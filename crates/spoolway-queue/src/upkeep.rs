//! Counting what is there, and deleting what has been kept long enough.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::params;
use serde::Serialize;
use spoolway_proto::{MessageId, QueueId};

use crate::clock::{self, Now};
use crate::{QueueError, SqliteQueue, file, sql};

/// How long one slice of a cleanup may hold the write lock.
const SLICE_MAX: Duration = Duration::from_micros(500);

/// The pause after each slice: others get at least four fifths of the time.
const PAUSE: Duration = Duration::from_millis(2);

/// Free pages that stay in the file: 1 MiB, so that a busy file does not shrink and grow in turn.
const FREE_PAGES_KEPT: i64 = 256;

/// Types that statistics name, most frequent first.
const TYPES_MAX: i64 = 100;

/// What a queue file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The identity of the file.
    pub identity: QueueId,
    /// Unprocessed messages, whatever they wait for.
    pub pending: u64,
    /// Of those: claimed by the consumer.
    pub claimed: u64,
    /// Of those: not due yet.
    pub delayed: u64,
    /// Of those: claimed by a consumer that died.
    pub suspects: u64,
    /// Processed messages that are kept for replay.
    pub processed: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest unprocessed message has been in the file, in seconds.
    pub oldest_pending_age_s: Option<u64>,
    /// Unprocessed messages by type, the 100 most frequent.
    pub pending_by_type: BTreeMap<String, u64>,
    /// Size of the file.
    pub file_bytes: u64,
    /// Of that: free for new messages.
    pub free_bytes: u64,
    /// Size of its write-ahead log.
    pub wal_bytes: u64,
}

/// A message that will not be tried again by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeadLetter {
    /// Its id.
    pub id: MessageId,
    /// Why it is dead, as a word; a foreign program need not have said.
    pub reason: Option<String>,
    /// The last error of its handler.
    pub error: Option<String>,
}

impl SqliteQueue {
    /// At most `limit` dead letters, oldest first. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.shared().snapshot(|conn, _| {
            let mut statement = conn.prepare_cached(sql::DEAD_LETTERS)?;
            let mut rows = statement.query([limit])?;
            let mut letters = Vec::new();
            while let Some(row) = rows.next()? {
                // A foreign row may have an id that is none of ours: nobody can ask for it.
                if let Ok(id) = MessageId::new(row.get::<_, String>(0)?) {
                    let (reason, error) = (row.get(1)?, row.get(2)?);
                    letters.push(DeadLetter { id, reason, error });
                }
            }
            Ok(letters)
        })
    }

    /// Counts what the file holds, in one snapshot. Takes longer the more messages are kept. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn stats(&self) -> Result<Stats, QueueError> {
        let shared = self.shared();
        let (file_bytes, wal_bytes) = file::sizes(&shared.path);
        let identity = shared.identity();
        let now = Now::read();
        shared.snapshot(|conn, _| {
            let count = |statement| {
                conn.prepare_cached(statement)?
                    .query_row((), |row| row.get::<_, u64>(0))
            };
            let (pending, oldest): (u64, Option<i64>) = conn
                .prepare_cached(sql::COUNT_PENDING)?
                .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let oldest: Option<i64> = match oldest {
                None => None,
                Some(seq) => conn
                    .prepare_cached(sql::OLDEST_PENDING)?
                    .query_row([seq], |row| row.get(0))?,
            };
            let delayed = conn
                .prepare_cached(sql::COUNT_DELAYED)?
                .query_row(params![now.wall_ms, clock::boot_id(), now.boot_ms], |row| {
                    row.get(0)
                })?;
            let pending_by_type = conn
                .prepare_cached(sql::COUNT_BY_TYPE)?
                .query_map([TYPES_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let free: i64 = conn
                .prepare_cached(sql::FREE_PAGES)?
                .query_row((), |row| row.get(0))?;
            Ok(Stats {
                identity,
                pending,
                claimed: count(sql::COUNT_CLAIMED)?,
                delayed,
                suspects: count(sql::COUNT_SUSPECT)?,
                processed: count(sql::COUNT_PROCESSED)?,
                dead: count(sql::COUNT_DEAD)?,
                oldest_pending_age_s: oldest
                    .map(|created| now.wall_s().saturating_sub(created).max(0).unsigned_abs()),
                pending_by_type,
                file_bytes,
                free_bytes: 4_096 * free.unsigned_abs(),
                wal_bytes,
            })
        })
    }

    /// Deletes messages that were processed longer than `retention` ago, and gives freed space
    /// back to the file system; returns how many. In slices of half a millisecond with pauses, so
    /// that other writes go on. Blocks.
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
            let (gone, took) = self.slice(statement, before, rows)?;
            deleted += gone;
            if gone < rows.unsigned_abs() {
                return Ok(deleted);
            }
            rows = next_slice(rows, took);
            thread::sleep(PAUSE);
        }
    }

    fn slice(
        &self,
        statement: &'static str,
        before: i64,
        rows: i64,
    ) -> Result<(u64, Duration), QueueError> {
        self.run(move |tx| {
            let started = Instant::now();
            let gone = tx.prepare(statement)?.execute([before, rows])?;
            Ok((gone as u64, started.elapsed()))
        })
    }

    /// Gives free pages back to the file system, a few at a time.
    fn shrink(&self) -> Result<(), QueueError> {
        let mut pages: i64 = 16;
        loop {
            let (free, took) = self.run(move |tx| {
                let started = Instant::now();
                let free: i64 = tx
                    .prepare(sql::FREE_PAGES)?
                    .query_row((), |row| row.get(0))?;
                let excess = (free - FREE_PAGES_KEPT).clamp(0, pages);
                if excess > 0 {
                    // Each page is a row that has to be asked for.
                    let vacuum = format!("PRAGMA incremental_vacuum({excess})");
                    let mut vacuum = tx.conn.prepare(&vacuum)?;
                    let mut steps = vacuum.query(())?;
                    while steps.next()?.is_some() {}
                }
                Ok((free - excess, started.elapsed()))
            })?;
            if free <= FREE_PAGES_KEPT {
                return Ok(());
            }
            pages = next_slice(pages, took);
            thread::sleep(PAUSE);
        }
    }
}

/// How much the next slice may take on, after one of `size` took so long.
fn next_slice(size: i64, took: Duration) -> i64 {
    if took > SLICE_MAX {
        (size / 2).max(1)
    } else if took < SLICE_MAX / 3 {
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
        assert_eq!(next_slice(32, Duration::from_micros(600)), 16);
        assert_eq!(next_slice(32, Duration::from_micros(300)), 32);
        assert_eq!(next_slice(32, Duration::from_micros(50)), 64);
        assert_eq!(next_slice(1, Duration::from_secs(1)), 1);
        assert_eq!(next_slice(1_024, Duration::ZERO), 1_024);
    }
}
