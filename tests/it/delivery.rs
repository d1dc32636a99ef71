//! Consumers and producers killed, stopped and restarted under load: nothing with `Ok` lost, none twice, keys in order.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Place, child, eventually, message, stream, text, wait};

const PRODUCERS: usize = 3;
const EACH: u64 = 7_000;

/// Streams from several producers while `disturb` does what it does to the consumer, round after round.
fn under_load(place: &Arc<Place>, disturb: impl FnMut() + Send + 'static) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let over = Arc::new(AtomicBool::new(false));
    let disturber = std::thread::spawn({
        let (over, mut disturb) = (Arc::clone(&over), disturb);
        move || {
            while !over.load(Ordering::Relaxed) {
                disturb();
            }
        }
    });
    let sent = runtime.block_on(async {
        let streams: Vec<_> = (0..PRODUCERS)
            .map(|name| {
                let place = Arc::clone(place);
                tokio::spawn(async move { stream(&place, name, EACH).await })
            })
            .collect();
        let mut sent = Vec::new();
        for stream in streams {
            sent.extend(stream.await.expect("a stream"));
        }
        sent
    });
    over.store(true, Ordering::Relaxed);
    disturber.join().expect("the disturber");
    sent
}

#[test]
fn a_consumer_killed_under_load_loses_nothing_doubles_nothing_and_keeps_the_order() {
    let place = Arc::new(Place::new());
    let mut serve = Some(place.serve());
    let rounds = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let sent = under_load(&place, {
        let (place, rounds) = (Arc::clone(&place), Arc::clone(&rounds));
        move || {
            let before = place.lines_so_far();
            let deadline = Instant::now() + Duration::from_millis(400);
            while place.lines_so_far() < before + 500 && Instant::now() < deadline {
                std::thread::yield_now();
            }
            if let Some(serve) = serve.take() {
                serve.kill();
            }
            serve = Some(place.serve());
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    });
    let _serve = place.serve_if_down();
    place.drained();
    eventually("every message is in the file", || {
        place.lines_so_far() >= sent.len()
    });
    assert_eq!(sent.len() as u64, PRODUCERS as u64 * EACH);
    assert!(
        rounds.load(Ordering::Relaxed) >= 3,
        "too few kills to show anything"
    );
    place.found().is_exactly(&sent);
}

#[test]
fn a_stopped_consumer_is_passed_by_and_doubles_nothing_when_it_goes_on() {
    let place = Arc::new(Place::new());
    let serve = place.serve();
    let sent = under_load(&place, {
        let (place, mut stopped) = (Arc::clone(&place), false);
        move || {
            if place.lines_so_far() > 500 && !stopped {
                stopped = true;
                serve.signal(Signal::STOP);
                eventually("the producers pass it by", || place.pending() > 0);
                serve.signal(Signal::CONT);
            }
            std::thread::yield_now();
        }
    });
    let _serve = place.serve_if_down();
    place.drained();
    eventually("every message is in the file", || {
        place.lines_so_far() >= sent.len()
    });
    place.found().is_exactly(&sent);
}

#[test]
fn terminated_under_load_it_stores_the_rest_and_exits_with_zero() {
    let place = Arc::new(Place::new());
    let mut serve = Some(place.serve());
    let sent = under_load(&place, {
        let place = Arc::clone(&place);
        move || {
            let before = place.lines_so_far();
            let deadline = Instant::now() + Duration::from_millis(400);
            while place.lines_so_far() < before + 1_000 && Instant::now() < deadline {
                std::thread::yield_now();
            }
            let status = serve.take().expect("it runs").terminate();
            assert!(
                status.success(),
                "{status}: {:?}",
                std::fs::read_to_string(place.path("serve.log"))
            );
            serve = Some(place.serve());
        }
    });
    let _serve = place.serve_if_down();
    place.drained();
    eventually("every message is in the file", || {
        place.lines_so_far() >= sent.len()
    });
    place.found().is_exactly(&sent);
}

#[test]
fn a_killed_producer_loses_nothing_it_was_told_and_doubles_nothing() {
    let place = Place::new();
    let mut told = Vec::new();
    let _serve = place.serve();
    for _ in 0..4 {
        let (mut process, lines) = child("delivery::producer_process", &place);
        for line in lines
            .filter_map(|line| line.strip_prefix("taken ").map(str::to_owned))
            .take(800)
        {
            told.push(line);
        }
        process.kill().expect("our own child");
        wait(&mut process);
    }
    place.drained();
    eventually("everything told is in the file", || {
        let found = place.found();
        told.iter().all(|id| found.ids.contains_key(id))
    });
    place.found().has_no_doubles();
}

/// A producer in a process of its own: prints each id that was taken, until it is killed.
#[test]
#[ignore = "a part of a_killed_producer_…"]
fn producer_process() {
    let Some(dir) = std::env::var_os("SPOOLWAY_TEST_DIR") else {
        return;
    };
    let dir = std::path::PathBuf::from(dir);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let producer = spoolway::Producer::open(dir.join("s.sock"), dir.join("queue.db"));
        let producer = producer.await.expect("a producer");
        let mut window = std::collections::VecDeque::new();
        let mut out = std::io::stdout().lock();
        for n in 0..1_000_000 {
            window.push_back(producer.send(message(None, n)));
            if window.len() > 64 {
                let sending = window.pop_front().expect("not empty");
                let receipt = sending.await.expect("a send");
                writeln!(out, "taken {}", receipt.id).expect("a reader");
            }
        }
    });
}

#[test]
fn without_a_consumer_messages_wait_in_the_file_and_the_next_one_takes_them() {
    let place = Place::new();
    let input = place.path("events.jsonl");
    let lines: String = (0..500)
        .map(|n| {
            format!(
                "{{\"type\":\"event\",\"key\":\"k{}\",\"payload\":{{\"n\":{n}}}}}\n",
                n % 7
            )
        })
        .collect();
    std::fs::write(&input, lines).expect("an input file");
    let sent = place.run(&["send", "--file", input.to_str().expect("UTF-8"), "--json"]);
    assert!(
        sent.status.success(),
        "{}{}",
        text(&sent.stdout),
        text(&sent.stderr)
    );
    assert_eq!(place.pending(), 500);
    let none = place.run(&["replay"]);
    assert_eq!(
        none.status.code(),
        Some(69),
        "nobody drains: {}",
        text(&none.stderr)
    );

    let serve = place.serve();
    let replay = place.run(&["replay"]);
    assert!(replay.status.success(), "{}", text(&replay.stderr));
    assert!(
        text(&replay.stdout).contains("backlog empty"),
        "{}",
        text(&replay.stdout)
    );
    assert_eq!(
        place.count("SELECT count(*) FROM message_queue WHERE processed = 1"),
        500
    );
    assert!(serve.terminate().success());
    let found = place.found();
    assert_eq!(found.ids.len(), 500);
    found.has_no_doubles();
    found.is_in_order();
}

#[test]
fn the_demo_loses_nothing_and_says_so() {
    let place = Place::new();
    let demo = place.run(&["demo", "--json"]);
    assert!(
        demo.status.success(),
        "{}{}",
        text(&demo.stdout),
        text(&demo.stderr)
    );
    let last = text(&demo.stdout);
    let report: serde_json::Value =
        serde_json::from_str(last.trim().lines().last().expect("a report")).expect("JSON");
    assert_eq!(report["lost"], 0, "{report}");
    assert!(
        report["by_queue"].as_u64().is_some_and(|count| count > 0),
        "nothing spooled: {report}"
    );
    assert!(
        report["by_socket"].as_u64().is_some_and(|count| count > 0),
        "{report}"
    );
}
