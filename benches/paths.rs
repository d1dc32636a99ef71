//! Both paths against their own ceilings, measured in the same run, consumer and echo in processes of their own.
//!
//! `cargo bench -p spoolway-benches` prints, for 200-byte messages and a handler that does nothing:
//! `rtt` (one message at a time, against a bare tokio ping-pong of the same bytes), `stream` (a receipt each),
//! `drain` (from the queue file), `kill` (the send after a kill, with and without unanswered messages, and the way back).
//! Nothing here passes or fails: the bounds are in the issue, the figures in the README.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use spoolway::{Consumer, Delivery, Message, Producer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const RTT_COUNT: u64 = 40_000;
const STREAM_COUNT: u64 = 600_000;
const DRAIN_COUNT: u64 = 200_000;
const KILLS: u64 = 100;
/// Bytes of a message's frame.
const FRAME: usize = 204;
/// Bytes of the answer that the bare echo sends: an `ack` of one number.
const ANSWER: usize = 36;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    match args.get(1).map(String::as_str) {
        Some("consumer") => runtime.block_on(consumer(Path::new(&args[2]))),
        Some("echo") => runtime.block_on(echo(Path::new(&args[2]))),
        _ => {
            println!("spoolway {}, {} cores", env!("CARGO_PKG_VERSION"), cores());
            runtime.block_on(rtt());
            runtime.block_on(stream());
            runtime.block_on(drain());
            runtime.block_on(kill());
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

// ---- the other side

async fn consumer(dir: &Path) {
    let term = async {
        let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .expect("a signal handler");
        signal.recv().await;
    };
    Consumer::builder(dir.join("s.sock"), dir.join("queue.db"))
        .default(|_: Delivery| async { Ok::<(), String>(()) })
        .run(term)
        .await
        .expect("a consumer");
}

async fn echo(dir: &Path) {
    let listener = UnixListener::bind(dir.join("echo.sock")).expect("a socket");
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let (mut frame, answer) = ([0; FRAME], [b'x'; ANSWER]);
    while stream.read_exact(&mut frame).await.is_ok() {
        stream.write_all(&answer).await.expect("a reader");
    }
}

struct Side(Child);

impl Side {
    fn start(what: &str, dir: &Path) -> Self {
        let me = std::env::current_exe().expect("this program");
        let child = Command::new(me)
            .arg(what)
            .arg(dir)
            .stdin(Stdio::null())
            .spawn();
        let side = Self(child.expect("this program"));
        // The echo takes one connection only, so it is not tried here.
        let is_up = || match what {
            "echo" => dir.join("echo.sock").exists(),
            _ => std::os::unix::net::UnixStream::connect(dir.join("s.sock")).is_ok(),
        };
        while !is_up() {
            std::thread::sleep(Duration::from_micros(200));
        }
        side
    }

    fn kill(mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_owned();
    (dir, path)
}

async fn producer(dir: &Path) -> Producer {
    Producer::open(dir.join("s.sock"), dir.join("queue.db"))
        .await
        .expect("a producer")
}

/// A message of 200 bytes on the wire, with the id and the timestamp that `send` gives it.
fn message() -> Message {
    Message::new("bench", &serde_json::json!({ "text": "x".repeat(84) })).expect("plain JSON")
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
    let mut window = VecDeque::with_capacity(2_048);
    for _ in 0..STREAM_COUNT {
        window.push_back(producer.send(message()));
        if window.len() == 1_024 {
            for sending in window.drain(..512) {
                sending.await.expect("taken");
            }
        }
    }
    for sending in window {
        sending.await.expect("taken");
    }
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
    let mut window = VecDeque::new();
    for _ in 0..DRAIN_COUNT {
        window.push_back(producer.send(message()));
        if window.len() == 2_048 {
            for sending in window.drain(..1_024) {
                sending.await.expect("stored");
            }
        }
    }
    for sending in window {
        sending.await.expect("stored");
    }
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
            stop(&side.0);
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

fn stop(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("our own child");
}

// ---- figures

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("sane bounds")
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

fn show(name: &str, times: &Histogram<u64>) {
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
