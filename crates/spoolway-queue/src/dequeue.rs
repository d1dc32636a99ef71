//! The queue as a plain building block: enqueue, dequeue, settle, peek.
//!
//! The consumer does not use this: it reads [`candidates`](SqliteQueue::candidates) and submits
//! writes. Here one handle keeps the lock, claims in memory and asks for nothing else.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::OptionalExtension;
use spoolway_proto::{InstanceId, Message, MessageId, Timestamp, validate_queue_message};
use uuid::Uuid;

use crate::clock::Now;
use crate::read::{Before, Candidate, Cursor, Page};
use crate::write::{Due, NewRow, Write, Written};
use crate::{ConsumerLock, QueueError, SqliteQueue, sql};

/// A message that was stored, or found stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// Its id, chosen if it had none.
    pub id: MessageId,
    /// [`Written::Inserted`], [`Written::Exists`], or [`Written::Conflict`] in a batch.
    pub written: Written,
}

/// A message that is held by this handle until it is settled.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The number of its row.
    pub seq: i64,
    /// The message.
    pub message: Arc<Message>,
    /// Handler starts before this one.
    pub attempts: u32,
    /// It may be what killed its consumer; this start is counted already.
    pub suspect: bool,
}

/// How a claim ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It was processed.
    Processed,
    /// To be tried again.
    Retry {
        /// Not before this has passed.
        after: Duration,
        /// What went wrong.
        error: String,
    },
    /// A dead letter.
    Dead {
        /// Why, as a code.
        reason: String,
        /// What went wrong, in words.
        error: Option<String>,
    },
    /// Given back untried.
    Release,
}

/// What `dequeue` remembers between calls.
#[derive(Default)]
pub(crate) struct Dequeuer {
    lock: Option<ConsumerLock>,
    claimed: HashSet<i64>,
    /// The suspect among them: there is one at a time.
    suspect: Option<i64>,
    /// The file that the claims are in.
    generation: u64,
}

impl Dequeuer {
    fn end(&mut self, seq: i64) {
        self.claimed.remove(&seq);
        self.suspect.take_if(|suspect| *suspect == seq);
    }
}

/// The plain building block. All of these block.
impl SqliteQueue {
    /// Stores a message; id and timestamp are filled in when absent. The same message again is
    /// no error.
    ///
    /// # Errors
    ///
    /// [`QueueError::Invalid`], [`QueueError::Conflict`], or why nothing was written.
    pub fn enqueue(&self, message: &Message) -> Result<Enqueued, QueueError> {
        let mut enqueued = self.enqueue_batch(std::slice::from_ref(message))?;
        match enqueued.pop() {
            Some(Enqueued {
                id,
                written: Written::Conflict,
            }) => Err(QueueError::Conflict {
                path: self.path().into(),
                id,
            }),
            Some(enqueued) => Ok(enqueued),
            None => Err(QueueError::Closed {
                path: self.path().into(),
            }),
        }
    }

    /// Stores messages in one commit. An id that is taken is reported in its place and keeps the
    /// others from nothing.
    ///
    /// # Errors
    ///
    /// [`QueueError::Invalid`] when any of them is, or why nothing was written.
    pub fn enqueue_batch(&self, messages: &[Message]) -> Result<Vec<Enqueued>, QueueError> {
        let mut ids = Vec::with_capacity(messages.len());
        let mut writes = Vec::with_capacity(messages.len());
        let now = Timestamp(Now::read().wall_ms);
        for message in messages {
            let mut message = message.clone();
            message.stamp(now, new_id);
            validate_queue_message(&message, &self.options().limits)
                .map_err(|invalid| QueueError::invalid(self.path(), invalid))?;
            ids.push(message.id.clone());
            writes.push(Write::Insert(NewRow::pending(Arc::new(message), None)));
        }
        let written = self.write(writes)?;
        let enqueued = ids.into_iter().zip(written);
        Ok(enqueued
            .map(|(id, written)| Enqueued { id, written })
            .collect())
    }

    /// Claims at most `limit` messages that can run now, by falling priority, then in the order
    /// they came. Of a key with more than one only those come whose earlier ones come before them
    /// in the same answer, so they are to be processed in its order. Of the suspects one at a time comes.
    ///
    /// The first call takes the file's lock and takes it over from its last owner. Damaged and
    /// expired messages become dead letters on the way, and hold up nothing.
    ///
    /// # Errors
    ///
    /// [`QueueError::Owned`] when another process consumes this file, or what reading or writing
    /// ran into.
    pub fn dequeue(&self, limit: usize) -> Result<Vec<Claimed>, QueueError> {
        let mut dequeuer = self.owned()?;
        match self.dequeue_owned(&mut dequeuer, limit) {
            Err(QueueError::Moved { .. }) => {
                if let Some(lock) = dequeuer.lock.take() {
                    self.own(&mut dequeuer, lock)?;
                }
                self.dequeue_owned(&mut dequeuer, limit)
            }
            done => done,
        }
    }

    /// Holds the file's lock from here on, and has taken it over.
    pub(crate) fn owned(&self) -> Result<MutexGuard<'_, Dequeuer>, QueueError> {
        let mut dequeuer = self
            .dequeuer()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if dequeuer.lock.is_none() {
            let lock = ConsumerLock::acquire(&self.lock_path())?;
            self.own(&mut dequeuer, lock)?;
        }
        Ok(dequeuer)
    }

    /// Takes the file over, whichever it is, and forgets what was claimed in another.
    fn own(&self, dequeuer: &mut Dequeuer, lock: ConsumerLock) -> Result<(), QueueError> {
        self.take_over(InstanceId::from_u128(Uuid::new_v4().as_u128()), &lock)?;
        let generation = self.generation();
        *dequeuer = Dequeuer {
            lock: Some(lock),
            generation,
            ..Dequeuer::default()
        };
        Ok(())
    }

    fn dequeue_owned(
        &self,
        dequeuer: &mut Dequeuer,
        limit: usize,
    ) -> Result<Vec<Claimed>, QueueError> {
        let (mut cursor, mut picked) = (Cursor::default(), Picked::default());
        loop {
            let page = self.candidates(cursor, limit.max(64))?;
            if page.generation != dequeuer.generation {
                return Err(QueueError::Moved {
                    path: self.path().into(),
                });
            }
            picked.pick(&page, dequeuer, limit);
            cursor = page.cursor;
            if page.end || picked.taken.len() >= limit {
                break;
            }
        }
        let Picked {
            taken, mut writes, ..
        } = picked;
        if !taken.is_empty() {
            let seqs: Vec<i64> = taken.iter().map(|taken| taken.seq).collect();
            if let Some(suspect) = taken.iter().find(|taken| taken.suspect) {
                dequeuer.suspect = Some(suspect.seq);
                writes.push(Write::Begin { seq: suspect.seq });
            }
            dequeuer.claimed.extend(&seqs);
            writes.push(Write::Claim(seqs));
        }
        if !writes.is_empty()
            && let Err(error) = self.write(writes)
        {
            taken.iter().for_each(|taken| dequeuer.end(taken.seq));
            return Err(error);
        }
        let claimed = taken.into_iter().map(|taken| Claimed {
            seq: taken.seq,
            message: taken.message,
            attempts: taken.attempts,
            suspect: taken.suspect,
        });
        Ok(claimed.collect())
    }

    /// Ends claims, all in one commit.
    ///
    /// # Errors
    ///
    /// Why nothing was written.
    pub fn settle(&self, settled: &[(&Claimed, Settlement)]) -> Result<(), QueueError> {
        let writes = settled.iter().map(|(claimed, settlement)| {
            let (seq, attempts) = (claimed.seq, claimed.attempts + 1);
            match settlement.clone() {
                Settlement::Processed => Write::Processed { seq, attempts },
                Settlement::Retry { after, error } => Write::Retry {
                    seq,
                    attempts,
                    due: Due::In(after),
                    error,
                },
                Settlement::Dead { reason, error } => Write::Dead {
                    seq,
                    attempts,
                    reason,
                    error,
                },
                Settlement::Release => Write::Release(vec![seq]),
            }
        });
        self.write(writes.collect())?;
        let mut dequeuer = self
            .dequeuer()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (claimed, _) in settled {
            dequeuer.end(claimed.seq);
        }
        Ok(())
    }

    /// Settles a message by its id; false when no pending row has it.
    ///
    /// # Errors
    ///
    /// What reading or writing ran into.
    pub fn mark_processed(&self, id: &MessageId) -> Result<bool, QueueError> {
        let found = self.shared().read(|conn| {
            conn.prepare_cached(sql::SEQ_OF_ID)?
                .query_row([id.as_str()], |row| {
                    Ok((row.get(0)?, row.get::<_, u32>(1)?))
                })
                .optional()
        })?;
        let Some((seq, attempts)) = found else {
            return Ok(false);
        };
        let dequeuer = || {
            let dequeuer = self.dequeuer().lock();
            dequeuer.unwrap_or_else(PoisonError::into_inner)
        };
        // The start of a suspect was counted when it was given out.
        let is_counted = dequeuer().suspect == Some(seq);
        let attempts = attempts + u32::from(!is_counted);
        let written = self.write(vec![Write::Processed { seq, attempts }])?;
        dequeuer().end(seq);
        Ok(matches!(
            written.as_slice(),
            [Written::Settled { seq: Some(_) }]
        ))
    }

    /// The first messages of the backlog that are due, claimed or not, without claiming them; damaged
    /// ones among them are left out.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn peek(&self, limit: usize) -> Result<Vec<Candidate>, QueueError> {
        Ok(self.candidates(Cursor::default(), limit)?.candidates)
    }
}

/// What one dequeue comes to, page by page.
#[derive(Default)]
struct Picked {
    taken: Vec<Candidate>,
    /// Rows that never can run, by the writes that bury them: they are in the way of nothing.
    buried: HashSet<i64>,
    writes: Vec<Write>,
    /// A damaged index can name a row twice.
    seen: HashSet<i64>,
}

impl Picked {
    /// Buries what never can run, then takes what can.
    fn pick(&mut self, page: &Page, dequeuer: &Dequeuer, limit: usize) {
        for damaged in &page.damaged {
            self.bury(damaged.seq, 0, damaged.reason, Some(damaged.error.clone()));
        }
        let now = Timestamp(Now::read().wall_ms);
        let mut living = Vec::with_capacity(page.candidates.len());
        for candidate in &page.candidates {
            if dequeuer.claimed.contains(&candidate.seq) || !self.seen.insert(candidate.seq) {
                continue;
            }
            // Whoever requeues or replays a message wants it run, late or not.
            let expires_at = candidate.message.expires_at();
            if candidate.delivery == 0 && expires_at.is_some_and(|moment| moment <= now) {
                self.bury(candidate.seq, candidate.attempts, "expired", None);
            } else {
                living.push(candidate);
            }
        }
        for candidate in living {
            let is_next = !candidate.suspect
                || dequeuer.suspect.is_none() && !self.taken.iter().any(|taken| taken.suspect);
            if self.taken.len() < limit && is_next && self.is_clear(&candidate.before) {
                self.taken.push(candidate.clone());
            }
        }
    }

    fn is_clear(&self, before: &Before) -> bool {
        let is_clear = |row: &i64| {
            self.buried.contains(row) || self.taken.iter().any(|taken| taken.seq == *row)
        };
        match before {
            Before::None => true,
            Before::Rows(rows) => rows.iter().all(is_clear),
            Before::Many => false,
        }
    }

    fn bury(&mut self, seq: i64, attempts: u32, reason: &str, error: Option<String>) {
        self.buried.insert(seq);
        self.writes.push(Write::Dead {
            seq,
            attempts,
            reason: reason.to_owned(),
            error,
        });
    }
}

pub(crate) fn new_id() -> MessageId {
    let uuid = Uuid::now_v7();
    let millis = uuid.get_timestamp().map_or(0, |timestamp| {
        let (seconds, nanos) = timestamp.to_unix();
        seconds * 1_000 + u64::from(nanos / 1_000_000)
    });
    let mut random = [0; 10];
    random.copy_from_slice(&uuid.as_bytes()[6..]);
    MessageId::v7(millis, random)
}
