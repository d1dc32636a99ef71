//! Turns, slots, attempts, and what follows from the end of a handler.

use std::sync::Arc;

use spoolway_proto::Outcome;
use spoolway_queue::{Due, Kept, NewRow, Origin, RowState, Write};

use super::commit::Doing;
use super::{Action, Dedup, Entry, Finish, Machine, Pair, Step, Ticket};

impl Machine {
    /// It is this message's turn.
    pub(super) fn set_ready(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        entry.step = Step::Ready;
        if entry.suspect {
            self.suspects.push_back(ticket);
        } else if entry.row.is_some() {
            self.ready_rows.push_back(ticket);
        } else {
            self.ready.push_back(ticket);
        }
    }

    /// The next message to start. Where live ones and rows wait, they take turns, so that neither starves.
    fn next_ready(&mut self) -> Option<(Ticket, bool)> {
        let rows = self.running_rows < self.config.backlog_slots && !self.ready_rows.is_empty();
        let row = rows && (self.ready.is_empty() || !self.row_was_last);
        let ticket = match row {
            true => self.ready_rows.pop_front(),
            false => self.ready.pop_front(),
        }?;
        Some((ticket, row))
    }

    /// Fills the free slots.
    pub(super) fn dispatch(&mut self) {
        while self.running < self.config.slots {
            let Some((ticket, as_row)) = self.next_ready() else {
                break;
            };
            if self.step(ticket) == Some(Step::Ready) {
                self.row_was_last = as_row;
                self.start(ticket, as_row);
            }
        }
        while self.suspect.is_none() {
            let Some(ticket) = self.suspects.pop_front() else {
                break;
            };
            if self.step(ticket) == Some(Step::Ready) {
                self.begin(ticket);
            }
        }
    }

    fn start(&mut self, ticket: Ticket, as_row: bool) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        if entry.is_late(self.now.wall) {
            return self.bury(ticket, "expired", None);
        }
        entry.step = Step::Running;
        entry.as_row = as_row;
        self.running += 1;
        self.running_rows += usize::from(as_row);
        self.run(ticket);
    }

    /// A suspect's attempt is committed before its handler starts, so that one that kills its process dies of it.
    fn begin(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        if entry.is_late(self.now.wall) {
            return self.bury(ticket, "expired", None);
        }
        let retries = &self.config.retries;
        if retries.are_over(&entry.message.r#type, entry.attempts) {
            let error = "the consumer died each time it ran".to_owned();
            return self.bury(ticket, "killed", Some(error));
        }
        // Without one its file is gone: it is stored again.
        let Some(seq) = entry.row else {
            return self.leave(ticket);
        };
        entry.step = Step::Beginning;
        self.suspect = Some(ticket);
        self.commit(vec![(Write::Begin { seq }, Doing::Begin(ticket))]);
    }

    pub(super) fn run(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get(&ticket) else {
            return;
        };
        // The attempt of a suspect is counted already.
        let attempt = entry.attempts + u32::from(!entry.suspect);
        let message = Arc::clone(&entry.message);
        let replayed = entry.delivery > 0;
        self.actions.push_back(Action::Run {
            ticket,
            message,
            attempt,
            replayed,
        });
    }

    pub(super) fn finished(&mut self, ticket: Ticket, finish: Finish) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        if entry.step != Step::Running {
            return;
        }
        if entry.storing {
            // Its row is on the way: what follows is an update of that row.
            entry.finish = Some(finish);
            return;
        }
        if self.suspect == Some(ticket) {
            self.suspect = None;
        } else {
            self.running -= 1;
            self.running_rows -= usize::from(std::mem::take(&mut entry.as_row));
            entry.attempts += u32::from(!matches!(finish, Finish::Unavailable(_)));
        }
        entry.suspect = false;
        let retries = &self.config.retries;
        let is_over = retries.are_over(&entry.message.r#type, entry.attempts);
        match finish {
            Finish::Done => self.done(ticket),
            Finish::Failed(error) if is_over => self.bury(ticket, "attempts", Some(error)),
            Finish::Failed(error) | Finish::Unavailable(error) => self.put_off(ticket, error),
            Finish::Rejected { reason, error } => self.bury(ticket, &reason, error),
        }
    }

    fn done(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get(&ticket) else {
            return;
        };
        let mut writes: Vec<(Write, Doing)> = match entry.row {
            Some(seq) => {
                let attempts = entry.attempts;
                vec![(Write::Processed { seq, attempts }, Doing::Nothing)]
            }
            None if self.config.dedup == Dedup::Durable => self.keep_on_disk(ticket),
            None => Vec::new(),
        };
        let Some((_, last)) = writes.last_mut() else {
            return self.settle(ticket, Outcome::Processed, None);
        };
        *last = Doing::Settle(ticket, Outcome::Processed);
        self.set_step(ticket, Step::Settling);
        // The next of its key need not wait for the commit: a crash may repeat this one, no more.
        if let Some(key) = self.key_of(ticket) {
            self.leave_lane(&key, ticket);
        }
        self.commit(writes);
    }

    /// The writes that keep the outcome of each of its numbers. Counted now, with what the file will say: another
    /// run may find it there before it was answered.
    fn keep_on_disk(&mut self, ticket: Ticket) -> Vec<(Write, Doing)> {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return Vec::new();
        };
        let keeps = entry.pairs.iter().map(|pair| keep(pair, entry));
        let writes = keeps.map(|keep| (keep, Doing::Nothing)).collect();
        let uncounted = entry.pairs.iter_mut().filter(|pair| !pair.counted);
        let mut counted = Vec::new();
        for pair in uncounted {
            pair.counted = true;
            counted.push(pair.producer);
        }
        counted.into_iter().for_each(|id| self.count_answer(id));
        writes
    }

    /// Tries again later, from the file; what is behind it in its lane goes there with it.
    fn put_off(&mut self, ticket: Ticket, error: String) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        entry.step = Step::Leaving;
        let attempts = entry.attempts;
        let retries = &self.config.retries;
        let due = Due::In(retries.wait(&entry.message.r#type, attempts, entry.crc));
        let row = entry.row;
        let write = match row {
            Some(seq) => Write::Retry {
                seq,
                attempts,
                due,
                error,
            },
            None => self.row_of(ticket, due, Some(error), false),
        };
        let mut writes = vec![(write, Doing::Retry(ticket))];
        if let Some(key) = self.key_of(ticket) {
            self.empty_lane(&key, Some(ticket), &mut writes);
        }
        self.commit(writes);
    }

    /// Makes it a dead letter. It keeps its place until that is committed.
    pub(super) fn bury(&mut self, ticket: Ticket, reason: &str, error: Option<String>) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        entry.step = Step::Burying;
        let (attempts, reason) = (entry.attempts, reason.to_owned());
        let write = match entry.row {
            Some(seq) => Write::Dead {
                seq,
                attempts,
                reason: reason.clone(),
                error,
            },
            None => {
                let state = RowState::Dead {
                    attempts,
                    reason: reason.clone(),
                    error,
                };
                self.new_row(ticket, state)
            }
        };
        let mut writes = vec![(write, Doing::Bury(ticket, reason.clone().into()))];
        self.hold_key(ticket, &reason, &mut writes);
        self.commit(writes);
    }

    pub(super) fn new_row(&self, ticket: Ticket, state: RowState) -> Write {
        let entry = &self.entries[&ticket];
        let origin = entry.pairs.first().map(|pair| Origin {
            producer: pair.producer,
            epoch: self
                .producers
                .get(&pair.producer)
                .map(|p| p.epoch)
                .unwrap_or_default(),
            sequence: pair.n,
        });
        Write::Insert(NewRow {
            message: Arc::clone(&entry.message),
            origin,
            state,
        })
    }

    /// Its sender must have an answer now.
    pub(super) fn hold_is_over(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get(&ticket) else {
            return;
        };
        if entry.pairs.is_empty() && !entry.unnumbered {
            return;
        }
        match entry.row {
            // A copy joined a row: it is on disk.
            Some(_) if !matches!(entry.step, Step::Settling | Step::Burying) => {
                self.answer(ticket, Outcome::Stored, None)
            }
            Some(_) => {}
            None => self.leave(ticket),
        }
        // Something of its lane is on the way to the file already: look again.
        if self
            .entries
            .get(&ticket)
            .is_some_and(|e| e.step == Step::Asking)
        {
            self.hold_again(ticket);
        }
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
        let mut idle: Vec<Ticket> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.row.is_some())
            .filter(|(_, entry)| matches!(entry.step, Step::Claiming | Step::Waiting | Step::Ready))
            .map(|(ticket, _)| *ticket)
            .collect();
        idle.sort_unstable();
        for ticket in idle {
            if self.entries.contains_key(&ticket) {
                self.leave(ticket);
            }
        }
    }

    pub(super) fn halt(&mut self) {
        self.draining = true;
        let mut tickets: Vec<Ticket> = self.entries.keys().copied().collect();
        tickets.sort_unstable();
        for ticket in tickets {
            if self.entries.contains_key(&ticket) {
                self.leave(ticket);
            }
        }
    }
}

/// The outcome of a message that has no row, for one of its numbers.
fn keep(pair: &Pair, entry: &Entry) -> Write {
    let kept = Kept {
        sequence: pair.n,
        id: entry.message.id.clone(),
        crc: entry.crc,
        outcome: Outcome::Processed,
        reason: None,
        counted: true,
    };
    let producer = pair.producer;
    Write::Keep { producer, kept }
}
