//! Dead letters: listed, shown, requeued, purged.
//!
//! A dead letter stays until someone decides: nothing evicts it unless [`SqliteQueue::cap_dead`] is
//! called. Many are changed in slices, so that no transaction is long, and by rising `seq`, so that
//! one that dies again meanwhile is not met twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Row};
use serde::Serialize;
use spoolway_proto::Timestamp;

use crate::apply::{Fault, Tx};
use crate::replay::{self, Settled, Span};
use crate::sql::upkeep;
use crate::upkeep::{PAUSE, next_slice};
use crate::{Filter, QueueError, SqliteQueue, row};

/// Dead letters that [`SqliteQueue::cap_dead`] looks for at once.
const CAP_PAGE: u64 = 100_000;

/// How long a slice may hold the write lock: as long as a full group of the writer.
pub(crate) const SLICE_MAX: Duration = Duration::from_millis(5);

/// Rows of the first slice.
pub(crate) const SLICE_ROWS: usize = 64;

/// A message that will not be tried again by itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DeadLetter {
    /// The number of its row.
    pub seq: i64,
    /// Its id, as it is in the file.
    pub id: String,
    /// Its type.
    pub r#type: String,
    /// Its key.
    pub key: Option<String>,
    /// Why it is dead, as a word; a foreign program need not have said.
    pub reason: Option<String>,
    /// The last error of its handler.
    pub error: Option<String>,
    /// Handler starts since it was stored, or requeued.
    pub attempts: u32,
    /// Times requeued or replayed.
    pub delivery: u32,
    /// When it was made.
    pub timestamp: Option<Timestamp>,
    /// When its handler started first, if it did; earlier deliveries count.
    pub first_attempt_at: Option<Timestamp>,
    /// When its handler started last, if it did.
    pub last_attempt_at: Option<Timestamp>,
    /// When it died, to the second.
    pub died_at: Option<Timestamp>,
    /// Its payload, as text; only [`SqliteQueue::dead_letter`] reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The JSON object of its other members, as text; read together with the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<String>,
}

impl SqliteQueue {
    /// At most `limit` dead letters, those that died last first, without their payloads. Looks at
    /// every dead letter that a filter on type or key has to be held against. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn dead_letters(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.shared()
            .read(|conn| filter.query(conn, upkeep::DEAD_LETTERS, &[limit], letter))
    }

    /// How many dead letters a filter means. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn count_dead(&self, filter: &Filter) -> Result<u64, QueueError> {
        let counted = self.shared().read(|conn| {
            filter.query(conn, upkeep::COUNT_DEAD_LIKE, &[], |row| {
                row.get::<_, u64>(0)
            })
        })?;
        Ok(counted.into_iter().sum())
    }

    /// The dead letter of that id, with its payload. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn dead_letter(&self, id: &str) -> Result<Option<DeadLetter>, QueueError> {
        self.shared().read(|conn| {
            conn.prepare_cached(upkeep::DEAD_LETTER)?
                .query_row([id], letter)
                .optional()
        })
    }

    /// Lets dead letters run once more: under the same id, with no attempts counted and whatever
    /// their `ttl_ms` says, outside the lanes and marked `replayed`; the consumer is woken. A key that
    /// one of them has stopped is released in the same commit, so what waits behind it runs too. Says
    /// how many. In slices with pauses, so that other writes go on. Blocks.
    ///
    /// ```
    /// use spoolway_proto::Message;
    /// use spoolway_queue::{Filter, QueueOptions, Settlement, SqliteQueue};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let queue = SqliteQueue::open(dir.path().join("orders.db"), QueueOptions::default())?;
    /// queue.enqueue(&Message::new("order", "tea")?)?;
    /// let claimed = queue.dequeue(1)?;
    /// let dead = Settlement::Dead { reason: "attempts".into(), error: Some("no tea".into()) };
    /// queue.settle(&[(&claimed[0], dead)])?;
    ///
    /// let filter = Filter { reason: Some("attempts".into()), ..Filter::default() };
    /// assert_eq!(queue.requeue(&filter)?, 1);
    /// assert_eq!(queue.dequeue(1)?[0].attempts, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Why a slice was not written; earlier ones stay requeued.
    pub fn requeue(&self, filter: &Filter) -> Result<u64, QueueError> {
        self.change_dead(filter, |tx, seqs| {
            Ok(replay::requeue(tx, Settled::Dead, seqs)?.len() as u64)
        })
    }

    /// Deletes dead letters for good; says how many. They stay counted as dead in
    /// [`audit`](Self::audit). In slices with pauses. Blocks.
    ///
    /// # Errors
    ///
    /// Why a slice was not written; earlier ones stay deleted.
    pub fn purge(&self, filter: &Filter) -> Result<u64, QueueError> {
        let purged = self.change_dead(filter, purge)?;
        self.shrink()?;
        Ok(purged)
    }

    /// Deletes the dead letters that died first until `max` are left, and says how many of which
    /// reason went. Blocks.
    ///
    /// # Errors
    ///
    /// Why a slice was not written; earlier ones stay deleted.
    pub fn cap_dead(&self, max: u64) -> Result<BTreeMap<String, u64>, QueueError> {
        let mut dropped: BTreeMap<String, u64> = BTreeMap::new();
        let mut size = SLICE_ROWS;
        loop {
            let (oldest, generation) = self.shared().snapshot(|conn, generation| {
                let dead: u64 = conn
                    .prepare_cached(upkeep::COUNT_DEAD)?
                    .query_row((), |row| row.get(0))?;
                let excess = dead.saturating_sub(max).min(CAP_PAGE);
                let oldest: Vec<(i64, String)> = conn
                    .prepare_cached(upkeep::OLDEST_DEAD)?
                    .query_map([excess.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<_, _>>()?;
                Ok((oldest, generation))
            })?;
            if oldest.is_empty() {
                break;
            }
            let seqs: Vec<i64> = oldest.iter().map(|(seq, _)| *seq).collect();
            self.in_slices(&seqs, generation, &mut size, purge)?;
            for (_, reason) in oldest {
                *dropped.entry(reason).or_default() += 1;
            }
        }
        self.shrink()?;
        Ok(dropped)
    }

    /// Changes every dead letter that is meant, page by page.
    fn change_dead(&self, filter: &Filter, change: Change) -> Result<u64, QueueError> {
        let (mut changed, mut size) = (0, SLICE_ROWS);
        let mut span = Span::default();
        loop {
            let walked = self.walk(Settled::Dead, filter, span, usize::MAX)?;
            changed += self.in_slices(&walked.seqs, walked.generation, &mut size, change)?;
            match walked.after {
                None => return Ok(changed),
                Some(seq) => span.after = seq,
            }
        }
    }

    /// Changes rows in transactions that fit themselves to their time; `size` is what the next one
    /// may take on.
    fn in_slices(
        &self,
        seqs: &[i64],
        generation: u64,
        size: &mut usize,
        change: Change,
    ) -> Result<u64, QueueError> {
        let (mut changed, mut rest) = (0, seqs);
        while !rest.is_empty() {
            let (slice, behind) = rest.split_at((*size).min(rest.len()));
            rest = behind;
            let slice: Arc<[i64]> = slice.into();
            let (rows, took) = self.run(move |tx| {
                tx.of_generation(generation)?;
                let started = Instant::now();
                let rows = change(tx, &slice)?;
                Ok((rows, started.elapsed()))
            })?;
            changed += rows;
            let next = next_slice(i64::try_from(*size).unwrap_or(i64::MAX), took, SLICE_MAX);
            *size = usize::try_from(next).unwrap_or(1);
            thread::sleep(PAUSE);
        }
        Ok(changed)
    }
}

/// What is done to rows in a transaction; says to how many.
type Change = fn(&mut Tx<'_>, &[i64]) -> Result<u64, Fault>;

fn purge(tx: &mut Tx<'_>, seqs: &[i64]) -> Result<u64, Fault> {
    let mut purged = 0;
    for seq in seqs {
        purged += tx.prepare(upkeep::PURGE)?.execute([seq])? as u64;
    }
    Ok(purged)
}

fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let moment = |index, unit: i64| {
        let value = row.get_ref(index)?;
        Ok::<_, rusqlite::Error>(match value {
            ValueRef::Integer(value) => Some(Timestamp(value.saturating_mul(unit))),
            _ => None,
        })
    };
    let text = |index| row::lossy(row, index);
    Ok(DeadLetter {
        seq: row.get(0)?,
        id: text(1)?.unwrap_or_default(),
        r#type: text(2)?.unwrap_or_default(),
        key: text(3)?,
        reason: text(4)?,
        error: text(5)?,
        attempts: row.get(6)?,
        delivery: row.get(7)?,
        timestamp: moment(8, 1)?,
        first_attempt_at: moment(9, 1)?,
        last_attempt_at: moment(10, 1)?,
        died_at: moment(11, 1_000)?,
        payload: text(12)?,
        attributes: text(13)?,
    })
}
