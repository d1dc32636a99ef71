//! The model of the queue file: rows, claims and what is known of producers, with the queue crate's own words.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spoolway_consumer::machine::{Now, OnDead};
use spoolway_proto::{Epoch, InstanceId, Key, Message, MessageId, Outcome, ProducerId, Timestamp};
use spoolway_queue::{
    Audit, Before, Candidate, Cursor, Due, Existing, Kept, NewRow, Origin, Page, ProducerCounts,
    ProducerRecord, RowCounts, RowState, Write, Written,
};

/// A row of the model.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) message: Arc<Message>,
    pub(crate) origin: Option<Origin>,
    pub(crate) state: Existing,
    pub(crate) attempts: u32,
    pub(crate) due: Option<Moment>,
    pub(crate) suspect: bool,
    /// Times replayed.
    pub(crate) delivery: u32,
}

/// When a row may run: by the clock that never jumps, or by the other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    Mono(Instant),
    Wall(Timestamp),
}

impl Moment {
    fn wait(self, now: Now) -> Duration {
        match self {
            Self::Mono(at) => at.saturating_duration_since(now.mono),
            Self::Wall(at) => {
                Duration::from_millis(at.0.saturating_sub(now.wall.0).max(0).unsigned_abs())
            }
        }
    }
}

/// Who commits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Writer {
    Producer,
    Consumer,
}

/// The file as committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) rows: BTreeMap<i64, Row>,
    by_id: HashMap<MessageId, i64>,
    /// The unprocessed rows, and those of each key.
    pending: BTreeSet<i64>,
    /// The unprocessed rows as they are read: by falling priority, then as they came.
    order: BTreeSet<(Reverse<i64>, i64)>,
    lanes: BTreeMap<Key, BTreeSet<i64>>,
    claims: BTreeSet<i64>,
    producers: BTreeMap<ProducerId, ProducerRecord>,
    outcomes: BTreeMap<(ProducerId, u64), Kept>,
    held: BTreeSet<Key>,
    /// What a dead letter is to mean, and the keys that are to be stopped by one: for the checks alone.
    on_dead: OnDead,
    stopped: BTreeSet<Key>,
    /// The owner that gave it up in order.
    clean: Option<InstanceId>,
    /// How often another file came to the path.
    pub(crate) generation: u64,
    next: i64,
}

impl File {
    /// An empty file, by so many the next one at the path.
    pub(crate) fn new(on_dead: OnDead, generation: u64) -> Self {
        Self {
            on_dead,
            generation,
            ..Self::default()
        }
    }

    pub(crate) fn row_of(&self, id: &MessageId) -> Option<&Row> {
        self.by_id.get(id).map(|seq| &self.rows[seq])
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Applies a transaction.
    pub(crate) fn commit(&mut self, now: Now, by: Writer, writes: &[Write]) -> Vec<Written> {
        writes
            .iter()
            .map(|write| self.apply(now, by, write))
            .collect()
    }

    fn apply(&mut self, now: Now, by: Writer, write: &Write) -> Written {
        match write {
            Write::Insert(row) => return self.insert(now, by, row),
            Write::Claim(seqs) => self.claims.extend(seqs),
            Write::Release(seqs) => self.release(seqs),
            Write::Begin { seq } => {
                let row = self.rows.get_mut(seq).expect("a row that was claimed");
                if row.state != Existing::Pending {
                    return Written::Began { attempts: 0 };
                }
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
                row.due = due_at(now, due, None);
            }
            Write::SettleById {
                id, crc, outcome, ..
            } => {
                let Some(seq) = self.by_id.get(id).copied() else {
                    return Written::Settled { seq: None };
                };
                let row = &self.rows[&seq];
                let is_copy = row.delivery == 0 && row.message.crc() == *crc;
                if row.state != Existing::Pending || !is_copy {
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
            Write::SaveProducer(record) => self.save(record, true),
            Write::SaveCounts(record) => self.save(record, false),
            Write::Keep { producer, kept } => {
                self.known(*producer);
                self.outcomes
                    .insert((*producer, kept.sequence), kept.clone());
            }
            Write::Drop { producer, ranges } => {
                for n in ranges.numbers() {
                    self.outcomes.remove(&(*producer, n));
                }
            }
            Write::HoldKey(held) => drop(self.held.insert(held.key.clone())),
            other => unreachable!("the machines do not write {other:?}"),
        }
        Written::Done
    }

    // ---- producers

    fn save(&mut self, record: &ProducerRecord, outcomes: bool) {
        let id = record.producer;
        let known = self.known(id);
        let rows = known.counts.rows;
        *known = ProducerRecord {
            kept: Vec::new(),
            ..record.clone()
        };
        known.counts.rows = rows;
        if outcomes {
            self.outcomes.retain(|(producer, _), _| *producer != id);
            let kept = record.kept.iter().cloned();
            self.outcomes
                .extend(kept.map(|kept| ((id, kept.sequence), kept)));
        }
    }

    fn known(&mut self, producer: ProducerId) -> &mut ProducerRecord {
        self.producers
            .entry(producer)
            .or_insert_with(|| ProducerRecord {
                producer,
                epoch: Epoch::default(),
                instance: None,
                counts: ProducerCounts::default(),
                kept: Vec::new(),
                since: Timestamp::default(),
                updated_at: Timestamp::default(),
            })
    }

    fn counts_of(&mut self, origin: Option<Origin>) -> Option<&mut RowCounts> {
        let origin = origin?;
        Some(&mut self.known(origin.producer).counts.rows)
    }

    pub(crate) fn producer(&self, producer: ProducerId) -> Option<ProducerRecord> {
        let mut record = self.producers.get(&producer)?.clone();
        let kept = self.outcomes.range((producer, 0)..=(producer, u64::MAX));
        record.kept = kept.map(|(_, kept)| kept.clone()).collect();
        Some(record)
    }

    /// Whether it is known, beyond its consumer, that this message was processed.
    pub(crate) fn is_processed(&self, id: &MessageId) -> bool {
        let row = self.row_of(id);
        let of = |kept: &Kept| kept.id == *id && kept.outcome == Outcome::Processed;
        row.is_some_and(|row| row.state == Existing::Processed) || self.outcomes.values().any(of)
    }

    pub(crate) fn audit(&self) -> Vec<Audit> {
        let pending = |producer: ProducerId| {
            let of = |row: &&Row| {
                let origin = row.origin.is_some_and(|origin| origin.producer == producer);
                origin && row.state == Existing::Pending
            };
            self.rows.values().filter(of).count() as u64
        };
        let audit = |record: &ProducerRecord| record.audit(pending(record.producer));
        self.producers.values().map(audit).collect()
    }

    /// Somebody deletes an unprocessed row by other means than ours; which message it was.
    pub(crate) fn lose_row(&mut self) -> Option<MessageId> {
        let seq = self.pending.pop_first()?;
        let row = self.rows.remove(&seq)?;
        self.order.remove(&place(seq, &row));
        self.claims.remove(&seq);
        self.by_id.remove(&row.message.id);
        for lane in self.lanes.values_mut() {
            lane.remove(&seq);
        }
        Some(row.message.id.clone())
    }

    /// Somebody makes processed rows pending again: of those behind `after` at most so many; which messages.
    pub(crate) fn replay(&mut self, after: i64, most: usize) -> Vec<MessageId> {
        let behind = self.rows.range(after + 1..);
        let processed = behind.filter(|(_, row)| row.state == Existing::Processed);
        let seqs: Vec<i64> = processed.map(|(seq, _)| *seq).take(most).collect();
        let mut replayed = Vec::new();
        for seq in seqs {
            let row = self.rows.get_mut(&seq).expect("just found");
            row.state = Existing::Pending;
            row.attempts = 0;
            row.due = None;
            row.suspect = false;
            row.delivery += 1;
            replayed.push(row.message.id.clone());
            let origin = row.origin;
            self.pending.insert(seq);
            self.order.insert(place(seq, row));
            if let Some(counts) = self.counts_of(origin) {
                counts.processed = counts.processed.saturating_sub(1);
            }
        }
        replayed
    }

    pub(crate) fn newest(&self) -> i64 {
        self.next
    }

    // ---- keys

    /// Whether a dead letter stops the key, and nobody has released it since.
    pub(crate) fn is_stopped(&self, key: &str) -> bool {
        self.stopped.iter().any(|stopped| stopped.as_str() == key)
    }

    pub(crate) fn held(&self) -> Vec<Key> {
        self.held.iter().cloned().collect()
    }

    /// Somebody releases every key that is stopped; whether there was one.
    pub(crate) fn release_keys(&mut self) -> bool {
        self.stopped.clear();
        !std::mem::take(&mut self.held).is_empty()
    }

    // ---- rows

    fn insert(&mut self, now: Now, by: Writer, new: &NewRow) -> Written {
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
            delivery: 0,
        };
        self.by_id.insert(new.message.id.clone(), seq);
        self.pending.insert(seq);
        self.order.insert(place(seq, &row));
        if let Some(key) = &new.message.key {
            self.lanes.entry(key.clone()).or_default().insert(seq);
        }
        self.rows.insert(seq, row);
        if let Some(counts) = self.counts_of(new.origin) {
            match by {
                Writer::Producer => counts.by_queue += 1,
                Writer::Consumer => counts.stored += 1,
            }
        }
        if let RowState::Pending { due, .. } = &new.state {
            let row = self.rows.get_mut(&seq).expect("just inserted");
            row.due = due_at(now, due, new.message.deliver_at);
        }
        self.update(now, seq, &new.state);
        Written::Inserted { seq }
    }

    fn insert_again(&mut self, now: Now, seq: i64, new: &NewRow) -> Written {
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

    fn update(&mut self, now: Now, seq: i64, state: &RowState) {
        match state {
            RowState::Pending {
                attempts,
                due,
                suspect,
                claimed,
                ..
            } => {
                let row = self.rows.get_mut(&seq).expect("just looked up");
                if *attempts > 0 || *suspect {
                    row.due = due_at(now, due, row.message.deliver_at);
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
        if row.state != Existing::Pending {
            return;
        }
        row.state = state;
        let key = row.message.key.as_ref().filter(|_| row.delivery == 0);
        if let (Existing::Dead, OnDead::Hold, Some(key)) = (state, self.on_dead, key) {
            self.stopped.insert(key.clone());
        }
        self.pending.remove(&seq);
        self.order.remove(&place(seq, row));
        if let Some(lane) = row
            .message
            .key
            .as_ref()
            .and_then(|key| self.lanes.get_mut(key))
        {
            lane.remove(&seq);
        }
        let origin = row.origin;
        if let Some(counts) = self.counts_of(origin) {
            match state {
                Existing::Dead => counts.dead += 1,
                Existing::Pending | Existing::Processed => counts.processed += 1,
            }
        }
    }

    fn release(&mut self, seqs: &[i64]) {
        for seq in seqs {
            self.claims.remove(seq);
        }
    }

    /// The next owner of the file's lock: what the last one had claimed may have killed it. The last one, if it ended
    /// in order.
    pub(crate) fn take_over(&mut self) -> Option<InstanceId> {
        for seq in std::mem::take(&mut self.claims) {
            let row = self.rows.get_mut(&seq).expect("a row that was claimed");
            row.suspect |= row.state == Existing::Pending;
        }
        self.clean.take()
    }

    /// The end of an owner in order.
    pub(crate) fn shut_down(&mut self, owner: InstanceId, records: &[ProducerRecord]) {
        for record in records {
            self.save(record, true);
        }
        self.claims.clear();
        self.clean = Some(owner);
    }

    // ---- reads

    pub(crate) fn has_keyed(&self) -> bool {
        self.lanes.values().any(|lane| !lane.is_empty())
    }

    pub(crate) fn rows_of_key(&self, key: &Key) -> Vec<i64> {
        self.of_key(key).map(|(seq, _)| seq).collect()
    }

    fn of_key<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (i64, &'a Row)> {
        let lane = self.lanes.get(key).into_iter().flatten();
        lane.map(|seq| (*seq, &self.rows[seq]))
    }

    pub(crate) fn page(&self, now: Now, after: Cursor, limit: usize) -> Page {
        let start = after == Cursor::default();
        let after = match start {
            true => Bound::Unbounded,
            false => Bound::Excluded((Reverse(after.priority()), after.seq())),
        };
        let pending = self.order.range((after, Bound::Unbounded));
        let rows = pending.map(|(_, seq)| (*seq, &self.rows[seq]));
        Page {
            held: start.then(|| self.held()),
            ..self.page_of(now, rows, limit)
        }
    }

    pub(crate) fn page_of_key(&self, now: Now, key: &Key, limit: usize) -> Page {
        self.page_of(now, self.of_key(key), limit)
    }

    pub(crate) fn suspects(&self, now: Now, after: i64, limit: usize) -> Page {
        let pending = self.pending.range(after + 1..);
        let rows = pending.map(|seq| (*seq, &self.rows[seq]));
        self.page_of(now, rows.filter(|(_, row)| row.suspect), limit)
    }

    fn page_of<'a>(
        &'a self,
        now: Now,
        rows: impl Iterator<Item = (i64, &'a Row)>,
        limit: usize,
    ) -> Page {
        let mut due = rows.filter(|(_, row)| row.due.is_none_or(|at| at.wait(now).is_zero()));
        let mut candidates = Vec::new();
        for (seq, row) in due.by_ref().take(limit) {
            candidates.push(self.candidate(seq, row));
        }
        let last = candidates.last();
        let last = last.map_or((50, 0), |last: &Candidate| {
            (last.message.priority, last.seq)
        });
        let next_due = self
            .pending
            .iter()
            .filter_map(|seq| self.rows[seq].due)
            .map(|at| at.wait(now))
            .filter(|wait| !wait.is_zero())
            .min();
        Page {
            end: candidates.len() < limit,
            cursor: Cursor::new(last.0.into(), last.1),
            candidates,
            damaged: Vec::new(),
            generation: self.generation,
            next_due_in: next_due,
            held: None,
        }
    }

    fn candidate(&self, seq: i64, row: &Row) -> Candidate {
        let before: Vec<i64> = match &row.message.key {
            Some(key) if row.delivery == 0 => self
                .rows_of_key(key)
                .into_iter()
                .take_while(|at| *at < seq)
                .collect(),
            _ => Vec::new(),
        };
        let kept = row.origin.and_then(|origin| {
            let kept = self.outcomes.get(&(origin.producer, origin.sequence))?;
            (kept.id == row.message.id).then(|| (kept.outcome, kept.reason.clone()))
        });
        Candidate {
            seq,
            message: Arc::clone(&row.message),
            attempts: row.attempts,
            delivery: row.delivery,
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

fn due_at(now: Now, due: &Due, deliver_at: Option<Timestamp>) -> Option<Moment> {
    match due {
        Due::Now => deliver_at.map(Moment::Wall),
        Due::In(wait) => Some(Moment::Mono(now.mono + *wait)),
        Due::At(at) => Some(Moment::Wall(*at)),
    }
}

/// Where a row is in the order of reading.
fn place(seq: i64, row: &Row) -> (Reverse<i64>, i64) {
    (Reverse(row.message.priority.into()), seq)
}
