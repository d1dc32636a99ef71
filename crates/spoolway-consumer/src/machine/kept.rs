//! What is remembered of each producer: outcomes until it has seen them, and its newest epoch.

use std::sync::Arc;
use std::time::Instant;

use spoolway_proto::{Epoch, MessageId, Outcome, ProducerId, Ranges};
use spoolway_queue::{ProducerRecord, Write};

use super::audit::Counts;
use super::commit::{Doing, settle_copy};
use super::numbers::Numbers;
use super::{Action, Asking, ConnId, Dedup, Machine, Ticket, Verdict};

/// A producer as the machine sees it.
#[derive(Debug, Default)]
pub(super) struct Producer {
    /// The highest of all: of connections, of rows, of what was saved.
    pub(super) epoch: Epoch,
    /// That of its newest connection. Rows may have the epoch of a connection that has not said hello yet: what was
    /// never sent is spooled while hello waits for its answer.
    pub(super) greeted: Epoch,
    /// Its newest connection.
    pub(super) conn: Option<ConnId>,
    /// Everything below was answered, or is on disk: the producer's word at its newest hello.
    pub(super) first: u64,
    /// Whether it said hello to this run of the consumer.
    pub(super) met: bool,
    /// Numbers below were sent to another consumer, and may have killed it, or be stored by it.
    pub(super) suspect_below: u64,
    pub(super) numbers: Numbers<Number>,
    pub(super) gone_at: Option<Instant>,
    /// How often its record was saved so that it may leave memory.
    saves: u64,
    /// The newest of them is on disk; it leaves memory when the reads before this one are used.
    leaves: Option<u64>,
    pub(super) counts: Counts,
    /// Whether all that was ever answered is in `counts`.
    pub(super) remembered: bool,
}

impl Producer {
    /// Whether a connection of this epoch is older than what is known.
    pub(super) fn is_stale(&self, epoch: Epoch) -> bool {
        epoch < self.epoch || epoch <= self.greeted
    }

    /// The message in memory that has this number.
    pub(super) fn pending(&self, n: u64) -> Option<Ticket> {
        match self.numbers.get(&n)? {
            Number::Pending(ticket) => Some(*ticket),
            Number::Kept(_) => None,
        }
    }

    /// What became of the message that had this number.
    pub(super) fn kept(&self, n: u64) -> Option<&Kept> {
        self.numbers.get(&n)?.kept()
    }

    /// All that became of its messages, by number.
    pub(super) fn all_kept(&self) -> impl Iterator<Item = (u64, &Kept)> {
        let numbers = self.numbers.iter();
        numbers.filter_map(|(n, number)| Some((*n, number.kept()?)))
    }

    /// Whether a message of it is in memory.
    fn is_busy(&self) -> bool {
        self.numbers.values().any(|number| number.kept().is_none())
    }

    fn is_idle(&self) -> bool {
        self.conn.is_none() && !self.is_busy() && self.gone_at.is_none()
    }
}

/// What a number of a producer stands for.
#[derive(Debug)]
pub(super) enum Number {
    /// A message in memory.
    Pending(Ticket),
    /// What became of one.
    Kept(Kept),
}

impl Number {
    fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Pending(_) => None,
            Self::Kept(kept) => Some(kept),
        }
    }
}

/// An outcome kept until its producer has seen it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) id: MessageId,
    pub(super) crc: u32,
    pub(super) outcome: Outcome,
    pub(super) reason: Option<Arc<str>>,
    /// Whether the audit has counted that it was answered.
    pub(super) counted: bool,
}

impl Kept {
    pub(super) fn verdict(&self) -> Verdict {
        (self.outcome, self.reason.clone())
    }
}

impl Machine {
    pub(super) fn drop_kept(&mut self, producer: ProducerId, n: u64) {
        if let Some(known) = self.producers.get_mut(&producer)
            && known.kept(n).is_some()
            && let Some(Number::Kept(kept)) = known.numbers.remove(&n)
        {
            self.ids.drop_kept(&kept.id);
        }
    }

    /// The producer has these answers: it will not send the messages again, on either path.
    pub(super) fn seen(&mut self, conn: ConnId, ranges: &Ranges, err: u64) {
        let Some(id) = self.producer_of(conn) else {
            return;
        };
        let Some(producer) = self.producers.get_mut(&id) else {
            return;
        };
        producer.counts.err = producer.counts.err.max(err);
        for (first, last) in ranges.iter() {
            let mut next = Some(first);
            while let Some(n) = next.and_then(|next| producer.numbers.first_in(next, last)) {
                next = n.checked_add(1);
                // Answered `received` and still in memory: its outcome will interest nobody. What was not answered
                // cannot have been seen.
                if let Some(ticket) = producer.pending(n) {
                    let Some(entry) = self.entries.get_mut(&ticket) else {
                        continue;
                    };
                    let before = entry.pairs.len();
                    entry
                        .pairs
                        .retain(|pair| (pair.producer, pair.n) != (id, n) || !pair.answered);
                    if entry.pairs.len() == before {
                        continue;
                    }
                }
                producer.counts.by_socket += 1;
                if let Some(Number::Kept(kept)) = producer.numbers.remove(&n) {
                    self.ids.drop_kept(&kept.id);
                }
            }
        }
        if self.config.dedup == Dedup::Durable && !ranges.is_empty() {
            let (producer, ranges) = (id, ranges.clone());
            // What is left over if this fails is dropped with the producer's record.
            self.commit(vec![(Write::Drop { producer, ranges }, Doing::Nothing)]);
        }
    }

    /// Settles the rows of what was processed here and then spooled by a producer that had no answer.
    ///
    /// The producer committed before its hello, so the rows are there; kept outcomes go only after that commit.
    pub(super) fn settle_below(&mut self, producer: ProducerId, first: u64) {
        let Some(known) = self.producers.get(&producer) else {
            return;
        };
        let below: Vec<(u64, Kept)> = known
            .all_kept()
            .take_while(|(n, _)| *n < first)
            .map(|(n, kept)| (n, kept.clone()))
            .collect();
        let mut writes = Vec::new();
        for (n, kept) in below {
            match kept.outcome {
                Outcome::Processed | Outcome::Dead => {
                    writes.push(late(producer, n, &kept));
                }
                // The row it speaks of is the message; a copy in the file met it when it was written.
                Outcome::Stored | Outcome::Received => self.drop_kept(producer, n),
            }
        }
        if !writes.is_empty() {
            self.commit(writes);
        }
    }

    /// An outcome of a message that its producer has given up on, and will never confirm: if it `settles`, the
    /// file may hold a copy to be settled first.
    pub(super) fn settle_late(&mut self, producer: ProducerId, n: u64, settles: bool) {
        let Some(known) = self.producers.get(&producer) else {
            return;
        };
        if n >= known.first {
            return;
        }
        let Some(kept) = known.kept(n) else {
            return;
        };
        if !settles {
            return self.drop_kept(producer, n);
        }
        let write = late(producer, n, kept);
        self.commit(vec![write]);
    }

    // ---- between connections, and between runs

    pub(super) fn remember(&mut self, record: ProducerRecord) {
        let producer = self.producers.entry(record.producer).or_default();
        producer.epoch = producer.epoch.max(record.epoch);
        producer.counts.resume(&record.counts);
        let saved_by = record.instance;
        let remembered = saved_by
            .is_some_and(|saved_by| saved_by == self.instance || self.last == Some(saved_by));
        producer.remembered = remembered;
        if producer.conn.is_none() && producer.gone_at.is_none() {
            producer.gone_at = Some(self.now.mono);
            self.gone.push_back((self.now.mono, record.producer));
        }
        for kept in record.kept {
            if producer.numbers.contains_key(&kept.sequence) {
                continue;
            }
            let value = Kept {
                id: kept.id,
                crc: kept.crc,
                outcome: kept.outcome,
                reason: kept.reason.map(Into::into),
                counted: remembered && kept.counted,
            };
            self.ids.keep(&value.id, value.crc, value.verdict());
            producer.numbers.insert(kept.sequence, Number::Kept(value));
        }
    }

    pub(super) fn next_forget(&self) -> Option<Instant> {
        let (at, _) = self.gone.front()?;
        Some(*at + self.config.forget_after)
    }

    /// Producers without a connection leave memory for the file.
    pub(super) fn forget(&mut self) {
        let mut writes = Vec::new();
        // Those above the bound go before their time, many at once.
        let many = self.gone.len() > self.config.gone_max;
        let early = if many {
            self.gone.len() - self.config.gone_max / 2
        } else {
            0
        };
        for turn in 0..self.gone.len() {
            let forget_after = self.config.forget_after;
            let is_time = |(at, _): &(Instant, _)| *at + forget_after <= self.now.mono;
            if turn >= early && !self.gone.front().is_some_and(is_time) {
                break;
            }
            let Some((at, id)) = self.gone.pop_front() else {
                break;
            };
            let Some(producer) = self.producers.get_mut(&id) else {
                continue;
            };
            if producer.gone_at != Some(at) {
                continue;
            }
            if producer.is_busy() {
                producer.gone_at = Some(self.now.mono);
                self.gone.push_back((self.now.mono, id));
                continue;
            }
            producer.gone_at = None;
            producer.leaves = None;
            producer.saves += 1;
            let forget = Doing::Forget(id, producer.saves);
            writes.push((Write::SaveProducer(self.record(id)), forget));
        }
        if !writes.is_empty() {
            self.commit(writes);
        }
    }

    /// Its record could not be written: later, unless it is back.
    pub(super) fn not_forgotten(&mut self, id: ProducerId) {
        let now = self.now.mono;
        if let Some(producer) = self.producers.get_mut(&id)
            && producer.conn.is_none()
            && producer.gone_at.is_none()
        {
            producer.gone_at = Some(now);
            self.gone.push_back((now, id));
        }
    }

    /// The record is on disk: unless the producer is back, or a newer one is on its way, memory is free of it.
    pub(super) fn forgotten(&mut self, id: ProducerId, save: u64) {
        if self
            .producers
            .get(&id)
            .is_none_or(|known| known.saves != save)
        {
            return;
        }
        let says_hello = |asking: &Asking| {
            let hello = asking.hello.as_ref();
            hello.is_some_and(|(_, hello)| hello.producer == id)
        };
        if self.asks.values().any(says_hello) {
            // What the file says of it was perhaps read before this was saved.
            return self.not_forgotten(id);
        }
        // A read under way may show its rows without the outcomes that were saved since.
        let read = self.reads.next();
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.leaves = Some(read);
            self.leaving.push_back((read, id));
        }
    }

    /// Frees memory of the producers whose records every result of a read can know.
    pub(super) fn let_leave(&mut self) {
        while let Some((read, id)) = self.leaving.front().copied() {
            if self.reads.any_before(read) {
                return;
            }
            self.leaving.pop_front();
            let leaves = |producer: &Producer| producer.leaves == Some(read) && producer.is_idle();
            if self.producers.get(&id).is_some_and(leaves)
                && let Some(producer) = self.producers.remove(&id)
            {
                for (_, kept) in producer.all_kept() {
                    self.ids.drop_kept(&kept.id);
                }
            }
        }
    }

    /// A row or a hello of a newer epoch: nothing more is taken from older connections of the producer.
    pub(super) fn fence(&mut self, id: ProducerId) {
        let Some(conn) = self.producers.get_mut(&id).and_then(|p| p.conn.take()) else {
            return;
        };
        if let Some(state) = self.conns.get_mut(&conn)
            && !state.over
        {
            state.over = true;
            self.actions.push_back(Action::Fence { conn });
        }
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.gone_at = Some(self.now.mono);
            self.gone.push_back((self.now.mono, id));
        }
    }
}

fn late(producer: ProducerId, n: u64, kept: &Kept) -> (Write, Doing) {
    (
        settle_copy(&kept.id, kept.crc, kept.verdict()),
        Doing::Late { producer, n },
    )
}
