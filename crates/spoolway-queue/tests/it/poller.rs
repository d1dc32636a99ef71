//! The queue as a worker: a function for each message, tried again, and stopped in order.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use spoolway_proto::Message;
use spoolway_queue::{Claimed, Filter, PollerOptions, SqliteQueue, SqliteQueuePoller};

use crate::child;
use crate::support::{DEADLINE, Fixture, consumer, message, wait_until};

fn quick() -> PollerOptions {
    PollerOptions {
        retry_wait: Duration::from_millis(1),
        attempts_max: 3,
        ..PollerOptions::default()
    }
}

/// A poller that tells the id of each message it runs; those that `fails` says so fail.
fn told(queue: &SqliteQueue, fails: fn(&Claimed) -> bool) -> (SqliteQueuePoller, Receiver<String>) {
    let (tell, heard): (Sender<String>, _) = mpsc::channel();
    let poller = SqliteQueuePoller::start(queue, quick(), move |claimed| {
        tell.send(claimed.message.id.to_string()).unwrap();
        if fails(claimed) { Err("no") } else { Ok(()) }
    });
    (poller.unwrap(), heard)
}

fn hear(heard: &Receiver<String>, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| heard.recv_timeout(DEADLINE).unwrap())
        .collect()
}

fn keyed(id: &str) -> Message {
    message(id).key("k")
}

#[test]
fn what_is_there_and_what_comes_is_run_once_and_settled() {
    let queue = Fixture::new();
    queue.enqueue(&message("before")).unwrap();
    let (poller, heard) = told(&queue, |_| false);
    assert_eq!(hear(&heard, 1), ["before"]);
    queue.enqueue(&message("after")).unwrap();
    assert_eq!(hear(&heard, 1), ["after"]);
    poller.stop().unwrap();
    assert_eq!(queue.stats().unwrap().processed, 2);
    assert!(heard.recv().is_err(), "nothing ran twice");
}

#[test]
fn what_fails_is_tried_again_then_dead_and_its_key_waits_for_it() {
    let queue = Fixture::new();
    for message in [keyed("bad"), keyed("behind"), message("other")] {
        queue.enqueue(&message).unwrap();
    }
    let (poller, heard) = told(&queue, |claimed| claimed.message.id.as_str() == "bad");
    let ran = hear(&heard, 5);
    let of_key = ran.iter().filter(|id| *id != "other");
    assert_eq!(of_key.collect::<Vec<_>>(), ["bad", "bad", "bad", "behind"]);
    poller.stop().unwrap();
    let dead = queue.dead_letters(&Filter::default(), 9).unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (dead[0].reason.as_deref(), dead[0].error.as_deref()),
        (Some("attempts"), Some("no"))
    );
    assert_eq!(queue.stats().unwrap().processed, 2);
}

#[test]
fn a_panic_is_a_failure_of_that_message_alone() {
    let queue = Fixture::new();
    queue.enqueue(&message("panics")).unwrap();
    queue.enqueue(&message("fine")).unwrap();
    let poller = SqliteQueuePoller::start(&queue, quick(), |claimed| {
        assert_ne!(claimed.message.id.as_str(), "panics", "never this one");
    })
    .unwrap();
    wait_until("both are settled", || queue.stats().unwrap().pending == 0);
    assert!(poller.is_running());
    poller.stop().unwrap();
    let dead = queue.dead_letters(&Filter::default(), 9).unwrap();
    let error = dead[0].error.as_deref().unwrap();
    assert!(error.contains("never this one"), "{error}");
}

#[test]
fn stop_waits_for_the_batch_in_hand_and_leaves_no_suspects() {
    let queue = Fixture::new();
    for n in 0..10 {
        queue.enqueue(&message(&format!("m{n}"))).unwrap();
    }
    let (began, begun) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let poller = SqliteQueuePoller::start(&queue, PollerOptions::default(), move |_| {
        began.send(()).unwrap();
        gate.recv().ok();
    })
    .unwrap();
    begun.recv_timeout(DEADLINE).unwrap();
    let stopping = std::thread::spawn(move || poller.stop());
    drop(go);
    stopping.join().unwrap().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.processed, stats.claimed, stats.suspects), (10, 0, 0));
}

#[test]
fn a_message_that_kills_its_process_dies_of_it_and_its_neighbours_live() {
    let queue = Fixture::new();
    for id in ["a", "poison", "b"] {
        queue.enqueue(&message(id)).unwrap();
    }
    let mut kills = 0;
    while queue.stats().unwrap().pending > 0 {
        let mut child = child::spawn("poll", &queue.path());
        while !child.line().is_empty() {}
        kills += 1;
        assert!(kills < 10, "the poison never died");
    }
    // The first kill is not known to be its fault; three attempts are.
    assert_eq!(kills, 1 + 3 + 1);
    let dead = queue.dead_letters(&Filter::default(), 9).unwrap();
    assert_eq!(dead[0].id.as_str(), "poison");
    assert_eq!(dead[0].reason.as_deref(), Some("killed"));
    assert_eq!(queue.stats().unwrap().processed, 2);
}

/// The part of a process that dies of the poison, and else ends when nothing is left.
pub(crate) fn poll_until_empty(path: &Path) {
    let queue = SqliteQueue::open(path, consumer()).unwrap();
    let options = PollerOptions {
        batch: 1,
        ..quick()
    };
    let poller = SqliteQueuePoller::start(&queue, options, |claimed| {
        if claimed.message.id.as_str() == "poison" {
            std::process::abort();
        }
    })
    .unwrap();
    wait_until("nothing is left", || queue.stats().unwrap().pending == 0);
    poller.stop().unwrap();
}

#[test]
fn a_second_poller_in_another_process_is_refused() {
    let queue = Fixture::new();
    queue.enqueue(&message("one")).unwrap();
    let mut child = child::spawn("dequeue", &queue.path());
    child.line();
    let refused = SqliteQueuePoller::start(&queue, quick(), |_| ()).unwrap_err();
    assert_eq!(refused.code(), "owned");
}
