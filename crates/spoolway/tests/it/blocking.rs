//! The blocking producer, from threads that have no runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use spoolway::blocking::Producer;
use spoolway::client::Path;
use spoolway::{Consumer, Message, Outcome};
use tokio::sync::oneshot;

use crate::place::{DEADLINE, Place, wait_until};

/// A consumer on a thread of its own, until the value is dropped.
struct Office {
    processed: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
    close: Option<oneshot::Sender<()>>,
}

impl Office {
    fn open(place: &Place) -> Self {
        let (close, closed) = oneshot::channel::<()>();
        let processed = Arc::new(AtomicU64::new(0));
        let counts = Arc::clone(&processed);
        let building = Consumer::builder(place.socket(), place.queue())
            .default(move |_| {
                let counts = Arc::clone(&counts);
                async move {
                    counts.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let consumer = runtime.block_on(building).unwrap();
        let thread = thread::spawn(move || {
            let running = consumer.run(async { drop(closed.await) });
            runtime.block_on(running).unwrap();
        });
        Self {
            processed,
            thread: Some(thread),
            close: Some(close),
        }
    }

    fn processed(&self) -> u64 {
        self.processed.load(Ordering::Relaxed)
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        drop(self.close.take());
        self.thread.take().map(thread::JoinHandle::join);
    }
}

fn message(n: u32) -> Message {
    Message::new("task", &n).unwrap().key("k")
}

#[test]
fn threads_without_a_runtime_send_over_both_paths() {
    let place = Place::new();
    let producer = Producer::open(place.socket(), place.queue()).unwrap();
    let stored = producer.send(message(0)).unwrap();
    assert_eq!(
        (stored.path, stored.outcome),
        (Path::Queue, Outcome::Stored)
    );

    let office = Office::open(&place);
    let mut before = 1;
    wait_until("it has found the consumer", || {
        before += 1;
        producer.send(message(1)).unwrap().path == Path::Socket
    });
    wait_until("the backlog is empty", || office.processed() == before);
    thread::scope(|scope| {
        for _ in 0..4 {
            let producer = producer.clone();
            scope.spawn(move || (0..50).for_each(|n| drop(producer.send(message(n)).unwrap())));
        }
    });
    assert_eq!(office.processed(), before + 200);
    let answers = producer.send_batch((0..100).map(message).collect::<Vec<_>>());
    assert_eq!(answers.len(), 100);
    for answer in answers {
        assert_eq!(answer.unwrap().outcome, Outcome::Processed);
    }
    for n in 0..100 {
        producer.as_async().send_later(message(n)).unwrap();
    }
    producer.flush();
    assert_eq!(office.processed(), before + 400);
    let closed = producer.close(DEADLINE);
    assert!(closed.spooled.is_empty() && closed.returned.is_empty());
    assert_eq!(
        producer.send(message(0)).unwrap_err().code.as_str(),
        "closed"
    );
}

#[test]
fn dropping_the_last_handle_hands_the_rest_to_the_queue_file() {
    let place = Place::new();
    let producer = Producer::open(place.socket(), place.queue()).unwrap();
    for n in 0..100 {
        producer.as_async().send_later(message(n)).unwrap();
    }
    drop(producer);
    let office = Office::open(&place);
    wait_until("all are processed", || office.processed() == 100);
}

#[test]
fn what_keeps_it_from_opening_is_said() {
    let place = Place::new();
    let missing = place.root().join("missing/queue.db");
    let error = Producer::open(place.socket(), missing).unwrap_err();
    assert_eq!(error.code(), "no_directory");
    let builder = spoolway::Producer::builder(place.socket(), place.queue());
    let opened = Producer::open_with(builder.send_timeout(Duration::from_secs(1)));
    drop(opened.unwrap());
}
