//! `spoolway replay`: waits until the running consumer has delivered the backlog.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use spoolway::SqliteQueue;
use spoolway::queue::{ConsumerLock, QueueOptions, Stats};

use crate::args::Replay;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::{count, plural};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a consumer may take to start: `spoolway serve & spoolway replay` should work.
const CONSUMER_WAIT: Duration = Duration::from_secs(2);
/// Time between two looks at whether the consumer still lives.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
struct Replayed {
    delivered: u64,
    pending: u64,
    new_dead: u64,
    dead: u64,
    seconds: f64,
}

pub(crate) fn run(places: &Places, args: &Replay, quiet: bool) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let started = Instant::now();
    let before = queue.stats()?;
    let bar = progress(before.pending, quiet);
    let mut now = before.clone();
    let mut held = Held::new(queue.lock_path(), started);
    while now.pending > 0 {
        if !held.is_held()? {
            bar.finish_and_clear();
            return Err(not_running(&now, queue.path()));
        }
        if args.timeout.is_some_and(|limit| started.elapsed() >= limit) {
            bar.finish_and_clear();
            return Err(too_long(&now));
        }
        sleep(LOOK_EVERY);
        now = queue.stats()?;
        bar.set_length(before.pending.max(now.pending));
        bar.set_position(before.pending.saturating_sub(now.pending));
        if now.delayed == now.pending && now.delayed > 0 {
            bar.set_message(format!("{} wait for their time", count(now.delayed)));
        }
    }
    bar.finish_and_clear();
    let replayed = Replayed {
        delivered: now.processed.saturating_sub(before.processed),
        pending: now.pending,
        new_dead: now.dead.saturating_sub(before.dead),
        dead: now.dead,
        seconds: started.elapsed().as_secs_f64(),
    };
    if args.json {
        print_json(&replayed)?;
    } else {
        print(sentence(&replayed))?;
    }
    Ok(exit::OK)
}

fn sentence(replayed: &Replayed) -> String {
    let mut text = match replayed.delivered {
        0 => "backlog empty".to_owned(),
        delivered => format!("{} delivered, backlog empty", plural(delivered, "message")),
    };
    if replayed.new_dead > 0 {
        text += &format!("; {} became dead letters", count(replayed.new_dead));
    }
    let earlier = replayed.dead.saturating_sub(replayed.new_dead);
    if earlier > 0 {
        text += &format!("; {} from before", plural(earlier, "dead letter"));
    }
    text
}

fn progress(pending: u64, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(pending);
    // The template is fixed text: if it were wrong, the default look would do.
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} delivered {msg}")
    {
        bar.set_style(style);
    }
    bar
}

/// Whether a consumer holds the lock beside the queue file.
struct Held {
    lock: std::path::PathBuf,
    started: Instant,
    seen: Option<Instant>,
}

impl Held {
    fn new(lock: std::path::PathBuf, started: Instant) -> Self {
        Self {
            lock,
            started,
            seen: None,
        }
    }

    /// Asks only now and then: for a moment the question itself holds the lock, if nobody does.
    fn is_held(&mut self) -> Result<bool, Failure> {
        if self.seen.is_some_and(|at| at.elapsed() < ALIVE_EVERY) {
            return Ok(true);
        }
        let held = ConsumerLock::is_held(&self.lock)?;
        if held {
            self.seen = Some(Instant::now());
        }
        // A consumer that ended may be followed by another.
        let since = self.seen.unwrap_or(self.started);
        Ok(held || since.elapsed() < CONSUMER_WAIT)
    }
}

fn not_running(now: &Stats, database: &Path) -> Failure {
    let what = format!(
        "no consumer reads {}: {} stay in the backlog",
        database.display(),
        plural(now.pending, "message")
    );
    let failure = Failure::new(exit::UNAVAILABLE, "consumer_not_running", what)
        .help("start `spoolway serve` with this --database; it delivers the backlog by itself");
    match ConsumerLock::owner(&spoolway::queue::side_file(database, ".lock")) {
        Some(pid) => failure.because(format!("the last consumer (pid {pid}) has ended")),
        None => failure.because("none has run yet"),
    }
}

fn too_long(now: &Stats) -> Failure {
    let what = format!("{} still pending", plural(now.pending, "message"));
    Failure::new(exit::TRY_AGAIN, "timeout", what)
        .because(match now.delayed {
            0 => "the consumer needs longer than --timeout".to_owned(),
            delayed => format!("{} of them wait for a retry or their time", count(delayed)),
        })
        .help("run `spoolway replay` again, or see `spoolway queue stats`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_counts_what_happened() {
        let mut replayed = Replayed {
            delivered: 1,
            pending: 0,
            new_dead: 0,
            dead: 0,
            seconds: 0.1,
        };
        assert_eq!(sentence(&replayed), "1 message delivered, backlog empty");
        replayed.delivered = 0;
        replayed.dead = 3;
        assert_eq!(
            sentence(&replayed),
            "backlog empty; 3 dead letters from before"
        );
        replayed.delivered = 1_200;
        replayed.new_dead = 2;
        assert_eq!(
            sentence(&replayed),
            "1,200 messages delivered, backlog empty; 2 became dead letters; 1 dead letter from before"
        );
    }
}
