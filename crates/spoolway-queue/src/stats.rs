//! What a queue file holds, by the state of its rows.
//!
//! ```text
//!             ┌──────── retry: delayed, until its time ◄───────┐ failed
//!             ▼                                                │
//!  insert ─► ready ─► claimed ─► its handler ends ─────────────┼─► processed ─► deleted by retention
//!             ▲ ▲        │                                     │       │ replay
//!     its key │ │ in     │ its owner died                      └─► dead┼─► purged
//!    released │ │ turn   ▼                                         │   │
//!            held └── suspect                                      ▼   ▼
//!                                                         ready, with delivery + 1
//! ```
//!
//! *pending* is every row that is neither processed nor dead: *claimed* by the consumer, else
//! *delayed* (to be tried again, or before its `deliver_at`), else *held* (its key is stopped by a
//! dead letter), else *suspect* (claimed by a consumer that died), else *ready*. A row whose
//! `delivery` is above 0 was requeued or replayed: it runs outside the lanes and is never a copy.

use std::collections::BTreeMap;

use rusqlite::params;
use serde::Serialize;
use spoolway_proto::QueueId;

use crate::clock::{self, Now};
use crate::sql::{self, upkeep};
use crate::{QueueError, SqliteQueue, file, limits};

/// Reasons of dead letters that statistics name, most frequent first.
const REASONS_MAX: i64 = 100;

/// Rows of the backlog that [`SqliteQueue::top`] looks at: about 0.1 s.
pub const TOP_ROWS_MAX: u64 = 100_000;

/// What a queue file holds. The counts are exact, in one snapshot, and by indexes alone but for
/// `held`, which looks at each message behind a stopped key.
///
/// `pending` = `ready` + `claimed` + `delayed` + `held` + `suspects`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The identity of the file.
    pub identity: QueueId,
    /// Unprocessed messages, whatever they wait for.
    pub pending: u64,
    /// Of those: can run now, or once it is their turn.
    pub ready: u64,
    /// Of those: claimed by the consumer, or by one that was killed and has no successor yet.
    pub claimed: u64,
    /// Of those: not due yet.
    pub delayed: u64,
    /// Of the delayed: to be tried again; the others wait for their `deliver_at`.
    pub retries: u64,
    /// Of the pending: behind a dead letter that stops their key.
    pub held: u64,
    /// Of the pending: claimed by a consumer that died.
    pub suspects: u64,
    /// Processed messages that are kept for replay.
    pub processed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters by reason, the 100 most frequent.
    pub dead_by_reason: BTreeMap<String, u64>,
    /// How long the oldest unprocessed message has been in the file, in seconds.
    pub oldest_pending_age_s: Option<u64>,
    /// Size of the file.
    pub file_bytes: u64,
    /// Of that: free for new messages.
    pub free_bytes: u64,
    /// Size of its write-ahead log.
    pub wal_bytes: u64,
    /// More than `wal_bytes_alarm` of it are not in the file yet: a reader keeps them from being copied, and
    /// the log grows. An alarm: some program has had a transaction open for long.
    pub wal_pinned: bool,
}

/// What the backlog consists of, by the first [`TOP_ROWS_MAX`] messages of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Top {
    /// The most frequent types, with how many messages of each.
    pub types: Vec<(String, u64)>,
    /// The most frequent keys.
    pub keys: Vec<(String, u64)>,
    /// Whether that is the whole backlog.
    pub exact: bool,
}

impl SqliteQueue {
    /// Counts what the file holds, in one snapshot: about 0.3 s for each million of messages, a few
    /// times that when the file is not in memory. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn stats(&self) -> Result<Stats, QueueError> {
        let shared = self.shared();
        let (file_bytes, wal_bytes) = file::sizes(&shared.path);
        // Not inside a transaction: SQLite tells it only outside.
        let uncopied = shared.read(limits::uncopied)?;
        let identity = shared.identity();
        let now = Now::read();
        shared.snapshot(|conn, _| {
            let count = |statement| {
                conn.prepare_cached(statement)?
                    .query_row((), |row| row.get::<_, u64>(0))
            };
            let clocks = params![now.wall_ms, clock::boot_id(), now.boot_ms];
            let (pending, oldest): (u64, Option<i64>) = conn
                .prepare_cached(upkeep::COUNT_PENDING)?
                .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let oldest: Option<i64> = match oldest {
                None => None,
                Some(seq) => conn
                    .prepare_cached(upkeep::OLDEST_PENDING)?
                    .query_row([seq], |row| row.get(0))?,
            };
            let claimed = count(upkeep::COUNT_CLAIMED)?;
            let (delayed, retries): (u64, u64) = conn
                .prepare_cached(upkeep::COUNT_DELAYED)?
                .query_row(clocks, |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut held = count(upkeep::COUNT_HELD)?;
            if held > 0 {
                let delayed: u64 = conn
                    .prepare_cached(upkeep::COUNT_HELD_DELAYED)?
                    .query_row(clocks, |row| row.get(0))?;
                held = held.saturating_sub(count(upkeep::COUNT_HELD_CLAIMED)? + delayed);
            }
            let suspects = conn
                .prepare_cached(upkeep::COUNT_SUSPECT)?
                .query_row(clocks, |row| row.get(0))?;
            let dead_by_reason = conn
                .prepare_cached(upkeep::COUNT_DEAD_BY_REASON)?
                .query_map([REASONS_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let free: i64 = conn
                .prepare_cached(sql::FREE_PAGES)?
                .query_row((), |row| row.get(0))?;
            Ok(Stats {
                identity,
                pending,
                ready: pending.saturating_sub(claimed + delayed + held + suspects),
                claimed,
                delayed,
                retries,
                held,
                suspects,
                processed: count(upkeep::COUNT_PROCESSED)?,
                dead: count(upkeep::COUNT_DEAD)?,
                dead_by_reason,
                oldest_pending_age_s: oldest
                    .map(|created| now.wall_s().saturating_sub(created).max(0).unsigned_abs()),
                file_bytes,
                free_bytes: count(sql::PAGE_SIZE)? * free.unsigned_abs(),
                wal_bytes,
                wal_pinned: wal_bytes.min(uncopied) > self.options().wal_bytes_alarm,
            })
        })
    }

    /// How many messages are unprocessed, by an index alone: about 0.1 s for each million of them. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn pending(&self) -> Result<u64, QueueError> {
        self.shared().read(|conn| {
            conn.prepare_cached(upkeep::COUNT_PENDING)?
                .query_row((), |row| row.get(0))
        })
    }

    /// The `limit` most frequent types and keys of the backlog, among its first [`TOP_ROWS_MAX`]
    /// messages in the order they would run. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn top(&self, limit: usize) -> Result<Top, QueueError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.shared().snapshot(|conn, _| {
            let most = |statement| {
                conn.prepare_cached(statement)?
                    .query_map(params![TOP_ROWS_MAX.cast_signed(), limit], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })?
                    .collect::<Result<Vec<(String, u64)>, _>>()
            };
            let found: u64 = conn
                .prepare_cached(upkeep::COUNT_PENDING_UP_TO)?
                .query_row([TOP_ROWS_MAX + 1], |row| row.get(0))?;
            Ok(Top {
                types: most(upkeep::TOP_TYPES)?,
                keys: most(upkeep::TOP_KEYS)?,
                exact: found <= TOP_ROWS_MAX,
            })
        })
    }
}
