//! The queue on a real file against a model of it: a list of rows, and rules that are obviously right.
//!
//! A run is a list of steps, chosen by proptest. The model says what each must answer, and after
//! each the file must hold what the model holds: every row, every count, the balance of every
//! producer. A run that differs is made shorter until no step can be left out, and its seed is
//! printed, and kept in `tests/model/regressions.txt`. More cases: `PROPTEST_CASES=5000`.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests, fail like them"
)]

mod answer;
mod claims;
mod model;
mod row;
mod steps;
mod system;
mod words;

use proptest::test_runner::{Config, FileFailurePersistence, TestError, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::model::Flaw;
use crate::steps::Steps;
use crate::system::Against;

/// Steps of a run at most.
const STEPS_MAX: usize = 40;

fn config() -> Config {
    let everyday = Config::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => everyday.cases,
        None => 200,
    };
    let file = FileFailurePersistence::Direct("tests/model/regressions.txt");
    Config {
        cases,
        failure_persistence: Some(Box::new(file)),
        ..everyday
    }
}

proptest_state_machine::prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn the_queue_does_what_its_model_does(sequential 1..STEPS_MAX => Against);
}

/// A model that is wrong in this way must be found to differ.
fn differs<const FLAW: u8>() {
    let config = Config {
        cases: 500,
        failure_persistence: None,
        // That it differs is enough.
        max_shrink_iters: 1,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config.clone());
    let steps = Steps::<FLAW>::sequential_strategy(1..STEPS_MAX);
    let found = runner.run(&steps, |(start, steps, seen)| {
        Against::<FLAW>::test_sequential(config.clone(), start, steps, seen);
        Ok(())
    });
    assert!(matches!(found, Err(TestError::Fail(..))), "{found:?}");
}

#[test]
fn a_model_that_dequeues_in_the_other_order_is_found_wrong() {
    differs::<{ Flaw::Reversed as u8 }>();
}

#[test]
fn a_model_that_counts_a_release_as_an_attempt_is_found_wrong() {
    differs::<{ Flaw::ReleaseCounts as u8 }>();
}

#[test]
fn a_model_that_forgets_what_a_crash_leaves_is_found_wrong() {
    differs::<{ Flaw::NoSuspects as u8 }>();
}

#[test]
fn a_model_that_runs_suspects_together_is_found_wrong() {
    differs::<{ Flaw::SuspectsTogether as u8 }>();
}

#[test]
fn a_model_without_lanes_is_found_wrong() {
    differs::<{ Flaw::NoLanes as u8 }>();
}
