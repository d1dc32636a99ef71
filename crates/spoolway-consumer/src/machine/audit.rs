//! Every number of a producer is accounted for: its word is held against what this side remembers.
//!
//! A hello says how many numbers were answered over the socket, and how many became rows. Rows are counted in the file.
//! What was answered was answered by this consumer, by the one before it, which saved its counts when it ended in
//! order, or by one that was killed, and then there is only the producer's word. Anything else is missing.
//!
//! A message that was answered and spooled all the same, because the answer did not arrive, counts on both sides: as
//! many as there were of those may be missing unnoticed here.

use spoolway_proto::{ProducerHello, ProducerId, Timestamp};
use spoolway_queue::{ProducerCounts, ProducerRecord, RowCounts, Write};

use super::commit::Doing;
use super::{Action, Machine};

/// The counts of a producer in memory. Those of its rows are in the file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) by_socket: u64,
    pub(super) answered: u64,
    by_word: u64,
    pub(super) err: u64,
    unheard: u64,
    missing: u64,
}

impl Counts {
    /// Takes up what was saved. Counts only rise, and of a producer that has not left memory the file may say less: its
    /// newest record is perhaps still on its way there.
    pub(super) fn resume(&mut self, saved: &ProducerCounts) {
        *self = Self {
            sent: self.sent.max(saved.sent),
            by_socket: self.by_socket.max(saved.by_socket),
            answered: self.answered.max(saved.answered),
            by_word: self.by_word.max(saved.by_word),
            err: self.err.max(saved.err),
            unheard: self.unheard.max(saved.unheard),
            missing: self.missing.max(saved.missing),
        };
    }

    /// Holds a hello against it. `rows` is what the file says; `remembered`: all that was answered is counted here.
    /// How many are missing now that were not before.
    fn balance(&mut self, hello: &ProducerHello, rows: &RowCounts, remembered: bool) -> u64 {
        let before = self.unheard + self.missing;
        self.sent = self.sent.max(hello.fresh - 1).max(hello.first - 1);
        self.err = self.err.max(hello.err);
        self.by_socket = self.by_socket.max(hello.socket);
        // It committed them before its hello, and the file was read after.
        self.unheard = hello.queue.saturating_sub(rows.by_queue);
        let known = self.answered + self.by_word + self.missing;
        let unknown = hello.socket.saturating_sub(known);
        if remembered {
            self.missing += unknown;
        } else {
            self.by_word += unknown;
        }
        (self.unheard + self.missing).saturating_sub(before)
    }
}

impl Machine {
    /// Holds what a producer says of itself against what is known.
    pub(super) fn balance(&mut self, hello: &ProducerHello, rows: &RowCounts) {
        let Some(producer) = self.producers.get_mut(&hello.producer) else {
            return;
        };
        let missing = producer.counts.balance(hello, rows, producer.remembered);
        producer.remembered = true;
        if missing > 0 {
            tracing::error!(
                producer = %hello.producer,
                missing,
                "messages of this producer are missing; `spoolway audit` says more"
            );
        }
    }

    /// A number of this producer was answered for the first time.
    pub(super) fn count_answer(&mut self, producer: ProducerId) {
        self.producers.entry(producer).or_default().counts.answered += 1;
    }

    /// Saves the counts of every producer in memory.
    pub(super) fn save(&mut self, save: u64) {
        let mut ids: Vec<ProducerId> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        let mut writes: Vec<(Write, Doing)> = ids
            .into_iter()
            .map(|id| {
                let record = ProducerRecord {
                    kept: Vec::new(),
                    ..self.record(id)
                };
                (Write::SaveCounts(record), Doing::Nothing)
            })
            .collect();
        match writes.last_mut() {
            Some((_, doing)) => {
                *doing = Doing::Save(save);
                self.commit(writes);
            }
            None => self.actions.push_back(Action::Saved { save, saved: true }),
        }
    }

    /// What is known of every producer in memory.
    pub fn records(&self) -> Vec<ProducerRecord> {
        let mut ids: Vec<&ProducerId> = self.producers.keys().collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| self.record(*id)).collect()
    }

    pub(super) fn record(&self, id: ProducerId) -> ProducerRecord {
        let producer = &self.producers[&id];
        let kept = producer.all_kept().map(|(n, kept)| spoolway_queue::Kept {
            sequence: n,
            id: kept.id.clone(),
            crc: kept.crc,
            outcome: kept.outcome,
            reason: kept.reason.as_deref().map(str::to_owned),
            counted: kept.counted,
        });
        let counts = &producer.counts;
        ProducerRecord {
            producer: id,
            epoch: producer.epoch,
            // Whoever has not heard its word does not vouch for its counts.
            instance: producer.remembered.then_some(self.instance),
            counts: ProducerCounts {
                sent: counts.sent,
                by_socket: counts.by_socket,
                answered: counts.answered,
                by_word: counts.by_word,
                err: counts.err,
                unheard: counts.unheard,
                missing: counts.missing,
                rows: RowCounts::default(),
            },
            kept: kept.collect(),
            since: Timestamp::default(),
            updated_at: self.now.wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_older_than_what_is_known_takes_nothing_back() {
        let mut counts = Counts::default();
        let saved = |answered| ProducerCounts {
            sent: answered,
            by_socket: answered,
            answered,
            ..ProducerCounts::default()
        };
        counts.resume(&saved(9));
        counts.resume(&saved(8));
        assert_eq!((counts.sent, counts.by_socket, counts.answered), (9, 9, 9));
    }
}
