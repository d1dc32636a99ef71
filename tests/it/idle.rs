//! What a consumer costs that has nothing to do.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Place, stream};

/// What is promised, in KiB.
const RESIDENT_MAX: u64 = 20 * 1024;

#[tokio::test]
async fn an_idle_consumer_stays_below_20_mib() {
    let place = Place::new();
    let serve = place.serve();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", serve.child.id()));
        let status = status.expect("Linux, and our own child");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect("VmRSS in kB").parse::<u64>().expect("a number")
    };
    let fresh = resident();
    assert!(fresh < RESIDENT_MAX, "{fresh} KiB before the first message");
    stream(&place, 0, 1_000).await;
    let used = resident();
    println!("resident: {fresh} KiB fresh, {used} KiB after 1,000 messages");
    assert!(used < RESIDENT_MAX, "{used} KiB after 1,000 messages");
}

/// `cargo test --release -p spoolway-cli --test it -- --ignored --nocapture idle` prints it; 1 % is promised.
#[test]
#[ignore = "it takes 10 s and only prints"]
fn what_an_idle_consumer_takes_of_a_core() {
    let place = Place::new();
    let serve = place.serve();
    let tasks = format!("/proc/{}/task", serve.child.id());
    let on_cpu = || -> u64 {
        let tasks = fs::read_dir(&tasks).expect("Linux, and our own child");
        let spent = tasks.map(|task| {
            let stat = task.expect("a thread").path().join("schedstat");
            let stat = fs::read_to_string(stat).unwrap_or_default();
            let nanoseconds = stat.split(' ').next().and_then(|spent| spent.parse().ok());
            nanoseconds.unwrap_or(0)
        });
        spent.sum()
    };
    let (start, before) = (Instant::now(), on_cpu());
    thread::sleep(Duration::from_secs(10));
    let (spent, passed) = (on_cpu() - before, start.elapsed());
    let percent = 100.0 * spent as f64 / passed.as_nanos() as f64;
    println!("idle: {percent:.2} % of a core over {passed:.1?}");
}
