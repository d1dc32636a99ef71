//! A thousand runs with every fault; more by hand with the binary `spoolway-sim`.

use spoolway_sim::{Options, Report, run};

/// Seeds of the everyday run. Those before it were searched when the machines were written.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=1_200;

#[test]
fn a_thousand_seeds_lose_nothing_double_only_after_kills_and_keep_the_order_of_keys() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<Report> = std::thread::scope(|scope| {
        let part = |first| SEEDS.skip(first).step_by(threads).map(clean).collect();
        let parts: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || part(first)))
            .collect();
        let join =
            |part: std::thread::ScopedJoinHandle<'_, Vec<Report>>| part.join().expect("above");
        parts.into_iter().flat_map(join).collect()
    });
    let sum = |figure: fn(&Report) -> u64| parts.iter().map(figure).sum::<u64>();
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
}

fn clean(seed: u64) -> Report {
    let options = Options::from_seed(seed);
    run(options.clone()).unwrap_or_else(|broken| {
        panic!(
            "seed {seed}: {broken}\n{options:#?}\nagain: cargo run -p spoolway-sim -- --seed {seed}"
        )
    })
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let twice = [(); 2].map(|()| run(Options::from_seed(77)).expect("a clean seed"));
    assert_eq!(format!("{:?}", twice[0]), format!("{:?}", twice[1]));
}
