//! What a seed decides: how many of what, and which faults. A failure prints all of it.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway_client::route::OnFull;
use spoolway_consumer::machine::{Dedup, OnDead};

/// The options of one run. Rates of faults are per second of simulated time.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it; a failing run prints them")]
pub struct Options {
    pub seed: u64,
    /// Print everything that happens.
    pub trace: bool,
    pub producers: usize,
    /// Messages each producer process sends before it rests.
    pub messages: usize,
    pub keys: usize,
    pub keyless_share: f64,
    pub send_every: Duration,
    pub window: u32,
    /// The sum of windows: small ones change as connections come and go.
    pub pending_max: u32,
    pub dedup: Dedup,
    pub on_dead: OnDead,
    /// The next consumer waits for the death of the last.
    pub standby: bool,
    pub slots: usize,
    pub claimed_max: usize,
    pub page: usize,
    pub slow_share: f64,
    pub fail_share: f64,
    pub reject_share: f64,
    pub ttl_share: f64,
    /// Messages of another priority than the usual one.
    pub priority_share: f64,
    pub later_share: f64,
    pub poison_share: f64,
    pub late_packet_share: f64,
    /// Dials that hang for a while, some longer than anybody waits for them.
    pub late_dial_share: f64,
    pub late_commit_share: f64,
    pub lost_wake_share: f64,
    pub kills: f64,
    pub restarts: f64,
    /// How long a consumer that was asked to end has to finish, at most.
    pub finish_within: Duration,
    pub stops: f64,
    pub cuts: f64,
    pub producer_kills: f64,
    pub disk_full: f64,
    /// Commits of producers that fail half way: nobody knows whether they took effect.
    pub half_commit_share: f64,
    pub on_full: OnFull,
    pub producer_ends: f64,
    pub flushes: f64,
    pub clock_jumps: f64,
    pub saves: f64,
    /// The queue file is put back to an earlier state while no consumer runs.
    pub restores: f64,
    /// Another file, an empty one, comes to the path of the queue file under a running consumer.
    pub replaces: f64,
    /// Processed rows are made pending again by request, beside whatever runs.
    pub replays: f64,
    /// A row is deleted behind everyone's back while no consumer runs: never drawn, since the audit must miss it.
    pub thefts: f64,
}

impl Options {
    /// Draws the options from the seed: every fault is absent from some runs and frequent in others.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let messages = rng.random_range(10..120);
        Self {
            seed,
            trace: false,
            producers: rng.random_range(1..=4),
            messages,
            keys: rng.random_range(1..=5),
            keyless_share: pick(rng, &[0.0, 0.3, 0.7, 1.0]),
            send_every: Duration::from_micros(pick(rng, &[50, 1_000, 20_000, 100_000])),
            window: pick(rng, &[1, 2, 8, 64, 1_024]),
            pending_max: pick(rng, &[3, 100, 10_000, 10_000]),
            dedup: pick(rng, &[Dedup::Memory, Dedup::Memory, Dedup::Durable]),
            on_dead: pick(rng, &[OnDead::Continue, OnDead::Continue, OnDead::Hold]),
            standby: rng.random_bool(0.3),
            slots: pick(rng, &[1, 2, 8, 64]),
            claimed_max: pick(rng, &[8, 32, 256]),
            page: pick(rng, &[1, 4, 50]),
            slow_share: pick(rng, &[0.0, 0.0, 0.05, 0.3]),
            fail_share: pick(rng, &[0.0, 0.0, 0.05, 0.3]),
            reject_share: pick(rng, &[0.0, 0.0, 0.02, 0.1]),
            ttl_share: pick(rng, &[0.0, 0.0, 0.1]),
            later_share: pick(rng, &[0.0, 0.0, 0.1]),
            poison_share: pick(rng, &[0.0, 0.0, 0.0, 0.03]),
            late_packet_share: pick(rng, &[0.0, 0.02, 0.2]),
            late_commit_share: pick(rng, &[0.0, 0.02, 0.2]),
            lost_wake_share: pick(rng, &[0.0, 0.3]),
            kills: pick(rng, &[0.0, 0.3, 2.0]),
            restarts: pick(rng, &[0.0, 0.0, 0.3, 2.0]),
            stops: pick(rng, &[0.0, 0.0, 0.3, 1.0]),
            cuts: pick(rng, &[0.0, 1.0, 10.0]),
            producer_kills: pick(rng, &[0.0, 0.0, 0.2]),
            disk_full: pick(rng, &[0.0, 0.0, 0.2, 1.0, 3.0]),
            half_commit_share: pick(rng, &[0.0, 0.0, 0.05, 0.3]),
            on_full: pick(
                rng,
                &[OnFull::Wait, OnFull::Wait, OnFull::Spool, OnFull::Error],
            ),
            producer_ends: pick(rng, &[0.0, 0.0, 0.2, 2.0]),
            flushes: pick(rng, &[0.0, 1.0, 20.0]),
            clock_jumps: pick(rng, &[0.0, 0.0, 0.5]),
            saves: pick(rng, &[0.0, 0.0, 1.0]),
            restores: pick(rng, &[0.0, 0.0, 0.0, 0.0, 0.1]),
            replaces: pick(rng, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0]),
            late_dial_share: pick(rng, &[0.0, 0.0, 0.05, 0.3]),
            finish_within: Duration::from_millis(pick(rng, &[5, 3_000, 3_000])),
            replays: pick(rng, &[0.0, 0.0, 0.0, 2.0, 30.0]),
            thefts: 0.0,
            priority_share: pick(rng, &[0.0, 0.0, 0.3]),
        }
    }
}

fn pick<T: Copy>(rng: &mut SmallRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}
