//! What goes wrong and when: the whole schedule, drawn from the seed before anything starts.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::args::Fault;

/// Nothing goes wrong before this.
const QUIET_FIRST: Duration = Duration::from_millis(200);
/// Nothing goes wrong during this last part of the time, at most a fifth of it.
const QUIET_LAST: Duration = Duration::from_secs(2);
/// Mean time that the consumer goes on between two faults of its own.
const CONSUMER_GAP: Duration = Duration::from_millis(1_500);
/// Mean time between two kills of a producer.
const PRODUCER_GAP: Duration = Duration::from_secs(4);
/// Mean time between two cuts: 10 Hz.
const CUT_GAP: Duration = Duration::from_millis(100);
/// How long the killed stay away at most.
const AWAY_MAX: Duration = Duration::from_millis(500);
/// How long a consumer is stopped. Producers give a silent one up after 5 s.
const STOP_MS: (f64, f64) = (50.0, 7_000.0);

/// Something that is done to the processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Act {
    KillConsumer,
    StartConsumer,
    StopConsumer,
    ContinueConsumer,
    KillProducer(usize),
    StartProducer(usize),
    /// Cuts the connections between producers and consumer: each with a chance of one in `one_in`.
    Cut {
        one_in: u32,
        seed: u64,
    },
}

/// An act, and when it is due after the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Planned {
    pub(super) at: Duration,
    pub(super) act: Act,
}

/// The acts of one run, by time. At its end every process is up and runs.
pub(super) fn plan(
    seed: u64,
    faults: &[Fault],
    producers: usize,
    length: Duration,
) -> Vec<Planned> {
    let end = length - QUIET_LAST.min(length / 5);
    let has = |fault| faults.contains(&fault);
    // Each kind draws from numbers of its own, so that leaving one out changes no other.
    let mut planned = Vec::new();
    let mut stage = Stage {
        seed,
        end,
        planned: &mut planned,
    };
    if has(Fault::Kill) || has(Fault::Stop) {
        stage.consumer(has(Fault::Kill), has(Fault::Stop));
    }
    if has(Fault::Kill) {
        stage.producers(producers);
    }
    if has(Fault::Flap) {
        stage.cuts();
    }
    // The sort is stable: what belongs together stays in its order.
    planned.sort_by_key(|planned| planned.at);
    planned
}

struct Stage<'a> {
    seed: u64,
    end: Duration,
    planned: &'a mut Vec<Planned>,
}

impl Stage<'_> {
    fn consumer(&mut self, kills: bool, stops: bool) {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 1);
        let mut at = QUIET_FIRST;
        loop {
            // However short the time is, there is room for a few.
            at += gap(&mut rng, CONSUMER_GAP.min(self.end / 6));
            if at >= self.end {
                return;
            }
            let stop = stops && (!kills || rng.random_bool(0.4));
            if stop {
                let (least, most) = STOP_MS;
                let stopped = least * (most / least).powf(rng.random_range(0.0..1.0));
                self.add(at, Act::StopConsumer);
                at = self.end.min(at + Duration::from_secs_f64(stopped / 1e3));
                if !(kills && rng.random_bool(0.25)) {
                    self.add(at, Act::ContinueConsumer);
                    continue;
                }
            }
            self.add(at, Act::KillConsumer);
            at += away(&mut rng);
            self.add(at, Act::StartConsumer);
        }
    }

    fn producers(&mut self, producers: usize) {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 2);
        let mut free_at = vec![Duration::ZERO; producers];
        let mut at = QUIET_FIRST;
        loop {
            at += gap(&mut rng, PRODUCER_GAP.min(self.end / 4));
            if at >= self.end {
                return;
            }
            let slot = rng.random_range(0..producers);
            let back = at + away(&mut rng);
            if free_at[slot] <= at {
                self.add(at, Act::KillProducer(slot));
                self.add(back, Act::StartProducer(slot));
                free_at[slot] = back;
            }
        }
    }

    fn cuts(&mut self) {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 3);
        let mut at = QUIET_FIRST;
        loop {
            at += gap(&mut rng, CUT_GAP);
            if at >= self.end {
                return;
            }
            let one_in = rng.random_range(1..=3);
            let seed = rng.random();
            self.add(at, Act::Cut { one_in, seed });
        }
    }

    fn add(&mut self, at: Duration, act: Act) {
        self.planned.push(Planned { at, act });
    }
}

/// Times between events that do not know of each other.
fn gap(rng: &mut SmallRng, mean: Duration) -> Duration {
    mean.mul_f64(-f64::ln(rng.random_range(f64::MIN_POSITIVE..1.0)))
}

fn away(rng: &mut SmallRng) -> Duration {
    AWAY_MAX.mul_f64(rng.random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Fault] = &[Fault::Kill, Fault::Stop, Fault::Flap];
    const LENGTH: Duration = Duration::from_secs(20);

    fn acts(seed: u64, faults: &[Fault]) -> Vec<Planned> {
        plan(seed, faults, 3, LENGTH)
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(acts(7, ALL), acts(7, ALL));
        assert_ne!(acts(7, ALL), acts(8, ALL));
        assert!(acts(7, &[]).is_empty());
    }

    #[test]
    fn leaving_a_fault_out_leaves_the_others_where_they_are() {
        let cuts = |faults| {
            let is_cut = |planned: &Planned| matches!(planned.act, Act::Cut { .. });
            acts(7, faults)
                .into_iter()
                .filter(is_cut)
                .collect::<Vec<_>>()
        };
        assert_eq!(cuts(ALL), cuts(&[Fault::Flap]));
        assert!(cuts(ALL).len() > 100, "10 a second");
    }

    #[test]
    fn everyone_is_up_at_the_end_and_nobody_is_killed_twice() {
        for seed in 0..300 {
            let mut running = true;
            let mut stopped = false;
            let mut producers = [true; 3];
            let mut last = Duration::ZERO;
            for Planned { at, act } in acts(seed, ALL) {
                assert!(at >= last && at < LENGTH, "seed {seed}: {act:?} at {at:?}");
                last = at;
                match act {
                    Act::KillConsumer => assert!(std::mem::take(&mut running), "seed {seed}"),
                    Act::StartConsumer => {
                        assert!(!std::mem::replace(&mut running, true), "seed {seed}");
                        stopped = false;
                    }
                    Act::StopConsumer => {
                        assert!(
                            running && !std::mem::replace(&mut stopped, true),
                            "seed {seed}"
                        );
                    }
                    Act::ContinueConsumer => {
                        assert!(running && std::mem::take(&mut stopped), "seed {seed}");
                    }
                    Act::KillProducer(slot) => {
                        assert!(std::mem::take(&mut producers[slot]), "seed {seed}");
                    }
                    Act::StartProducer(slot) => {
                        assert!(
                            !std::mem::replace(&mut producers[slot], true),
                            "seed {seed}"
                        );
                    }
                    Act::Cut { .. } => {}
                }
            }
            assert!(running && !stopped && producers == [true; 3], "seed {seed}");
        }
    }

    #[test]
    fn a_consumer_that_is_only_stopped_survives() {
        let killed = |planned: &Planned| matches!(planned.act, Act::KillConsumer);
        assert!(!acts(7, &[Fault::Stop, Fault::Flap]).iter().any(killed));
        assert!(acts(7, ALL).iter().any(killed));
    }
}
