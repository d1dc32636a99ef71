//! A thousand runs with every fault; more by hand with the binary `spoolway-sim`.

use std::sync::LazyLock;

use spoolway_sim::{Broken, Coverage, Options, Report, run, run_covered};

/// Seeds of the everyday run. Those before it were searched when the machines were written.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=1_200;

/// Cells of the two tables, a state and events (none: all), that these seeds may miss, and why. What the events do there
/// is in the machines' own tests, `every_event_in_every_state_does_what_the_table_says` of the consumer and
/// `every_event_in_every_place_does_what_the_table_says` of the producer.
#[rustfmt::skip]
const MAY_BE_MISSED: [(&str, &[&str], &str); 12] = [
    // Impossible here.
    ("greeting, hello not said", &["heard"], "before hello a consumer speaks only to refuse, which these never do"),
    ("up, leaving", &["goodbye"], "goodbye is said once"),
    // Rare: the state ends with one commit, and the event comes once in a run of the consumer.
    ("Claiming", &["Halt"], "a drain comes before, and gives back what is claimed but for lanes that are leaving"),
    ("Beginning", &["Replaced", "Halt"], "the commit of one suspect at a time"),
    ("Burying", &["Replaced", "Halt"], "the commit of a dead letter"),
    ("Delayed", &["PolledKey", "PolledSuspects", "Replaced", "Drain", "Halt"], "a commit failed after the handler had"),
    // Rare: what is held waits, so a group is on its way only if it was before, and a commit is short.
    ("holding", &["spool failed", "spool unknown"], "a group of before"),
    ("dialing, held", &["spool failed", "spool unknown"], "a group of before"),
    ("greeting, held", &["spooled", "spool failed", "spool unknown"], "a group of before"),
    ("up, leaving", &["spooled", "spool failed", "spool unknown", "appeared"], "a group of before; a successor at once"),
    ("greeting, hello not said", &["appeared", "abandon"], "hello waits for one commit"),
    ("greeting, hello not said, held", &[], "both: hello waits for a group of before"),
];

static RUNS: LazyLock<(Vec<Report>, Coverage)> = LazyLock::new(|| {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let part = |first| {
            let mut coverage = Coverage::default();
            let seeds = SEEDS.skip(first).step_by(threads);
            let reports: Vec<_> = seeds.map(|seed| clean(seed, &mut coverage)).collect();
            (reports, coverage)
        };
        let parts: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || part(first)))
            .collect();
        let mut sum = (Vec::new(), Coverage::default());
        for part in parts {
            let (reports, coverage) = part.join().expect("above");
            sum.0.extend(reports);
            sum.1.add(&coverage);
        }
        sum
    })
});

fn clean(seed: u64, coverage: &mut Coverage) -> Report {
    let options = Options::from_seed(seed);
    run_covered(options.clone(), coverage).unwrap_or_else(|broken| {
        panic!(
            "seed {seed}: {broken}\n{options:#?}\nagain: cargo run -p spoolway-sim -- --seed {seed}"
        )
    })
}

#[test]
fn a_thousand_seeds_lose_nothing_double_only_after_kills_and_keep_the_order_of_keys() {
    let (reports, _) = &*RUNS;
    let sum = |figure: fn(&Report) -> u64| reports.iter().map(figure).sum::<u64>();
    let (doubles, consumers) = (sum(|report| report.doubles), sum(|report| report.consumers));
    println!(
        "{} sent, {doubles} doubles, {consumers} consumers",
        sum(|report| report.sent)
    );
    assert!(
        doubles > 0,
        "no double in any run: kills do not reach the window, so nothing is shown"
    );
    assert!(
        consumers > *SEEDS.end(),
        "no consumer was ever killed or restarted"
    );
    assert!(
        sum(|report| report.replayed) > 1_000,
        "hardly anything was replayed"
    );
}

#[test]
fn every_event_meets_every_state() {
    let (_, coverage) = &*RUNS;
    println!("{coverage}");
    let all = Coverage::default().missed();
    for (state, events, _) in MAY_BE_MISSED {
        assert!(all.iter().any(|(known, _)| *known == state), "{state}");
        let unknown = events.iter().find(|event| !all.contains(&(state, **event)));
        assert_eq!(unknown, None, "{state}: no such cell");
    }
    let may_be_missed = |(state, event): &(&str, &str)| {
        let listed = |(at, events, _): &(&str, &[&str], &str)| {
            at == state && (events.is_empty() || events.contains(event))
        };
        MAY_BE_MISSED.iter().any(listed)
    };
    let mut missed = coverage.missed();
    missed.retain(|cell| !may_be_missed(cell));
    assert_eq!(missed, [], "not reached by any seed");
    assert_eq!(
        coverage.impossible(),
        [],
        "reached, and its table says never"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let twice = [(); 2].map(|()| run(Options::from_seed(77)).expect("a clean seed"));
    assert_eq!(format!("{:?}", twice[0]), format!("{:?}", twice[1]));
}

#[test]
fn a_row_that_is_taken_from_the_file_behind_everyones_back_is_missed_by_the_audit() {
    let mut seen = 0;
    for seed in 1..=60 {
        let honest = Options {
            // Another file has counts of its own, and nothing is said of it.
            restores: 0.0,
            replaces: 0.0,
            ..Options::from_seed(seed)
        };
        run(honest.clone()).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        let robbed = Options {
            thefts: 2.0,
            ..honest
        };
        match run(robbed) {
            Ok(report) => assert_eq!(report.stolen, 0, "seed {seed}: nothing is missing"),
            Err(Broken::Safety(text)) if text.starts_with("the audit misses") => seen += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    assert!(seen > 10, "rows were stolen in {seen} runs only");
}
