//! Power cuts anywhere: what was answered `Ok` is there, what was not is whole or absent.

use std::collections::BTreeSet;
use std::sync::Mutex;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway_faultfs::{Disk, Image, Log, Loss, Replay};
use spoolway_queue::{Durability, QueueOptions};

use crate::check::{Verdict, check};
use crate::ledger::{End, Entry, Ledger};
use crate::life::{live, live_for_a_cleanup};
use crate::support::{for_each_seed, options, report, seeds, tempdir};

const SEEDS: u64 = 66;

/// Lives of a seed: the next one starts on what a cut of the last one left.
const LIVES: u64 = 2;

/// Calls of a life.
const STEPS: usize = 22;

/// Cuts of a life, half of them right behind a sync.
const CUTS: usize = 48;

#[derive(Debug, Default)]
struct Sum {
    cuts: usize,
    /// Cuts after which something that was answered was not there.
    lost: Vec<String>,
    /// Cuts after which something was there that no power cut may leave.
    wrong: Vec<String>,
}

#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_answered() {
    let sum = run(SEEDS, Durability::Full, Replay::new);
    assert!(sum.wrong.is_empty(), "{}", sum.wrong[0]);
    assert!(sum.lost.is_empty(), "{}", sum.lost[0]);
    assert!(
        sum.cuts >= 5_000 || SEEDS > seeds(SEEDS).len() as u64,
        "{} cuts",
        sum.cuts
    );
}

#[test]
fn without_syncs_a_power_cut_loses_the_last_commits_and_nothing_else() {
    let sum = run(SEEDS / 8, Durability::Process, Replay::new);
    assert!(sum.wrong.is_empty(), "{}", sum.wrong[0]);
    assert!(sum.lost.len() > sum.cuts / 4, "the harness sees no losses");
}

#[test]
fn a_disk_that_only_says_it_synced_is_found_out() {
    let sum = run(SEEDS / 8, Durability::Full, Replay::lying);
    let found = sum.lost.len() + sum.wrong.len();
    assert!(found > sum.cuts / 4, "the harness sees no losses");
}

/// A cleanup waits for no sync. What comes back is as settled as it was, and goes once something behind it is synced.
#[test]
fn a_power_cut_in_a_cleanup_brings_back_what_was_processed_and_nothing_else() {
    let (dir, options, mut ledger) = (tempdir(), options(Durability::Full), Ledger::default());
    let disk = Disk::under(&dir).unwrap();
    let cleaned = live_for_a_cleanup(&disk, dir.path(), &options, &mut ledger);
    let (log, answered) = (disk.log(), cleaned.answered.unwrap());
    assert!(
        log.syncs().all(|at| at <= cleaned.begun || at > answered),
        "a slice waited for a sync"
    );
    let (mut replay, mut back) = (Replay::new(), 0);
    for cut in cleaned.begun..=log.len() {
        replay.advance(&log, cut);
        let dir = tempdir();
        replay
            .image(Loss::random(cut as u64))
            .write_to(&dir)
            .unwrap();
        let _disk = Disk::under(&dir).unwrap();
        let (verdict, found) = check(dir.path(), &options, &ledger, cut);
        assert!(verdict.wrong.is_empty(), "{cut}: {:?}", verdict.wrong);
        assert!(verdict.lost.is_empty(), "{cut}: {:?}", verdict.lost);
        let came_back = |entry: &Entry| entry.ends.iter().any(|(end, _)| *end == End::Processed);
        back += usize::from(cut >= answered && found.entries.iter().any(came_back));
    }
    assert!(back > 0, "the harness sees no deletion undone");
}

/// Runs random workloads and cuts their power.
fn run(seeds: u64, durability: Durability, disk: fn() -> Replay) -> Sum {
    let sum = Mutex::new(Sum::default());
    for_each_seed(seeds, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut ledger, mut left) = (Ledger::default(), Image::default());
        for life in 0..LIVES {
            let cuts = Cuts {
                options: options(durability),
                replay: disk(),
                name: seed * 100 + life,
            };
            let Some(next) = cuts.of_a_life(ledger, left, &mut rng, &sum) else {
                return;
            };
            (ledger, left) = next;
        }
    });
    let sum = sum.into_inner().unwrap();
    let (cuts, lost) = (sum.cuts, sum.lost.len());
    report(&format!(
        "{durability:?}: {cuts} power cuts, {lost} with a loss"
    ));
    sum
}

struct Cuts {
    options: QueueOptions,
    replay: Replay,
    /// Seed and life.
    name: u64,
}

impl Cuts {
    /// Lives once on what is left and looks at what many cuts leave of that; returns the last one,
    /// unless something is wrong with it.
    fn of_a_life(
        mut self,
        mut ledger: Ledger,
        left: Image,
        rng: &mut SmallRng,
        sum: &Mutex<Sum>,
    ) -> Option<(Ledger, Image)> {
        let dir = tempdir();
        left.write_to(&dir).unwrap();
        let disk = Disk::under(&dir).unwrap();
        let start = disk.position();
        live(
            &disk,
            dir.path(),
            &self.options,
            &mut ledger,
            (self.name, STEPS),
        );
        let (log, mut next) = (disk.log(), None);
        for cut in places(&log, start, rng) {
            self.replay.advance(&log, cut);
            let loss = Loss::random(rng.random());
            let image = self.replay.image(loss);
            let (verdict, found) = self.look(&image, &ledger, cut, rng);
            let report = |what: &[String]| {
                let (seed, end) = (self.name / 100, log.len());
                format!("SPOOLWAY_SEED={seed}: cut at {cut} of {end}, {loss:?}: {what:#?}")
            };
            let mut sum = sum.lock().unwrap();
            sum.cuts += 1;
            if !verdict.lost.is_empty() {
                sum.lost.push(report(&verdict.lost));
            }
            next = Some((found, image));
            if !verdict.wrong.is_empty() {
                sum.wrong.push(report(&verdict.wrong));
                next = None;
            }
        }
        next
    }

    /// Power is back; now and then it goes again before whoever looks is done.
    fn look(
        &self,
        image: &Image,
        ledger: &Ledger,
        cut: usize,
        rng: &mut SmallRng,
    ) -> (Verdict, Ledger) {
        let dir = tempdir();
        image.write_to(&dir).unwrap();
        let disk = Disk::under(&dir).unwrap();
        let start = disk.position();
        let (mut verdict, found) = check(dir.path(), &self.options, ledger, cut);
        if rng.random_ratio(1, 8) {
            let (log, mut replay) = (disk.log(), Replay::new());
            replay.advance(&log, rng.random_range(start..=log.len()));
            let again = replay.image(Loss::random(rng.random()));
            let dir = tempdir();
            again.write_to(&dir).unwrap();
            let _disk = Disk::under(&dir).unwrap();
            let (second, _) = check(dir.path(), &self.options, ledger, cut);
            verdict.lost.extend(second.lost);
            verdict.wrong.extend(second.wrong);
        }
        (verdict, found)
    }
}

/// Where to cut, rising: half of them right behind a sync.
fn places(log: &Log, start: usize, rng: &mut SmallRng) -> Vec<usize> {
    let syncs: Vec<_> = log.syncs().filter(|&at| at > start).collect();
    let places: BTreeSet<_> = (0..CUTS)
        .map(|n| match n % 2 {
            0 if !syncs.is_empty() => syncs[rng.random_range(0..syncs.len())],
            _ => rng.random_range(start..=log.len()),
        })
        .collect();
    places.into_iter().collect()
}
