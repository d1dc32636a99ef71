//! Which cells of the machines' state × event tables the runs have reached.

use std::collections::BTreeMap;
use std::fmt;

use spoolway_client::route::{self, Route};
use spoolway_consumer::machine::{self, Machine};

/// How often each event met each state.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    machine: BTreeMap<(&'static str, &'static str), u64>,
    route: BTreeMap<(&'static str, &'static str), u64>,
}

impl Coverage {
    pub(crate) fn machine(&mut self, machine: &Machine, event: &machine::Event) {
        for step in machine.steps() {
            *self.machine.entry((step, event.name())).or_default() += 1;
        }
    }

    pub(crate) fn route<T>(&mut self, _route: &Route<T>, _event: &route::Event) {}

    /// Adds what another run has reached.
    pub fn add(&mut self, other: &Self) {
        for (cell, count) in &other.machine {
            *self.machine.entry(*cell).or_default() += count;
        }
        for (cell, count) in &other.route {
            *self.route.entry(*cell).or_default() += count;
        }
    }

    /// The cells that no run has reached, as `state x event`.
    pub fn missed(&self) -> Vec<String> {
        let cell =
            |step, event| (!self.machine.contains_key(&(step, event))).then_some((step, event));
        let cells = Machine::STEPS.into_iter().flat_map(|step| {
            machine::Event::NAMES
                .into_iter()
                .map(move |event| (step, event))
        });
        cells
            .filter_map(|(step, event)| cell(step, event))
            .map(|(step, event)| format!("{step} x {event}"))
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14}", "")?;
        for step in Machine::STEPS {
            write!(f, "{step:>11}")?;
        }
        writeln!(f)?;
        for event in machine::Event::NAMES {
            write!(f, "{event:>14}")?;
            for step in Machine::STEPS {
                let count = self.machine.get(&(step, event)).copied().unwrap_or(0);
                write!(f, "{count:>11}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
