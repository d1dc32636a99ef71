//! The consumer learns of new rows.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use spoolway_proto::Timestamp;
use spoolway_queue::{HeldKey, SqliteQueue, Watch, Write, side_file};

use crate::support::{DEADLINE, Fixture, consumer, message, row};

fn watch(queue: &SqliteQueue) -> (Watch, mpsc::Receiver<Instant>) {
    let (sender, fired) = mpsc::channel();
    let watch = Watch::start(queue, move || _ = sender.send(Instant::now())).unwrap();
    (watch, fired)
}

/// How long it takes at best until a change is seen: of several, since a machine can be busy.
fn best(fired: &mpsc::Receiver<Instant>, mut change: impl FnMut(usize)) -> Duration {
    let times = (0..10).map(|n| {
        while fired.try_recv().is_ok() {}
        change(n);
        let changed = Instant::now();
        fired
            .recv_timeout(DEADLINE)
            .unwrap()
            .saturating_duration_since(changed)
    });
    times.min().unwrap()
}

#[test]
fn a_datagram_wakes_the_consumer_at_once() {
    let queue = Fixture::new();
    let (_watch, fired) = watch(&queue);
    let producer = queue.again();
    let took = best(&fired, |n| {
        producer
            .write(vec![row(message(&format!("m{n}")))])
            .unwrap();
    });
    assert!(took < Duration::from_millis(8), "{took:?}");
}

#[test]
fn a_key_that_is_released_wakes_and_one_that_was_not_stopped_does_not() {
    let queue = Fixture::new();
    let socket = UnixDatagram::bind(side_file(&queue.path(), ".wake")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let woken = || socket.recv(&mut [0; 16]).is_ok();
    let producer = queue.again();
    let stopped = message("x").key("k");
    let held = HeldKey {
        key: stopped.key.unwrap(),
        since: Timestamp(3),
        message_id: stopped.id,
        reason: "attempts".into(),
    };
    let free = Write::FreeKey(held.key.clone());
    producer.write(vec![Write::HoldKey(held)]).unwrap();
    assert!(!woken(), "there is less to run, not more");
    producer.write(vec![free.clone()]).unwrap();
    assert!(woken());
    producer.write(vec![free]).unwrap();
    assert!(!woken());
}

#[test]
fn a_foreign_writer_is_seen_soon() {
    let queue = Fixture::new();
    let (_watch, fired) = watch(&queue);
    fired.recv_timeout(DEADLINE).unwrap();
    let foreign = queue.foreign();
    let took = best(&fired, |n| {
        let insert = "INSERT INTO message_queue (message_id, type, payload, timestamp) \
                      VALUES (?, 'task', '1', 7)";
        foreign.execute(insert, [format!("f{n}")]).unwrap();
    });
    assert!(took < Duration::from_millis(500), "{took:?}");
}

/// What came while nobody watched was seen only with the look of each second: a consumer read the file, another
/// program added a row, and the watch took that for what had been there before.
#[test]
fn a_watch_says_at_once_that_it_has_begun() {
    let queue = Fixture::new();
    let took = (0..5).map(|_| {
        let started = Instant::now();
        let (_watch, fired) = watch(&queue);
        let first = fired.recv_timeout(DEADLINE).unwrap();
        first.saturating_duration_since(started)
    });
    let took = took.min().unwrap();
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn settlements_do_not_wake_and_each_second_does() {
    let queue = Fixture::new();
    let seqs: Vec<_> = (0..500)
        .map(|n| queue.insert(message(&format!("m{n}"))))
        .collect();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let _watch = Watch::start(&queue, move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let started = Instant::now();
    for seq in seqs {
        queue
            .write(vec![Write::Processed { seq, attempts: 1 }])
            .unwrap();
    }
    assert!(
        started.elapsed() > Duration::from_millis(20),
        "it had time to look"
    );
    // One when it begins.
    let allowed = 2 + usize::try_from(started.elapsed().as_secs()).unwrap();
    let fired = count.load(Ordering::Relaxed);
    assert!(fired <= allowed, "{fired} of {allowed}");
    crate::support::wait_until("it fires each second", || {
        count.load(Ordering::Relaxed) > fired + 1
    });
}

#[test]
fn a_replaced_file_wakes_and_is_watched_from_then_on() {
    let queue = Fixture::new();
    let (_watch, fired) = watch(&queue);
    let other = queue.dir.path().join("other.db");
    SqliteQueue::open(&other, consumer()).unwrap().close();
    std::fs::rename(&other, queue.path()).unwrap();
    crate::support::wait_until("the new file is open", || {
        queue.identity() == queue.again().identity()
    });
    let foreign = queue.foreign();
    let took = best(&fired, |n| {
        let insert = "INSERT INTO message_queue (message_id, type, payload, timestamp) \
                      VALUES (?, 'task', '1', 7)";
        foreign.execute(insert, [format!("f{n}")]).unwrap();
    });
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_stale_socket_is_replaced_and_its_own_removed() {
    let queue = Fixture::new();
    let socket = side_file(queue.queue.path(), ".wake");
    drop(UnixDatagram::bind(&socket).unwrap());
    assert!(socket.exists());
    let (watch, fired) = watch(&queue);
    queue.insert(message("a"));
    fired.recv_timeout(DEADLINE).unwrap();
    let started = Instant::now();
    drop(watch);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!socket.exists());
    queue.insert(message("nobody listens"));
}

#[test]
fn a_path_too_long_for_a_socket_is_watched_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(100));
    std::fs::create_dir(&long).unwrap();
    let queue = SqliteQueue::open(long.join("q.db"), consumer()).unwrap();
    let (_watch, fired) = watch(&queue);
    let took = best(&fired, |n| {
        queue.write(vec![row(message(&format!("m{n}")))]).unwrap();
    });
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert!(!side_file(queue.path(), ".wake").exists());
}
