//! One write in a transaction that is open: its statements, and what they do to the claims.

use std::path::Path;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use spoolway_proto::{InstanceId, Key, Message, MessageId, Outcome, Payload, Timestamp};

use crate::claims::{ClaimBook, Cut};
use crate::clock::{self, Now};
use crate::limits::Room;
use crate::producer::Tally;
use crate::write::{Due, HeldKey, Write, Written};
use crate::{QueueError, schema, sql};

/// Who claims rows, and whether it knows the rows of this file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) instance: InstanceId,
    /// False from the moment the path names another file until that one is taken over: numbers of
    /// rows that are still on their way belong to the old one.
    pub(crate) rows_valid: bool,
}

/// A transaction that is open, and what has to be told once it is committed.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) hot: Hot<'a>,
    pub(crate) path: &'a Path,
    pub(crate) book: &'a mut ClaimBook,
    pub(crate) owner: &'a mut Owner,
    pub(crate) room: &'a mut Room,
    pub(crate) now: Now,
    pub(crate) news: News,
    /// Rows of producers that the request has made and settled.
    pub(crate) tally: Tally,
    /// How often the path came to name another file.
    pub(crate) generation: u64,
    /// Whether rows that are made are made by the consumer, of what came over the socket.
    pub(crate) stores: bool,
}

/// The statements of every message, looked up once a transaction: to find one in the cache of the connection means to
/// hash its text.
#[derive(Default)]
pub(crate) struct Hot<'a> {
    pub(crate) insert: Option<CachedStatement<'a>>,
    pub(crate) insert_plain: Option<CachedStatement<'a>>,
    producer_of: Option<CachedStatement<'a>>,
    processed: Option<CachedStatement<'a>>,
}

pub(crate) fn hot<'s, 'a>(
    kept: &'s mut Option<CachedStatement<'a>>,
    conn: &'a Connection,
    statement: &str,
) -> rusqlite::Result<&'s mut CachedStatement<'a>> {
    match kept {
        Some(statement) => Ok(statement),
        None => Ok(kept.insert(conn.prepare_cached(statement)?)),
    }
}

/// What a commit changes outside the file.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// There is something to dequeue that was not there before.
    pub(crate) runnable: bool,
}

/// Why a write was not applied.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Refused(QueueError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

pub(crate) type Applied<T = Written> = Result<T, Fault>;

impl Tx<'_> {
    /// Applies one write.
    pub(crate) fn apply(&mut self, write: &Write) -> Applied {
        if write.names_rows() && !self.owner.rows_valid {
            return Err(Fault::Refused(QueueError::Moved {
                path: self.path.into(),
            }));
        }
        match write {
            Write::Insert(row) => self.insert(row),
            Write::Claim(seqs) => self.claim(seqs),
            Write::Release(seqs) => {
                for &seq in seqs {
                    self.give_back(seq)?;
                }
                Ok(Written::Done)
            }
            Write::Begin { seq } => self.begin(*seq),
            Write::Processed { seq, attempts } => self.processed(*seq, *attempts),
            Write::Retry {
                seq,
                attempts,
                due,
                error,
            } => self.retry(*seq, *attempts, *due, error),
            Write::Dead {
                seq,
                attempts,
                reason,
                error,
            } => self.dead(*seq, *attempts, reason, error.as_deref()),
            Write::SettleById {
                id,
                crc,
                outcome,
                reason,
            } => self.settle_by_id(id, *crc, *outcome, reason.as_deref()),
            Write::SaveProducer(record) => self.save_producer(record),
            Write::SaveCounts(record) => self.save_counts(record),
            Write::Keep { producer, kept } => self.keep(*producer, kept),
            Write::Drop { producer, ranges } => self.drop_outcomes(*producer, ranges),
            Write::HoldKey(held) => self.hold_key(held),
            Write::FreeKey(key) => self.free_key(key),
            Write::SaveMeta { name, value } => self.save_meta(name, value.as_deref()),
        }
    }

    /// Refuses numbers of rows that were read from another file than this.
    pub(crate) fn of_generation(&self, generation: u64) -> Applied<()> {
        if generation == self.generation {
            return Ok(());
        }
        let path = self.path.into();
        Err(Fault::Refused(QueueError::Moved { path }))
    }

    pub(crate) fn prepare(&self, statement: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.conn.prepare_cached(statement)
    }

    pub(crate) fn claim(&mut self, seqs: &[i64]) -> Applied {
        for (first, last) in self.book.take(seqs) {
            let id = self.insert_claim(first, last)?;
            self.book.add(id, first, last);
        }
        Ok(Written::Done)
    }

    pub(crate) fn insert_claim(&self, first: i64, last: i64) -> rusqlite::Result<i64> {
        let instance = self.owner.instance.to_string();
        let claim = params![first, last, instance, self.now.wall_ms];
        self.prepare(sql::CLAIM)?.insert(claim)
    }

    /// Writes the claims of the book anew: a commit that failed may have left others in the file.
    pub(crate) fn resync_claims(&mut self) -> rusqlite::Result<()> {
        let instance = self.owner.instance.to_string();
        self.prepare(sql::CLAIMS_OF)?.execute([instance])?;
        for (first, last) in self.book.ranges() {
            let id = self.insert_claim(first, last)?;
            self.book.renumber(first, id);
        }
        Ok(())
    }

    /// Ends the claim on a row that stays pending, or may come to be.
    fn give_back(&mut self, seq: i64) -> Applied<()> {
        let (cut, behind) = self.book.give_back(seq);
        match cut {
            Cut::NotHeld => {}
            Cut::End { id } => self.end_claim(id)?,
            Cut::Shrink {
                id, first, last, ..
            } => {
                self.prepare(sql::CLAIM_SHRINK)?
                    .execute([id, first, last])?;
            }
        }
        if let Some(behind) = behind {
            let (first, last) = behind.bounds();
            let id = self.insert_claim(first, last)?;
            self.book.add_behind(id, &behind);
        }
        Ok(())
    }

    /// Ends the claim on a row that is processed.
    fn settle_claim(&mut self, seq: i64) -> Applied<()> {
        match self.book.settle(seq) {
            Some(id) => self.end_claim(id),
            None => Ok(()),
        }
    }

    fn end_claim(&self, id: i64) -> Applied<()> {
        self.prepare(sql::CLAIM_END)?.execute([id])?;
        Ok(())
    }

    fn begin(&mut self, seq: i64) -> Applied {
        let attempts = self
            .prepare(sql::BEGIN_ATTEMPT)?
            .query_row([seq, self.now.wall_ms], |row| row.get(0))
            .optional()?;
        Ok(Written::Began {
            attempts: attempts.unwrap_or(0),
        })
    }

    fn processed(&mut self, seq: i64, attempts: u32) -> Applied {
        let settled = self.producer_of(seq)?;
        if settled.is_some() {
            let values = params![seq, self.now.wall_s(), attempts];
            hot(&mut self.hot.processed, self.conn, sql::PROCESSED)?.execute(values)?;
        }
        self.settle_claim(seq)?;
        if let Some(Some(producer)) = &settled {
            self.tally.of(producer.clone()).processed += 1;
        }
        Ok(settled_row(seq, settled.is_some()))
    }

    /// Whether the row is unprocessed, and whose it is.
    fn producer_of(&mut self, seq: i64) -> rusqlite::Result<Option<Option<String>>> {
        hot(&mut self.hot.producer_of, self.conn, sql::PRODUCER_OF)?
            .query_row([seq], |row| row.get(0))
            .optional()
    }

    fn retry(&mut self, seq: i64, attempts: u32, due: Due, error: &str) -> Applied {
        let (due_at, due_boot) = self.due(due, None);
        let values = params![seq, attempts, due_at, due_boot, error, self.now.wall_ms];
        let changed = self.prepare(sql::RETRY)?.execute(values)?;
        self.give_back(seq)?;
        Ok(settled_row(seq, changed > 0))
    }

    pub(crate) fn dead(
        &mut self,
        seq: i64,
        attempts: u32,
        reason: &str,
        error: Option<&str>,
    ) -> Applied {
        let settled = self.producer_of(seq)?;
        if settled.is_some() {
            let values = params![seq, self.now.wall_s(), attempts, reason, error];
            self.prepare(sql::DEAD)?.execute(values)?;
        }
        // It may be requeued while others of its range are still held, and is nobody's then.
        self.give_back(seq)?;
        if let Some(Some(producer)) = &settled {
            self.tally.of(producer.clone()).dead += 1;
        }
        Ok(settled_row(seq, settled.is_some()))
    }

    fn settle_by_id(
        &mut self,
        id: &MessageId,
        crc: u32,
        outcome: Outcome,
        reason: Option<&str>,
    ) -> Applied {
        let found = self
            .prepare(sql::PENDING_BY_ID)?
            .query_row([id.as_str()], |row| {
                let stored: Option<u32> = row.get(2)?;
                let stored = match stored {
                    Some(stored) => stored,
                    None => content_crc(id, row.get(3)?, row.get(4)?),
                };
                Ok((row.get(0)?, row.get(1)?, stored))
            })
            .optional()?;
        match (found, outcome) {
            (Some((seq, attempts, stored)), Outcome::Processed) if stored == crc => {
                self.processed(seq, attempts)
            }
            (Some((seq, attempts, stored)), Outcome::Dead) if stored == crc => {
                self.dead(seq, attempts, reason.unwrap_or("dead"), None)
            }
            _ => Ok(Written::Settled { seq: None }),
        }
    }

    fn hold_key(&mut self, held: &HeldKey) -> Applied {
        self.prepare(sql::HOLD_KEY)?.execute(params![
            held.key.as_str(),
            held.since.0,
            held.message_id.as_str(),
            held.reason,
        ])?;
        Ok(Written::Done)
    }

    fn free_key(&mut self, key: &Key) -> Applied {
        let freed = self.prepare(sql::FREE_KEY)?.execute([key.as_str()])?;
        self.news.runnable |= freed > 0;
        Ok(Written::Done)
    }

    fn save_meta(&mut self, name: &str, value: Option<&str>) -> Applied {
        if [
            schema::META_IDENTITY,
            schema::META_OWNER,
            schema::META_CLEAN,
        ]
        .contains(&name)
        {
            let what = format!("the name {name:?} is the queue's own");
            return Err(Fault::Refused(QueueError::misuse(self.path, what)));
        }
        self.set_meta(name, value)?;
        Ok(Written::Done)
    }

    pub(crate) fn set_meta(&self, name: &str, value: Option<&str>) -> rusqlite::Result<()> {
        match value {
            Some(value) => self.prepare(sql::META_SET)?.execute([name, value])?,
            None => self.prepare(sql::META_CLEAR)?.execute([name])?,
        };
        Ok(())
    }

    /// The columns `due_at` and `due_boot`.
    pub(crate) fn due(
        &self,
        due: Due,
        deliver_at: Option<Timestamp>,
    ) -> (Option<i64>, Option<&'static str>) {
        match due {
            Due::Now => (deliver_at.map(|moment| moment.0), None),
            Due::At(moment) => (Some(moment.0), None),
            Due::In(wait) if wait.is_zero() => (None, None),
            Due::In(wait) => {
                let boot = clock::boot_id();
                let now = if boot.is_some() {
                    self.now.boot_ms
                } else {
                    self.now.wall_ms
                };
                (Some(now.saturating_add(clock::millis(wait))), boot)
            }
        }
    }
}

fn settled_row(seq: i64, changed: bool) -> Written {
    Written::Settled {
        seq: changed.then_some(seq),
    }
}

/// The CRC of a row that carries none.
pub(crate) fn content_crc(id: &MessageId, r#type: String, payload: String) -> u32 {
    Message::with_payload(r#type, Payload::from_trusted_json(payload))
        .id(id)
        .crc()
}
