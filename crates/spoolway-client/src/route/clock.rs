//! What only time brings: retries, silence, messages whose callers wait no longer.

use std::time::Instant;

use super::{Action, Lack, Link, Route, Step, Up, Verdict};

impl<T> Route<T> {
    pub(super) fn tick(&mut self, now: Instant) {
        if self.spool_at.is_some_and(|at| now >= at) {
            self.spool_at = None;
        }
        match &mut self.link {
            Link::Down { retry_at } if now >= *retry_at => self.dial(now, None),
            Link::Holding { until, .. } if now >= *until => self.give_up(now),
            Link::Holding { until, redial_at } if now >= *redial_at => {
                let until = *until;
                self.dial(now, Some(until));
            }
            Link::Dialing {
                hold_until,
                give_up_at,
            }
            | Link::Greeting {
                hold_until,
                give_up_at,
                ..
            } if now >= hold_until.unwrap_or(*give_up_at).min(*give_up_at) => {
                self.actions.push_back(Action::HangUp);
                self.give_up(now);
            }
            Link::Up(up) => {
                let silent = now >= up.quiet_since + self.config.silence_max;
                let gone = up.hold_until.is_some_and(|until| now >= until);
                if up.in_flight > 0 && silent || gone {
                    self.actions.push_back(Action::HangUp);
                    self.closed(now, &[]);
                } else if up.in_flight > 0 && now >= up.ping_at {
                    up.ping_at = now + self.config.ping_every;
                    self.actions.push_back(Action::Ping);
                }
            }
            Link::Down { .. }
            | Link::Holding { .. }
            | Link::Dialing { .. }
            | Link::Greeting { .. }
            | Link::Abandoned => {}
        }
        if self.look_at.is_some_and(|at| now >= at) {
            self.look(now);
        }
    }

    pub(super) fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |known| known.min(at)));
    }

    /// Looks at every entry's clock, and notes when to look again.
    pub(super) fn look(&mut self, now: Instant) {
        self.look_at = None;
        let open = matches!(
            self.link,
            Link::Up(Up {
                hold_until: None,
                ..
            })
        );
        let mut at = 0;
        while at < self.entries.len() {
            let entry = &mut self.entries[at];
            let late = now >= entry.deadline;
            let aside = !entry.keyed && !entry.sent;
            match entry.step {
                Step::Resting(until) if now >= until => {
                    entry.step = Step::Waiting;
                    self.waiting_from = self.waiting_from.min(entry.n);
                }
                // Goes to the file below.
                Step::Waiting | Step::Resting(_) if aside => {}
                Step::Waiting if late && !entry.sent && !entry.filed => {
                    self.settle(at, Verdict::NotTaken(Lack::Window));
                    continue;
                }
                Step::Written | Step::Spooling | Step::Waiting if late => self.tell(at),
                Step::Waiting | Step::Resting(_) | Step::Written | Step::Spooling => {}
            }
            let entry = &self.entries[at];
            let next = match entry.step {
                Step::Resting(until) if late => Some(until),
                Step::Resting(until) => Some(until.min(entry.deadline)),
                Step::Waiting if aside && open => Some(entry.full_at.min(entry.deadline)),
                _ => (!entry.told).then_some(entry.deadline),
            };
            // What is overdue and still here moves when the link or the file does.
            if let Some(next) = next.filter(|next| *next > now) {
                self.look_by(next);
            }
            at += 1;
        }
        self.spool(now, |entry| {
            let full = open && entry.step == Step::Waiting && now >= entry.full_at;
            !entry.keyed && !entry.sent && (full || now >= entry.deadline)
        });
    }
}
