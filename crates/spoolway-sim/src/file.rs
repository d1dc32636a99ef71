//! The model of the queue file: rows, claims and producers' records, with the queue crate's own words.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use spoolway_proto::{Key, Message, MessageId, Outcome, ProducerId};
use spoolway_queue::{
    Before, Candidate, Cursor, Due, Existing, NewRow, Origin, Page, ProducerRecord, RowState,
    Write, Written,
};

/// A row of the model.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) message: Arc<Message>,
    pub(crate) origin: Option<Origin>,
    pub(crate) state: Existing,
    pub(crate) attempts: u32,
    pub(crate) due: Option<Instant>,
    pub(crate) suspect: bool,
}

/// The file as committed.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) rows: BTreeMap<i64, Row>,
    by_id: HashMap<MessageId, i64>,
    claims: BTreeSet<i64>,
    pub(crate) producers: BTreeMap<ProducerId, ProducerRecord>,
    next: i64,
}

impl File {
    pub(crate) fn row_of(&self, id: &MessageId) -> Option<&Row> {
        self.by_id.get(id).map(|seq| &self.rows[seq])
    }

    pub(crate) fn pending(&self) -> usize {
        self.rows
            .values()
            .filter(|row| row.state == Existing::Pending)
            .count()
    }

    /// Applies a transaction.
    pub(crate) fn commit(&mut self, now: Instant, writes: &[Write]) -> Vec<Written> {
        writes.iter().map(|write| self.apply(now, write)).collect()
    }

    fn apply(&mut self, now: Instant, write: &Write) -> Written {
        match write {
            Write::Insert(row) => return self.insert(now, row),
            Write::Claim(seqs) => self.claims.extend(seqs),
            Write::Release(seqs) => self.release(seqs),
            Write::Begin { seq } => {
                let row = self.rows.get_mut(seq).expect("a row that was claimed");
                row.attempts += 1;
                return Written::Began {
                    attempts: row.attempts,
                };
            }
            Write::Processed { seq, attempts } => {
                self.settle(*seq, Existing::Processed, *attempts);
            }
            Write::Dead { seq, attempts, .. } => self.settle(*seq, Existing::Dead, *attempts),
            Write::Retry {
                seq, attempts, due, ..
            } => {
                self.release(&[*seq]);
                let row = self.rows.get_mut(seq).expect("a row that was claimed");
                row.attempts = *attempts;
                row.suspect = false;
                row.due = due_at(now, due);
            }
            Write::SettleById {
                id, crc, outcome, ..
            } => {
                let Some(seq) = self.by_id.get(id).copied() else {
                    return Written::Settled { seq: None };
                };
                let row = &self.rows[&seq];
                if row.state != Existing::Pending || row.message.crc() != *crc {
                    return Written::Settled { seq: None };
                }
                let state = match outcome {
                    Outcome::Dead => Existing::Dead,
                    _ => Existing::Processed,
                };
                let attempts = row.attempts;
                self.settle(seq, state, attempts);
                return Written::Settled { seq: Some(seq) };
            }
            Write::SaveProducer(record) => {
                self.producers.insert(record.producer, record.clone());
            }
            other => unreachable!("the machines do not write {other:?}"),
        }
        Written::Done
    }

    fn insert(&mut self, now: Instant, new: &NewRow) -> Written {
        if let Some(seq) = self.by_id.get(&new.message.id).copied() {
            return self.insert_again(now, seq, new);
        }
        self.next += 1;
        let seq = self.next;
        let row = Row {
            message: Arc::clone(&new.message),
            origin: new.origin,
            state: Existing::Pending,
            attempts: 0,
            due: None,
            suspect: false,
        };
        self.by_id.insert(new.message.id.clone(), seq);
        self.rows.insert(seq, row);
        self.update(now, seq, &new.state);
        Written::Inserted { seq }
    }

    fn insert_again(&mut self, now: Instant, seq: i64, new: &NewRow) -> Written {
        let row = &self.rows[&seq];
        if row.message.crc() != new.message.crc() {
            return Written::Conflict;
        }
        let state = row.state;
        if state == Existing::Pending {
            self.update(now, seq, &new.state);
        }
        Written::Exists { seq, state }
    }

    fn update(&mut self, now: Instant, seq: i64, state: &RowState) {
        match state {
            RowState::Pending {
                attempts,
                due,
                suspect,
                claimed,
                ..
            } => {
                let row = self.rows.get_mut(&seq).expect("just looked up");
                if *attempts > 0 || *suspect || row.due.is_none() {
                    row.due = due_at(now, due).or(row.due);
                }
                row.attempts = row.attempts.max(*attempts);
                row.suspect |= suspect;
                if *claimed {
                    self.claims.insert(seq);
                }
            }
            RowState::Dead { attempts, .. } => self.settle(seq, Existing::Dead, *attempts),
        }
    }

    fn settle(&mut self, seq: i64, state: Existing, attempts: u32) {
        self.release(&[seq]);
        let row = self.rows.get_mut(&seq).expect("a row that exists");
        row.attempts = row.attempts.max(attempts);
        if row.state == Existing::Pending {
            row.state = state;
        }
    }

    fn release(&mut self, seqs: &[i64]) {
        for seq in seqs {
            self.claims.remove(seq);
        }
    }

    /// The next owner of the file's lock: what the last one had claimed may have killed it.
    pub(crate) fn take_over(&mut self) {
        for seq in std::mem::take(&mut self.claims) {
            let row = self.rows.get_mut(&seq).expect("a row that was claimed");
            row.suspect |= row.state == Existing::Pending;
        }
    }

    pub(crate) fn release_all(&mut self) {
        self.claims.clear();
    }

    // ---- reads

    pub(crate) fn has_keyed(&self) -> bool {
        self.rows
            .values()
            .any(|row| row.state == Existing::Pending && row.message.key.is_some())
    }

    pub(crate) fn rows_of_key(&self, key: &Key) -> Vec<i64> {
        self.of_key(key).map(|(seq, _)| seq).collect()
    }

    fn of_key<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (i64, &'a Row)> {
        self.rows
            .iter()
            .filter(move |(_, row)| row.message.key.as_ref() == Some(key))
            .filter(|(_, row)| row.state == Existing::Pending)
            .map(|(seq, row)| (*seq, row))
    }

    pub(crate) fn page(&self, now: Instant, after: Cursor, limit: usize) -> Page {
        let after = if after == Cursor::default() {
            0
        } else {
            after.seq()
        };
        let pending = self.rows.range(after + 1..);
        let pending = pending.map(|(seq, row)| (*seq, row));
        let rows = pending.filter(|(_, row)| row.state == Existing::Pending);
        self.page_of(now, rows, limit)
    }

    pub(crate) fn page_of_key(&self, now: Instant, key: &Key, limit: usize) -> Page {
        self.page_of(now, self.of_key(key), limit)
    }

    fn page_of<'a>(
        &'a self,
        now: Instant,
        rows: impl Iterator<Item = (i64, &'a Row)>,
        limit: usize,
    ) -> Page {
        let mut due = rows.filter(|(_, row)| row.due.is_none_or(|at| at <= now));
        let mut candidates = Vec::new();
        for (seq, row) in due.by_ref().take(limit) {
            candidates.push(self.candidate(seq, row));
        }
        let last = candidates.last().map_or(0, |last: &Candidate| last.seq);
        let next_due = self
            .rows
            .values()
            .filter(|row| row.state == Existing::Pending);
        let next_due = next_due
            .filter_map(|row| row.due)
            .filter(|at| *at > now)
            .min();
        Page {
            end: candidates.len() < limit,
            cursor: Cursor::new(50, last),
            candidates,
            damaged: Vec::new(),
            generation: 0,
            next_due_in: next_due.map(|at| at - now),
        }
    }

    fn candidate(&self, seq: i64, row: &Row) -> Candidate {
        let before: Vec<i64> = match &row.message.key {
            Some(key) => self
                .rows_of_key(key)
                .into_iter()
                .take_while(|at| *at < seq)
                .collect(),
            None => Vec::new(),
        };
        let kept = row.origin.and_then(|origin| {
            let record = self.producers.get(&origin.producer)?;
            let kept = record
                .kept
                .iter()
                .find(|kept| kept.sequence == origin.sequence)?;
            (kept.id == row.message.id).then(|| (kept.outcome, kept.reason.clone()))
        });
        Candidate {
            seq,
            message: Arc::clone(&row.message),
            attempts: row.attempts,
            delivery: 0,
            suspect: row.suspect,
            origin: row.origin,
            crc: row.message.crc(),
            kept,
            before: match before.len() {
                0 => Before::None,
                1..=32 => Before::Rows(before),
                _ => Before::Many,
            },
        }
    }
}

fn due_at(now: Instant, due: &Due) -> Option<Instant> {
    match due {
        Due::Now => None,
        Due::In(wait) => Some(now + *wait),
        // The simulation sends nothing with `deliver_at`.
        Due::At(_) => None,
    }
}
