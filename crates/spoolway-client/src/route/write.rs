//! What goes over the connection: messages as far as the window goes, and what was seen of their answers.

use std::time::Instant;

use super::{Action, Entry, Lack, Link, OnFull, Outgoing, Route, SEEN_EVERY, Step, Up, Verdict};

impl<T> Route<T> {
    /// Writes what waits, in order, as far as the window and the file allow.
    pub(super) fn write(&mut self, now: Instant) {
        if !self.is_up() {
            return;
        }
        let mut full = false;
        let mut at = self.place(self.waiting_from);
        let Link::Up(up) = &mut self.link else { return };
        while let Some(entry) = self.entries.get(at) {
            if entry.step != Step::Waiting || entry.filed && !entry.keyed {
                at += 1;
                continue;
            }
            if entry.filed {
                break;
            }
            let (n, bytes) = (entry.n, entry.bytes as u64);
            if !up.admits(up.in_flight, up.bytes_in_flight, bytes) {
                full = true;
                break;
            }
            if up.wire != n {
                // The consumer looks into the file for what is skipped, so it must be there.
                let from = self
                    .entries
                    .partition_point(|entry| entry.n < up.wire)
                    .min(at);
                let skipped = self.entries.range(from..at);
                if self.spooling.is_some() && skipped.into_iter().any(|e| e.step == Step::Spooling)
                {
                    break;
                }
                self.actions.push_back(Action::At { n });
            }
            if up.in_flight == 0 {
                up.quiet_since = now;
                up.ping_at = now + self.config.ping_every;
            }
            up.wire = n + 1;
            up.in_flight += 1;
            up.bytes_in_flight += bytes;
            self.fresh = self.fresh.max(n + 1);
            let entry = &mut self.entries[at];
            entry.step = Step::Written;
            entry.sent = true;
            self.actions.push_back(Action::Write { n });
            at += 1;
        }
        self.waiting_from = self.entries.get(at).map_or(self.next, |entry| entry.n);
        match self.config.on_full {
            OnFull::Spool if full => self.spool(now, |entry| {
                entry.step == Step::Waiting && !entry.keyed && !entry.sent
            }),
            OnFull::Error if full => self.turn_away(),
            OnFull::Wait | OnFull::Spool | OnFull::Error => {}
        }
        if self.any_filed && self.spool_at.is_none_or(|at| now >= at) {
            // The file may hold them, so only the file can say what becomes of them; a keyed one holds others back.
            self.any_filed = self.entries.iter().any(|entry| entry.filed);
            self.spool(now, |entry| entry.filed);
        }
    }

    /// The window is full: gives back what waits for it and was never written. What was has a place in the order of
    /// its key to keep, or may have been taken.
    fn turn_away(&mut self) {
        let fresh = self.fresh.max(self.waiting_from);
        let from = self.place(fresh);
        for entry in self.entries.split_off(from) {
            if entry.step == Step::Waiting && !entry.may_be_held() {
                self.end(entry, Verdict::NotTaken(Lack::Window));
            } else {
                self.entries.push_back(entry);
            }
        }
    }

    /// Whether a message would have its turn without waiting for answers.
    pub(super) fn has_room(&self, message: Outgoing) -> bool {
        let Link::Up(up) = &self.link else {
            return true;
        };
        if up.hold_until.is_some() || self.config.on_full == OnFull::Spool && !message.keyed {
            return true;
        }
        let from = self.place(self.waiting_from);
        let waiting = self.entries.range(from..);
        let (mut count, mut sum) = (up.in_flight, up.bytes_in_flight);
        for entry in waiting.filter(|entry| entry.step == Step::Waiting) {
            if !up.admits(count, sum, entry.bytes as u64) {
                return false;
            }
            count += 1;
            sum += entry.bytes as u64;
        }
        up.admits(count, sum, message.bytes as u64)
    }

    /// Confirms answers at half a window; those and changed counts after [`SEEN_EVERY`].
    pub(super) fn confirm(&mut self, now: Instant) {
        let Link::Up(up) = &self.link else { return };
        let many = self.unseen.len() >= u64::from(up.window / 2).max(1);
        if many || self.seen_at.is_some_and(|at| now >= at) {
            self.seen();
        } else if self.seen_at.is_none() && self.counts != self.counts_told {
            self.seen_at = Some(now + SEEN_EVERY);
        }
    }

    /// Confirms what was answered, so that the consumer need not keep it, and tells the newest counts.
    pub(super) fn seen(&mut self) {
        self.seen_at = None;
        let Link::Up(up) = &mut self.link else { return };
        if self.unseen.is_empty() && self.counts == self.counts_told {
            return;
        }
        if self.entries.is_empty() && up.wire != self.next {
            // Everything is settled: the counts are of all numbers below this one.
            up.wire = self.next;
            self.actions.push_back(Action::At { n: self.next });
        }
        self.counts_told = self.counts;
        self.actions.push_back(Action::Seen {
            ranges: std::mem::take(&mut self.unseen),
            queue: self.counts.queue,
            err: self.counts.err,
        });
    }
}

impl Up {
    /// Whether a message of `bytes` may join so many unanswered ones. Alone it always may: no window is zero.
    fn admits(&self, count: u32, sum: u64, bytes: u64) -> bool {
        count == 0 || count < self.window && sum.saturating_add(bytes) <= self.window_bytes
    }
}

impl<T> Entry<T> {
    /// Somebody may hold it, whatever is said of it from now on.
    pub(super) fn may_be_held(&self) -> bool {
        self.doubtful || self.filed
    }
}
