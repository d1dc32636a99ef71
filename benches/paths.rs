//! Both paths against their own ceilings, measured in the same run, consumer and echo in processes of their own.
//!
//! `cargo bench -p spoolway-benches --bench paths` prints, for 200-byte messages and a handler that does nothing:
//! `rtt` (one message at a time, against a bare tokio ping-pong of the same bytes), `stream` (a receipt each),
//! `drain` (from the queue file), `kill` (the send after a kill, with and without unanswered messages, and the way back).
//! Behind `--` name the parts to run: `-- rtt kill`. Nothing here passes or fails: the figures are in the README.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use spoolway_benches::{
    FRAME, Side, WINDOW, begin, consume, histogram, is_picked, message, nanos, place, producer,
    show, taken,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const RTT_COUNT: u64 = 40_000;
const STREAM_COUNT: u64 = 600_000;
const DRAIN_COUNT: u64 = 200_000;
const KILLS: u64 = 100;
/// Bytes of the answer that the bare echo sends: an `ack` of one number.
const ANSWER: usize = 36;

fn main() {
    let (runtime, role) = begin();
    match role {
        Some((what, dir)) if what == "echo" => runtime.block_on(echo(&dir)),
        Some((_, dir)) => runtime.block_on(consume(&dir, |_| {})),
        None => runtime.block_on(async {
            if is_picked("rtt") {
                rtt().await;
            }
            if is_picked("stream") {
                stream().await;
            }
            if is_picked("drain") {
                drain().await;
            }
            if is_picked("kill") {
                kill().await;
            }
        }),
    }
}

// ---- the other side

async fn echo(dir: &Path) {
    let listener = UnixListener::bind(dir.join("echo.sock")).expect("a socket");
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let (mut frame, answer) = ([0; FRAME], [b'x'; ANSWER]);
    while stream.read_exact(&mut frame).await.is_ok() {
        stream.write_all(&answer).await.expect("a reader");
    }
}

// ---- one at a time

/// The ceiling is measured before and after, and the better of the two counts: machines wake up slowly.
async fn rtt() {
    let (_dir, dir) = place();
    let before = bare_rtt(&dir).await;
    let _side = Side::start("consumer", &dir);
    let producer = producer(&dir).await;
    let mut times = histogram();
    for n in 0..RTT_COUNT + 1_000 {
        let start = Instant::now();
        producer.send(message()).await.expect("taken");
        if n >= 1_000 {
            times.saturating_record(nanos(start.elapsed()));
        }
    }
    drop(producer);
    std::fs::remove_file(dir.join("echo.sock")).expect("the echo's socket");
    let after = bare_rtt(&dir).await;
    let p50 = |times: &Histogram<u64>| times.value_at_quantile(0.5);
    let ceiling = p50(&before).min(p50(&after));
    show("rtt ceiling, before", &before);
    show("rtt ceiling, after", &after);
    show("rtt", &times);
    println!(
        "rtt ratio (p50 / p50)    {:.2}",
        p50(&times) as f64 / ceiling as f64
    );
}

async fn bare_rtt(dir: &Path) -> Histogram<u64> {
    let _side = Side::start("echo", dir);
    let mut stream = loop {
        if let Ok(stream) = UnixStream::connect(dir.join("echo.sock")).await {
            break stream;
        }
    };
    let frame = [b'x'; FRAME];
    let mut answer = [0; ANSWER];
    let mut times = histogram();
    for n in 0..RTT_COUNT + 1_000 {
        let start = Instant::now();
        stream.write_all(&frame).await.expect("an echo");
        stream.read_exact(&mut answer).await.expect("an echo");
        if n >= 1_000 {
            times.saturating_record(nanos(start.elapsed()));
        }
    }
    times
}

// ---- many at a time

async fn stream() {
    let (_dir, dir) = place();
    let _side = Side::start("consumer", &dir);
    let producer = producer(&dir).await;
    let before = written(&dir);
    let start = Instant::now();
    let messages = (0..STREAM_COUNT).map(|_| message());
    spoolway_benches::stream(&producer, WINDOW, messages, taken).await;
    let rate = STREAM_COUNT as f64 / start.elapsed().as_secs_f64();
    println!("stream                   {rate:.0} messages/s, a receipt each");
    println!(
        "stream, on disk          {} bytes written to the queue file",
        written(&dir) - before
    );
}

fn written(dir: &Path) -> u64 {
    let size = |name: &str| dir.join(name).metadata().map_or(0, |file| file.len());
    size("queue.db") + size("queue.db-wal")
}

// ---- from the file

async fn drain() {
    let (_dir, dir) = place();
    let producer = producer(&dir).await;
    let start = Instant::now();
    let messages = (0..DRAIN_COUNT).map(|_| message());
    spoolway_benches::stream(&producer, 2 * WINDOW, messages, taken).await;
    let rate = DRAIN_COUNT as f64 / start.elapsed().as_secs_f64();
    println!("spool                    {rate:.0} messages/s");
    let queue = spoolway::SqliteQueue::open(dir.join("queue.db"), Default::default());
    let queue = queue.expect("the queue");
    producer.close(Duration::from_secs(1)).await;
    let start = Instant::now();
    let _side = Side::start("consumer", &dir);
    while queue.stats().expect("stats").pending > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = DRAIN_COUNT as f64 / start.elapsed().as_secs_f64();
    println!("drain                    {rate:.0} messages/s, start of the consumer included");
}

// ---- when the consumer dies

async fn kill() {
    let (_dir, dir) = place();
    let (mut with, mut without, mut back) = (histogram(), histogram(), histogram());
    for round in 0..KILLS {
        let side = Side::start("consumer", &dir);
        let producer = producer(&dir).await;
        while producer.send(message()).await.expect("taken").path != spoolway::Path::Socket {}
        let resume = round % 2 == 0;
        // Unanswered at the kill: what is sent to a stopped consumer.
        let pending = resume.then(|| {
            side.stop();
            producer.send(message())
        });
        side.kill();
        let start = Instant::now();
        let receipt = producer.send(message()).await.expect("stored");
        assert_eq!(receipt.path, spoolway::Path::Queue);
        if resume { &mut with } else { &mut without }.saturating_record(nanos(start.elapsed()));
        if let Some(pending) = pending {
            pending.await.expect("stored");
        }
        let _side = Side::start("consumer", &dir);
        let start = Instant::now();
        while producer.send(message()).await.expect("taken").path != spoolway::Path::Socket {}
        back.saturating_record(nanos(start.elapsed()));
    }
    show("killed, with resume", &with);
    show("killed, nothing owed", &without);
    show("back on the fast path", &back);
}
