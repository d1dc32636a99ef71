//! `spoolway replay`: waits until the running consumer has delivered the backlog, or delivers once more.

mod again;
mod backlog;
mod pace;

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use spoolway::SqliteQueue;
use spoolway::queue::{ConsumerLock, QueueOptions};
use tokio::sync::oneshot;

use crate::args::Replay;
use crate::failure::{Failure, exit};
use crate::paths::Places;
use crate::signals::Signals;
use crate::units::plural;

/// How long a consumer may take to start: `spoolway serve & spoolway replay` should work.
const CONSUMER_WAIT: Duration = Duration::from_secs(2);
/// Time between two looks at whether the consumer still lives.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// Time between the first two looks at what is delivered; it grows from look to look.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// Ends in order at the first SIGINT or SIGTERM, at once at the second.
pub(crate) async fn run(places: Places, args: Replay, quiet: bool) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let (stop, stopped) = mpsc::channel();
    let (done, mut finished) = oneshot::channel();
    // All of it blocks; and a thread that is not waited for can be left in the middle.
    thread::spawn(move || {
        let ended = replay(&places, &args, Stop(stopped), quiet);
        // Nobody listens after the second signal.
        let _ = done.send(ended);
    });
    let mut asked = false;
    loop {
        tokio::select! {
            ended = &mut finished => return ended.unwrap_or_else(|_| Err(panicked())),
            code = signals.next() => {
                if asked || stop.send(code).is_err() {
                    return Ok(code);
                }
                asked = true;
            }
        }
    }
}

fn replay(places: &Places, args: &Replay, stop: Stop, quiet: bool) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    match args.filter() {
        None => backlog::wait(&queue, args, &stop, quiet),
        Some(filter) => again::run(&queue, filter, places, args, &stop, quiet),
    }
}

fn panicked() -> Failure {
    Failure::new(exit::FAILED, "internal", "the replay has panicked")
        .help("report it with what is above; nothing is half replayed")
}

/// Where the signals of this process arrive.
struct Stop(Receiver<u8>);

impl Stop {
    /// Waits that long; a signal ends it, with its exit code.
    fn rest(&self, time: Duration) -> Option<u8> {
        match self.0.recv_timeout(time) {
            Ok(code) => Some(code),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(time);
                None
            }
        }
    }
}

/// When to look again, after waiting so long for the last look.
fn next_look(wait: Duration) -> Duration {
    (wait * 3 / 2).min(LOOK_MAX)
}

fn progress(length: u64, template: &str, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    // The template is fixed text: if it were wrong, the default look would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Whether a consumer holds the lock beside the queue file.
struct Held {
    queue: SqliteQueue,
    started: Instant,
    seen: Option<Instant>,
}

impl Held {
    fn new(queue: &SqliteQueue) -> Self {
        Self {
            queue: queue.clone(),
            started: Instant::now(),
            seen: None,
        }
    }

    /// Asks only now and then: for a moment the question itself holds the lock, if nobody does.
    fn is_held(&mut self) -> Result<bool, Failure> {
        if self.seen.is_some_and(|at| at.elapsed() < ALIVE_EVERY) {
            return Ok(true);
        }
        let held = ConsumerLock::is_held(&self.queue.lock_path())?;
        if held {
            self.seen = Some(Instant::now());
        }
        // A consumer that ended may be followed by another.
        let since = self.seen.unwrap_or(self.started);
        Ok(held || since.elapsed() < CONSUMER_WAIT)
    }

    /// Whether one was ever there.
    fn was_seen(&self) -> bool {
        self.seen.is_some()
    }
}

fn not_running(pending: u64, database: &Path) -> Failure {
    let what = match pending {
        0 => format!(
            "no consumer reads {}: nothing was changed",
            database.display()
        ),
        _ => format!(
            "no consumer reads {}: {} stay in the backlog",
            database.display(),
            plural(pending, "message")
        ),
    };
    let failure = Failure::new(exit::UNAVAILABLE, "consumer_not_running", what)
        .help("start `spoolway serve` with this --database; it delivers the backlog by itself");
    match ConsumerLock::owner(&spoolway::queue::side_file(database, ".lock")) {
        Some(pid) => failure.because(format!("the last consumer (pid {pid}) has ended")),
        None => failure.because("none has run yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_up_to_four_a_second() {
        let waits: Vec<Duration> =
            std::iter::successors(Some(LOOK_FIRST), |wait| Some(next_look(*wait)))
                .take(20)
                .collect();
        assert!(waits.is_sorted() && waits[1] < Duration::from_millis(10));
        assert_eq!(waits[19], LOOK_MAX);
    }
}
