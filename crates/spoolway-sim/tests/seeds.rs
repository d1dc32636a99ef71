//! A thousand runs with every fault; more by hand with the binary `spoolway-sim`.

use spoolway_sim::{Options, run};

/// Seeds of the everyday run. Those before it were searched when the machines were written.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=1_200;

#[test]
fn a_thousand_seeds_lose_nothing_double_only_after_kills_and_keep_the_order_of_keys() {
    let (mut sent, mut processed, mut doubles, mut consumers) = (0, 0, 0, 0);
    for seed in SEEDS {
        let options = Options::from_seed(seed);
        match run(options.clone()) {
            Ok(report) => {
                sent += report.sent;
                processed += report.processed;
                doubles += report.doubles;
                consumers += report.consumers;
            }
            Err(broken) => panic!(
                "seed {seed}: {broken}\n{options:#?}\nagain: cargo run -p spoolway-sim -- --seed {seed}"
            ),
        }
    }
    println!("{sent} sent, {processed} processed, {doubles} doubles, {consumers} consumers");
    assert!(
        doubles > 0,
        "no double in any run: kills do not reach the window, so nothing is shown"
    );
    assert!(
        consumers > *SEEDS.end(),
        "no consumer was ever killed or restarted"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let twice = [(); 2].map(|()| run(Options::from_seed(77)).expect("a clean seed"));
    assert_eq!(format!("{:?}", twice[0]), format!("{:?}", twice[1]));
}
