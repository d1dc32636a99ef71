//! The queue file when it is large: what it costs then, by the bounds it has to keep.
//!
//! `cargo bench -p spoolway-benches --bench large` prints, for 200-byte messages and `full` durability, the raw
//! figures, the bound, and the figure by the bound:
//!
//! - `kept`: claims and settles 500 at a time with 5 million processed rows kept, against a file without; what is read
//!   of the file for each claim.
//! - `retention`: the p99 of `enqueue` while another process, then another thread, deletes 2 million processed rows,
//!   against the p99 before.
//! - `space`: 600,000 messages by 16 tasks of one producer, then of four, that enqueue singly while nobody consumes:
//!   ten minutes' outage at 1,000/s. The largest write-ahead log, and the bytes of the file for each message.
//! - `drain`: the peak of the resident memory of a consumer, and of a poller, that processes 1 million messages.
//! - `stats`: how long counting takes with a backlog of 10 million, and the p99 of `enqueue` meanwhile.
//! - `backlog`: from the start of a process to the first message handled, with the same backlog, in memory and not.
//!
//! Behind `--`: the parts to run, then `--kept 50000`, `--old`, `--outage`, `--drained`, `--backlog`. Files are made by
//! plain statements in the tables of our own migrations; they need up to 5 GB of the temporary directory. What is read
//! is counted by `/proc`, so this runs on Linux only. Nothing here passes or fails.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use spoolway::Message;
use spoolway::queue::{Claimed, PollerOptions, SqliteQueue, SqliteQueuePoller};
use spoolway_benches::{
    begin, consume, drain_queue, histogram, is_picked, median, message, monotonic, nanos,
    open_queue, option, place, resident, show, stamped, wal_bytes,
};

const KEPT: u64 = 5_000_000;
const OLD: u64 = 2_000_000;
const OUTAGE: u64 = 600_000;
const DRAINED: u64 = 1_000_000;
const BACKLOG: u64 = 10_000_000;

const KEPT_RATIO: f64 = 0.65;
const RETENTION_ADDS: Duration = Duration::from_millis(2);
const MESSAGE_BYTES: f64 = 450.0;
const WAL_MIB: f64 = 32.0;
const RESIDENT_MIB: f64 = 64.0;
const FIRST: Duration = Duration::from_secs(1);

const ROUNDS: usize = 5;
/// Messages of a round of `kept`.
const ROUND: usize = 40_000;
const CLAIMED: usize = 500;
const TASKS: usize = 16;
/// Messages by which the idle p99 is found, and the wait between two.
const PROBES: u64 = 4_000;
const PROBE_WAIT: Duration = Duration::from_millis(1);
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
const STARTS: usize = 3;
const MIB: f64 = 1_048_576.0;

fn main() {
    let (runtime, side) = begin();
    if let Some((what, dir)) = side {
        return match what.as_str() {
            "cleaner" => clean(&dir),
            "counter" => count(&dir),
            "poller" => poll(&dir),
            _ => runtime.block_on(consume(&dir, |_| tell_once())),
        };
    }
    for (name, part) in [
        ("kept", kept as fn()),
        ("retention", retention),
        ("space", space),
        ("drain", drain),
    ] {
        if is_picked(name) {
            part();
        }
    }
    if ["stats", "backlog"].into_iter().any(is_picked) {
        let (_dir, dir) = place();
        fill(&dir.join("queue.db"), option("--backlog", BACKLOG), None);
        if is_picked("stats") {
            stats(&dir);
        }
        if is_picked("backlog") {
            backlog(&dir);
        }
    }
}

// ---- files

/// Makes a file of so many rows: pending, or processed at that time, in seconds.
fn fill(path: &Path, rows: u64, processed_at: Option<u64>) {
    const INSERT: &str = "INSERT INTO message_queue (message_id, type, payload, timestamp, crc, attempts, processed, \
        processed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)";
    const EACH: u64 = 100_000;
    open_queue(path).close();
    let conn = Connection::open(path).expect("a queue file");
    conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;")
        .expect("settings");
    let start = Instant::now();
    let mut made = 0;
    while made < rows {
        conn.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        let mut insert = conn.prepare_cached(INSERT).expect("a statement");
        for _ in 0..EACH.min(rows - made) {
            let message = stamped();
            let row = params![
                message.id.as_str(),
                &*message.r#type,
                message.payload.as_str(),
                message.timestamp.map(|at| at.0),
                message.crc(),
                u8::from(processed_at.is_some()),
                processed_at,
            ];
            insert.execute(row).expect("room on the disk");
        }
        conn.execute_batch("COMMIT").expect("room on the disk");
        made += EACH.min(rows - made);
        eprint!("\r{made} of {rows} rows ");
    }
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .expect("room on the disk");
    conn.close().expect("the last statement ended");
    let file = std::fs::File::open(path).expect("a queue file");
    // What is still to be written would be measured with the rest.
    file.sync_all().expect("room on the disk");
    eprintln!("in {:.1} s", start.elapsed().as_secs_f64());
}

/// A week ago, in seconds.
fn long_ago() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock that is set").as_secs() - 7 * RETENTION.as_secs()
}

fn batch(rows: usize) -> Vec<Message> {
    (0..rows).map(|_| message()).collect()
}

/// A figure, its bound, and the one by the other.
fn bound(name: &str, figure: f64, bound: f64, unit: &str) {
    println!(
        "{:<24} {:.2} ({figure:.2} of {bound:.2} {unit})",
        format!("{name} ratio"),
        figure / bound
    );
}

// ---- processed rows that are kept

fn kept() {
    let rows = option("--kept", KEPT);
    let (_dir, dir) = place();
    let full = dir.join("full.db");
    fill(&full, rows, Some(long_ago()));
    let files = [dir.join("empty.db"), full].map(|path| open_queue(&path));
    let mut rates = [Vec::new(), Vec::new()];
    let mut pages = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (n, queue) in files.iter().enumerate() {
            for _ in 0..ROUND / 1_000 {
                queue.enqueue_batch(&batch(1_000)).expect("stored");
            }
            let (rate, read) = drained(queue);
            rates[n].push(rate);
            pages[n].push(read);
        }
    }
    let [without, with] = rates.map(median);
    let [pages_without, pages_with] = pages.map(median);
    println!("kept                     {with:.0} messages/s, {rows} processed rows kept");
    println!("kept, none               {without:.0} messages/s, median of {ROUNDS}");
    println!(
        "kept, pages read         {pages_with:.1} for {CLAIMED} claimed and settled, {pages_without:.1} with none kept"
    );
    println!(
        "kept ratio               {:.2} (at least {KEPT_RATIO})",
        with / without
    );
}

/// Messages a second, and pages read for each claim.
fn drained(queue: &SqliteQueue) -> (f64, f64) {
    let (start, before) = (Instant::now(), bytes_read());
    let (rows, claims) = drain_queue(queue, CLAIMED);
    let read = bytes_read() - before;
    (
        rows as f64 / start.elapsed().as_secs_f64(),
        read as f64 / 4_096.0 / claims as f64,
    )
}

/// Bytes that this process has asked of files.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.expect("a count").parse().expect("a number")
}

// ---- retention

fn retention() {
    let rows = option("--old", OLD);
    for elsewhere in [true, false] {
        let name = match elsewhere {
            true => "retention, process",
            false => "retention, thread",
        };
        let (_dir, dir) = place();
        let path = dir.join("queue.db");
        fill(&path, rows, Some(long_ago()));
        let cleaner = elsewhere.then(|| Told::start("cleaner", &dir));
        let queue = match elsewhere {
            true => SqliteQueue::open(&path, Default::default()).expect("the queue"),
            false => open_queue(&path),
        };
        probe(&queue, |sent| sent < PROBES / 4);
        let idle = probe(&queue, |sent| sent < PROBES);
        let over = AtomicBool::new(false);
        let start = Instant::now();
        let (deleted, busy) = std::thread::scope(|scope| {
            let cleaning = scope.spawn(|| {
                let deleted = match cleaner {
                    Some(mut cleaner) => {
                        cleaner.go();
                        cleaner.hear()
                    }
                    None => queue.cleanup(RETENTION).expect("deleted"),
                };
                over.store(true, Ordering::Relaxed);
                (deleted, start.elapsed())
            });
            let busy = probe(&queue, |_| !over.load(Ordering::Relaxed));
            (cleaning.join().expect("a count"), busy)
        });
        let (deleted, took) = deleted;
        println!(
            "{name:<24} {deleted} rows deleted in {:.1} s",
            took.as_secs_f64()
        );
        show(&format!("{name}, idle"), &idle);
        show(&format!("{name}, busy"), &busy);
        let millis = |times: &Histogram<u64>| times.value_at_quantile(0.99) as f64 / 1e6;
        let allowed = millis(&idle) + RETENTION_ADDS.as_secs_f64() * 1e3;
        bound(name, millis(&busy), allowed, "ms");
    }
}

/// How long `enqueue` takes, a message at a time with waits between.
fn probe(queue: &SqliteQueue, goes_on: impl Fn(u64) -> bool) -> Histogram<u64> {
    let mut times = histogram();
    while goes_on(times.len()) {
        let message = message();
        let start = Instant::now();
        queue.enqueue(&message).expect("stored");
        times.record(nanos(start.elapsed())).expect("a time");
        std::thread::sleep(PROBE_WAIT);
    }
    times
}

/// Deletes what is old when it is told to.
fn clean(dir: &Path) {
    let queue = open_queue(&dir.join("queue.db"));
    await_go();
    println!("{}", queue.cleanup(RETENTION).expect("deleted"));
}

// ---- space

fn space() {
    for producers in [1, 4] {
        outage(producers);
    }
}

/// What so many producers leave behind that nobody consumes.
fn outage(producers: usize) {
    let messages = option("--outage", OUTAGE);
    let (_dir, dir) = place();
    let path = dir.join("queue.db");
    drop(open_queue(&path));
    let open = || SqliteQueue::open(&path, Default::default()).expect("the queue");
    let queues: Vec<_> = (0..producers).map(|_| open()).collect();
    let (left, largest) = (AtomicU64::new(messages), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for task in 0..TASKS {
            let queue = &queues[task % producers];
            scope.spawn(|| {
                let take = |left: u64| left.checked_sub(1);
                while let Ok(left) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                    queue.enqueue(&message()).expect("stored");
                    if left % 64 == 0 {
                        largest.fetch_max(wal_bytes(&path), Ordering::Relaxed);
                    }
                    if left % 20_000 == 0 {
                        eprint!("\r{left} of {messages} messages left ");
                    }
                }
            });
        }
    });
    eprintln!();
    let took = start.elapsed().as_secs_f64();
    let log = wal_bytes(&path).max(largest.into_inner());
    let commits: u64 = queues.iter().map(SqliteQueue::commits).sum();
    queues.iter().for_each(SqliteQueue::close);
    let file = std::fs::metadata(&path).map_or(0, |found| found.len());
    let name = format!("space, {producers} producers");
    println!("{name:<24} {messages} messages in {commits} commits, {took:.1} s");
    bound(
        &format!("{name}, log"),
        log as f64 / MIB,
        WAL_MIB,
        "MiB at most",
    );
    let each = file as f64 / messages as f64;
    bound(&name, each, MESSAGE_BYTES, "bytes a message");
}

// ---- memory

fn drain() {
    let messages = option("--drained", DRAINED);
    for what in ["poller", "consumer"] {
        let (_dir, dir) = place();
        let path = dir.join("queue.db");
        fill(&path, messages, None);
        let start = Instant::now();
        let mut side = Told::start(what, &dir);
        side.hear();
        let queue = SqliteQueue::open(&path, Default::default()).expect("the queue");
        while queue.pending().expect("a count") > 0 {
            std::thread::sleep(Duration::from_millis(200));
        }
        let rate = messages as f64 / start.elapsed().as_secs_f64();
        let (_, peak) = resident(side.child.id());
        let name = format!("drain, {what}");
        println!("{name:<24} {messages} messages, {rate:.0} messages/s with the start");
        bound(&name, peak as f64 / 1_024.0, RESIDENT_MIB, "MiB");
    }
}

// ---- a large backlog

fn stats(dir: &Path) {
    let path = dir.join("queue.db");
    let mut counter = Told::start("counter", dir);
    let queue = SqliteQueue::open(&path, Default::default()).expect("the queue");
    probe(&queue, |sent| sent < PROBES / 4);
    let idle = probe(&queue, |sent| sent < PROBES);
    let over = AtomicBool::new(false);
    let mut took = [0; 3];
    let busy = std::thread::scope(|scope| {
        scope.spawn(|| {
            counter.go();
            took.fill_with(|| counter.hear());
            over.store(true, Ordering::Relaxed);
        });
        probe(&queue, |_| !over.load(Ordering::Relaxed))
    });
    for (name, nanos) in ["stats", "stats, top", "stats, pending"].iter().zip(took) {
        println!("{name:<24} {:.2} s", nanos as f64 / 1e9);
    }
    show("stats, enqueue idle", &idle);
    show("stats, enqueue busy", &busy);
    let log = wal_bytes(&path) as f64 / MIB;
    println!("stats, log               {log:.1} MiB after it");
}

/// Counts when it is told to, as `spoolway queue stats` does, and tells how long each took.
fn count(dir: &Path) {
    let queue = SqliteQueue::open(dir.join("queue.db"), Default::default()).expect("the queue");
    await_go();
    let tell = |started: Instant| println!("{}", nanos(started.elapsed()));
    let started = Instant::now();
    queue.stats().expect("counts");
    tell(started);
    let started = Instant::now();
    queue.top(10).expect("counts");
    tell(started);
    let started = Instant::now();
    queue.pending().expect("a count");
    tell(started);
}

fn backlog(dir: &Path) {
    let path = dir.join("queue.db");
    for what in ["poller", "consumer"] {
        for cold in [true, false] {
            let mut waits = Vec::new();
            for _ in 0..STARTS {
                if cold {
                    forget(&path);
                }
                let start = monotonic();
                let mut side = Told::start(what, dir);
                waits.push((side.hear() - start) as f64 / 1e6);
            }
            let name = match cold {
                true => format!("backlog, {what} cold"),
                false => format!("backlog, {what}"),
            };
            println!("{name:<24} {waits:.1?} ms to the first message");
            let worst = waits.into_iter().fold(0.0, f64::max);
            bound(&name, worst, FIRST.as_secs_f64() * 1e3, "ms");
        }
    }
}

/// Takes the file out of memory.
fn forget(path: &Path) {
    let file = std::fs::File::open(path).expect("a queue file");
    file.sync_all().expect("room on the disk");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a file");
}

/// Says when the first message reached its handler, by the clock that all processes share.
fn tell_once() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        println!("{}", monotonic());
    }
}

fn poll(dir: &Path) {
    let queue = open_queue(&dir.join("queue.db"));
    let handle = |_: &Claimed| tell_once();
    let poller = SqliteQueuePoller::start(&queue, PollerOptions::default(), handle);
    let _poller = poller.expect("a poller");
    loop {
        std::thread::park();
    }
}

// ---- other processes

/// This program in another part, which says numbers; killed in the end.
struct Told {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Told {
    fn start(what: &str, dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--side", what])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, said }
    }

    /// Tells it to begin.
    fn go(&mut self) {
        let mut input = self.child.stdin.take().expect("once");
        input.write_all(b"\n").expect("a reader");
    }

    fn hear(&mut self) -> u64 {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        line.trim().parse().expect("a number")
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn await_go() {
    std::io::stdin()
        .read_line(&mut String::new())
        .expect("a line");
}
