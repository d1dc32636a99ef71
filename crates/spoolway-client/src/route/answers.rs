//! What the consumer says of messages.

use std::time::{Duration, Instant};

use spoolway_proto::Code;

use super::{Action, Entry, Link, REST, Route, SEEN_EVERY, Spooled, Step, Verdict};

impl<T> Route<T> {
    pub(super) fn answer(&mut self, now: Instant, n: u64, verdict: Verdict) {
        let Some(at) = self.written(n) else { return };
        self.dials = 0;
        self.by_socket += u64::from(!matches!(verdict, Verdict::Refused(..)));
        self.settle(at, verdict);
        self.answered.insert(n);
        self.answered.remove_below(self.first_unsettled());
        self.unseen.insert(n);
        if self.seen_at.is_none() {
            self.seen_at = Some(now + SEEN_EVERY);
        }
    }

    pub(super) fn nacked(
        &mut self,
        now: Instant,
        n: u64,
        code: Code,
        message: String,
        retry_after: Option<Duration>,
    ) {
        let Some(at) = self.written(n) else { return };
        let entry = &mut self.entries[at];
        if matches!(code, Code::Unavailable | Code::RateLimited) && !entry.keyed {
            let until = now + retry_after.unwrap_or(REST);
            entry.step = Step::Resting(until);
            entry.sent = false;
            self.landed(at);
            self.look_by(until);
        } else {
            self.answer(now, n, Verdict::Refused(code, message));
        }
    }

    /// The place of `n` if it is written on this connection and unanswered.
    pub(super) fn written(&self, n: u64) -> Option<usize> {
        self.find(n)
            .filter(|at| self.entries[*at].step == Step::Written)
    }

    /// Entry `at` no longer takes room in the window.
    pub(super) fn landed(&mut self, at: usize) {
        let bytes = self.entries[at].bytes as u64;
        if let Link::Up(up) = &mut self.link {
            up.in_flight -= 1;
            up.bytes_in_flight -= bytes;
        }
    }

    pub(super) fn settle(&mut self, at: usize, verdict: Verdict) {
        if self.entries[at].step == Step::Written {
            self.landed(at);
        }
        let Some(entry) = self.entries.remove(at) else {
            return;
        };
        self.end(entry, verdict);
    }

    /// Settles a message that was taken out of `entries`.
    pub(super) fn end(&mut self, entry: Entry<T>, verdict: Verdict) {
        self.bytes -= entry.bytes;
        let held_by_none = matches!(
            verdict,
            Verdict::Refused(..) | Verdict::NotTaken(_) | Verdict::Spooled(Spooled::Conflict)
        );
        if held_by_none {
            self.counts.err += 1;
        }
        self.actions.push_back(Action::Settle {
            n: entry.n,
            body: entry.body,
            verdict,
        });
    }
}
