//! What begins, holds and ends a connection.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use spoolway_proto::{Code, Epoch, ProducerId};

use super::{Action, Counts, Link, RESUME_RETRY, Route, SEEN_EVERY, Step, Up, Verdict};

impl<T> Route<T> {
    pub(super) fn connected(&mut self, now: Instant) {
        if let Link::Dialing {
            hold_until,
            give_up_at,
        } = self.link
        {
            let give_up_at = give_up_at.max(now + self.config.connect_timeout);
            self.link = Link::Greeting {
                hold_until,
                give_up_at,
                said: None,
            };
        }
    }

    /// Hello waits for the commit of what was sent before: its `first` says that all below is answered or on disk.
    pub(super) fn say_hello(&mut self) {
        let first = self.first_unsettled();
        let Link::Greeting {
            said: said @ None, ..
        } = &mut self.link
        else {
            return;
        };
        if self
            .entries
            .iter()
            .any(|entry| entry.step == Step::Spooling && entry.doubtful)
        {
            return;
        }
        *said = Some(first);
        self.epoch = self.epoch.next();
        self.actions.push_back(Action::Hello {
            producer: self.producer,
            epoch: self.epoch,
            first,
            fresh: self.fresh.max(first),
            socket: self.by_socket,
            queue: self.counts.queue,
            err: self.counts.err,
        });
        self.counts_told = self.counts;
    }

    pub(super) fn greeted(&mut self, now: Instant, window: u32, window_bytes: u64) {
        let Link::Greeting {
            said: Some(wire), ..
        } = self.link
        else {
            return;
        };
        self.met = true;
        self.waiting_from = self.first_unsettled();
        self.link = Link::Up(Up {
            window,
            window_bytes,
            in_flight: 0,
            bytes_in_flight: 0,
            wire,
            quiet_since: now,
            ping_at: now + self.config.ping_every,
            hold_until: None,
        });
        self.unseen = self.answered.clone();
        self.seen_at = (!self.unseen.is_empty()).then(|| now + SEEN_EVERY);
        // What waited for the link waits for the window from here on.
        self.look_by(now + self.config.full_wait);
    }

    pub(super) fn refused(&mut self, now: Instant) {
        match self.link {
            Link::Dialing {
                hold_until: Some(until),
                ..
            } if self.met && now < until => {
                self.link = Link::Holding {
                    until,
                    redial_at: now + RESUME_RETRY,
                };
            }
            Link::Dialing { .. } => self.give_up(now),
            Link::Down { .. }
            | Link::Holding { .. }
            | Link::Greeting { .. }
            | Link::Up(_)
            | Link::Abandoned => {}
        }
    }

    pub(super) fn closed(&mut self, now: Instant, unsent: &[u64]) {
        match &self.link {
            Link::Up(up) => {
                let goodbye = up.hold_until;
                self.unwrite(unsent);
                // Only what may have been taken is worth the wait.
                let doubtful = self.entries.iter().any(|entry| entry.doubtful);
                let grace = doubtful.then(|| now + self.config.resume_grace);
                match goodbye.max(grace) {
                    Some(until) if until > now => self.dial(now, Some(until)),
                    _ => self.give_up(now),
                }
            }
            Link::Greeting {
                hold_until: Some(until),
                ..
            } if self.met && now < *until => {
                self.link = Link::Holding {
                    until: *until,
                    redial_at: now + RESUME_RETRY,
                };
            }
            Link::Greeting { .. } => self.give_up(now),
            Link::Down { .. } | Link::Holding { .. } | Link::Dialing { .. } | Link::Abandoned => {}
        }
    }

    pub(super) fn faulted(&mut self, now: Instant, code: Code, message: String, n: Option<u64>) {
        if !matches!(self.link, Link::Up(_) | Link::Greeting { .. }) {
            return;
        }
        self.actions.push_back(Action::HangUp);
        let named = n.and_then(|n| self.written(n));
        self.unwrite(&[]);
        if matches!(code, Code::PairReused | Code::StaleEpoch) {
            self.producer = ProducerId::from_u128(self.rng.random());
            self.epoch = Epoch::default();
            self.counts = Counts::default();
            self.by_socket = 0;
            self.first_group = self.next_group;
        } else if let Some(at) = named {
            self.settle(at, Verdict::Refused(code, message));
        }
        self.give_up(now);
    }

    pub(super) fn dial(&mut self, now: Instant, hold_until: Option<Instant>) {
        let give_up_at = hold_until.unwrap_or(now + self.config.connect_timeout);
        self.link = Link::Dialing {
            hold_until,
            give_up_at,
        };
        self.actions.push_back(Action::Dial);
    }

    /// Ends the hold: the epoch rises, so that rows written from now on fence what the old connection still carries.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.epoch = self.epoch.next();
        let most = self
            .config
            .backoff_min
            .saturating_mul(1 << self.dials.min(16));
        let delay = self
            .rng
            .random_range(Duration::ZERO..=most.min(self.config.backoff_max));
        self.dials += 1;
        self.link = Link::Down {
            retry_at: now + delay.max(Duration::from_millis(1)),
        };
        self.waiting_from = self.first_unsettled();
    }

    pub(super) fn abandon(&mut self) {
        if !matches!(self.link, Link::Abandoned) {
            self.seen();
            self.actions.push_back(Action::HangUp);
            self.unwrite(&[]);
            self.epoch = self.epoch.next();
            self.link = Link::Abandoned;
            self.spool_at = None;
        }
    }

    /// What was written and not answered waits again, as sent; `unsent` never left this process.
    pub(super) fn unwrite(&mut self, unsent: &[u64]) {
        for entry in &mut self.entries {
            if unsent.contains(&entry.n) {
                entry.sent = entry.doubtful;
            } else {
                entry.doubtful |= entry.step == Step::Written;
            }
            if matches!(entry.step, Step::Written | Step::Resting(_)) {
                entry.step = Step::Waiting;
            }
        }
        self.waiting_from = self.first_unsettled();
        self.unseen.clear();
        self.seen_at = None;
    }
}
