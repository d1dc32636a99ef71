//! What the order of keys costs, and what holds it when connections do not: each against the same traffic without.
//!
//! `cargo bench -p spoolway-benches --bench order` prints, for 200-byte messages with a receipt each:
//!
//! - `keyed`: a stream over 10,000 random keys, and the same stream without keys; their medians in turns, and the ratio.
//! - `flap`: 4 producers over 1,000 keys through a proxy that cuts all their connections ten times a second, and the
//!   same undisturbed, both until the last message is processed; the ratio, how many were stored by either side before
//!   they were processed, and what is lost, doubled or out of order.
//!
//! Behind `--`: the parts to run, then `--seconds 60` for a longer `flap` (10). Rates pass or fail nothing; but a message
//! that is lost, doubled or out of order ends this with code 1.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway::{Delivery, Outcome, Producer, SendError, SqliteQueue};
use spoolway_benches::{
    Side, WINDOW, begin, consume, is_picked, key, keyed, median, message, option, place, producer,
    stream, taken,
};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

const KEYED_COUNT: u64 = 200_000;
const KEYED_ROUNDS: usize = 5;
const KEYED_KEYS: u64 = 10_000;

const FLAP_SECONDS: u64 = 10;
const FLAP_EVERY: Duration = Duration::from_millis(100);
const FLAP_KEYS: u64 = 1_000;
const FLAP_PRODUCERS: u64 = 4;

fn main() -> ExitCode {
    let (runtime, side) = begin();
    if let Some((what, dir)) = side {
        match what.as_str() {
            "witness" => runtime.block_on(witness(&dir)),
            _ => runtime.block_on(consume(&dir, |_| {})),
        }
        return ExitCode::SUCCESS;
    }
    if is_picked("keyed") {
        runtime.block_on(keyed_stream());
    }
    if is_picked("flap") && !runtime.block_on(flap()) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

// ---- keys on the fast path

async fn keyed_stream() {
    let (_dir, dir) = place();
    let _side = Side::start("consumer", &dir);
    let producer = producer(&dir).await;
    // Names that the program has anyway.
    let keys: Vec<String> = (0..KEYED_KEYS).map(key).collect();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut draw = || keyed(&keys[rng.random_range(0..keys.len())]);
    round(&producer, message).await;
    let (mut plain, mut with) = (Vec::new(), Vec::new());
    for _ in 0..KEYED_ROUNDS {
        plain.push(round(&producer, message).await);
        with.push(round(&producer, &mut draw).await);
    }
    let (plain, with) = (median(plain), median(with));
    println!(
        "stream, no keys          {plain:.0} messages/s, a receipt each, median of {KEYED_ROUNDS}"
    );
    println!("stream, {KEYED_KEYS} keys      {with:.0} messages/s");
    println!("keyed ratio              {:.2}", with / plain);
}

async fn round(producer: &Producer, mut make: impl FnMut() -> spoolway::Message) -> f64 {
    let start = Instant::now();
    stream(producer, WINDOW, (0..KEYED_COUNT).map(|_| make()), taken).await;
    KEYED_COUNT as f64 / start.elapsed().as_secs_f64()
}

// ---- connections that do not hold

/// Whether every promise was kept.
async fn flap() -> bool {
    let seconds = option("--seconds", FLAP_SECONDS);
    let quiet = run(Duration::from_secs(seconds).div_f64(2.0), false).await;
    let flapped = run(Duration::from_secs(seconds), true).await;
    quiet.show("flap ceiling");
    flapped.show("flap");
    println!("flap ratio               {:.2}", flapped.rate / quiet.rate);
    quiet.found.is_clean() && flapped.found.is_clean()
}

/// What one run of the producers came to.
struct Run {
    rate: f64,
    answered: Duration,
    processed: Duration,
    cuts: usize,
    sent: usize,
    refused: usize,
    stored: usize,
    found: Found,
}

impl Run {
    fn show(&self, name: &str) {
        let Self { rate, cuts, .. } = self;
        println!(
            "{name:<24} {rate:.0} messages/s, {cuts} cuts, {} stored, {} refused; answered in {:.1} s, processed in {:.1} s",
            self.stored,
            self.refused,
            self.answered.as_secs_f64(),
            self.processed.as_secs_f64()
        );
        let Found {
            lost,
            doubled,
            disordered,
        } = self.found;
        println!(
            "{:<24} {} sent: {lost} lost, {doubled} doubled, {disordered} out of order",
            format!("{name}, promises"),
            self.sent
        );
    }
}

async fn run(time: Duration, is_flapping: bool) -> Run {
    let (_dir, dir) = place();
    let side = Side::start("witness", &dir);
    let proxy = Proxy::start(&dir);
    let mut sending = JoinSet::new();
    let start = Instant::now();
    for who in 0..FLAP_PRODUCERS {
        let (front, queue) = (dir.join("front.sock"), dir.join("queue.db"));
        let producer = Producer::open(front, queue).await.expect("a producer");
        sending.spawn(send(producer, who, start + time));
    }
    let mut cuts = 0;
    let mut tick = tokio::time::interval(FLAP_EVERY);
    let mut told = Vec::new();
    while told.len() < FLAP_PRODUCERS as usize {
        tokio::select! {
            Some(ended) = sending.join_next() => told.push(ended.expect("a producer's task")),
            _ = tick.tick(), if is_flapping => cuts += proxy.cut(),
        }
    }
    let answered = start.elapsed();
    let queue = SqliteQueue::open(dir.join("queue.db"), Default::default()).expect("the queue");
    while queue.stats().expect("stats").pending > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent: usize = told.iter().map(|told| told.is_taken.len()).sum();
    let processed = start.elapsed();
    side.end();
    let seen = std::fs::read(dir.join("seen")).expect("what the witness saw");
    let (seen, _) = seen.as_chunks();
    Run {
        rate: sent as f64 / processed.as_secs_f64(),
        answered,
        processed,
        cuts,
        sent,
        refused: told.iter().map(Told::refused).sum(),
        stored: told.iter().map(|told| told.stored).sum(),
        found: Found::compare(&told, seen.iter().map(|mark| Mark::from_bytes(*mark))),
    }
}

/// What the sends of one producer returned, by number.
struct Told {
    who: u64,
    is_taken: Vec<bool>,
    stored: usize,
}

impl Told {
    fn refused(&self) -> usize {
        self.is_taken.iter().filter(|taken| !**taken).count()
    }
}

async fn send(producer: Producer, who: u64, until: Instant) -> Told {
    let mut rng = SmallRng::seed_from_u64(who);
    let messages = (0..).map_while(|n| {
        let mark = Mark {
            who,
            key: rng.random_range(0..FLAP_KEYS),
            n,
        };
        (Instant::now() < until).then(|| keyed(&key(mark.key)).id(mark.id()))
    });
    let (mut is_taken, mut stored) = (Vec::new(), 0);
    let told = |answer: Result<spoolway::Receipt, SendError>| {
        let outcome = answer.as_ref().map(|receipt| receipt.outcome);
        stored += usize::from(outcome.is_ok_and(|outcome| outcome == Outcome::Stored));
        is_taken.push(answer.is_ok());
    };
    stream(&producer, WINDOW, messages, told).await;
    Told {
        who,
        is_taken,
        stored,
    }
}

// ---- who saw what

/// A message: its producer, its key and its number there.
#[derive(Clone, Copy)]
struct Mark {
    who: u64,
    key: u64,
    n: u64,
}

impl Mark {
    /// 36 characters, as `send` would give it.
    fn id(&self) -> String {
        format!("{:012}-{:011}-{:011}", self.who, self.key, self.n)
    }

    fn of(delivery: &Delivery) -> Self {
        let mut parts = delivery.id.as_str().split('-').map(str::parse);
        let mut part = || parts.next().and_then(Result::ok).expect("an id of ours");
        Self {
            who: part(),
            key: part(),
            n: part(),
        }
    }

    fn to_bytes(self) -> [u8; 8] {
        (self.who << 56 | self.key << 40 | self.n).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; 8]) -> Self {
        let all = u64::from_le_bytes(bytes);
        Self {
            who: all >> 56,
            key: all >> 40 & 0xffff,
            n: all & 0xff_ffff_ffff,
        }
    }
}

/// A consumer that writes down every start of its handler, in order.
async fn witness(dir: &Path) {
    let seen = File::create(dir.join("seen")).expect("a file");
    let seen = Arc::new(Mutex::new(BufWriter::new(seen)));
    let writing = Arc::clone(&seen);
    let note = move |delivery: &Delivery| {
        let mut seen = writing.lock().expect("no panic");
        let bytes = Mark::of(delivery).to_bytes();
        seen.write_all(&bytes).expect("room on the disk");
    };
    consume(dir, note).await;
    seen.lock()
        .expect("no panic")
        .flush()
        .expect("room on the disk");
}

/// Broken promises.
#[derive(Clone, Copy, Default)]
struct Found {
    lost: usize,
    doubled: usize,
    disordered: usize,
}

impl Found {
    /// Every id that was taken once, and the numbers of a producer's key rising.
    fn compare(told: &[Told], seen: impl Iterator<Item = Mark>) -> Self {
        let mut found = Self::default();
        let of = |who: u64| told.iter().find(|told| told.who == who);
        let mut was_seen = vec![Vec::new(); told.len()];
        for told in told {
            was_seen[told.who as usize] = vec![false; told.is_taken.len()];
        }
        let mut last = vec![None; told.len() * FLAP_KEYS as usize];
        for Mark { who, key, n } in seen {
            let was_seen = &mut was_seen[who as usize][n as usize];
            let last = &mut last[(who * FLAP_KEYS + key) as usize];
            found.doubled += usize::from(std::mem::replace(was_seen, true));
            found.disordered += usize::from(last.replace(n) > Some(n));
        }
        for (who, was_seen) in was_seen.iter().enumerate() {
            let taken = of(who as u64).into_iter().flat_map(|told| &told.is_taken);
            found.lost += taken
                .zip(was_seen)
                .filter(|(taken, seen)| **taken && !**seen)
                .count();
        }
        found
    }

    fn is_clean(self) -> bool {
        self.lost + self.doubled + self.disordered == 0
    }
}

// ---- the proxy

/// A socket in front of the consumer's, on a thread of its own until the program ends.
struct Proxy {
    lines: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    fn start(dir: &Path) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (front, back) = (dir.join("front.sock"), dir.join("s.sock"));
        let listener = std::os::unix::net::UnixListener::bind(front).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let alive = Arc::clone(&lines);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).expect("a socket");
                while let Ok((mut front, _)) = listener.accept().await {
                    let back = back.clone();
                    let line = tokio::spawn(async move {
                        if let Ok(mut back) = UnixStream::connect(back).await {
                            let _ = copy_bidirectional(&mut front, &mut back).await;
                        }
                    });
                    alive.lock().expect("no panic").push(line.abort_handle());
                }
            });
        });
        Self { lines }
    }

    /// Cuts every connection, wherever its bytes are, and counts them.
    fn cut(&self) -> usize {
        let lines = std::mem::take(&mut *self.lines.lock().expect("no panic"));
        let alive = lines.iter().filter(|line| !line.is_finished());
        alive.map(AbortHandle::abort).count()
    }
}
