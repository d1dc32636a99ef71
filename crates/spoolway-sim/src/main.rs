//! Runs seeds: `spoolway-sim --seed 7` replays one, `--trace 7` prints all that happens in it, and
//! `spoolway-sim --seeds 100000 --from 1` searches, and prints which cells of the machines' tables it reached.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool of the workshop"
)]

use std::process::ExitCode;
use std::time::Instant;

use spoolway_sim::{Coverage, Options, run_covered};

fn main() -> ExitCode {
    let mut from = 1;
    let mut count = 1_000;
    let mut trace = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().and_then(|value| value.parse().ok());
        match (arg.as_str(), value) {
            ("--seed", Some(seed)) => (from, count) = (seed, 1),
            ("--trace", Some(seed)) => (from, count, trace) = (seed, 1, true),
            ("--seeds", Some(seeds)) => count = seeds,
            ("--from", Some(seed)) => from = seed,
            _ => {
                eprintln!("usage: spoolway-sim [--seed N | --trace N | --seeds COUNT [--from N]]");
                return ExitCode::from(2);
            }
        }
    }
    let start = Instant::now();
    let mut coverage = Coverage::default();
    let (mut sent, mut doubles, mut consumers, mut replayed) = (0, 0, 0, 0);
    for seed in from..from + count {
        let options = Options {
            trace,
            ..Options::from_seed(seed)
        };
        match run_covered(options.clone(), &mut coverage) {
            Ok(report) => {
                sent += report.sent;
                doubles += report.doubles;
                consumers += report.consumers;
                replayed += report.replayed;
                if count == 1 {
                    println!("{report:#?}");
                }
            }
            Err(broken) => {
                println!("seed {seed}: {broken}\n{options:#?}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "{count} seeds from {from} in {:.1} s: {sent} messages, {consumers} consumers, {doubles} doubles admitted, {replayed} replayed",
        start.elapsed().as_secs_f64()
    );
    if count > 1 {
        let cells = |cells: Vec<(&str, &str)>| {
            let named = cells
                .iter()
                .map(|(state, event)| format!("{state} x {event}"));
            named.collect::<Vec<_>>().join(", ")
        };
        println!("{coverage}\nnot reached: {}", cells(coverage.missed()));
        println!("reached, and impossible: {}", cells(coverage.impossible()));
    }
    ExitCode::SUCCESS
}
