//! Decides where each message goes: over the socket, or into the queue file. No I/O, no clock.
//!
//! ```text
//!              ┌──────────── retry_at, or the socket appears ─────────────┐
//!              ▼                                                          │
//!   start ─► Dialing ──connected──► Greeting ──hello answered──► Up       │
//!             ▲ │ │                    │                         │ │      │
//!   redial_at │ │ │ refused while      │ closed                  │ │      │
//!             │ │ │ messages wait      │ too early               │ │      │
//!          Holding◄┘◄──────────────────┘◄── closed, silent 5 s ──┘ │      │
//!             │ │                                                  │      │
//!             │ │ refused, or too late (250 ms, goodbye, 5 s)      │ error│
//!             ▼ ▼                                                  ▼      │
//!            Down ◄────────────────────────────────────────────────┘ ─────┘
//!              the epoch rises; what was sent and not answered is spooled,
//!              oldest first, in one group, before anything newer
//! ```
//!
//! While `Dialing` or `Greeting` the first time, to resume, or after a goodbye, messages wait (`hold_until`);
//! in every later dial they go to the file beside it.
//!
//! Invariants, asserted after each event in debug builds by `Route::check`:
//! - a message is in `entries` exactly until it is settled, in the order of its number;
//! - one group at a time is on its way to the file, and it is the oldest;
//! - a keyed message is never spooled while `Up`;
//! - `Written` entries exist only while `Up`, and `in_flight` counts them;
//! - nothing is written past a number that is still on its way to the file.

mod answers;
mod clock;
mod config;
mod event;
mod link;
mod names;
mod spool;
#[cfg(test)]
mod tests;
mod write;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway_proto::{Epoch, ProducerId, Ranges};

pub use config::{Full, OnFull, Outgoing, RouteConfig};
pub use event::{Action, Event, Lack, Spooled, Verdict};
#[doc(hidden)]
pub use names::{EVENTS, LINK_STATES, STEPS, TABLE};

/// The path machine of one producer. `T` is what the shell keeps with each message.
#[derive(Debug)]
pub struct Route<T> {
    config: RouteConfig,
    rng: SmallRng,
    producer: ProducerId,
    epoch: Epoch,
    link: Link,
    /// Unsettled messages, ascending by number.
    entries: VecDeque<Entry<T>>,
    bytes: usize,
    /// The number the next message takes.
    next: u64,
    /// The first number never written to any consumer.
    fresh: u64,
    /// No entry below this number is `Waiting`: where writing goes on.
    waiting_from: u64,
    /// Answered numbers above the first unsettled one.
    answered: Ranges,
    /// Answered numbers not yet confirmed on this connection.
    unseen: Ranges,
    seen_at: Option<Instant>,
    /// The group on its way to the file.
    spooling: Option<u64>,
    next_group: u64,
    spool_at: Option<Instant>,
    /// Whether an entry may be `filed`.
    any_filed: bool,
    /// Groups below this were made under another producer id.
    first_group: u64,
    counts: Counts,
    /// Numbers that were answered over the socket, cumulative.
    by_socket: u64,
    /// What the consumer was told of the counts last.
    counts_told: Counts,
    /// Dials since the last answer, for the backoff.
    dials: u32,
    /// Whether any hello was answered: only before that a refused dial ends the wait.
    met: bool,
    /// No entry wants the clock before this.
    look_at: Option<Instant>,
    actions: VecDeque<Action<T>>,
}

/// How numbers ended of which the consumer need not know; cumulative, for its audit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    /// This producer made a row of the queue file of them.
    queue: u64,
    /// Nothing holds them.
    err: u64,
}

#[derive(Debug)]
enum Link {
    /// No dial under way; messages go to the file.
    Down { retry_at: Instant },
    /// Between two dials of a resume; messages wait.
    Holding { until: Instant, redial_at: Instant },
    /// A dial is under way. With `hold_until` messages wait for it that long, else they go to the file.
    Dialing {
        hold_until: Option<Instant>,
        give_up_at: Instant,
    },
    /// Connected; hello is said once what was sent before is committed. `said` is the `first` it named.
    Greeting {
        hold_until: Option<Instant>,
        give_up_at: Instant,
        said: Option<u64>,
    },
    /// Hello was answered.
    Up(Up),
    /// Given up for good.
    Abandoned,
}

#[derive(Debug)]
struct Up {
    window: u32,
    window_bytes: u64,
    in_flight: u32,
    bytes_in_flight: u64,
    /// The number the consumer gives the next message.
    wire: u64,
    /// Since when nothing was heard, or nothing was owed.
    quiet_since: Instant,
    ping_at: Instant,
    /// After a goodbye: nothing new is written, and the link is held until then.
    hold_until: Option<Instant>,
}

#[derive(Debug)]
struct Entry<T> {
    n: u64,
    body: T,
    keyed: bool,
    bytes: usize,
    deadline: Instant,
    /// When a keyless message stops waiting for the window.
    full_at: Instant,
    step: Step,
    /// Written to some consumer at some time, and not refused since.
    sent: bool,
    /// A connection ended while it was written and unanswered: whatever a later consumer says, an earlier one may
    /// have stored it.
    doubtful: bool,
    /// A commit of it failed half way: it may be in the file.
    filed: bool,
    /// The caller was told that the fate is unknown.
    told: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Waiting,
    /// Refused for now; tried again at this time.
    Resting(Instant),
    Written,
    Spooling,
}

/// How soon a connection is tried again while messages wait for it.
const RESUME_RETRY: Duration = Duration::from_millis(5);
/// How long a refused message rests when the consumer names no time.
const REST: Duration = Duration::from_millis(100);
/// How long answers may go unconfirmed.
const SEEN_EVERY: Duration = Duration::from_secs(1);

impl<T> Route<T> {
    /// A route that dials at once. `seed` feeds the producer id and the jitter.
    pub fn new(now: Instant, config: RouteConfig, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let until = now + config.connect_timeout;
        Self {
            producer: ProducerId::from_u128(rng.random()),
            rng,
            epoch: Epoch::default(),
            link: Link::Dialing {
                hold_until: Some(until),
                give_up_at: until,
            },
            entries: VecDeque::new(),
            bytes: 0,
            next: 1,
            fresh: 1,
            waiting_from: 1,
            answered: Ranges::default(),
            unseen: Ranges::default(),
            seen_at: None,
            spooling: None,
            next_group: 1,
            spool_at: None,
            any_filed: false,
            first_group: 1,
            counts: Counts::default(),
            by_socket: 0,
            counts_told: Counts::default(),
            dials: 0,
            met: false,
            look_at: None,
            actions: VecDeque::from([Action::Dial]),
            config,
        }
    }

    /// Takes a message: gives it its number and starts it on its way.
    ///
    /// # Errors
    /// [`Full::Memory`]: no number was taken.
    pub fn send(&mut self, now: Instant, body: T, message: Outgoing) -> Result<u64, Full> {
        let full = self.entries.len() >= self.config.messages_max
            || self.bytes + message.bytes > self.config.bytes_max;
        if full && !self.entries.is_empty() {
            return Err(Full::Memory);
        }
        let n = self.next;
        self.next += 1;
        self.bytes += message.bytes;
        let full_at = now + self.config.full_wait;
        self.entries.push_back(Entry {
            n,
            body,
            keyed: message.keyed,
            bytes: message.bytes,
            deadline: message.deadline,
            full_at,
            step: Step::Waiting,
            sent: false,
            doubtful: false,
            filed: false,
            told: false,
        });
        self.look_by(if message.keyed {
            message.deadline
        } else {
            full_at.min(message.deadline)
        });
        self.advance(now);
        self.check();
        Ok(n)
    }

    /// As [`Route::send`], for a message that would not wait for room. It still waits for a connection that is being
    /// made, for commits before it, and for its answer; and it does not wait where it is spooled at once.
    ///
    /// # Errors
    /// [`Full`]: no number was taken.
    pub fn try_send(&mut self, now: Instant, body: T, message: Outgoing) -> Result<u64, Full> {
        if !self.has_room(message) {
            return Err(Full::Window);
        }
        self.send(now, body, message)
    }

    /// Tells the route what happened. Together with [`Route::send`] and [`Route::try_send`] the only mutation.
    pub fn on(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected => self.connected(now),
            Event::Refused => self.refused(now),
            Event::Greeted {
                instance: _,
                window,
                window_bytes,
            } => {
                self.greeted(now, window, window_bytes);
            }
            Event::Acked { outcome, ranges } => {
                // Only numbers that are unsettled mean anything, however far the ranges go.
                let (lowest, highest) = (self.first_unsettled(), self.next - 1);
                for (first, last) in ranges.iter() {
                    for n in first.max(lowest)..=last.min(highest) {
                        self.answer(now, n, Verdict::Answered(outcome));
                    }
                }
            }
            Event::Dead { n, reason } => self.answer(now, n, Verdict::Dead(reason)),
            Event::Nacked {
                n,
                code,
                message,
                retry_after,
            } => {
                self.nacked(now, n, code, message, retry_after);
            }
            Event::Window {
                window,
                window_bytes,
            } => {
                if let Link::Up(up) = &mut self.link {
                    up.window = window;
                    up.window_bytes = window_bytes;
                }
            }
            Event::Heard => {
                if let Link::Up(up) = &mut self.link {
                    up.quiet_since = now;
                }
            }
            Event::Pinged => {
                // Hello is the first thing said.
                let said = matches!(
                    self.link,
                    Link::Up(_) | Link::Greeting { said: Some(_), .. }
                );
                if said {
                    self.actions.push_back(Action::Pong);
                }
            }
            Event::Goodbye { hold } => {
                if let Link::Up(up) = &mut self.link {
                    up.hold_until = Some(now + hold);
                }
            }
            Event::Faulted { code, message, n } => self.faulted(now, code, message, n),
            Event::Closed { unsent } => self.closed(now, &unsent),
            Event::Appeared => match self.link {
                Link::Down { .. } => self.dial(now, None),
                Link::Holding { until, .. } => self.dial(now, Some(until)),
                Link::Dialing { .. } | Link::Greeting { .. } | Link::Up(_) | Link::Abandoned => {}
            },
            Event::Spooled { group, results } => self.spooled(group, results),
            Event::SpoolFailed { group, unknown } => self.spool_failed(now, group, unknown),
            Event::Confirm => self.seen(),
            Event::Abandon => self.abandon(),
            Event::Tick => self.tick(now),
        }
        self.advance(now);
        self.check();
    }

    /// The next thing the shell must do.
    pub fn next_action(&mut self) -> Option<Action<T>> {
        self.actions.pop_front()
    }

    /// When to call [`Route::on`] with [`Event::Tick`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let link = match &self.link {
            Link::Down { retry_at } => Some(*retry_at),
            Link::Holding { until, redial_at } => Some(*until.min(redial_at)),
            Link::Dialing {
                hold_until,
                give_up_at,
            }
            | Link::Greeting {
                hold_until,
                give_up_at,
                ..
            } => Some(hold_until.unwrap_or(*give_up_at).min(*give_up_at)),
            Link::Up(up) => {
                let owed = up.in_flight > 0;
                let alive = owed.then(|| up.ping_at.min(up.quiet_since + self.config.silence_max));
                [alive, up.hold_until].into_iter().flatten().min()
            }
            Link::Abandoned => None,
        };
        [link, self.seen_at, self.spool_at, self.look_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the shell gave with message `n`, while it is unsettled.
    pub fn body(&self, n: u64) -> Option<&T> {
        self.find(n).map(|at| &self.entries[at].body)
    }

    /// Who this route sends as.
    pub fn producer(&self) -> ProducerId {
        self.producer
    }

    /// The number the next message takes.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// The lowest unsettled number, or the next one: everything below is settled.
    pub fn first_unsettled(&self) -> u64 {
        self.entries.front().map_or(self.next, |entry| entry.n)
    }

    /// How many messages are written and unanswered.
    pub fn in_flight(&self) -> u32 {
        match &self.link {
            Link::Up(up) => up.in_flight,
            _ => 0,
        }
    }

    /// Whether hello was answered and messages go by the socket.
    pub fn is_up(&self) -> bool {
        matches!(
            self.link,
            Link::Up(Up {
                hold_until: None,
                ..
            })
        )
    }

    // ---- what follows from the state

    fn advance(&mut self, now: Instant) {
        match &self.link {
            Link::Down { .. }
            | Link::Abandoned
            | Link::Dialing {
                hold_until: None, ..
            } => {
                self.spool(now, |_| true);
            }
            Link::Greeting {
                hold_until: None,
                said,
                ..
            } => {
                // After hello, what was sent before waits to be resumed by it.
                let said = said.is_some();
                self.spool(now, |entry| !(said && entry.sent));
                self.say_hello();
            }
            Link::Greeting { .. } => self.say_hello(),
            Link::Dialing { .. } | Link::Holding { .. } => {}
            Link::Up(_) => {
                self.write(now);
                self.confirm(now);
            }
        }
    }

    pub(super) fn find(&self, n: u64) -> Option<usize> {
        let at = self.place(n);
        (self.entries.get(at)?.n == n).then_some(at)
    }

    /// Where the first entry that is not below `n` is, or would be. Mostly no number is missing, so it is where `n` says.
    fn place(&self, n: u64) -> usize {
        let first = self.first_unsettled();
        let guess = usize::try_from(n.saturating_sub(first)).unwrap_or(usize::MAX);
        let is_there = match self.entries.get(guess) {
            Some(entry) => entry.n == n,
            None => guess == self.entries.len() && n == self.next,
        };
        if is_there {
            return guess;
        }
        self.entries.partition_point(|entry| entry.n < n)
    }

    /// The invariants above, in debug builds.
    fn check(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let count = |step| {
            self.entries
                .iter()
                .filter(|entry| entry.step == step)
                .count()
        };
        let written = count(Step::Written);
        assert!(
            self.entries.iter().is_sorted_by(|a, b| a.n < b.n),
            "entries out of order"
        );
        assert_eq!(
            self.bytes,
            self.entries.iter().map(|entry| entry.bytes).sum::<usize>()
        );
        assert_eq!(
            self.spooling.is_some(),
            count(Step::Spooling) > 0,
            "one group at a time"
        );
        match &self.link {
            Link::Up(up) => assert_eq!(written, up.in_flight as usize, "in flight"),
            _ => assert_eq!(written, 0, "written without a connection"),
        }
        let waiting = self
            .entries
            .iter()
            .find(|entry| entry.step == Step::Waiting && !entry.filed);
        if let (Some(entry), Link::Up(_)) = (waiting, &self.link) {
            assert!(
                entry.n >= self.waiting_from,
                "{} waits below the mark",
                entry.n
            );
        }
    }
}
