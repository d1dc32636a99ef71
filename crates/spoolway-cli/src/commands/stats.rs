//! `spoolway queue stats`: what the queue file holds.

use std::time::Duration;

use spoolway::SqliteQueue;
use spoolway::queue::{self, QueueOptions};

use crate::args::Stats;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::{bytes, count, span};

/// Types that the table names; the JSON has all.
const TYPES_SHOWN: usize = 10;

pub(crate) fn run(places: &Places, args: &Stats) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let stats = queue.stats()?;
    if args.json {
        print_json(&stats)?;
    } else {
        print(table(&queue, &stats))?;
    }
    Ok(exit::OK)
}

/// The file keeps whole seconds.
fn age_text(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        _ => span(Duration::from_secs(seconds)),
    }
}

fn table(queue: &SqliteQueue, stats: &queue::Stats) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<14}{value:>12}"));
    line("pending", count(stats.pending));
    line("  claimed", count(stats.claimed));
    line("  delayed", count(stats.delayed));
    line("  suspect", count(stats.suspects));
    if let Some(age) = stats.oldest_pending_age_s {
        line("  oldest", age_text(age));
    }
    let mut types: Vec<_> = stats.pending_by_type.iter().collect();
    types.sort_by_key(|(_, pending)| std::cmp::Reverse(**pending));
    for (kind, pending) in types.iter().take(TYPES_SHOWN) {
        line(&format!("  {kind}"), count(**pending));
    }
    line("processed", count(stats.processed));
    line("dead", count(stats.dead));
    line("file", bytes(stats.file_bytes));
    line("  free", bytes(stats.free_bytes));
    line("  log", bytes(stats.wal_bytes));
    format!("{}\n{}", queue.path().display(), lines.join("\n"))
}
