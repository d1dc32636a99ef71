//! What this machine allows: single inserts, grouped inserts and a drain, in rows a second.
//!
//! `cargo run --release -p spoolway-queue --example rates [DIR]`; only a machine that does nothing
//! else gives figures worth comparing.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement: it prints, and stops at the first error"
)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use spoolway_proto::{Message, Timestamp};
use spoolway_queue::{Cursor, NewRow, QueueOptions, Role, SqliteQueue, Write};

/// How long each figure is measured.
const SPAN: Duration = Duration::from_secs(2);

/// Rows in the backlog of each drain.
const BACKLOG: usize = 100_000;

fn message() -> Arc<Message> {
    let mut message = Message::new("candle:complete", &"x".repeat(180)).unwrap();
    let uuid = uuid::Uuid::now_v7();
    message = message
        .id(uuid.to_string())
        .timestamp(Timestamp(1_700_000_000_000));
    Arc::new(message)
}

fn open(path: &Path) -> SqliteQueue {
    let options = QueueOptions {
        role: Role::Consumer,
        ..QueueOptions::default()
    };
    SqliteQueue::open(path, options).unwrap()
}

/// Calls `step` for a while; its results are rows.
fn rate(mut step: impl FnMut() -> usize) -> f64 {
    let (started, mut rows) = (Instant::now(), 0);
    while started.elapsed() < SPAN {
        rows += step();
    }
    rows as f64 / started.elapsed().as_secs_f64()
}

fn insert() -> Write {
    Write::Insert(NewRow::pending(message(), None))
}

/// The same row by hand: what SQLite itself allows.
fn raw_inserts(path: &Path) -> f64 {
    open(path).close();
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA synchronous = FULL").unwrap();
    rate(|| {
        let message = message();
        conn.prepare_cached(
            "INSERT INTO message_queue (message_id, type, payload, timestamp, crc) VALUES (?, ?, ?, ?, ?)",
        )
        .unwrap()
        .execute((
            message.id.as_str(),
            &*message.r#type,
            message.payload.as_str(),
            message.timestamp.unwrap().0,
            message.crc(),
        ))
        .unwrap()
    })
}

fn pipelined_inserts(queue: &SqliteQueue) -> f64 {
    let (sender, written) = mpsc::sync_channel(4_096);
    let mut on_the_way = 0;
    rate(|| {
        while on_the_way < 2_048 {
            let sender = sender.clone();
            queue.submit(vec![insert()], move |written| {
                _ = sender.send(written.is_ok())
            });
            on_the_way += 1;
        }
        assert!(written.recv().unwrap());
        on_the_way -= 1;
        1
    })
}

/// Reads 50, claims and settles them in one commit, until nothing is left.
fn drain(queue: &SqliteQueue) -> f64 {
    let started = Instant::now();
    let mut rows = 0;
    loop {
        let page = queue.candidates(Cursor::default(), 50).unwrap();
        let mut writes = Vec::with_capacity(51);
        writes.push(Write::Claim(
            page.candidates.iter().map(|row| row.seq).collect(),
        ));
        writes.extend(page.candidates.iter().map(|row| Write::Processed {
            seq: row.seq,
            attempts: 1,
        }));
        rows += page.candidates.len();
        queue.write(writes).unwrap();
        if page.end {
            return rows as f64 / started.elapsed().as_secs_f64();
        }
    }
}

/// The same as a consumer does it: claims and outcomes in commits of their own, reading ahead.
fn drain_ahead(queue: &SqliteQueue) -> f64 {
    let started = Instant::now();
    let (mut cursor, mut rows) = (Cursor::default(), 0);
    let (sender, settled) = mpsc::sync_channel(16);
    let mut on_the_way = 0;
    loop {
        let page = queue.candidates(cursor, 50).unwrap();
        cursor = page.cursor;
        rows += page.candidates.len();
        let seqs = page.candidates.iter().map(|row| row.seq);
        queue.submit(vec![Write::Claim(seqs.clone().collect())], |claimed| {
            drop(claimed.unwrap())
        });
        let processed = seqs
            .map(|seq| Write::Processed { seq, attempts: 1 })
            .collect();
        let sender = sender.clone();
        queue.submit(processed, move |written| _ = sender.send(written.is_ok()));
        on_the_way += 1;
        while on_the_way > if page.end { 0 } else { 8 } {
            assert!(settled.recv().unwrap());
            on_the_way -= 1;
        }
        if page.end {
            return rows as f64 / started.elapsed().as_secs_f64();
        }
    }
}

fn fill(queue: &SqliteQueue) {
    for _ in 0..BACKLOG / 1_000 {
        queue.write((0..1_000).map(|_| insert()).collect()).unwrap();
    }
}

fn main() {
    let home = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(home).unwrap();
    let path = |name: &str| dir.path().join(name);
    let raw = raw_inserts(&path("raw.db"));
    println!("raw SQLite, one row a commit      {raw:>9.0}/s");
    let single = open(&path("single.db"));
    let own = rate(|| single.write(vec![insert()]).unwrap().len());
    println!(
        "write(1 row), closed loop         {own:>9.0}/s  {:.2} of raw",
        own / raw
    );
    let many = rate(|| {
        single
            .write((0..1_000).map(|_| insert()).collect())
            .unwrap()
            .len()
    });
    println!("write(1,000 rows), closed loop    {many:>9.0}/s");
    let piped = pipelined_inserts(&open(&path("piped.db")));
    println!("submit(1 row), 2,048 on the way   {piped:>9.0}/s");
    for keep in [0, 1] {
        let queue = open(&path("drain.db"));
        fill(&queue);
        println!(
            "drain by 50, one commit each      {:>9.0}/s  (round {keep})",
            drain(&queue)
        );
        fill(&queue);
        println!(
            "drain by 50, reading ahead        {:>9.0}/s",
            drain_ahead(&queue)
        );
    }
}
