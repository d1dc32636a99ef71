//! The seeded simulation of producers, consumer and queue file, and the checkers it shares with the tests.
//!
//! The two machines ([`spoolway_client::route::Route`] and [`spoolway_consumer::machine::Machine`]) run here as they
//! are; sockets, the queue file, handlers, processes and time are modelled. One thread, one seed, one outcome:
//! the same seed gives the same run. A run ends in a calm phase without faults, after which everything must be settled.
//!
//! ```
//! let report = spoolway_sim::run(spoolway_sim::Options::from_seed(7)).expect("a rule was broken");
//! assert!(report.processed > 0);
//! ```

#![expect(clippy::print_stdout, reason = "the trace of a replayed seed")]

mod consumer;
mod coverage;
mod file;
mod ledger;
mod options;
mod producer;
mod world;

pub use coverage::Coverage;
pub use ledger::Broken;
pub use options::Options;
pub use world::{Report, run, run_covered};
