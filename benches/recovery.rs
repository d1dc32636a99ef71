//! Live traffic while a backlog drains: neither may starve the other.
//!
//! `cargo bench -p spoolway-benches --bench recovery` prints, for 200-byte messages and a handler that does nothing:
//!
//! - `drain, alone`: the rate of a backlog in the queue file, the start of the consumer included.
//! - `live, quiet`: one producer that waits for each receipt, at a pace of 1,000 messages a second, and nothing else.
//! - `live, under drain`: the same while a backlog of the same size drains. What a late receipt held up counts as
//!   late too, in both.
//! - `live ratio`: p99 under drain over p99 quiet, meant to be at most 3, or at most 2 ms under drain.
//! - `live pace`: what the producer held of its pace, and receipts that did not say: over the socket, and processed.
//! - `drain, under live`: the rate of that backlog, and its ratio to the rate alone.
//!
//! Behind `--`: `--backlog 1000000` (200,000), `--quiet 20` seconds (5). Nothing here passes or fails.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use spoolway::Path::Socket;
use spoolway::{Delivery, Message, Outcome, Producer, SqliteQueue};
use spoolway_benches::{
    Side, begin, consume, histogram, message, nanos, option, place, producer, show,
};
use tokio::time::{MissedTickBehavior, interval};

const BACKLOG: u64 = 200_000;
const QUIET_SECONDS: u64 = 5;
const PACE: Duration = Duration::from_millis(1);
const BATCH: u64 = 1_000;
const BACKLOG_TYPE: &str = "drain";

fn main() {
    let (runtime, side) = begin();
    match side {
        // Its part is the size of the backlog.
        Some((backlog, dir)) => runtime.block_on(drain(&dir, backlog.parse().expect("a number"))),
        None => runtime.block_on(recover()),
    }
}

/// A consumer that tells by a file that this many messages of the backlog were handled.
async fn drain(dir: &Path, backlog: u64) {
    let (handled, drained) = (AtomicU64::new(0), dir.join("drained"));
    let note = move |delivery: &Delivery| {
        if &*delivery.r#type == BACKLOG_TYPE
            && handled.fetch_add(1, Ordering::Relaxed) + 1 == backlog
        {
            File::create(&drained).expect("a file");
        }
    };
    consume(dir, note).await;
}

async fn recover() {
    let backlog = option("--backlog", BACKLOG);
    let alone = drain_alone(backlog).await;
    println!("drain, alone             {alone:.0} messages/s of {backlog}");
    let quiet = quiet(Duration::from_secs(option("--quiet", QUIET_SECONDS))).await;
    show("live, quiet", &quiet.times);
    let (under, live) = drain_under_live(backlog).await;
    show("live, under drain", &live.times);
    let p99 = |live: &Live| live.times.value_at_quantile(0.99) as f64;
    println!(
        "live ratio (p99 / p99)   {:.2}, at {:.2} ms",
        p99(&live) / p99(&quiet),
        p99(&live) / 1e6
    );
    println!(
        "live pace                {:.0} messages/s quiet, {:.0} under drain, {} not processed at once",
        quiet.rate, live.rate, live.aside
    );
    println!(
        "drain, under live        {under:.0} messages/s, ratio {:.2}",
        under / alone
    );
}

async fn drain_alone(backlog: u64) -> f64 {
    let (_dir, dir) = place();
    fill(&dir, backlog);
    let start = Instant::now();
    let _side = Side::start(&backlog.to_string(), &dir);
    while !dir.join("drained").exists() {
        tokio::time::sleep(PACE).await;
    }
    backlog as f64 / start.elapsed().as_secs_f64()
}

async fn quiet(time: Duration) -> Live {
    let (_dir, dir) = place();
    let _side = Side::start("1", &dir);
    let producer = producer(&dir).await;
    let until = Instant::now() + time;
    live(&producer, || Instant::now() < until).await
}

async fn drain_under_live(backlog: u64) -> (f64, Live) {
    let (_dir, dir) = place();
    fill(&dir, backlog);
    let start = Instant::now();
    let _side = Side::start(&backlog.to_string(), &dir);
    let producer = producer(&dir).await;
    let drained = dir.join("drained");
    let live = live(&producer, || !drained.exists()).await;
    (backlog as f64 / start.elapsed().as_secs_f64(), live)
}

/// Puts a backlog in the file while nobody consumes it.
fn fill(dir: &Path, backlog: u64) {
    let queue = SqliteQueue::open(dir.join("queue.db"), Default::default()).expect("a queue");
    let of_backlog = || Message {
        r#type: BACKLOG_TYPE.into(),
        ..message()
    };
    for first in (0..backlog).step_by(BATCH as usize) {
        let batch = (first..backlog.min(first + BATCH)).map(|_| of_backlog());
        let batch: Vec<Message> = batch.collect();
        queue.enqueue_batch(&batch).expect("stored");
    }
}

/// What a producer of paced messages met.
struct Live {
    times: Histogram<u64>,
    rate: f64,
    /// Receipts that did not say: over the socket, and processed.
    aside: u64,
}

async fn live(producer: &Producer, goes_on: impl Fn() -> bool) -> Live {
    let (mut times, mut sent, mut aside) = (histogram(), 0, 0);
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let began = Instant::now();
    while goes_on() {
        pace.tick().await;
        let start = Instant::now();
        let receipt = producer.send(message()).await.expect("taken");
        let took = nanos(start.elapsed());
        sent += 1;
        aside += u64::from((receipt.path, receipt.outcome) != (Socket, Outcome::Processed));
        // Those that it held up would have waited too.
        times.record_correct(took, nanos(PACE)).expect("in bounds");
    }
    let rate = f64::from(sent) / began.elapsed().as_secs_f64();
    Live { times, rate, aside }
}
