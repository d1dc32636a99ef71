//! A queue that is obviously right: a list of rows, looked through from the start each time.

use std::collections::BTreeSet;
use std::fmt;

use crate::answer::{Answer, Balance, Stored};
use crate::claims::Held;
use crate::row::{Row, State, Wait};
use crate::steps::{Draft, Step};

/// Ways for a model to be wrong, so that a difference has to be found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flaw {
    /// The newest first.
    Reversed = 1,
    /// A release is an attempt.
    ReleaseCounts,
    /// A crash leaves nothing behind.
    NoSuspects,
    /// All suspects run at once.
    SuspectsTogether,
    /// A key is no reason to wait.
    NoLanes,
}

#[derive(Clone)]
pub(crate) struct Model {
    flaw: u8,
    /// By rising `seq`.
    pub(crate) rows: Vec<Row>,
    next_seq: usize,
    /// Whether the consumer has dequeued since it started.
    pub(crate) owned: bool,
    /// Whether the last owner ended in order.
    pub(crate) clean: bool,
    pub(crate) held: Vec<Held>,
    /// What the file says is claimed, by whomever.
    pub(crate) claimed: BTreeSet<usize>,
    pub(crate) stopped: BTreeSet<&'static str>,
    pub(crate) producers: [Option<Balance>; 2],
    /// Of the last step.
    pub(crate) answer: Answer,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model of {} rows", self.rows.len())
    }
}

impl Model {
    pub(crate) fn new(flaw: u8) -> Self {
        Self {
            flaw,
            rows: Vec::new(),
            next_seq: 1,
            owned: false,
            clean: false,
            held: Vec::new(),
            claimed: BTreeSet::new(),
            stopped: BTreeSet::new(),
            producers: [None; 2],
            answer: Answer::Done,
        }
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw as u8
    }

    /// Whether a step means something now.
    pub(crate) fn allows(&self, step: &Step) -> bool {
        let row = |id: &str| self.rows.iter().find(|row| row.id == id);
        match step {
            Step::Settle(_) => !self.held.is_empty(),
            Step::Intrude => self.owned,
            // Nobody counts for a producer what other programs settle.
            Step::MarkForeign(id) => row(id).is_none_or(|row| row.producer.is_none()),
            Step::Damage(id) => row(id).is_some_and(|row| {
                row.state == State::Pending && !row.foreign && !self.claimed.contains(&row.seq)
            }),
            // A claim is a range: what was settled in it and runs again is within it still.
            Step::Replay(_) => self.claimed.is_empty(),
            _ => true,
        }
    }

    /// What is held, as far as its rows are there.
    pub(crate) fn held_ids(&self) -> Vec<String> {
        let is_held = |row: &&Row| self.held.iter().any(|held| held.seq == row.seq);
        let held = self.rows.iter().filter(is_held);
        held.map(|row| row.id.clone()).collect()
    }

    /// Does a step, and says what it has to answer.
    pub(crate) fn take(&mut self, step: &Step) -> Answer {
        match step {
            Step::Enqueue(_, draft) => match self.enqueue(std::slice::from_ref(draft), None) {
                Answer::Enqueued(stored) if stored == [Stored::Conflict] => {
                    Answer::Refused("conflict")
                }
                answer => answer,
            },
            Step::EnqueueBatch(_, drafts) => self.enqueue(drafts, None),
            Step::Fill(many, key) => self.enqueue(&Draft::many(*many, *key), None),
            Step::Spool(producer, draft) => self.spool(*producer, draft),
            Step::Insert { id, content } => self.insert(id, *content),
            Step::MarkForeign(id) => self.mark_foreign(id),
            Step::Damage(id) => {
                self.row(id).damaged = true;
                Answer::Done
            }
            Step::Dequeue(limit) => self.dequeue(*limit),
            Step::Intrude => Answer::Refused("owned"),
            Step::Peek(limit) => self.peek(*limit),
            Step::Settle(ends) => self.settle(ends),
            Step::MarkProcessed(by, id) => self.mark_processed(*by, id),
            Step::Cleanup { all } => self.remove(|row| *all && row.state == State::Processed),
            Step::List(which, _) => {
                let letters = self.rows.iter().filter(|row| which.means(row));
                let letter = |row: &Row| (row.id.clone(), row.attempts, row.delivery, row.reason);
                Answer::Letters(letters.map(letter).collect())
            }
            Step::Requeue(_, which) => {
                self.requeue(State::Dead, usize::MAX, |row| which.means(row))
            }
            Step::Replay(limit) => self.requeue(State::Processed, *limit, |_| true),
            Step::Purge(_, which) => self.remove(|row| which.means(row)),
            Step::Hold(key) => {
                self.stopped.insert(key);
                Answer::Done
            }
            Step::Free(key) => {
                self.stopped.remove(key);
                Answer::Done
            }
            Step::Restart => {
                // Who has not dequeued has nothing to give up.
                if self.owned {
                    self.claimed.clear();
                    self.clean = true;
                }
                self.end()
            }
            Step::Crash => self.end(),
        }
    }

    fn end(&mut self) -> Answer {
        self.held.clear();
        self.owned = false;
        Answer::Done
    }

    fn row(&mut self, id: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.id == id).unwrap()
    }

    fn add(&mut self, row: Row) {
        self.rows.push(Row {
            seq: self.next_seq,
            ..row
        });
        self.next_seq += 1;
    }

    fn enqueue(&mut self, drafts: &[Draft], producer: Option<usize>) -> Answer {
        if !drafts.iter().all(Draft::is_valid) {
            return Answer::Refused("invalid");
        }
        let mut stored = Vec::new();
        for draft in drafts {
            stored.push(self.store(draft, producer));
        }
        Answer::Enqueued(stored)
    }

    fn store(&mut self, draft: &Draft, producer: Option<usize>) -> Stored {
        let Some(row) = self.rows.iter_mut().find(|row| row.id == draft.id) else {
            self.add(draft.row(producer));
            if let Some(producer) = producer {
                self.balance(producer).made += 1;
            }
            return Stored::Inserted;
        };
        if row.content != Some(draft.content) {
            return Stored::Conflict;
        }
        let state = row.state;
        if let (None, Some(producer)) = (row.producer, producer) {
            row.producer = Some(producer);
            let balance = self.balance(producer);
            balance.made += 1;
            balance.processed += u64::from(state == State::Processed);
            balance.dead += u64::from(state == State::Dead);
        }
        Stored::Exists(state)
    }

    /// As [`enqueue`](Self::enqueue), but what a producer spools it has looked at before.
    fn spool(&mut self, producer: usize, draft: &Draft) -> Answer {
        Answer::Enqueued(vec![self.store(&draft.made_valid(), Some(producer))])
    }

    fn insert(&mut self, id: &str, content: Option<u8>) -> Answer {
        if self.rows.iter().any(|row| row.id == id) {
            return Answer::Count(0);
        }
        let draft = Draft::new(id, 0, None);
        self.add(Row {
            content,
            foreign: true,
            damaged: content.is_none(),
            ..draft.row(None)
        });
        Answer::Count(1)
    }

    fn mark_foreign(&mut self, id: &str) -> Answer {
        let mut rows = self.rows.iter_mut();
        match rows.find(|row| row.id == id && row.state == State::Pending) {
            Some(row) => {
                row.state = State::Processed;
                Answer::Count(1)
            }
            None => Answer::Count(0),
        }
    }

    fn requeue(&mut self, from: State, limit: usize, means: impl Fn(&Row) -> bool) -> Answer {
        let rows = self.rows.iter_mut();
        let meant = rows
            .filter(|row| row.state == from && means(row))
            .take(limit);
        let mut producers = Vec::new();
        let mut count = 0;
        for row in meant {
            count += 1;
            row.state = State::Pending;
            row.attempts = 0;
            row.delivery += 1;
            row.suspect = false;
            row.wait = Wait::Over;
            row.reason = None;
            producers.extend(row.producer);
        }
        for producer in producers {
            let balance = self.balance(producer);
            match from {
                State::Processed => balance.processed -= 1,
                _ => balance.dead -= 1,
            }
        }
        Answer::Count(count)
    }

    fn remove(&mut self, means: impl Fn(&Row) -> bool) -> Answer {
        let before = self.rows.len();
        self.rows.retain(|row| !means(row));
        Answer::Count((before - self.rows.len()) as u64)
    }

    pub(crate) fn balance(&mut self, producer: usize) -> &mut Balance {
        self.producers[producer].get_or_insert_default()
    }
}
