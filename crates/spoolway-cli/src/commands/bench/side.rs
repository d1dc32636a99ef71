//! `spoolway bench-side`: one process of the bench. It says when it is ready, starts at a word, and tells what it
//! measured as one line of JSON.
//!
//! When its standard input closes, its parent is gone and it ends.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use spoolway::{Consumer, Producer};
use tokio::sync::{mpsc, oneshot};

use super::{bare, load};
use crate::args::BenchSide;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::program::{Program, words_of_parent};

pub(super) const READY: &str = "ready";
pub(super) const GO: &str = "go";
pub(super) const END: &str = "end";
/// The socket's name in the directory of the run.
pub(super) const SOCKET: &str = "b.sock";
/// How long what is on its way may take at the end.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// What a process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Part {
    Consumer,
    Producer,
    BareServer,
    BareClient,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Consumer => "consumer",
            Self::Producer => "producer",
            Self::BareServer => "bare-server",
            Self::BareClient => "bare-client",
        })
    }
}

/// What a process measured between its start and its end.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Told {
    pub(super) messages: u64,
    /// Nanoseconds of the clock that all processes share.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Processor time in nanoseconds.
    pub(super) cpu: u64,
    /// Peak of resident memory in KiB.
    pub(super) peak_kib: u64,
    /// Transactions of the queue file, where it is known.
    pub(super) commits: Option<u64>,
    /// Nanoseconds from a call to its answer: values, and how many of each.
    pub(super) times: Vec<(u64, u64)>,
}

impl Told {
    pub(super) fn of(program: &Program) -> Result<Self, Failure> {
        let output = program.output()?;
        let line = output.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|error| {
            Failure::new(
                exit::FAILED,
                "not_told",
                "a process did not tell what it measured",
            )
            .because(error.to_string())
        })
    }
}

/// Times from 100 ns to a minute, in nanoseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("sane bounds")
}

/// Runs on a runtime of one thread, as both sides of the ceiling do.
pub(crate) fn run(places: &Places, args: &BenchSide) -> Result<u8, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start a runtime", &error))?
        .block_on(part(places, args))
}

async fn part(places: &Places, args: &BenchSide) -> Result<u8, Failure> {
    let mut words = words_of_parent()?;
    let told = match args.part {
        Part::Consumer => consume(places, &mut words).await?,
        Part::Producer => {
            let producer = Producer::builder(&places.socket, &places.database)
                .ack(args.work.ack())
                .open()
                .await?;
            let meter = begin(&mut words, GO).await?;
            let (start, times) = load::send(&producer, args).await?;
            let told = meter.end(args.messages, start, &times);
            producer.close(CLOSE_MAX).await;
            told
        }
        Part::BareServer => {
            let served = bare::Server::listen(&places.socket, args)?;
            let meter = Meter::start();
            print(READY)?;
            tokio::select! {
                failed = served.serve() => return Err(failed),
                word = words.recv() => expect(word.as_deref(), END)?,
            }
            meter.end(args.messages, meter.start, &histogram())
        }
        Part::BareClient => {
            let mut client = bare::Client::connect(&places.socket, args).await?;
            let meter = begin(&mut words, GO).await?;
            let times = client.send().await?;
            meter.end(args.messages, meter.start, &times)
        }
    };
    print_json(&told)?;
    Ok(exit::OK)
}

/// The consumer, with a handler that does nothing.
async fn consume(places: &Places, words: &mut mpsc::Receiver<String>) -> Result<Told, Failure> {
    let consumer = Consumer::builder(&places.socket, &places.database)
        .default(|_| async { Ok::<(), String>(()) })
        .build()
        .await?;
    let queue = consumer.queue().clone();
    let commits = queue.commits();
    let (shut_down, shutdown) = oneshot::channel::<()>();
    let meter = Meter::start();
    let running = tokio::spawn(consumer.run(async {
        // Without a sender it ends just as well.
        let _ = shutdown.await;
    }));
    print(READY)?;
    expect(words.recv().await.as_deref(), END)?;
    let mut told = meter.end(0, meter.start, &histogram());
    told.commits = Some(queue.commits() - commits);
    let _ = shut_down.send(());
    let summary = running.await.map_err(|error| {
        Failure::new(exit::FAILED, "panicked", "the consumer panicked").because(error.to_string())
    })??;
    told.messages = summary.processed;
    Ok(told)
}

async fn begin(words: &mut mpsc::Receiver<String>, word: &str) -> Result<Meter, Failure> {
    print(READY)?;
    expect(words.recv().await.as_deref(), word)?;
    Ok(Meter::start())
}

fn expect(said: Option<&str>, word: &str) -> Result<(), Failure> {
    if said == Some(word) {
        return Ok(());
    }
    let what = format!("a process of the bench was told {said:?}, not {word:?}");
    Err(Failure::new(exit::FAILED, "not_told", what))
}

/// Time and processor time since a moment.
struct Meter {
    start: u64,
    cpu: u64,
}

impl Meter {
    fn start() -> Self {
        Self {
            start: monotonic(),
            cpu: nanos(ClockId::ProcessCPUTime),
        }
    }

    fn end(&self, messages: u64, start: u64, times: &Histogram<u64>) -> Told {
        let recorded = times.iter_recorded();
        Told {
            messages,
            start,
            end: monotonic(),
            cpu: nanos(ClockId::ProcessCPUTime) - self.cpu,
            peak_kib: peak_kib(),
            commits: None,
            times: recorded
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
                .collect(),
        }
    }
}

/// Nanoseconds of a clock that all processes share.
pub(super) fn monotonic() -> u64 {
    nanos(ClockId::Monotonic)
}

fn nanos(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The peak of this process's resident memory; 0 where the system does not tell.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}
