//! What each write was for, and what its commit or failure means.

use std::sync::Arc;

use spoolway_proto::{Code, Key, MessageId, Outcome, ProducerId};
use spoolway_queue::{Existing, NewRow, Write, Written};

use super::{Action, BatchId, Machine, Step, Ticket, Verdict};

/// What a write was for.
#[derive(Clone, Debug)]
pub(super) enum Doing {
    /// Nobody waits for it.
    Nothing,
    /// A row that is not in memory is settled; it may have held back others of its key.
    Row { seq: i64, key: Option<Key> },
    /// The message is stored and leaves memory.
    Leave(Ticket),
    /// The message failed, is stored for later and leaves memory.
    Retry(Ticket),
    /// The message is stored while it runs.
    Stay(Ticket),
    /// Rows are claimed.
    Claim(Vec<Ticket>),
    /// A suspect's attempt.
    Begin(Ticket),
    /// The outcome of a row.
    Settle(Ticket, Outcome),
    /// The message is dead, with this reason.
    Bury(Ticket, Arc<str>),
    /// A copy in the file is settled with a kept outcome.
    Late { producer: ProducerId, n: u64 },
    /// The producer's record is saved, by its save of this number, so memory may be free of it.
    Forget(ProducerId, u64),
    /// The key is stopped.
    Hold(Key),
    /// The counts of producers are saved, as was asked for.
    Save(u64),
}

/// Settles a row whose message has this outcome already. By id, and only as it was first stored: by the time of the
/// commit another copy of this write may have settled the row, and a replay may have made it due again.
pub(super) fn settle_copy(id: &MessageId, crc: u32, (outcome, reason): Verdict) -> Write {
    Write::SettleById {
        id: id.clone(),
        crc,
        outcome,
        reason: reason.as_deref().map(str::to_owned),
    }
}

/// Writes on their way, and which file their row numbers are of.
#[derive(Debug)]
pub(super) struct Batch {
    generation: u64,
    writes: Vec<(Write, Doing)>,
}

/// Whether a write means something in the file that is known only: it names a row, or its row counts on those that
/// earlier messages of its key have there.
fn is_of_one_file(write: &Write) -> bool {
    let is_keyed = |row: &NewRow| row.message.key.is_some();
    write.names_rows() || matches!(write, Write::Insert(row) if is_keyed(row))
}

impl Machine {
    pub(super) fn commit(&mut self, writes: Vec<(Write, Doing)>) {
        if writes.is_empty() {
            return;
        }
        let batch = self.next_batch;
        self.next_batch += 1;
        let plain: Vec<Write> = writes.iter().map(|(write, _)| write.clone()).collect();
        let is_bound = plain.iter().any(is_of_one_file);
        self.batches.insert(
            batch,
            Batch {
                generation: self.generation,
                writes,
            },
        );
        self.actions.push_back(Action::Commit {
            batch,
            generation: is_bound.then_some(self.generation),
            writes: plain,
        });
    }

    pub(super) fn committed(&mut self, batch: BatchId, written: Vec<Written>) {
        let Some(batch) = self.batches.remove(&batch) else {
            return;
        };
        let of_this_file = batch.generation == self.generation;
        for ((_, doing), written) in batch.writes.into_iter().zip(written) {
            self.done_with(doing, written, of_this_file);
        }
    }

    fn done_with(&mut self, doing: Doing, written: Written, of_this_file: bool) {
        match doing {
            Doing::Nothing => {}
            Doing::Row { seq, key } => {
                let settled = !matches!(written, Written::Settled { seq: None });
                if settled && of_this_file {
                    self.reads.left(seq, true);
                }
                if let Some(key) = key {
                    self.refill(&key);
                }
            }
            Doing::Leave(ticket) | Doing::Retry(ticket) => self.left(ticket, &written),
            Doing::Stay(ticket) => self.stayed(ticket, &written),
            Doing::Claim(tickets) => {
                for ticket in tickets {
                    if self.step(ticket) == Some(Step::Claiming) {
                        self.set_step(ticket, Step::Waiting);
                        if self.is_head(ticket) {
                            self.set_ready(ticket);
                        }
                    }
                }
            }
            Doing::Begin(ticket) => {
                let Some(entry) = self.entries.get_mut(&ticket) else {
                    return;
                };
                match written {
                    Written::Began { attempts } if attempts > 0 => {
                        entry.attempts = attempts;
                        entry.step = Step::Running;
                        self.run(ticket);
                    }
                    // The row was settled meanwhile, by its id.
                    _ => {
                        self.suspect = None;
                        self.settle(ticket, Outcome::Stored, None);
                    }
                }
            }
            Doing::Settle(ticket, outcome) => {
                self.settle(ticket, outcome, None);
            }
            Doing::Bury(ticket, reason) => match written {
                Written::Conflict => self.refuse(ticket, Code::Conflict),
                Written::Exists {
                    state: Existing::Processed,
                    ..
                } => {
                    self.settle(ticket, Outcome::Processed, None);
                }
                _ => {
                    if let Written::Exists { seq, .. } = written {
                        self.reads.left(seq, true);
                    }
                    self.settle(ticket, Outcome::Dead, Some(reason));
                }
            },
            Doing::Late { producer, n } => {
                if let Written::Settled { seq: Some(seq) } = written {
                    self.reads.left(seq, of_this_file);
                }
                self.drop_kept(producer, n);
            }
            Doing::Forget(producer, save) => self.forgotten(producer, save),
            Doing::Hold(key) => self.key_is_held(&key),
            Doing::Save(save) => self.actions.push_back(Action::Saved { save, saved: true }),
        }
    }

    /// The message has a row and is no longer in memory.
    fn left(&mut self, ticket: Ticket, written: &Written) {
        self.written_keyed(ticket);
        match written {
            Written::Conflict => return self.refuse(ticket, Code::Conflict),
            // It was processed, or died, before this run of the consumer knew it.
            Written::Exists {
                state: Existing::Processed,
                ..
            } => {
                self.answer(ticket, Outcome::Processed, None);
            }
            Written::Exists {
                state: Existing::Dead,
                ..
            } => {
                self.answer(ticket, Outcome::Dead, Some("dead before".into()));
            }
            _ => self.answer(ticket, Outcome::Stored, None),
        }
        if let Written::Exists { seq, .. } = written {
            self.reads.left(*seq, false);
        }
        self.remove(ticket);
        self.want_poll();
    }

    /// The message runs on, with a row.
    fn stayed(&mut self, ticket: Ticket, written: &Written) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        entry.storing = false;
        let finish = entry.finish.take();
        self.written_keyed(ticket);
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        match written {
            Written::Inserted { seq }
            | Written::Exists {
                seq,
                state: Existing::Pending,
            } => {
                entry.row = Some(*seq);
                self.by_row.insert(*seq, ticket);
                self.answer(ticket, Outcome::Stored, None);
            }
            // Settled long ago, or another message: what runs is answered when it ends.
            _ => {}
        }
        if let Some(finish) = finish {
            self.finished(ticket, finish);
        }
    }

    /// Its row is there now: a question that was asked before may not have seen it.
    fn written_keyed(&mut self, ticket: Ticket) {
        if self.key_of(ticket).is_some() {
            self.mark_backlog();
        }
    }

    fn refuse(&mut self, ticket: Ticket, code: Code) {
        let Some(entry) = self.remove(ticket) else {
            return;
        };
        let text = format!("id {} was sent with other content", entry.message.id);
        for pair in entry.pairs {
            self.nack(pair, code, text.clone(), None);
        }
        for conn in entry.plain {
            let message = Arc::clone(&entry.message);
            self.actions.push_back(Action::Reply {
                conn,
                message,
                outcome: Err(code),
                reason: None,
            });
        }
    }

    // ---- failure

    /// Nothing of the batch is on disk. What can be given back is refused; the rest is tried again.
    pub(super) fn commit_failed(&mut self, batch: BatchId) {
        let Some(Batch { generation, writes }) = self.batches.remove(&batch) else {
            return;
        };
        let void = generation != self.generation;
        let (mut again, mut ended) = (Vec::new(), Vec::new());
        for (write, doing) in writes {
            match doing {
                Doing::Nothing if !matches!(write, Write::Keep { .. }) => {}
                // The rows were of a file that is gone.
                Doing::Claim(_) | Doing::Row { .. } | Doing::Settle(..)
                    if void && !matches!(write, Write::Keep { .. }) => {}
                Doing::Leave(ticket) | Doing::Retry(ticket) => {
                    if self
                        .entries
                        .get(&ticket)
                        .is_some_and(|entry| entry.row.is_some())
                    {
                        again.push((write, doing));
                    } else {
                        self.could_not_store(ticket, matches!(doing, Doing::Retry(_)));
                    }
                }
                Doing::Stay(ticket) => {
                    let Some(entry) = self.entries.get_mut(&ticket) else {
                        continue;
                    };
                    entry.storing = false;
                    match entry.finish.take() {
                        Some(finish) => ended.push((ticket, finish)),
                        None => self.hold_again(ticket),
                    }
                }
                Doing::Begin(ticket) => {
                    self.suspect = None;
                    self.delay(ticket);
                }
                // One with a key stays what it is: what was behind it may be in the file by now.
                Doing::Bury(ticket, _)
                    if self
                        .entries
                        .get(&ticket)
                        .is_some_and(|e| e.row.is_none() && e.lane_key().is_none())
                        || void && write.names_rows() =>
                {
                    self.could_not_store(ticket, true);
                }
                // What was to be saved may be out of date when it is tried again.
                Doing::Forget(producer, _) => self.not_forgotten(producer),
                Doing::Save(save) => {
                    let saved = false;
                    self.actions.push_back(Action::Saved { save, saved });
                }
                // Claimed rows keep their places: what is behind them has counted on it.
                Doing::Nothing
                | Doing::Claim(_)
                | Doing::Row { .. }
                | Doing::Settle(..)
                | Doing::Bury(..)
                | Doing::Hold(_)
                | Doing::Late { .. } => again.push((write, doing)),
            }
        }
        if !again.is_empty() {
            self.again
                .push_back((self.now.mono + self.config.commit_retry, again));
        }
        // What ended meanwhile may send its lane to the file, so what was on its way there is back in it first.
        for (ticket, finish) in ended {
            self.finished(ticket, finish);
        }
    }

    /// A keyless message is given back to its producer; anything else stays, to run or to be stored later.
    fn could_not_store(&mut self, ticket: Ticket, failed: bool) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        let keyed = entry.lane_key().is_some();
        let owed = !entry.pairs.is_empty() && entry.pairs.iter().all(|pair| !pair.answered);
        if !keyed && owed && !entry.unnumbered {
            let Some(entry) = self.remove(ticket) else {
                return;
            };
            for pair in entry.pairs {
                let text = "the queue file cannot be written".to_owned();
                let retry_after = Some(self.config.commit_retry);
                self.nack(pair, Code::Unavailable, text, retry_after);
            }
        } else if failed || !keyed && entry.by_file {
            self.delay(ticket);
        } else if keyed {
            // With the next poll, not at once: the file would fail again.
            entry.step = Step::Asking;
            self.unread.extend(self.key_of(ticket));
            self.hold_again(ticket);
        } else {
            self.set_ready(ticket);
            self.hold_again(ticket);
        }
    }

    /// What is in memory is all there is of it now: rows are forgotten, and what would have settled them is done.
    pub(super) fn replaced(&mut self, generation: u64) {
        self.generation = generation;
        self.by_row.clear();
        self.reads.replaced();
        self.poll.cursor = Default::default();
        self.poll.suspects = None;
        self.mark_backlog();
        for (at, writes) in std::mem::take(&mut self.again) {
            let mut again = Vec::new();
            for (write, doing) in writes {
                match doing {
                    Doing::Retry(ticket) | Doing::Leave(ticket) | Doing::Bury(ticket, _) => {
                        self.delay(ticket);
                    }
                    // It is as true of the new file.
                    _ if !write.names_rows() => again.push((write, doing)),
                    _ => {}
                }
            }
            if !again.is_empty() {
                self.again.push_back((at, again));
            }
        }
        let mut tickets: Vec<Ticket> = self.entries.keys().copied().collect();
        tickets.sort_unstable();
        for ticket in tickets {
            let Some(entry) = self.entries.get_mut(&ticket) else {
                continue;
            };
            if entry.row.take().is_none() {
                continue;
            }
            match entry.step {
                Step::Claiming => {
                    entry.step = Step::Waiting;
                    if self.is_head(ticket) {
                        self.set_ready(ticket);
                    }
                }
                // Its handler succeeded.
                Step::Settling => {
                    self.settle(ticket, Outcome::Processed, None);
                }
                Step::Asking
                | Step::Waiting
                | Step::Ready
                | Step::Delayed(_)
                | Step::Beginning
                | Step::Running
                | Step::Leaving
                | Step::Burying => {}
            }
        }
        self.want_poll();
    }

    /// Its next attempt waits in memory.
    fn delay(&mut self, ticket: Ticket) {
        let at = self.now.mono + self.config.commit_retry;
        self.set_step(ticket, Step::Delayed(at));
        self.delayed.insert((at, ticket), ());
        self.hold_again(ticket);
    }

    pub(super) fn hold_again(&mut self, ticket: Ticket) {
        self.holds
            .push_back((self.now.mono + self.config.hold_max, ticket));
    }
}
