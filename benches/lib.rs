//! What the benches share: the consumer's process, streams of messages of one size, arguments and figures.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use spoolway::queue::{QueueOptions, Role, Settlement};
use spoolway::{Consumer, Delivery, Message, MessageId, Producer, Receipt, SendError, SqliteQueue};
use tokio::runtime::Runtime;

/// Characters of text in a message of that size.
const TEXT: usize = 92;
/// Bytes that the member of a [`key`] takes of them.
const KEY: usize = 16;
/// Messages that a stream has on their way at most: the largest window of a connection.
pub const WINDOW: usize = 1_024;

// ---- this program

/// The runtime, and what this process is if it is not the bench itself: its part and its directory.
pub fn begin() -> (Runtime, Option<(String, PathBuf)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let role = match &args[..] {
        [side, what, dir] if side == "--side" => Some((what.clone(), dir.into())),
        _ => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            println!("spoolway {}, {cores} cores", env!("CARGO_PKG_VERSION"));
            None
        }
    };
    (runtime.expect("a runtime"), role)
}

/// Whether this part was asked for: `cargo bench -p spoolway-benches --bench order -- flap`; all are if none is named.
pub fn is_picked(part: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .take_while(|arg| !arg.starts_with("--"))
        .peekable();
    named.peek().is_none() || named.any(|name| name == part)
}

/// The number behind this argument, or else `default`.
pub fn option(name: &str, default: u64) -> u64 {
    let value = std::env::args().skip_while(|arg| arg != name).nth(1);
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// A directory for one consumer, which goes with the first value.
pub fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_owned();
    (dir, path)
}

// ---- the other side

/// A consumer until SIGTERM, which shows each message to `handle`.
pub async fn consume(dir: &Path, handle: impl Fn(&Delivery) + Send + Sync + 'static) {
    let term = async {
        let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .expect("a signal handler");
        signal.recv().await;
    };
    Consumer::builder(dir.join("s.sock"), dir.join("queue.db"))
        .default(move |delivery| {
            handle(&delivery);
            async { Ok::<(), String>(()) }
        })
        .run(term)
        .await
        .expect("a consumer");
}

/// A process of its own.
pub struct Side(Child);

impl Side {
    /// Starts this program as `what`, and waits until it listens.
    pub fn start(what: &str, dir: &Path) -> Self {
        let me = std::env::current_exe().expect("this program");
        let child = Command::new(me)
            .args(["--side", what])
            .arg(dir)
            .stdin(Stdio::null())
            .spawn();
        let side = Self(child.expect("this program"));
        let is_up = || std::os::unix::net::UnixStream::connect(dir.join("s.sock")).is_ok();
        while !is_up() {
            std::thread::sleep(Duration::from_micros(200));
        }
        side
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
    }

    /// Lets it end in order.
    pub fn end(mut self) {
        self.signal(Signal::TERM);
        let status = self.0.wait().expect("our own child");
        assert!(status.success(), "the consumer ended with {status}");
    }

    /// Stops it, so that it answers nothing.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("our own child");
    }

    /// Its resident memory now and at its peak, in KiB.
    pub fn resident(&self) -> (u64, u64) {
        resident(self.0.id())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The resident memory of a process now and at its peak, in KiB.
pub fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.expect("Linux, and a process of ours");
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
        value.map_or(0, |value| value.parse().expect("a number"))
    };
    (kib("VmRSS:"), kib("VmHWM:"))
}

// ---- messages

/// A producer for the consumer in this directory.
pub async fn producer(dir: &Path) -> Producer {
    Producer::open(dir.join("s.sock"), dir.join("queue.db"))
        .await
        .expect("a producer")
}

/// A message of 200 bytes on the wire, with the id and the timestamp that `send` gives it.
pub fn message() -> Message {
    text("bench", TEXT)
}

/// The same size and type with a key.
pub fn keyed(key: &str) -> Message {
    text("bench", TEXT - KEY).key(key)
}

/// A message with that many characters of text.
fn text(r#type: &str, length: usize) -> Message {
    Message::new(r#type, &serde_json::json!({ "text": "x".repeat(length) })).expect("plain JSON")
}

/// The name of a key, of one length below ten million.
pub fn key(number: u64) -> String {
    format!("{number:07}")
}

/// Sends with at most `window` messages on their way, and tells what became of each, in order.
pub async fn stream(
    producer: &Producer,
    window: usize,
    messages: impl IntoIterator<Item = Message>,
    mut told: impl FnMut(Result<Receipt, SendError>),
) {
    let mut sent = VecDeque::with_capacity(window);
    for message in messages {
        sent.push_back(producer.send(message));
        if sent.len() == window {
            for sending in sent.drain(..window.div_ceil(2)) {
                told(sending.await);
            }
        }
    }
    for sending in sent {
        told(sending.await);
    }
}

/// What [`stream`] is told where nothing may fail.
pub fn taken(answer: Result<Receipt, SendError>) {
    answer.expect("taken");
}

// ---- the queue file alone

/// The queue of this path, as its consumer opens it.
pub fn open_queue(path: &Path) -> SqliteQueue {
    let options = QueueOptions {
        role: Role::Consumer,
        ..QueueOptions::default()
    };
    SqliteQueue::open(path, options).expect("a queue file")
}

/// Claims and settles so many at a time until none is left: how many there were, and in how many claims.
pub fn drain_queue(queue: &SqliteQueue, at_a_time: usize) -> (usize, usize) {
    let (mut rows, mut claims) = (0, 0);
    loop {
        let claimed = queue.dequeue(at_a_time).expect("claimed");
        if claimed.is_empty() {
            return (rows, claims);
        }
        let settled = claimed
            .iter()
            .map(|claimed| (claimed, Settlement::Processed));
        queue.settle(&settled.collect::<Vec<_>>()).expect("settled");
        rows += claimed.len();
        claims += 1;
    }
}

/// A plain connection to a queue file, with the durability of `full`.
pub fn plain_file(path: &Path) -> Connection {
    open_queue(path).close();
    let conn = Connection::open(path).expect("a queue file");
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;")
        .expect("settings");
    conn.busy_timeout(Duration::from_secs(10))
        .expect("settings");
    conn
}

/// Bytes of the write-ahead log of a queue file.
pub fn wal_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |found| found.len())
}

/// [`message`] with a UUIDv7 and the time.
pub fn stamped() -> Message {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.expect("a clock that is set").as_millis() as u64;
    let mut message = message();
    message.stamp(spoolway::Timestamp(millis as i64), || {
        MessageId::v7(millis, rand::random())
    });
    message
}

/// Nanoseconds of a clock that all processes share.
pub fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

// ---- figures

/// Times from 100 ns to a minute, in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("sane bounds")
}

/// A time as a histogram takes it.
pub fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Prints a histogram.
pub fn show(name: &str, times: &Histogram<u64>) {
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1_000.0;
    println!(
        "{name:<24} p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs, max {:.1} µs ({})",
        at(0.5),
        at(0.99),
        at(0.999),
        times.max() as f64 / 1_000.0,
        times.len()
    );
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_and_without_a_key_are_of_one_size() {
        for message in [message(), keyed(&key(0)), keyed(&key(9_999_999))] {
            let mut message = message;
            let id = || "01234567-89ab-cdef-0123-456789abcdef".parse();
            message.stamp(spoolway::Timestamp(1_700_000_000_000), || {
                id().expect("an id")
            });
            let mut frame = Default::default();
            spoolway::wire::put_frame(&mut frame, |body| message.encode(body));
            assert_eq!(frame.len(), 204, "200 bytes and their length");
        }
    }
}
