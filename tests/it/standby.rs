//! A second consumer that waits for the first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Place, eventually, stream, wait};

const SENT: u64 = 6_000;

/// A process that says for whom it stands by.
fn standby(place: &Place, owner: u32) -> crate::support::Serve {
    let standby = place.start("standby.log", &["--standby"]);
    eventually("it stands by", || {
        let said = place.said("standby.log");
        said.contains("standing by") && said.contains(&format!("pid {owner}"))
    });
    standby
}

#[test]
fn it_takes_over_from_a_killed_consumer_at_once_and_nothing_is_lost_or_doubled() {
    let place = Arc::new(Place::new());
    let first = place.serve();
    let _standby = standby(&place, first.child.id());
    let sending = std::thread::spawn({
        let place = Arc::clone(&place);
        move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(stream(&place, 0, SENT))
        }
    });
    eventually("the first is at work", || place.lines_so_far() > 500);
    first.kill();
    let killed = Instant::now();
    eventually("the second listens", || {
        place.said("standby.log").contains("is listening")
    });
    let took = killed.elapsed();
    let sent = sending.join().expect("a stream");
    place.drained();
    eventually("every message is in the file", || {
        place.lines_so_far() >= sent.len()
    });
    assert_eq!(sent.len() as u64, SENT);
    place.found().is_exactly(&sent);
    assert!(
        took < Duration::from_secs(10),
        "it took {took:?} to take over"
    );
}

#[test]
fn it_takes_over_from_one_that_ends_in_order() {
    let place = Place::new();
    let first = place.serve();
    let second = standby(&place, first.child.id());
    assert!(first.terminate().success());
    eventually("the second listens", || {
        place.said("standby.log").contains("is listening")
    });
    assert!(second.terminate().success());
}

#[test]
fn while_it_waits_a_signal_ends_it_at_once_and_the_first_goes_on() {
    let place = Place::new();
    let first = place.serve();
    for signal in [Signal::TERM, Signal::INT] {
        let mut second = standby(&place, first.child.id());
        second.signal(signal);
        assert_eq!(wait(&mut second.child).code(), Some(0));
        assert!(!place.said("standby.log").contains("is listening"));
    }
    let sent = place.json(&["send", "--type", "t", "1", "--json"]);
    assert_eq!(
        (&sent["path"], &sent["outcome"]),
        (&"socket".into(), &"processed".into())
    );
}

#[test]
fn with_nobody_to_wait_for_it_starts() {
    let place = Place::new();
    let serve = place.serve_with(&["--standby"]);
    assert!(!place.said("serve.log").contains("standing by"));
    assert!(serve.terminate().success());
}
