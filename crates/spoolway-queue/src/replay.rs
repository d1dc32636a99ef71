//! Replay: settled messages are made pending again, in steps, and watched until they are settled.
//!
//! A walk goes by rising `seq`, which never changes, so that a message that is settled again
//! meanwhile is not met twice and one number says how far it came.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use spoolway_proto::Timestamp;

use crate::apply::{Fault, Tx};
use crate::clock::Now;
use crate::dead::{SLICE_MAX, SLICE_ROWS};
use crate::sql::{self, upkeep};
use crate::upkeep::next_slice;
use crate::{Filter, QueueError, SqliteQueue, row};

/// Rows that one read looks at: no snapshot is long, and whoever stops a replay waits for one read.
const LOOK_ROWS: usize = 10_000;

/// Which messages of a file can run once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Those that were processed and are still kept.
    Processed,
    /// Dead letters.
    Dead,
}

/// What one call of [`SqliteQueue::requeue_some`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requeued {
    /// Messages that will run once more.
    pub requeued: u64,
    /// Where the next call goes on; `None`: nothing is behind.
    pub after: Option<i64>,
}

/// What became of the messages that a [`Replay`] made pending.
///
/// `replayed` = `delivered` + `dead` + `pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Made pending.
    pub replayed: u64,
    /// Of those: processed since.
    pub delivered: u64,
    /// Of those: dead letters since.
    pub dead: u64,
    /// Of those: neither yet.
    pub pending: u64,
}

/// A replay under way; see [`SqliteQueue::replay`].
///
/// Dropping it ends it: what was made pending stays so. Remembers 8 bytes for each message that was
/// made pending and is not settled yet.
#[derive(Debug)]
pub struct Replay {
    queue: SqliteQueue,
    from: Settled,
    filter: Filter,
    generation: u64,
    span: Span,
    done: bool,
    /// Rows that the next transaction may take on.
    size: usize,
    pending: VecDeque<i64>,
    so_far: Replayed,
}

/// The rows of a walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) after: i64,
    pub(crate) last: i64,
}

impl Default for Span {
    fn default() -> Self {
        Self {
            after: 0,
            last: i64::MAX,
        }
    }
}

/// What a walk found.
pub(crate) struct Walked {
    pub(crate) seqs: Vec<i64>,
    /// Where the next walk goes on; `None`: nothing is behind.
    pub(crate) after: Option<i64>,
    /// The file it was found in.
    pub(crate) generation: u64,
}

impl SqliteQueue {
    /// Begins to replay: to let messages that are settled by now run once more, of those with a
    /// number above `after` (0, or the [`Replay::after`] of one that was stopped). Changes nothing
    /// yet. Blocks.
    ///
    /// Each runs at least once again, under its id, with no attempts counted and whatever its
    /// `ttl_ms` says, outside the lanes, and the handler is told `replayed`. Only messages that are
    /// in the file can be replayed: those that went over the socket and were processed at once never
    /// were, and [`cleanup`](Self::cleanup) deletes processed ones after their retention.
    ///
    /// ```
    /// use spoolway_proto::Message;
    /// use spoolway_queue::{Filter, QueueOptions, Settled, SqliteQueue};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let queue = SqliteQueue::open(dir.path().join("orders.db"), QueueOptions::default())?;
    /// for drink in ["tea", "tea", "coffee"] {
    ///     let claimed = queue.enqueue(&Message::new(drink, "please")?).and_then(|_| queue.dequeue(1))?;
    ///     queue.mark_processed(&claimed[0].message.id)?;
    /// }
    ///
    /// let tea = Filter { types: vec!["tea".into()], ..Filter::default() };
    /// let mut replay = queue.replay(Settled::Processed, tea, 0)?;
    /// assert_eq!(replay.count()?["tea"], 2);
    /// while !replay.is_done() {
    ///     replay.step(500)?; // Whoever wants to pace it waits here.
    /// }
    /// let again = queue.dequeue(10)?;
    /// assert_eq!((again.len(), again[0].attempts), (2, 0));
    ///
    /// queue.mark_processed(&again[0].message.id)?;
    /// let so_far = replay.look()?;
    /// assert_eq!((so_far.replayed, so_far.delivered, so_far.pending), (2, 1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn replay(
        &self,
        from: Settled,
        mut filter: Filter,
        after: i64,
    ) -> Result<Replay, QueueError> {
        // What is settled from now on was not asked for, and would keep the replay from ending.
        let now = Timestamp(Now::read().wall_ms);
        filter.until = Some(filter.until.map_or(now, |until| until.min(now)));
        let since = filter.since.filter(|_| from == Settled::Processed);
        let (generation, last, first) = self.shared().snapshot(|conn, generation| {
            let last: Option<i64> = conn
                .prepare_cached(sql::NEWEST_SEQ)?
                .query_row((), |row| row.get(0))
                .optional()?;
            let first: Option<i64> = match since {
                None => Some(0),
                Some(since) => conn
                    .prepare_cached(upkeep::FIRST_PROCESSED_SINCE)?
                    .query_row([since.0.div_euclid(1_000)], |row| row.get(0))?,
            };
            Ok((generation, last.unwrap_or(0), first))
        })?;
        let after = first.map_or(last, |first| after.max(first.saturating_sub(1)));
        Ok(Replay {
            queue: self.clone(),
            from,
            filter,
            generation,
            span: Span { after, last },
            done: after >= last,
            size: SLICE_ROWS,
            pending: VecDeque::new(),
            so_far: Replayed::default(),
        })
    }

    /// Lets at most `limit` messages run once more, of those with a number above `after` (0 at
    /// first), in one transaction, after a look at no more than 10,000: for whoever keeps neither
    /// pace nor count. See [`replay`](Self::replay).
    ///
    /// # Errors
    ///
    /// Why nothing was written; [`QueueError::Moved`] when the path names another file by now.
    pub fn requeue_some(
        &self,
        from: Settled,
        filter: &Filter,
        after: i64,
        limit: usize,
    ) -> Result<Requeued, QueueError> {
        if limit == 0 {
            return Ok(Requeued {
                requeued: 0,
                after: Some(after),
            });
        }
        let span = Span {
            after,
            ..Span::default()
        };
        let walked = self.walk(from, filter, span, limit)?;
        let after = walked.after;
        let requeued = self.requeue_rows(from, walked)?.len() as u64;
        Ok(Requeued { requeued, after })
    }

    /// The next rows that are meant, at most `limit`.
    pub(crate) fn walk(
        &self,
        from: Settled,
        filter: &Filter,
        span: Span,
        limit: usize,
    ) -> Result<Walked, QueueError> {
        let mut seqs = Vec::new();
        let (after, generation) = self.visit(from, filter, span, |seq, _| {
            seqs.push(seq);
            seqs.len() < limit
        })?;
        Ok(Walked {
            seqs,
            after,
            generation,
        })
    }

    /// Shows the rows that are meant, with their types, until `found` has enough or enough were
    /// looked at. Says where to go on, and in which file it was.
    fn visit(
        &self,
        from: Settled,
        filter: &Filter,
        span: Span,
        mut found: impl FnMut(i64, &str) -> bool,
    ) -> Result<(Option<i64>, u64), QueueError> {
        let (state, walk) = match from {
            Settled::Processed => (1, upkeep::WALK_PROCESSED),
            Settled::Dead => (2, upkeep::WALK_DEAD),
        };
        let walk_span = [span.after, span.last, LOOK_ROWS.cast_signed() as i64];
        let of_ids = [walk_span[0], walk_span[1], walk_span[2], state];
        let (walk, behind) = match filter.ids.is_empty() {
            true => (walk, &walk_span[..]),
            false => (upkeep::WALK_IDS, &of_ids[..]),
        };
        self.shared().snapshot(|conn, generation| {
            let (mut looked, mut after) = (0, None);
            filter.visit(conn, walk, behind, |row| {
                looked += 1;
                let seq = row.get(0)?;
                let is_meant = row.get::<_, Option<bool>>(2)?.unwrap_or(false);
                let goes_on = !is_meant || found(seq, &row::lossy(row, 1)?.unwrap_or_default());
                after = (!goes_on || looked == LOOK_ROWS).then_some(seq);
                Ok(goes_on)
            })?;
            Ok((after, generation))
        })
    }

    fn requeue_rows(&self, from: Settled, walked: Walked) -> Result<Vec<i64>, QueueError> {
        if walked.seqs.is_empty() {
            return Ok(Vec::new());
        }
        self.run(move |tx| {
            tx.of_generation(walked.generation)?;
            requeue(tx, from, &walked.seqs)
        })
    }
}

impl Replay {
    /// How many messages are meant and still ahead, by type. Looks at each processed message of the
    /// file, or each dead letter: about a second for each million. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into.
    pub fn count(&self) -> Result<BTreeMap<String, u64>, QueueError> {
        let mut by_type: BTreeMap<String, u64> = BTreeMap::new();
        let (mut span, mut done) = (self.span, self.done);
        while !done {
            let (after, _) = self
                .queue
                .visit(self.from, &self.filter, span, |_, r#type| {
                    match by_type.get_mut(r#type) {
                        Some(count) => *count += 1,
                        None => drop(by_type.insert(r#type.to_owned(), 1)),
                    }
                    true
                })?;
            span.after = after.unwrap_or(span.last);
            done = after.is_none();
        }
        Ok(by_type)
    }

    /// Makes at most `limit` messages pending, in one transaction of some milliseconds, and wakes
    /// the consumer; says how many. It can be none before [`is_done`](Self::is_done): one step looks
    /// at no more than 10,000 messages. Blocks.
    ///
    /// # Errors
    ///
    /// Why nothing was written: the same step may be tried again. [`QueueError::Moved`] when the
    /// path names another file by now.
    pub fn step(&mut self, limit: usize) -> Result<u64, QueueError> {
        if self.done || limit == 0 {
            return Ok(0);
        }
        let limit = limit.min(self.size);
        let walked = self.queue.walk(self.from, &self.filter, self.span, limit)?;
        if walked.generation != self.generation {
            let path = self.queue.path().into();
            return Err(QueueError::Moved { path });
        }
        let (after, taken) = (walked.after, walked.seqs.len());
        let started = Instant::now();
        let requeued = self.queue.requeue_rows(self.from, walked)?;
        if taken == self.size {
            let size = i64::try_from(self.size).unwrap_or(i64::MAX);
            let next = next_slice(size, started.elapsed(), SLICE_MAX);
            self.size = usize::try_from(next).unwrap_or(1);
        }
        self.span.after = after.unwrap_or(self.span.last);
        self.done = after.is_none();
        self.so_far.replayed += requeued.len() as u64;
        self.pending.extend(&requeued);
        Ok(requeued.len() as u64)
    }

    /// Whether every message that is meant was made pending.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The number of the last message that was looked at: one that is stopped goes on behind it,
    /// with the same [`filter`](Self::filter).
    pub fn after(&self) -> i64 {
        self.span.after
    }

    /// What is meant, with the moment it began as its end.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// How many were made pending, and what became of them as far as [`look`](Self::look) has seen.
    pub fn so_far(&self) -> Replayed {
        Replayed {
            pending: self.pending.len() as u64,
            ..self.so_far
        }
    }

    /// Looks what became of at most 10,000 of the messages that are pending, in turn: it may take
    /// several looks to see all. A message that is gone was processed. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the file ran into; [`QueueError::Moved`] when the path names another file by now.
    pub fn look(&mut self) -> Result<Replayed, QueueError> {
        let some: Vec<i64> = self.pending.iter().take(LOOK_ROWS).copied().collect();
        let (states, generation) = self.queue.shared().snapshot(|conn, generation| {
            let mut state = conn.prepare_cached(upkeep::STATE_OF)?;
            let states: Vec<Option<i64>> = some
                .iter()
                .map(|seq| state.query_row([seq], |row| row.get(0)).optional())
                .collect::<Result<_, _>>()?;
            Ok((states, generation))
        })?;
        if generation != self.generation {
            let path = self.queue.path().into();
            return Err(QueueError::Moved { path });
        }
        self.pending.drain(..some.len());
        for (seq, state) in some.into_iter().zip(states) {
            match state {
                Some(0) => self.pending.push_back(seq),
                Some(2) => self.so_far.dead += 1,
                _ => self.so_far.delivered += 1,
            }
        }
        Ok(self.so_far())
    }
}

/// Makes rows pending that are still in that state, and says which. A key that one of them has stopped runs again.
pub(crate) fn requeue(tx: &mut Tx<'_>, from: Settled, seqs: &[i64]) -> Result<Vec<i64>, Fault> {
    let (state, uncount) = match from {
        Settled::Processed => (1, upkeep::UNCOUNT_PROCESSED),
        Settled::Dead => (2, upkeep::UNCOUNT_DEAD),
    };
    let mut requeued = Vec::with_capacity(seqs.len());
    let mut of_producers: BTreeMap<String, i64> = BTreeMap::new();
    for seq in seqs {
        let producer: Option<Option<String>> = tx
            .prepare(upkeep::REQUEUE)?
            .query_row([*seq, state], |row| row.get(0))
            .optional()?;
        let Some(producer) = producer else { continue };
        requeued.push(*seq);
        if from == Settled::Dead {
            tx.prepare(upkeep::FREE_KEY_OF)?.execute([seq])?;
        }
        if let Some(producer) = producer {
            *of_producers.entry(producer).or_default() += 1;
        }
    }
    for (producer, rows) in of_producers {
        let values = params![producer, rows, tx.now.wall_ms];
        tx.prepare(uncount)?.execute(values)?;
    }
    tx.news.runnable |= !requeued.is_empty();
    Ok(requeued)
}
