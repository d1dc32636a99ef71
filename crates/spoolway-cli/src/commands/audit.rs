//! `spoolway audit`: what became of every message, by producer.

mod prometheus;
mod save;

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use serde::Serialize;
use spoolway::SqliteQueue;
use spoolway::queue::{self, QueueOptions};

use crate::args::Audit;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::paths::Places;
use crate::units::{count, plural};

use save::Consumer;

/// Producers that the table names; the JSON has all.
const PRODUCERS_SHOWN: usize = 20;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    database: PathBuf,
    consumer: Consumer,
    producers: Vec<queue::Audit>,
    total: Total,
    ok: bool,
}

/// The sums of all producers.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Total {
    producers: u64,
    sent: u64,
    by_socket: u64,
    by_word: u64,
    by_queue: u64,
    processed: u64,
    stored: u64,
    dead: u64,
    err: u64,
    open: u64,
    missing: u64,
}

pub(crate) fn run(places: &Places, args: &Audit) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let consumer = save::newest(&queue, &places.socket)?;
    let mut producers = queue.audit()?;
    producers.sort_by_key(|one| (Reverse(one.missing), Reverse(one.since)));
    let total = Total::of(&producers);
    let report = Report {
        database: queue.path().to_path_buf(),
        consumer,
        producers,
        total,
        ok: total.missing == 0,
    };
    if let Consumer::NotSaved(why) = &report.consumer {
        tell(format_args!(
            "warning: what the running consumer has not saved is not counted: {why}"
        ));
    }
    if args.json {
        print_json(&report)?;
    } else if args.prometheus {
        print(prometheus::text(&report.consumer, &report.producers))?;
    } else {
        print(table(&report))?;
    }
    match report.ok {
        true => Ok(exit::OK),
        false => Err(missing(&total, queue.path())),
    }
}

impl Total {
    fn of(producers: &[queue::Audit]) -> Self {
        let mut total = Self::default();
        for one in producers {
            total.producers += 1;
            total.sent += one.sent;
            total.by_socket += one.by_socket;
            total.by_word += one.by_word;
            total.by_queue += one.by_queue;
            total.processed += one.processed;
            total.stored += one.stored;
            total.dead += one.dead;
            total.err += one.err;
            total.open += one.open;
            total.missing += one.missing;
        }
        total
    }
}

fn missing(total: &Total, database: &Path) -> Failure {
    let what = format!(
        "{} missing: sent and settled, and neither an outcome nor a row says what became of them",
        match total.missing {
            1 => "1 message is".to_owned(),
            more => format!("{} messages are", count(more)),
        }
    );
    Failure::new(exit::BROKEN, "missing", what)
        .because(
            "rows were deleted by other means than `cleanup`, `dead purge` and `queue import --move`, the queue file was \
             replaced or is an older copy, or this is a bug",
        )
        .help(format!(
            "keep a copy of {} (`spoolway queue backup missing.db`), look for other queue files of these producers, \
             and report it if there are none",
            database.display()
        ))
}

const COLUMNS: [&str; 12] = [
    "producer",
    "since",
    "sent",
    "socket",
    "by word",
    "queue",
    "processed",
    "stored",
    "dead",
    "err",
    "open",
    "missing",
];

fn table(report: &Report) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    for one in report.producers.iter().take(PRODUCERS_SHOWN) {
        let numbers = [
            one.sent,
            one.by_socket,
            one.by_word,
            one.by_queue,
            one.processed,
            one.stored,
            one.dead,
            one.err,
            one.open,
            one.missing,
        ];
        rows.push(row(
            one.producer.to_string(),
            one.since.to_rfc3339(),
            numbers,
        ));
    }
    let total = &report.total;
    let numbers = [
        total.sent,
        total.by_socket,
        total.by_word,
        total.by_queue,
        total.processed,
        total.stored,
        total.dead,
        total.err,
        total.open,
        total.missing,
    ];
    let more = report.producers.len().saturating_sub(PRODUCERS_SHOWN);
    let all = match more {
        0 => plural(total.producers, "producer"),
        more => format!(
            "{}, {} not shown",
            count(total.producers),
            count(more as u64)
        ),
    };
    rows.push(row("total".to_owned(), all, numbers));
    let verdict = match total.missing {
        0 => "ok: nothing is missing".to_owned(),
        missing => format!("MISSING: {}", plural(missing, "message")),
    };
    format!(
        "{} (consumer: {})\n{}\n{verdict}",
        report.database.display(),
        report.consumer,
        aligned(&rows)
    )
}

fn row(name: String, since: String, numbers: [u64; 10]) -> [String; 12] {
    let mut row = [const { String::new() }; 12];
    row[0] = name;
    row[1] = since;
    for (cell, number) in row[2..].iter_mut().zip(numbers) {
        *cell = count(number);
    }
    row
}

/// Text to the left, numbers to the right, each column as wide as it has to be.
fn aligned(rows: &[[String; 12]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let line = |row: &[String; 12]| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
