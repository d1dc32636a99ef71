//! `spoolway queue stats`: what the queue file holds.

use std::time::Duration;

use serde::Serialize;
use spoolway::SqliteQueue;
use spoolway::queue::{self, QueueOptions};

use crate::args::Stats;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::{bytes, count, span};

/// Types and keys that are named.
const TOP: usize = 10;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    stats: &'a queue::Stats,
    /// Of the first messages of the backlog; `exact`: of all of them.
    top: &'a queue::Top,
}

pub(crate) fn run(places: &Places, args: &Stats) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let (stats, top) = (queue.stats()?, queue.top(TOP)?);
    if args.json {
        print_json(&Report {
            stats: &stats,
            top: &top,
        })?;
    } else {
        print(table(&queue, &stats, &top))?;
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

fn table(queue: &SqliteQueue, stats: &queue::Stats, top: &queue::Top) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<18}{value:>12}"));
    line("pending", count(stats.pending));
    line("  ready", count(stats.ready));
    line("  claimed", count(stats.claimed));
    line("  delayed", count(stats.delayed));
    if stats.delayed > 0 {
        line("    to be retried", count(stats.retries));
        line("    deliver_at", count(stats.delayed - stats.retries));
    }
    line("  held", count(stats.held));
    line("  suspect", count(stats.suspects));
    if let Some(age) = stats.oldest_pending_age_s {
        line("  oldest", age_text(age));
    }
    line("processed", count(stats.processed));
    line("dead", count(stats.dead));
    for (reason, letters) in by_number(stats.dead_by_reason.iter()) {
        line(&format!("  {reason}"), count(*letters));
    }
    line("file", bytes(stats.file_bytes));
    line("  free", bytes(stats.free_bytes));
    line("  log", bytes(stats.wal_bytes));
    if stats.wal_pinned {
        line("  PINNED", "by a reader".into());
    }
    for (name, most) in [("type", &top.types), ("key", &top.keys)] {
        if most.is_empty() {
            continue;
        }
        let of = match top.exact {
            true => String::new(),
            false => format!(" (of the first {})", count(queue::TOP_ROWS_MAX)),
        };
        lines.push(format!("pending by {name}{of}"));
        lines.extend(most.iter().map(|(name, pending)| {
            let name = format!("  {name}");
            format!("{name:<18}{:>12}", count(*pending))
        }));
    }
    format!("{}\n{}", queue.path().display(), lines.join("\n"))
}

/// The most frequent first.
fn by_number<'a>(
    counts: impl Iterator<Item = (&'a String, &'a u64)>,
) -> Vec<(&'a String, &'a u64)> {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    counts
}
