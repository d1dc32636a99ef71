//! Seeds, options, messages.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use spoolway_proto::{Message, Timestamp};
use spoolway_queue::{Durability, QueueOptions, Role};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The seeds of a test: these, or the one that is asked for.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SPOOLWAY_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..count).collect(),
    }
}

/// Runs `run` for each seed on two threads.
pub(crate) fn for_each_seed(count: u64, run: impl Fn(u64) + Sync) {
    let seeds = seeds(count);
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (seeds, run) = (&seeds, &run);
            scope.spawn(move || {
                seeds
                    .iter()
                    .skip(half)
                    .step_by(2)
                    .for_each(|&seed| run(seed))
            });
        }
    });
}

/// A directory in memory, where there is one: thousands of small files come and go.
pub(crate) fn tempdir() -> TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn queue_path(dir: &Path) -> PathBuf {
    dir.join("q.db")
}

pub(crate) fn options(durability: Durability) -> QueueOptions {
    QueueOptions {
        role: Role::Consumer,
        durability,
        ..QueueOptions::default()
    }
}

/// A program that is not ours, on the same disk.
pub(crate) fn foreign(dir: &Path) -> Connection {
    let conn = Connection::open(queue_path(dir)).unwrap();
    conn.busy_timeout(DEADLINE).unwrap();
    conn
}

/// A message whose content follows from its id.
pub(crate) fn message(id: &str, bytes: usize) -> Message {
    let text: String = id.chars().cycle().take(bytes.max(1)).collect();
    Message::new("task", &text)
        .unwrap()
        .id(id)
        .timestamp(Timestamp(1_700_000_000_000))
}

/// How much was tried, for who runs the tests with `--nocapture`.
#[expect(clippy::print_stdout, reason = "a test may say what it did")]
pub(crate) fn report(what: &str) {
    println!("{what}");
}
