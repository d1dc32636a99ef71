//! Storing a message: its new row, or what becomes of the one that its id already has.

use std::io;

use rusqlite::{Connection, params, params_from_iter};
use spoolway_proto::{Message, MessageId};
use uuid::Uuid;

use crate::apply::{Applied, Fault, Tx, content_crc, hot};
use crate::producer::RowCounts;
use crate::write::{Existing, NewRow, Origin, RowState, Written};
use crate::{QueueError, limits, sql};

impl Tx<'_> {
    /// Stores a message, or updates the row that its id already has.
    pub(crate) fn insert(&mut self, row: &NewRow) -> Applied {
        let message = &*row.message;
        if message.id.is_empty() {
            let error = QueueError::misuse(self.path, "a message to store has no id");
            return Err(Fault::Refused(error));
        }
        self.make_room(message)?;
        let crc = message.crc();
        if self.insert_new(row, crc)? == 0 {
            return self.insert_existing(row, crc);
        }
        self.room.took();
        let seq = self.conn.last_insert_rowid();
        if row.state.is_claimed() {
            self.claim(&[seq])?;
        }
        if let Some(origin) = row.origin {
            let dead = row.state.dead_reason().is_some();
            let counts = self.made(&origin);
            counts.dead += u64::from(dead);
        }
        self.news.runnable |= row.state.dead_reason().is_none();
        Ok(Written::Inserted { seq })
    }

    /// Makes its row, unless its id has one; how many rows it made.
    fn insert_new(&mut self, row: &NewRow, crc: u32) -> Applied<usize> {
        let message = &*row.message;
        let timestamp = message.timestamp;
        let timestamp = timestamp.map_or(self.now.wall_ms, |timestamp| timestamp.0);
        let mut producer = Uuid::encode_buffer();
        let producer = row.origin.map(|origin| {
            let uuid = Uuid::from_u128(origin.producer.as_u128());
            &*uuid.hyphenated().encode_lower(&mut producer)
        });
        let plain = params![
            message.id.as_str(),
            &*message.r#type,
            message.payload.as_str(),
            timestamp,
            crc,
            producer,
            row.origin.map(|origin| origin.epoch.0.cast_signed()),
            row.origin.map(|origin| origin.sequence.cast_signed()),
        ];
        let attributes = message.encode_attributes();
        if attributes.is_none() && row.state.is_untried() {
            let insert = hot(&mut self.hot.insert_plain, self.conn, sql::INSERT_PLAIN)?;
            return Ok(insert.execute(plain)?);
        }
        let (due_at, due_boot) = self.due(row.state.due(), message.deliver_at);
        let (attempts, error) = row.state.attempts();
        let dead_reason = row.state.dead_reason();
        let rest = params![
            attributes,
            message.key.as_ref().map(|key| key.as_str()),
            message.priority,
            due_at,
            due_boot,
            message.expires_at().map(|moment| moment.0),
            attempts,
            row.state.is_suspect(),
            error,
            (attempts > 0).then_some(self.now.wall_ms),
            if dead_reason.is_some() { 2 } else { 0 },
            dead_reason.map(|_| self.now.wall_s()),
            dead_reason,
        ];
        let insert = hot(&mut self.hot.insert, self.conn, sql::INSERT)?;
        Ok(insert.execute(params_from_iter(plain.iter().chain(rest)))?)
    }

    /// Where the file may not grow for ever.
    fn make_room(&mut self, message: &Message) -> Applied<()> {
        if !self.room.is_limited() || self.prepare(sql::EXISTING)?.exists([message.id.as_str()])? {
            return Ok(());
        }
        if self.room.is_full() {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Fault::Refused(QueueError::io(self.path, full)));
        }
        match self.room.make(self.conn, message.size())? {
            Ok(()) => Ok(()),
            Err(limit) => Err(Fault::Refused(limits::over(self.path, limit))),
        }
    }

    /// Counts a row that this producer has from now on.
    fn made(&mut self, origin: &Origin) -> &mut RowCounts {
        let counts = self.tally.of(origin.producer.to_string());
        if self.stores {
            counts.stored += 1;
        } else {
            counts.by_queue += 1;
        }
        counts
    }

    /// The id has a row: says which, and brings it up to date with what the copy has been through.
    fn insert_existing(&mut self, row: &NewRow, crc: u32) -> Applied {
        let (seq, processed, stored) = self.existing(&row.message.id)?;
        if stored != crc {
            return Ok(Written::Conflict);
        }
        let state = Existing::of(processed);
        if let Some(origin) = &row.origin
            && self.fill_origin(seq, origin)?
        {
            let counts = self.made(origin);
            counts.processed += u64::from(state == Existing::Processed);
            counts.dead += u64::from(state == Existing::Dead);
        }
        if state == Existing::Pending {
            self.update_existing(seq, row)?;
        }
        Ok(Written::Exists { seq, state })
    }

    pub(crate) fn existing(&self, id: &MessageId) -> rusqlite::Result<(i64, i64, u32)> {
        existing(self.conn, id)
    }

    /// Whether the row was without one.
    fn fill_origin(&self, seq: i64, origin: &Origin) -> Applied<bool> {
        let filled = self.prepare(sql::FILL_ORIGIN)?.execute(params![
            seq,
            origin.producer.to_string(),
            origin.epoch.0.cast_signed(),
            origin.sequence.cast_signed(),
        ])?;
        Ok(filled > 0)
    }

    fn update_existing(&mut self, seq: i64, row: &NewRow) -> Applied<()> {
        match &row.state {
            RowState::Dead {
                attempts,
                reason,
                error,
            } => {
                self.dead(seq, *attempts, reason, error.as_deref())?;
            }
            RowState::Pending {
                attempts,
                due,
                error,
                suspect,
                claimed,
            } => {
                if *attempts > 0 || *suspect {
                    let (due_at, due_boot) = self.due(*due, row.message.deliver_at);
                    self.prepare(sql::UPDATE_EXISTING)?.execute(params![
                        seq,
                        attempts,
                        due_at,
                        due_boot,
                        error,
                        suspect,
                        (*attempts > 0).then_some(self.now.wall_ms),
                    ])?;
                }
                if *claimed {
                    self.claim(&[seq])?;
                }
            }
        }
        Ok(())
    }
}

/// Number, state and CRC of the row that lives under this id.
pub(crate) fn existing(conn: &Connection, id: &MessageId) -> rusqlite::Result<(i64, i64, u32)> {
    conn.prepare_cached(sql::EXISTING)?
        .query_row([id.as_str()], |found| {
            let stored: Option<u32> = found.get(2)?;
            let stored = match stored {
                Some(stored) => stored,
                None => content_crc(id, found.get(3)?, found.get(4)?),
            };
            Ok((found.get(0)?, found.get(1)?, stored))
        })
}
