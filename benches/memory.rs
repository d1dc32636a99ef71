//! What a consumer keeps in memory: of producers that are gone and of keys that are idle nothing that grows, of messages
//! on their way little beside their bytes.
//!
//! `cargo bench -p spoolway-benches --bench memory` prints, for 200-byte messages and a handler that does nothing:
//!
//! - `producers`: 10,000 producers one after another, 16 messages each. One of ten closes in order; the others are cut
//!   after their answers, as a kill does, so that none of their outcomes is confirmed. How many of them, and of their
//!   outcomes, are in memory at the peak and at the end: those that the queue file does not show yet, into which they
//!   are moved in the order they went, when more than `gone_max` (1,000) are there; and the peak over that bound.
//!   Then the memory of the consumer, of which up to 16 MiB is the page cache of its queue file; the ceiling is the
//!   same number of messages from one producer. And the threads that are left where producers were opened and closed.
//! - `lanes`: the memory of a consumer before and after a million messages without keys, and of another before and
//!   after a million messages each with its own key; the difference by key.
//!
//! - `steady`: three million messages at 10,000 a second, which takes five minutes: the memory of the consumer and of the
//!   producer after a tenth of them and at the end.
//! - `in-flight`: messages that no handler finishes, in the windows of ten producers: what each takes at both ends beside
//!   its 200 bytes.
//!
//! Behind `--`: the parts to run, then `--producers 2000`, `--keys 100000`, `--messages 300000`, `--rate 10000`. Resident memory is read from `/proc`, so
//! this runs on Linux only; memory that was freed and not returned to the system counts. Nothing here passes or fails.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::Value;
use spoolway::consumer::{ConsumerConfig, MachineConfig};
use spoolway::proto::{Epoch, ProducerId};
use spoolway::wire::{PROTOCOL_VERSION, ProducerHello, ProducerOp, put_frame};
use spoolway::{AckLevel, Consumer, Message, Producer, SqliteQueue};
use spoolway_benches::{
    Side, WINDOW, begin, consume, is_picked, key, keyed, message, option, place, producer,
    resident, stream, taken,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

const PRODUCERS: u64 = 10_000;
/// One of so many closes in order.
const CLOSED_EVERY: u64 = 10;
const MESSAGES_EACH: u64 = 16;
const KEYS: u64 = 1_000_000;
const STEADY: u64 = 3_000_000;
const RATE: u64 = 10_000;
/// Messages of each producer of `in-flight`.
const HELD_EACH: usize = 1_000;
const HOLDERS: usize = 10;

fn main() {
    let (runtime, side) = begin();
    if let Some((what, dir)) = side {
        return match what.as_str() {
            "holder" => runtime.block_on(hold(&dir)),
            _ => runtime.block_on(consume(&dir, |_| {})),
        };
    }
    if is_picked("steady") {
        runtime.block_on(steady());
    }
    if is_picked("in-flight") {
        runtime.block_on(in_flight());
    }
    if is_picked("producers") {
        runtime.block_on(producers());
    }
    if is_picked("lanes") {
        runtime.block_on(lanes());
    }
}

// ---- producers that come and go

async fn producers() {
    let count = option("--producers", PRODUCERS);
    one_producer(count * MESSAGES_EACH).await;
    let (_dir, dir) = place();
    let side = Side::start("consumer", &dir);
    let queue = SqliteQueue::open(dir.join("queue.db"), Default::default()).expect("the queue");
    let (before, _) = side.resident();
    let (mut halfway, mut held, mut peak) = (before, Held::default(), Held::default());
    // The cut producers that are still in memory, oldest first.
    let mut cut = VecDeque::new();
    let start = Instant::now();
    for n in 0..count {
        if n % CLOSED_EVERY == 0 {
            close_one(&dir).await;
        } else {
            cut_one(&dir, n).await;
            cut.push_back(n);
        }
        while cut.front().is_some_and(|n| is_moved(&queue, *n)) {
            cut.pop_front();
        }
        // They are moved in the order they went, with those among them that closed.
        held = Held {
            producers: cut.front().map_or(0, |oldest| n + 1 - oldest),
            outcomes: cut.len() as u64 * MESSAGES_EACH,
        };
        peak = peak.max(held);
        if n == count / 2 {
            (halfway, _) = side.resident();
        }
    }
    let took = start.elapsed();
    let (after, highest) = side.resident();
    println!(
        "producers                {count} in {:.1} s, {MESSAGES_EACH} messages each",
        took.as_secs_f64()
    );
    for (name, held) in [("peak", peak), ("end", held)] {
        println!(
            "{:<24} {} without a connection in memory, {} outcomes",
            format!("producers, {name}"),
            held.producers,
            held.outcomes
        );
    }
    let gone_max = MachineConfig::default().gone_max;
    println!(
        "producers ratio          {:.2} (peak / {gone_max}, the bound)",
        peak.producers as f64 / gone_max as f64
    );
    println!(
        "producers, resident      {before} KiB before, {halfway} KiB halfway, {after} KiB at the end, peak {highest} KiB"
    );
    let mine = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    println!("producers, threads       {mine} in the process that opened and closed them");
}

/// What the consumer has in memory of those that are gone.
#[derive(Clone, Copy, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Held {
    producers: u64,
    outcomes: u64,
}

/// The ceiling: as many messages, and nobody goes.
async fn one_producer(messages: u64) {
    let (_dir, dir) = place();
    let side = Side::start("consumer", &dir);
    let (before, _) = side.resident();
    let producer = producer(&dir).await;
    let sent = (0..messages).map(|_| message());
    stream(&producer, MESSAGES_EACH as usize, sent, taken).await;
    let (after, highest) = side.resident();
    println!(
        "producers ceiling        {before} KiB before, {after} KiB at the end, peak {highest} KiB: {messages} messages of one"
    );
}

/// A producer that ends in order.
async fn close_one(dir: &Path) {
    let producer = producer(dir).await;
    let sent = (0..MESSAGES_EACH).map(|_| message());
    stream(&producer, MESSAGES_EACH as usize, sent, taken).await;
    let closed = producer.close(Duration::from_secs(5)).await;
    assert!(closed.spooled.is_empty() && closed.returned.is_empty());
}

fn id(n: u64) -> ProducerId {
    ProducerId::from_u128(u128::from(n) + 1)
}

/// A producer that is gone when it has its answers, and before it said so.
async fn cut_one(dir: &Path, n: u64) {
    let mut stream = UnixStream::connect(dir.join("s.sock"))
        .await
        .expect("a consumer");
    let mut out = BytesMut::new();
    let hello = ProducerHello {
        version: PROTOCOL_VERSION,
        producer: id(n),
        epoch: Epoch::default().next(),
        client: String::new(),
        ack: AckLevel::Processed,
        first: 1,
        fresh: 1,
        socket: 0,
        queue: 0,
        err: 0,
    };
    ProducerOp::Hello(hello).put(&mut out);
    stream.write_all(&out).await.expect("a reader");
    assert_eq!(said(&mut stream).await["op"], "hello");
    out.clear();
    for at in 0..MESSAGES_EACH {
        let message = message().id(format!("{n:018}{at:018}"));
        put_frame(&mut out, |body| message.encode(body));
    }
    stream.write_all(&out).await.expect("a reader");
    let mut answered = 0;
    while answered < MESSAGES_EACH {
        let said = said(&mut stream).await;
        assert_ne!(said["op"], "error", "{said}");
        let ranges = said["processed"].as_array().into_iter().flatten();
        let numbers = ranges.filter_map(|range| Some(range[1].as_u64()? + 1 - range[0].as_u64()?));
        answered += numbers.sum::<u64>();
    }
}

/// The next frame of the consumer.
async fn said(stream: &mut UnixStream) -> Value {
    let length = stream.read_u32().await.expect("a frame");
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.expect("a frame");
    serde_json::from_slice(&body).expect("JSON")
}

/// Whether its outcomes are in the file: then memory is free of it.
fn is_moved(queue: &SqliteQueue, n: u64) -> bool {
    let record = queue.producer(id(n)).expect("a read");
    record.is_some_and(|record| !record.kept.is_empty())
}

// ---- keys that are used once

async fn lanes() {
    let count = option("--keys", KEYS);
    let plain = growth("lanes ceiling, no keys", count, |_| message()).await;
    let with = growth("lanes, a key each", count, |n| keyed(&key(n))).await;
    println!(
        "lanes, left behind       {:.1} bytes a key",
        (with - plain) * 1_024.0 / count as f64
    );
}

/// By how many KiB the memory of a consumer grows over these messages.
async fn growth(name: &str, count: u64, make: impl Fn(u64) -> Message) -> f64 {
    let (_dir, dir) = place();
    let side = Side::start("consumer", &dir);
    let producer = producer(&dir).await;
    // Buffers grow with the first windows.
    let warm = (0..4 * WINDOW).map(|_| message());
    stream(&producer, WINDOW, warm, taken).await;
    let (before, _) = side.resident();
    stream(&producer, WINDOW, (0..count).map(make), taken).await;
    let (after, highest) = side.resident();
    println!(
        "{name:<24} {before} KiB before, {after} KiB after {count} messages, peak {highest} KiB"
    );
    after as f64 - before as f64
}

// ---- a long steady stream

async fn steady() {
    let (count, rate) = (option("--messages", STEADY), option("--rate", RATE));
    let (_dir, dir) = place();
    let side = Side::start("consumer", &dir);
    let producer = producer(&dir).await;
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let (mut sent, mut sending) = (0, VecDeque::new());
    let mut early = None;
    let start = Instant::now();
    while sent < count {
        tick.tick().await;
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        for _ in sent..due.min(count) {
            sending.push_back(producer.send(message()));
        }
        sent = due.min(count).max(sent);
        while sending.len() > WINDOW {
            taken(sending.pop_front().expect("one of them").await);
        }
        if sent >= count / 10 && early.is_none() {
            early = Some((side.resident().0, resident(std::process::id()).0));
        }
    }
    for sending in sending {
        taken(sending.await);
    }
    let took = start.elapsed().as_secs_f64();
    let (consumer, mine) = (side.resident(), resident(std::process::id()));
    let early = early.expect("a tenth of them were sent");
    println!("steady                   {count} in {took:.0} s");
    for (name, early, (late, peak)) in
        [("consumer", early.0, consumer), ("producer", early.1, mine)]
    {
        println!(
            "steady, {name:<16} {early} KiB after a tenth, {late} KiB at the end: {:.3}; peak {peak} KiB",
            late as f64 / early as f64
        );
    }
}

// ---- messages on their way

/// A consumer whose handlers never end.
async fn hold(dir: &Path) {
    let mut config = ConsumerConfig::default();
    config.machine.hold_max = Duration::from_secs(600);
    let consumer = Consumer::builder(dir.join("s.sock"), dir.join("queue.db"))
        .config(config)
        .default(|_| std::future::pending::<()>());
    // It is killed.
    let ended = consumer.run(std::future::pending()).await;
    ended.expect("a consumer");
}

async fn in_flight() {
    let (_dir, dir) = place();
    let side = Side::start("holder", &dir);
    let mut producers: Vec<Producer> = Vec::new();
    for _ in 0..HOLDERS {
        producers.push(producer(&dir).await);
    }
    let count = (HOLDERS * HELD_EACH) as f64;
    let before = (side.resident().0, resident(std::process::id()).0);
    for producer in &producers {
        for _ in 0..HELD_EACH {
            producer.send_later(message()).expect("room");
        }
    }
    let after = settled_memory(&side).await;
    for (name, before, after) in [
        ("consumer", before.0, after.0),
        ("producer", before.1, after.1),
    ] {
        let each = (after as f64 - before as f64) * 1_024.0 / count;
        println!(
            "in flight, {name:<13} {before} KiB before, {after} KiB with {count} messages: {each:.0} bytes each, {:.0} beside its own",
            each - 200.0
        );
    }
    side.kill();
}

/// The memory of the consumer and of this process once neither changes any more.
async fn settled_memory(side: &Side) -> (u64, u64) {
    let mut last = (0, 0);
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = (side.resident().0, resident(std::process::id()).0);
        if now == last {
            return now;
        }
        last = now;
    }
}
