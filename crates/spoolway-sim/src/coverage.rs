//! Which cells of the machines' state × event tables the runs have reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use spoolway_client::route::{self, Route};
use spoolway_consumer::machine::{self, Machine};

type Cell = (&'static str, &'static str);

/// How often each event met each state: the steps of messages in the consumer, the links of producers.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    machine: BTreeMap<Cell, u64>,
    route: BTreeMap<Cell, u64>,
}

/// Events of the path machine that the simulation does not make: its consumers do not ping, and never have a reason
/// to refuse a message or a connection for good.
const NOT_MADE: [&str; 3] = ["pinged", "faulted", "nacked"];

impl Coverage {
    pub(crate) fn machine(&mut self, machine: &Machine, event: &machine::Event) {
        for step in machine.steps() {
            *self.machine.entry((step, event.name())).or_default() += 1;
        }
    }

    pub(crate) fn route<T>(&mut self, route: &Route<T>, event: &route::Event) {
        let cell = (route.link_state(), event.name());
        *self.route.entry(cell).or_default() += 1;
    }

    /// Adds what another run has reached.
    pub fn add(&mut self, other: &Self) {
        for (sum, counts) in [
            (&mut self.machine, &other.machine),
            (&mut self.route, &other.route),
        ] {
            for (cell, count) in counts {
                *sum.entry(*cell).or_default() += count;
            }
        }
    }

    /// The cells, state and event, that can be reached and were not.
    pub fn missed(&self) -> Vec<(&'static str, &'static str)> {
        let machine = cells(&Machine::STEPS, &machine::Event::NAMES)
            .filter(|cell| !self.machine.contains_key(cell));
        let never = never();
        let route = cells(&route::LINK_STATES, &route::EVENTS)
            .filter(|(_, event)| !NOT_MADE.contains(event))
            .filter(|cell| !never.contains(cell) && !self.route.contains_key(cell));
        machine.chain(route).collect()
    }

    /// The cells that were reached though the path machine's table says that they never are: the table is wrong, or
    /// the simulation does what no consumer does.
    pub fn impossible(&self) -> Vec<(&'static str, &'static str)> {
        let never = never();
        let reached = self.route.keys().filter(|cell| never.contains(*cell));
        reached.copied().collect()
    }
}

fn cells(
    states: &'static [&'static str],
    events: &'static [&'static str],
) -> impl Iterator<Item = Cell> {
    let of = move |state: &&'static str| {
        let state = *state;
        events.iter().map(move |event| (state, *event))
    };
    states.iter().flat_map(of)
}

/// The cells of the path machine's table that its test holds to be impossible, whatever the messages do.
fn never() -> BTreeSet<Cell> {
    let mut places: BTreeMap<Cell, usize> = BTreeMap::new();
    let mut of_state: BTreeMap<&'static str, usize> = BTreeMap::new();
    for line in route::TABLE.lines() {
        let mut parts = line.split(" | ");
        let (Some(place), Some("never"), Some(events)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let state = place.split(':').next().unwrap_or(place);
        *of_state.entry(state).or_default() += 1;
        // A group on its way to the file goes with any state.
        for event in events
            .split("; ")
            .filter(|event| !event.starts_with("spool"))
        {
            *places.entry((state, event)).or_default() += 1;
        }
    }
    let in_all =
        |(cell, count): (Cell, usize)| (Some(&count) == of_state.get(cell.0)).then_some(cell);
    places.into_iter().filter_map(in_all).collect()
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table(f, &self.machine, &Machine::STEPS, &machine::Event::NAMES)?;
        writeln!(f)?;
        table(f, &self.route, &route::EVENTS, &route::LINK_STATES)
    }
}

/// States across and events down, or the other way round, whichever is narrower.
fn table(
    f: &mut fmt::Formatter<'_>,
    counts: &BTreeMap<Cell, u64>,
    across: &[&'static str],
    down: &[&'static str],
) -> fmt::Result {
    let widest = down.iter().map(|name| name.len()).max().unwrap_or(0);
    write!(f, "{:>widest$}", "")?;
    for name in across {
        write!(f, " {name:>10}")?;
    }
    writeln!(f)?;
    for row in down {
        write!(f, "{row:>widest$}")?;
        for column in across {
            let width = column.len().max(10);
            let count = counts
                .get(&(*column, *row))
                .or(counts.get(&(*row, *column)));
            match count {
                Some(count) => write!(f, " {count:>width$}")?,
                None => write!(f, " {:>width$}", "-")?,
            }
        }
        writeln!(f)?;
    }
    Ok(())
}
