//! What is compared after each step: its answer, and what the file holds.

use std::collections::BTreeMap;

use crate::model::Model;
use crate::row::{Row, State, Wait};

/// What a step has to answer. Rows are named by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused(&'static str),
    Enqueued(Vec<Stored>),
    Claimed(Vec<(String, u32, bool)>),
    Peeked(Vec<Peeked>),
    Marked(bool),
    /// How many rows were meant.
    Count(u64),
    /// By the order of their rows.
    Letters(Vec<(String, u32, u32, Option<&'static str>)>),
}

/// What became of a message that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Inserted,
    Exists(State),
    Conflict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peeked {
    pub(crate) id: String,
    pub(crate) attempts: u32,
    pub(crate) delivery: u32,
    pub(crate) suspect: bool,
    /// `None`: more than can be named.
    pub(crate) before: Option<Vec<String>>,
}

/// Of a producer: rows it made, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) made: u64,
    pub(crate) processed: u64,
    pub(crate) dead: u64,
    pub(crate) pending: u64,
}

/// [`Stats`](spoolway_queue::Stats), without what the rows do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) pending: u64,
    pub(crate) ready: u64,
    pub(crate) claimed: u64,
    pub(crate) delayed: u64,
    pub(crate) retries: u64,
    pub(crate) held: u64,
    pub(crate) suspects: u64,
    pub(crate) processed: u64,
    pub(crate) dead: u64,
    pub(crate) dead_by_reason: BTreeMap<String, u64>,
}

impl Model {
    /// The producers that were heard of.
    pub(crate) fn balances(&self) -> BTreeMap<usize, Balance> {
        let known = (0..).zip(self.producers);
        let known = known.filter_map(|(producer, balance)| {
            let of_it = |row: &&Row| row.producer == Some(producer) && row.state == State::Pending;
            let pending = self.rows.iter().filter(of_it).count() as u64;
            balance.map(|balance| (producer, Balance { pending, ..balance }))
        });
        known.collect()
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            let stopped = row.key.is_some_and(|key| self.stopped.contains(key));
            match row.state {
                State::Processed => counts.processed += 1,
                State::Dead => {
                    counts.dead += 1;
                    let reason = row.reason.unwrap().to_owned();
                    *counts.dead_by_reason.entry(reason).or_default() += 1;
                }
                State::Pending => {
                    counts.pending += 1;
                    counts.retries += u64::from(row.wait == Wait::Retry);
                    *if self.claimed.contains(&row.seq) {
                        &mut counts.claimed
                    } else if row.wait != Wait::Over {
                        &mut counts.delayed
                    } else if stopped && row.delivery == 0 {
                        &mut counts.held
                    } else if row.suspect {
                        &mut counts.suspects
                    } else {
                        &mut counts.ready
                    } += 1;
                }
            }
        }
        counts
    }
}
