//! What is known of producers: outcomes they have not confirmed, and the counts that must balance.
//!
//! ```text
//!  sent = by_socket ┬ answered, and remembered        rows = by_queue + stored
//!       │           └ by_word: the consumer that               = processed + dead + pending
//!       │             answered was killed since
//!       + by_queue ── rows it made
//!       + err ─────── nothing is left of them
//!       + open ────── on their way
//! ```
//!
//! What is counted with the rows is written in the commits that make and settle them, so it cannot disagree with
//! them; the rest is the word of the producer, held against what the consumer remembers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use spoolway_proto::{Epoch, InstanceId, MessageId, Outcome, ProducerId, Ranges, Timestamp};

use crate::apply::{Applied, Tx};
use crate::row::parse;
use crate::write::{Origin, Written};
use crate::{QueueError, SqliteQueue, sql};

/// What is known of a producer, across restarts of the consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The producer.
    pub producer: ProducerId,
    /// The highest epoch seen.
    pub epoch: Epoch,
    /// The run of the consumer that saved this; `None`: only rows are known.
    pub instance: Option<InstanceId>,
    /// How many messages went which way.
    pub counts: ProducerCounts,
    /// Outcomes the producer has not confirmed, by rising sequence.
    pub kept: Vec<Kept>,
    /// When it was first heard of.
    pub since: Timestamp,
    /// When this was written.
    pub updated_at: Timestamp,
}

/// How many messages of a producer went which way, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerCounts {
    /// The highest sequence seen.
    pub sent: u64,
    /// Answered over the socket, by the producer's word.
    pub by_socket: u64,
    /// Answered so by consumers that remember it.
    pub answered: u64,
    /// Of `by_socket`: answered by a consumer that was killed since, as far as anyone knows.
    pub by_word: u64,
    /// Returned as `Err`, and left nowhere: the producer's word.
    pub err: u64,
    /// Spooled by the producer's word, but never into this file.
    pub unheard: u64,
    /// Settled by the producer's word, and nobody knows how.
    pub missing: u64,
    /// Counted with the rows.
    pub rows: RowCounts,
}

/// Rows of a producer, counted in the commits that make and settle them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Made by the producer.
    pub by_queue: u64,
    /// Made by the consumer, of what came over the socket.
    pub stored: u64,
    /// Of both, those processed, and copies of what was.
    pub processed: u64,
    /// Of both, those that became dead letters.
    pub dead: u64,
}

impl RowCounts {
    /// Adds what another commit did.
    pub fn add(&mut self, more: &Self) {
        self.by_queue += more.by_queue;
        self.stored += more.stored;
        self.processed += more.processed;
        self.dead += more.dead;
    }
}

/// The outcome of one message that its producer has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which message of the producer.
    pub sequence: u64,
    /// Its id.
    pub id: MessageId,
    /// CRC of its content.
    pub crc: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it is dead.
    pub reason: Option<String>,
    /// Whether it is among those that its consumer has answered, as its record counts them.
    pub counted: bool,
}

/// What became of the messages of one producer. `missing` other than 0 is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The producer.
    pub producer: ProducerId,
    /// Messages it numbered, as far as this side has heard.
    pub sent: u64,
    /// Answered over the socket.
    pub by_socket: u64,
    /// Of those, by the producer's word only: the consumer that answered was killed.
    pub by_word: u64,
    /// Went by the queue file.
    pub by_queue: u64,
    /// Processed, or copies of what was.
    pub processed: u64,
    /// In the queue file, to be processed.
    pub stored: u64,
    /// Dead letters, those purged since included.
    pub dead: u64,
    /// Returned as `Err`, and left nowhere.
    pub err: u64,
    /// On their way, or not confirmed yet.
    pub open: u64,
    /// Nobody knows what became of them.
    pub missing: u64,
    /// When the producer was first heard of.
    pub since: Timestamp,
}

impl ProducerRecord {
    /// Balances the counts, with the number of its rows that are unprocessed.
    pub fn audit(&self, pending: u64) -> Audit {
        let counts = &self.counts;
        let rows = &counts.rows;
        let known = rows.processed + rows.dead + pending;
        let by_queue = rows.by_queue + counts.unheard;
        let told = counts.by_socket + by_queue + counts.err;
        Audit {
            producer: self.producer,
            sent: counts.sent.max(told),
            by_socket: counts.by_socket,
            by_word: counts.by_word,
            by_queue,
            processed: counts.by_socket.saturating_sub(rows.stored) + rows.processed,
            stored: pending,
            dead: rows.dead,
            err: counts.err,
            open: counts.sent.saturating_sub(told),
            missing: counts.missing + (rows.by_queue + rows.stored).saturating_sub(known),
            since: self.since,
        }
    }
}

/// Rows made and settled in a transaction, until they are written down at its end.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<String, RowCounts>);

impl Tally {
    /// The counts of the producer of a row, to be added to.
    pub(crate) fn of(&mut self, producer: String) -> &mut RowCounts {
        self.0.entry(producer).or_default()
    }

    /// Adds what one request did.
    pub(crate) fn append(&mut self, other: Self) {
        for (producer, counts) in other.0 {
            match self.0.entry(producer) {
                Entry::Vacant(free) => drop(free.insert(counts)),
                Entry::Occupied(mut taken) => taken.get_mut().add(&counts),
            }
        }
    }
}

impl Tx<'_> {
    /// Writes down what was counted, at the end of a transaction.
    pub(crate) fn count(&mut self, tally: Tally) -> rusqlite::Result<()> {
        for (producer, counts) in tally.0 {
            self.prepare(sql::COUNT_ROWS)?.execute(params![
                producer,
                counts.by_queue.cast_signed(),
                counts.stored.cast_signed(),
                counts.processed.cast_signed(),
                counts.dead.cast_signed(),
                self.now.wall_ms,
            ])?;
        }
        Ok(())
    }

    pub(crate) fn save_producer(&mut self, record: &ProducerRecord) -> Applied {
        self.save_counts(record)?;
        let producer = record.producer.to_string();
        self.prepare(sql::DROP_OUTCOMES)?
            .execute(params![producer, 0, i64::MAX])?;
        for kept in &record.kept {
            self.keep(record.producer, kept)?;
        }
        Ok(Written::Done)
    }

    pub(crate) fn save_counts(&mut self, record: &ProducerRecord) -> Applied {
        let counts = &record.counts;
        let producer = record.producer.to_string();
        self.prepare(sql::SAVE_PRODUCER)?.execute(params![
            producer,
            record.epoch.0.cast_signed(),
            record.instance.map(|instance| instance.to_string()),
            counts.sent.cast_signed(),
            counts.by_socket.cast_signed(),
            counts.answered.cast_signed(),
            counts.by_word.cast_signed(),
            counts.err.cast_signed(),
            counts.unheard.cast_signed(),
            counts.missing.cast_signed(),
            record.updated_at.0,
        ])?;
        Ok(Written::Done)
    }

    pub(crate) fn keep(&mut self, producer: ProducerId, kept: &Kept) -> Applied {
        // With nothing to add, but so that there is a record to find the outcomes by.
        self.tally.of(producer.to_string());
        self.prepare(sql::KEEP_OUTCOME)?.execute(params![
            producer.to_string(),
            kept.sequence.cast_signed(),
            kept.id.as_str(),
            kept.crc,
            kept.outcome.as_str(),
            kept.reason,
            kept.counted,
        ])?;
        Ok(Written::Done)
    }

    pub(crate) fn drop_outcomes(&mut self, producer: ProducerId, ranges: &Ranges) -> Applied {
        let producer = producer.to_string();
        for (first, last) in ranges.iter() {
            self.prepare(sql::DROP_OUTCOMES)?.execute(params![
                producer,
                first.cast_signed(),
                last.cast_signed()
            ])?;
        }
        Ok(Written::Done)
    }
}

impl SqliteQueue {
    /// What is recorded of a producer, with its unconfirmed outcomes. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn producer(&self, producer: ProducerId) -> Result<Option<ProducerRecord>, QueueError> {
        self.shared().snapshot(|conn, _| {
            let text = producer.to_string();
            let record = conn
                .prepare_cached(sql::PRODUCER)?
                .query_row([&text], record)
                .optional()?;
            let Some(mut record) = record else {
                return Ok(None);
            };
            record.kept = conn
                .prepare_cached(sql::OUTCOMES)?
                .query_map([&text], kept)?
                .collect::<Result<_, _>>()?;
            Ok(Some(record))
        })
    }

    /// What became of the messages of every producer, in one snapshot, the oldest producer first. Takes longer the
    /// more unprocessed messages there are. What a running consumer has not saved is not in it. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn audit(&self) -> Result<Vec<Audit>, QueueError> {
        self.shared().snapshot(|conn, _| {
            let records = with_pending(conn)?;
            let audits = records.iter();
            Ok(audits
                .map(|(record, pending)| record.audit(*pending))
                .collect())
        })
    }
}

/// Every producer, the oldest first, with how many of its rows are unprocessed.
pub(crate) fn with_pending(conn: &Connection) -> rusqlite::Result<Vec<(ProducerRecord, u64)>> {
    let pending: BTreeMap<String, u64> = conn
        .prepare_cached(sql::PENDING_OF_PRODUCERS)?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    conn.prepare_cached(sql::PRODUCERS)?
        .query_map((), |row| {
            let record = record(row)?;
            let pending = pending.get(&record.producer.to_string());
            let pending = pending.copied().unwrap_or(0);
            Ok((record, pending))
        })?
        .collect()
}

/// The outcome that is kept for a message: the same pair, and the same id or content.
pub(crate) fn outcome_of(
    conn: &Connection,
    origin: &Origin,
    id: &MessageId,
    crc: u32,
) -> rusqlite::Result<Option<(Outcome, Option<String>)>> {
    let found = conn
        .prepare_cached(sql::OUTCOME)?
        .query_row(
            params![origin.producer.to_string(), origin.sequence.cast_signed()],
            kept,
        )
        .optional()?;
    Ok(found
        .filter(|kept| kept.id == *id || kept.crc == crc)
        .map(|kept| (kept.outcome, kept.reason)))
}

/// Whether any outcome is kept: where none is, no row is looked up.
pub(crate) fn any_outcome(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached(sql::ANY_OUTCOME)?
        .query_row((), |row| row.get(0))
}

fn kept(row: &Row<'_>) -> rusqlite::Result<Kept> {
    Ok(Kept {
        sequence: row.get::<_, i64>(0)?.cast_unsigned(),
        id: parse(row, 1)?,
        crc: row.get(2)?,
        outcome: parse(row, 3)?,
        reason: row.get(4)?,
        counted: row.get(5)?,
    })
}

fn record(row: &Row<'_>) -> rusqlite::Result<ProducerRecord> {
    let number = |index| row.get(index).map(i64::cast_unsigned);
    let instance: Option<String> = row.get(2)?;
    Ok(ProducerRecord {
        producer: parse(row, 0)?,
        epoch: Epoch(number(1)?),
        instance: instance.and_then(|text| text.parse().ok()),
        counts: ProducerCounts {
            sent: number(3)?,
            by_socket: number(4)?,
            answered: number(5)?,
            by_word: number(6)?,
            err: number(7)?,
            unheard: number(8)?,
            missing: number(9)?,
            rows: RowCounts {
                by_queue: number(10)?,
                stored: number(11)?,
                processed: number(12)?,
                dead: number(13)?,
            },
        },
        kept: Vec::new(),
        since: Timestamp(row.get(14)?),
        updated_at: Timestamp(row.get(15)?),
    })
}
