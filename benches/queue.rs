//! The queue file alone, against the plain `rusqlite` statements it wraps: same file, same columns, same durability.
//!
//! `cargo bench -p spoolway-benches --bench queue` prints, for 200-byte messages with UUIDv7 ids and `full` durability,
//! the rate of each and its ratio to the ceiling of the same run, both the median of rounds in turns:
//!
//! - `single`: one task that enqueues singly; the ceiling is one insert a transaction.
//! - `tasks`: 64 tasks of a runtime that enqueue singly; the ceiling is transactions of the same mean size.
//! - `threads`: the same by 64 threads that block, each of which has to be woken.
//! - `batch`: `enqueue_batch` of 1,000; the ceiling is transactions of 1,000.
//! - `drain`: claims and settles 500 at a time; the ceiling is a select of 500, and their update in one transaction.
//! - `processes`: four processes that enqueue singly; the total against one, and the worst waits.
//! - `wake`: from the commit to the handler in another process, by a producer that wakes it and by one that does not.
//!
//! Behind `--`: the parts to run. Nothing here passes or fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use spoolway::Message;
use spoolway::queue::{Claimed, NewRow, PollerOptions, SqliteQueue, SqliteQueuePoller, Write};
use spoolway_benches::{
    drain_queue, histogram, is_picked, median, message, monotonic, nanos, open_queue, place,
    plain_file, show, stamped,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How long each round lasts.
const SPAN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 5;
const TASKS: usize = 64;
const THREADS: usize = 64;
const BATCH: usize = 1_000;
const CLAIMED: usize = 500;
const BACKLOG: usize = 40_000;
const PROCESSES: usize = 4;
const WAKES: usize = 2_000;

/// The columns that the queue writes of such a message, with what it writes into them.
const INSERT: &str = "INSERT INTO message_queue (message_id, type, payload, timestamp, attributes, key, priority, due_at, \
    due_boot, expires_at, attempts, suspect, producer, epoch, sequence, crc, last_error, last_attempt_at, \
    first_attempt_at, processed, processed_at, dead_reason) \
    VALUES (?1, ?2, ?3, ?4, NULL, NULL, 50, NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, ?5, NULL, NULL, NULL, 0, NULL, NULL) \
    ON CONFLICT (message_id) DO NOTHING";
const SELECT: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, priority, attempts, delivery, \
    suspect, producer, epoch, sequence, crc FROM message_queue \
    WHERE processed = 0 AND priority = 50 AND seq > 0 AND due_at IS NULL ORDER BY seq LIMIT ?1";
const UPDATE: &str = "UPDATE message_queue SET processed = 1, processed_at = ?2, attempts = max(attempts, 1), suspect = 0 \
    WHERE seq = ?1 AND processed = 0";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [side, what, dir] = &args[..]
        && side == "--side"
    {
        let dir = PathBuf::from(dir);
        return match what.as_str() {
            "writer" => write_for_a_while(&dir),
            _ => tell_waits(&dir),
        };
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("spoolway {}, {cores} cores", env!("CARGO_PKG_VERSION"));
    let parts: [(&str, fn()); 7] = [
        ("single", single),
        ("tasks", tasks),
        ("threads", threads),
        ("batch", batch),
        ("drain", drain),
        ("processes", processes),
        ("wake", wake),
    ];
    for (name, part) in parts {
        if is_picked(name) {
            part();
        }
    }
}

// ---- enqueueing

fn single() {
    let (_dir, dir) = place();
    let queue = open_queue(&dir.join("queue.db"));
    let conn = plain_file(&dir.join("plain.db"));
    compare("single", |rounds| {
        rounds.ours(rate(|| {
            queue.enqueue(&message()).expect("stored");
            1
        }));
        rounds.ceiling(rate(|| inserts(&conn, 1)));
    });
}

fn tasks() {
    let (_dir, dir) = place();
    let queue = open_queue(&dir.join("queue.db"));
    let conn = plain_file(&dir.join("plain.db"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    compare("tasks", |rounds| {
        let (count, commits) = (Arc::new(AtomicU64::new(0)), queue.commits());
        let start = Instant::now();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..TASKS {
                let (queue, count) = (queue.clone(), Arc::clone(&count));
                tasks.spawn(async move {
                    while start.elapsed() < SPAN {
                        let row = NewRow::pending(Arc::new(stamped()), None);
                        let (stored, answer) = oneshot::channel();
                        queue.submit(vec![Write::Insert(row)], move |result| {
                            stored.send(result).expect("a task that waits");
                        });
                        answer.await.expect("an answer").expect("stored");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            tasks.join_all().await;
        });
        let count = count.load(Ordering::Relaxed);
        rounds.ours(count as f64 / start.elapsed().as_secs_f64());
        let mean = count.div_ceil(queue.commits() - commits) as usize;
        rounds.note = format!(", {mean} a commit");
        rounds.ceiling(rate(|| inserts(&conn, mean)));
    });
}

fn threads() {
    let (_dir, dir) = place();
    let queue = open_queue(&dir.join("queue.db"));
    let conn = plain_file(&dir.join("plain.db"));
    compare("threads", |rounds| {
        let (count, commits) = (AtomicU64::new(0), queue.commits());
        let over = AtomicBool::new(false);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        queue.enqueue(&message()).expect("stored");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(SPAN);
            over.store(true, Ordering::Relaxed);
        });
        let count = count.into_inner();
        rounds.ours(count as f64 / start.elapsed().as_secs_f64());
        let mean = count.div_ceil(queue.commits() - commits) as usize;
        rounds.note = format!(", {mean} a commit");
        rounds.ceiling(rate(|| inserts(&conn, mean)));
    });
}

fn batch() {
    let (_dir, dir) = place();
    let queue = open_queue(&dir.join("queue.db"));
    let conn = plain_file(&dir.join("plain.db"));
    compare("batch", |rounds| {
        rounds.ours(rate(|| {
            let batch: Vec<Message> = (0..BATCH).map(|_| message()).collect();
            queue.enqueue_batch(&batch).expect("stored").len()
        }));
        rounds.ceiling(rate(|| inserts(&conn, BATCH)));
    });
}

/// One transaction of so many rows.
fn inserts(conn: &Connection, rows: usize) -> usize {
    conn.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut insert = conn.prepare_cached(INSERT).expect("a statement");
    for _ in 0..rows {
        let message = stamped();
        insert
            .execute(params![
                message.id.as_str(),
                &*message.r#type,
                message.payload.as_str(),
                message.timestamp.map(|at| at.0),
                message.crc(),
            ])
            .expect("room on the disk");
    }
    conn.execute_batch("COMMIT").expect("room on the disk");
    rows
}

// ---- draining

fn drain() {
    let (_dir, dir) = place();
    let queue = open_queue(&dir.join("queue.db"));
    let conn = plain_file(&dir.join("plain.db"));
    compare("drain", |rounds| {
        for _ in 0..BACKLOG / BATCH {
            let batch: Vec<Message> = (0..BATCH).map(|_| message()).collect();
            queue.enqueue_batch(&batch).expect("stored");
            inserts(&conn, BATCH);
        }
        let start = Instant::now();
        let (rows, _) = drain_queue(&queue, CLAIMED);
        rounds.ours(rows as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        let mut rows = 0;
        loop {
            let found = select_and_update(&conn);
            if found == 0 {
                break;
            }
            rows += found;
        }
        rounds.ceiling(rows as f64 / start.elapsed().as_secs_f64());
    });
}

fn select_and_update(conn: &Connection) -> usize {
    let mut select = conn.prepare_cached(SELECT).expect("a statement");
    let rows = select.query_map([CLAIMED], |row| {
        let texts: [String; 3] = [row.get(1)?, row.get(2)?, row.get(3)?];
        std::hint::black_box(texts);
        row.get::<_, i64>(0)
    });
    let rows: Vec<i64> = rows.expect("rows").map(|row| row.expect("a row")).collect();
    conn.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let mut update = conn.prepare_cached(UPDATE).expect("a statement");
    for row in &rows {
        update.execute([*row, 1_700_000_000]).expect("updated");
    }
    conn.execute_batch("COMMIT").expect("room on the disk");
    rows.len()
}

// ---- processes

fn processes() {
    let (mut one, mut four, mut waits) = (Vec::new(), Vec::new(), histogram());
    for _ in 0..ROUNDS {
        one.push(side_by_side(1, &mut histogram()));
        four.push(side_by_side(PROCESSES, &mut waits));
    }
    let (one, four) = (median(one), median(four));
    println!("processes, 1             {one:.0} messages/s, median of {ROUNDS}");
    println!("processes, {PROCESSES}             {four:.0} messages/s in all");
    println!("processes ratio          {:.2}", four / one);
    show("processes, waits", &waits);
}

/// Messages a second of so many processes in all, and how long each of their calls took.
fn side_by_side(count: usize, waits: &mut Histogram<u64>) -> f64 {
    let (_dir, dir) = place();
    drop(open_queue(&dir.join("queue.db")));
    let sides: Vec<Child> = (0..count).map(|_| spawn("writer", &dir)).collect();
    let mut rows = 0;
    for side in sides {
        let told = side.wait_with_output().expect("our own child").stdout;
        let told = String::from_utf8(told).expect("numbers");
        for wait in told.lines() {
            let wait = wait.parse().expect("a number");
            waits.record(wait).expect("a wait");
            rows += 1;
        }
    }
    rows as f64 / (2 * SPAN).as_secs_f64()
}

/// Enqueues singly for a while, and tells how long each took.
fn write_for_a_while(dir: &Path) {
    let queue = SqliteQueue::open(dir.join("queue.db"), Default::default()).expect("the queue");
    let start = Instant::now();
    let mut waits = Vec::new();
    while start.elapsed() < 2 * SPAN {
        let began = Instant::now();
        queue.enqueue(&message()).expect("stored");
        waits.push(nanos(began.elapsed()).to_string());
    }
    println!("{}", waits.join("\n"));
}

// ---- wake-up

fn wake() {
    for woken in [true, false] {
        let (_dir, dir) = place();
        drop(open_queue(&dir.join("queue.db")));
        let mut side = spawn("poller", &dir);
        let mut heard = std::io::BufReader::new(side.stdout.take().expect("a pipe"));
        let mut hear = || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut heard, &mut line).expect("a line");
            line.trim().parse::<u64>().expect("a number")
        };
        assert_eq!(hear(), 0, "it polls");
        let queue = SqliteQueue::open(dir.join("queue.db"), Default::default()).expect("the queue");
        let conn = plain_file(&dir.join("queue.db"));
        let mut waits = histogram();
        for _ in 0..WAKES / if woken { 1 } else { 10 } {
            let committed = if woken {
                queue.enqueue(&message()).expect("stored");
                monotonic()
            } else {
                inserts(&conn, 1);
                monotonic()
            };
            let wait = hear().saturating_sub(committed);
            waits.record(wait.max(100)).expect("a wait");
            // Each commit meets a consumer that sleeps.
            std::thread::sleep(Duration::from_millis(1));
        }
        show(if woken { "wake" } else { "wake, not told" }, &waits);
        side.kill().expect("our own child");
        side.wait().expect("our own child");
    }
}

/// Says when each message reached its handler, by the clock that all processes share.
fn tell_waits(dir: &Path) {
    let queue = open_queue(&dir.join("queue.db"));
    let poller = SqliteQueuePoller::start(&queue, PollerOptions::default(), |_: &Claimed| {
        println!("{}", monotonic());
    });
    let _poller = poller.expect("a poller");
    println!("0");
    loop {
        std::thread::park();
    }
}

// ---- figures

struct Rounds {
    ours: Vec<f64>,
    ceiling: Vec<f64>,
    note: String,
}

impl Rounds {
    fn ours(&mut self, rate: f64) {
        self.ours.push(rate);
    }

    fn ceiling(&mut self, rate: f64) {
        self.ceiling.push(rate);
    }
}

fn compare(name: &str, mut round: impl FnMut(&mut Rounds)) {
    let mut rounds = Rounds {
        ours: Vec::new(),
        ceiling: Vec::new(),
        note: String::new(),
    };
    for _ in 0..ROUNDS {
        round(&mut rounds);
    }
    let Rounds {
        ours,
        ceiling,
        note,
    } = rounds;
    let (ours, ceiling) = (median(ours), median(ceiling));
    println!("{name:<24} {ours:.0} messages/s{note}, median of {ROUNDS}");
    println!("{:<24} {ceiling:.0} rows/s", format!("{name}, ceiling"));
    println!("{:<24} {:.2}", format!("{name} ratio"), ours / ceiling);
}

/// Calls `step` for a while; its results are rows.
fn rate(mut step: impl FnMut() -> usize) -> f64 {
    let (start, mut rows) = (Instant::now(), 0);
    while start.elapsed() < SPAN {
        rows += step();
    }
    rows as f64 / start.elapsed().as_secs_f64()
}

/// This program in another part.
fn spawn(what: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--side", what])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program")
}
