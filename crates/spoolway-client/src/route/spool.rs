//! What goes to the queue file, and what comes of it.

use std::time::Instant;

use super::{Action, Entry, Lack, Link, Route, Spooled, Step, Verdict};

impl<T> Route<T> {
    /// Sends what waits to the file, oldest first, in one group, unless one is on its way.
    ///
    /// A keyed message does not pass an earlier one that stays behind: it might have the same key.
    pub(super) fn spool(&mut self, now: Instant, wanted: impl Fn(&Entry<T>) -> bool) {
        if self.spooling.is_some() || self.spool_at.is_some_and(|at| now < at && !self.newcomer()) {
            return;
        }
        let mut numbers = Vec::new();
        let mut passed = false;
        for entry in &mut self.entries {
            if !matches!(entry.step, Step::Waiting | Step::Resting(_)) {
                continue;
            }
            if wanted(entry) && !(entry.keyed && passed) {
                entry.step = Step::Spooling;
                numbers.push(entry.n);
            } else {
                passed |= entry.keyed;
            }
        }
        if numbers.is_empty() {
            return;
        }
        let group = self.next_group;
        self.next_group += 1;
        self.spooling = Some(group);
        self.spool_at = None;
        self.actions.push_back(Action::Spool {
            group,
            producer: self.producer,
            epoch: self.epoch,
            numbers,
        });
    }

    /// Whether a message waits that was in no failed group: it is worth another try at once.
    pub(super) fn newcomer(&self) -> bool {
        self.entries
            .back()
            .is_some_and(|entry| entry.step == Step::Waiting && !entry.sent && !entry.may_be_held())
    }

    pub(super) fn spooled(&mut self, group: u64, results: Vec<Spooled>) {
        if self.spooling != Some(group) {
            return;
        }
        self.spooling = None;
        let mut at = 0;
        for result in results {
            while at < self.entries.len() && self.entries[at].step != Step::Spooling {
                at += 1;
            }
            let Some(entry) = self.entries.get(at) else {
                return;
            };
            let own = match result {
                Spooled::Stored => true,
                // No consumer had it, so the row is of the commit that failed half way.
                Spooled::Duplicate(_) => entry.filed && !entry.sent && !entry.doubtful,
                Spooled::Conflict => false,
            };
            if own && group >= self.first_group {
                self.counts.queue += 1;
            }
            self.settle(at, Verdict::Spooled(result));
        }
    }

    /// What nobody can have is given back. The rest stays, to be sent or spooled again.
    pub(super) fn spool_failed(&mut self, now: Instant, group: u64, unknown: bool) {
        if self.spooling != Some(group) {
            return;
        }
        self.spooling = None;
        let over = matches!(self.link, Link::Abandoned);
        let mut at = 0;
        while at < self.entries.len() {
            let entry = &mut self.entries[at];
            if entry.step != Step::Spooling {
                at += 1;
                continue;
            }
            entry.filed |= unknown;
            self.any_filed |= entry.filed;
            if !entry.may_be_held() {
                self.settle(at, Verdict::NotTaken(Lack::Spool));
            } else if over {
                self.settle(at, Verdict::Unknown);
            } else {
                entry.step = Step::Waiting;
                self.tell(at);
                at += 1;
            }
        }
        self.waiting_from = self.first_unsettled();
        if !self.entries.is_empty() {
            self.spool_at = Some(now + self.config.spool_retry);
        }
    }

    pub(super) fn tell(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        if !entry.told {
            entry.told = true;
            self.actions.push_back(Action::Unknown { n: entry.n });
        }
    }
}
