//! The names of link states, steps and events, as the table of the tests and the coverage of the simulation have them.

use spoolway_proto::Code;

use super::{Event, Link, Route, Step};

/// Every link state.
#[doc(hidden)]
pub const LINK_STATES: [&str; 11] = [
    "down",
    "holding",
    "dialing",
    "dialing, held",
    "greeting, hello not said",
    "greeting, hello not said, held",
    "greeting",
    "greeting, held",
    "up",
    "up, leaving",
    "abandoned",
];

/// Every step of a message.
#[doc(hidden)]
pub const STEPS: [&str; 4] = ["waiting", "resting", "written", "spooling"];

/// Every event.
#[doc(hidden)]
pub const EVENTS: [&str; 20] = [
    "connected",
    "refused",
    "greeted",
    "acked",
    "dead",
    "nacked",
    "nacked for now",
    "window",
    "heard",
    "pinged",
    "goodbye",
    "faulted",
    "closed",
    "appeared",
    "spooled",
    "spool failed",
    "spool unknown",
    "confirm",
    "abandon",
    "tick",
];

/// The table of the tests: `place | event | place after | actions`, and for each place a line of the events that
/// never come there.
#[doc(hidden)]
pub const TABLE: &str = include_str!("table.txt");

impl<T> Route<T> {
    /// The name of the link state, one of [`LINK_STATES`].
    #[doc(hidden)]
    pub fn link_state(&self) -> &'static str {
        match &self.link {
            Link::Down { .. } => "down",
            Link::Holding { .. } => "holding",
            Link::Dialing { hold_until, .. } => match hold_until {
                None => "dialing",
                Some(_) => "dialing, held",
            },
            Link::Greeting {
                hold_until, said, ..
            } => match (said, hold_until) {
                (None, None) => "greeting, hello not said",
                (None, Some(_)) => "greeting, hello not said, held",
                (Some(_), None) => "greeting",
                (Some(_), Some(_)) => "greeting, held",
            },
            Link::Up(up) => match up.hold_until {
                None => "up",
                Some(_) => "up, leaving",
            },
            Link::Abandoned => "abandoned",
        }
    }

    /// The names of the steps that unsettled messages are in, of [`STEPS`], each once.
    #[doc(hidden)]
    pub fn steps(&self) -> impl Iterator<Item = &'static str> {
        let mut found = [false; STEPS.len()];
        for entry in &self.entries {
            found[match entry.step {
                Step::Waiting => 0,
                Step::Resting(_) => 1,
                Step::Written => 2,
                Step::Spooling => 3,
            }] = true;
        }
        let there = STEPS.into_iter().zip(found);
        there.filter_map(|(step, found)| found.then_some(step))
    }
}

impl Event {
    /// The name, one of [`EVENTS`].
    #[doc(hidden)]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Greeted { .. } => "greeted",
            Self::Acked { .. } => "acked",
            Self::Dead { .. } => "dead",
            Self::Nacked { code, .. } => match code {
                Code::Unavailable | Code::RateLimited => "nacked for now",
                _ => "nacked",
            },
            Self::Window { .. } => "window",
            Self::Heard => "heard",
            Self::Pinged => "pinged",
            Self::Goodbye { .. } => "goodbye",
            Self::Faulted { .. } => "faulted",
            Self::Closed { .. } => "closed",
            Self::Appeared => "appeared",
            Self::Spooled { .. } => "spooled",
            Self::SpoolFailed { unknown: false, .. } => "spool failed",
            Self::SpoolFailed { unknown: true, .. } => "spool unknown",
            Self::Confirm => "confirm",
            Self::Abandon => "abandon",
            Self::Tick => "tick",
        }
    }
}
