//! What the consumer reads: rows that can run, in the order they should, and what holds them back.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, Rows, params};
use spoolway_proto::{Key, Message, Outcome, Timestamp};

use crate::clock::{self, Now};
use crate::insert::existing;
use crate::producer::{any_outcome, outcome_of};
use crate::row::{candidate, parse};
use crate::shared::Shared;
use crate::write::{Existing, HeldKey, Origin};
use crate::{QueueError, SqliteQueue, sql};

/// How many rows [`Before::Rows`] names at most.
pub const BEFORE_MAX: usize = 32;

/// A page ends early above this many bytes of messages, so that large ones do not fill memory.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// A place in the order of the backlog: priority first, then `seq`. The default is its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    priority: i64,
    seq: i64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            priority: i64::MAX,
            seq: i64::MAX,
        }
    }
}

impl Cursor {
    /// Just behind the row `seq` of this priority.
    pub fn new(priority: i64, seq: i64) -> Self {
        Self { priority, seq }
    }

    /// The priority reached.
    pub fn priority(self) -> i64 {
        self.priority
    }

    /// The row reached within its priority.
    pub fn seq(self) -> i64 {
        self.seq
    }
}

/// A row that is unprocessed and due. It may be claimed already: who claims knows.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its number.
    pub seq: i64,
    /// The message.
    pub message: Arc<Message>,
    /// Handler starts so far.
    pub attempts: u32,
    /// Times requeued or replayed; above 0 it runs outside the lanes, late or not, and is never a
    /// copy.
    pub delivery: u32,
    /// It may be what killed its consumer.
    pub suspect: bool,
    /// Who sent it, if it said.
    pub origin: Option<Origin>,
    /// CRC of id, type and payload.
    pub crc: u32,
    /// The outcome that is kept for it: it is a copy of a message that was processed or is dead.
    pub kept: Option<(Outcome, Option<String>)>,
    /// What waits before it in its lane.
    pub before: Before,
}

/// The unprocessed rows of the same key with a lower `seq`, those outside the lanes left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// No row: it is the head of its lane, or has no key, or runs outside the lanes.
    None,
    /// These, rising.
    Rows(Vec<i64>),
    /// More than [`BEFORE_MAX`].
    Many,
}

/// A row that cannot be delivered. Its neighbours can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its number.
    pub seq: i64,
    /// The reason to give its dead letter: `corrupt` (it is not what was stored) or `invalid`.
    pub reason: &'static str,
    /// What is wrong with it, in words.
    pub error: String,
}

/// A stretch of the backlog.
#[derive(Clone, Debug)]
pub struct Page {
    /// Rows that can be delivered, by falling priority, then rising `seq`.
    pub candidates: Vec<Candidate>,
    /// Rows that cannot.
    pub damaged: Vec<Damaged>,
    /// Where the next page starts.
    pub cursor: Cursor,
    /// Nothing lies behind.
    pub end: bool,
    /// [`SqliteQueue::generation`] of the file that was read.
    pub generation: u64,
    /// How long until the next row that is not due yet comes due; wall clocks can jump.
    pub next_due_in: Option<Duration>,
    /// The keys that are stopped; `None` where that was not read: only pages from the start say.
    pub held: Option<Vec<Key>>,
}

/// Reads for the consumer. All of them block: not to be called on an async thread.
/// The unprocessed rows of a key: see [`SqliteQueue::rows_of_key`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyRows {
    /// By rising `seq`.
    pub rows: Vec<i64>,
    /// [`SqliteQueue::generation`] of the file that was read.
    pub generation: u64,
}

impl SqliteQueue {
    /// At most `limit` rows that are unprocessed and due, from behind `after`, in one snapshot.
    /// Claimed rows and suspects are among them.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn candidates(&self, after: Cursor, limit: usize) -> Result<Page, QueueError> {
        let shared = self.shared();
        shared.snapshot(|conn, generation| page(shared, conn, generation, after, limit))
    }

    /// At most `limit` rows of a key that are unprocessed, never replayed and due, by rising `seq`.
    ///
    /// The page's `end` says whether the key has no more.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn candidates_of_key(&self, key: &Key, limit: usize) -> Result<Page, QueueError> {
        let shared = self.shared();
        shared.snapshot(|conn, generation| page_of_key(shared, conn, generation, key, limit))
    }

    /// At most `limit` suspects that are due, by rising `seq`, from behind `after`.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn suspects(&self, after: i64, limit: usize) -> Result<Page, QueueError> {
        let shared = self.shared();
        shared.snapshot(|conn, generation| {
            let now = Now::read();
            let mut statement = conn.prepare_cached(sql::SUSPECTS)?;
            let rows = statement.query(params![
                after,
                now.wall_ms,
                clock::boot_id(),
                now.boot_ms,
                i64::try_from(limit).unwrap_or(i64::MAX),
            ])?;
            short_page(shared, conn, generation, rows, limit)
        })
    }

    /// The first unprocessed rows of a key, at most `limit`, by rising `seq`, those outside the
    /// lanes left out.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn rows_of_key(&self, key: &Key, limit: usize) -> Result<KeyRows, QueueError> {
        self.shared().snapshot(|conn, generation| {
            let rows = rows_before(conn, key, i64::MAX, limit)?;
            Ok(KeyRows { rows, generation })
        })
    }

    /// The state of the row that this very message has: the same id, and the same content. `None`
    /// without one, and where its id has another content.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn state_of(&self, message: &Message) -> Result<Option<Existing>, QueueError> {
        let found = self
            .shared()
            .read(|conn| existing(conn, &message.id).optional())?;
        let crc = message.crc();
        Ok(found
            .filter(|(_, _, stored)| *stored == crc)
            .map(|(_, processed, _)| Existing::of(processed)))
    }

    /// Whether any unprocessed row has a key, those outside the lanes left out.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn has_keyed_backlog(&self) -> Result<bool, QueueError> {
        self.shared().read(|conn| {
            conn.prepare_cached(sql::HAS_KEYED)?
                .query_row((), |row| row.get(0))
        })
    }

    /// The keys that are stopped.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn held_keys(&self) -> Result<Vec<HeldKey>, QueueError> {
        self.shared().read(held)
    }

    /// The text remembered under a name.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn meta(&self, name: &str) -> Result<Option<String>, QueueError> {
        self.shared().read(|conn| {
            conn.prepare_cached(sql::META)?
                .query_row([name], |row| row.get(0))
                .optional()
        })
    }
}

fn page(
    shared: &Shared,
    conn: &Connection,
    generation: u64,
    after: Cursor,
    limit: usize,
) -> rusqlite::Result<Page> {
    let now = Now::read();
    let mut page = Page {
        candidates: Vec::with_capacity(limit.min(1_024)),
        damaged: Vec::new(),
        cursor: after,
        end: false,
        generation,
        next_due_in: next_due_in(conn, now)?,
        held: match after == Cursor::default() {
            true => Some(held(conn)?.into_iter().map(|held| held.key).collect()),
            false => None,
        },
    };
    let mut bytes = 0;
    let mut candidates = conn.prepare_cached(sql::CANDIDATES)?;
    let mut next_priority = conn.prepare_cached(sql::NEXT_PRIORITY)?;
    'page: loop {
        let left = limit.saturating_sub(page.candidates.len() + page.damaged.len());
        let mut rows = candidates.query(params![
            page.cursor.priority,
            page.cursor.seq,
            now.wall_ms,
            clock::boot_id(),
            now.boot_ms,
            i64::try_from(left).unwrap_or(i64::MAX),
        ])?;
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            check_order(conn, row, seq, page.cursor.seq)?;
            page.cursor.seq = seq;
            match candidate(shared, row)? {
                Ok(candidate) => {
                    bytes += candidate.message.size();
                    page.candidates.push(candidate);
                }
                Err(damaged) => page.damaged.push(damaged),
            }
            if bytes > PAGE_BYTES_MAX {
                break 'page;
            }
        }
        if page.candidates.len() + page.damaged.len() >= limit {
            break;
        }
        let next = next_priority
            .query_row([page.cursor.priority], |row| row.get(0))
            .optional()?;
        match next {
            Some(priority) if priority >= page.cursor.priority => return Err(out_of_order()),
            Some(priority) => {
                page.cursor = Cursor {
                    priority,
                    seq: i64::MIN,
                }
            }
            None => {
                page.end = true;
                break;
            }
        }
    }
    fill_in(conn, &mut page.candidates)?;
    Ok(page)
}

/// Refuses what only a damaged index leads to: following it might never end.
fn check_order(conn: &Connection, row: &Row<'_>, seq: i64, after: i64) -> rusqlite::Result<()> {
    // An index may go on naming a row that was settled. Those have a time, and few others do.
    let settled = row.get_ref(15)? != ValueRef::Null
        && conn
            .prepare_cached(sql::IS_SETTLED)?
            .query_row([seq], |row| row.get(0))?;
    match seq > after && !settled {
        true => Ok(()),
        false => Err(out_of_order()),
    }
}

fn out_of_order() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some("an index of the backlog is damaged".into()))
}

fn page_of_key(
    shared: &Shared,
    conn: &Connection,
    generation: u64,
    key: &Key,
    limit: usize,
) -> rusqlite::Result<Page> {
    let now = Now::read();
    let mut candidates = conn.prepare_cached(sql::CANDIDATES_OF_KEY)?;
    let rows = candidates.query(params![
        key.as_str(),
        now.wall_ms,
        clock::boot_id(),
        now.boot_ms,
        i64::try_from(limit).unwrap_or(i64::MAX),
    ])?;
    short_page(shared, conn, generation, rows, limit)
}

/// A page in the order of `seq` alone.
fn short_page(
    shared: &Shared,
    conn: &Connection,
    generation: u64,
    mut rows: Rows<'_>,
    limit: usize,
) -> rusqlite::Result<Page> {
    let mut page = Page {
        candidates: Vec::with_capacity(limit.min(1_024)),
        damaged: Vec::new(),
        cursor: Cursor::default(),
        end: true,
        generation,
        next_due_in: None,
        held: None,
    };
    let mut bytes = 0;
    let mut last = i64::MIN;
    while let Some(row) = rows.next()? {
        let seq = row.get(0)?;
        check_order(conn, row, seq, last)?;
        last = seq;
        page.cursor.seq = seq;
        match candidate(shared, row)? {
            Ok(candidate) => {
                bytes += candidate.message.size();
                page.candidates.push(candidate);
            }
            Err(damaged) => page.damaged.push(damaged),
        }
        let full = page.candidates.len() + page.damaged.len() >= limit;
        if full || bytes > PAGE_BYTES_MAX {
            page.end = false;
            break;
        }
    }
    fill_in(conn, &mut page.candidates)?;
    Ok(page)
}

fn held(conn: &Connection) -> rusqlite::Result<Vec<HeldKey>> {
    conn.prepare_cached(sql::HELD_KEYS)?
        .query_map((), |row| {
            Ok(HeldKey {
                key: parse(row, 0)?,
                since: Timestamp(row.get(1)?),
                message_id: parse(row, 2)?,
                reason: row.get(3)?,
            })
        })?
        .collect()
}

fn next_due_in(conn: &Connection, now: Now) -> rusqlite::Result<Option<Duration>> {
    let wall: Option<i64> = conn
        .prepare_cached(sql::NEXT_DUE_WALL)?
        .query_row([now.wall_ms], |row| row.get(0))?;
    let boot: Option<i64> = match clock::boot_id() {
        Some(id) => conn
            .prepare_cached(sql::NEXT_DUE_BOOT)?
            .query_row(params![id, now.boot_ms], |row| row.get(0))?,
        None => None,
    };
    let waits = [
        wall.map(|at| at - now.wall_ms),
        boot.map(|at| at - now.boot_ms),
    ];
    let soonest = waits.into_iter().flatten().min();
    Ok(soonest.map(|wait| Duration::from_millis(wait.max(0).unsigned_abs())))
}

/// What waits before each row, and the outcome kept for it.
fn fill_in(conn: &Connection, candidates: &mut [Candidate]) -> rusqlite::Result<()> {
    let any_kept = any_outcome(conn)?;
    for candidate in candidates {
        if let (true, 0, Some(origin)) = (any_kept, candidate.delivery, &candidate.origin) {
            candidate.kept = outcome_of(conn, origin, &candidate.message.id, candidate.crc)?;
        }
        if let (Some(key), 0) = (&candidate.message.key, candidate.delivery) {
            let rows = rows_before(conn, key, candidate.seq, BEFORE_MAX + 1)?;
            candidate.before = match rows.len() {
                0 => Before::None,
                1..=BEFORE_MAX => Before::Rows(rows),
                _ => Before::Many,
            };
        }
    }
    Ok(())
}

fn rows_before(conn: &Connection, key: &Key, seq: i64, limit: usize) -> rusqlite::Result<Vec<i64>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.prepare_cached(sql::ROWS_BEFORE)?
        .query_map(params![key.as_str(), seq, limit], |row| row.get(0))?
        .collect()
}
