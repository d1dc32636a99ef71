//! The files that a torture leaves, and what they say.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use spoolway::SqliteQueue;
use spoolway::queue::{Cursor, Filter, QueueOptions};

use super::check::{Check, Found};
use super::content::Content;
use crate::failure::{Failure, exit};
use crate::program::DATABASE;

/// What the consumer writes.
pub(super) const SINK: &str = "out.jsonl";
/// Dead letters that are read: there are none, or few.
const DEAD_MAX: usize = 100_000;
/// Rows that are read at a time.
const PAGE: usize = 1_000;

/// The name of the file in which a run wrote down what it was told.
pub(super) fn journal(run: usize) -> String {
    format!("run-{run}.journal")
}

pub(super) fn queue(directory: &Path) -> Result<SqliteQueue, Failure> {
    let path = directory.join(DATABASE);
    Ok(SqliteQueue::open(path, QueueOptions::default())?)
}

/// Compares the journals of so many runs with the sink's file and the queue file.
pub(super) fn compare(directory: &Path, content: Content, runs: usize) -> Result<Found, Failure> {
    let mut check = Check::new(content).map_err(|error| {
        Failure::new(exit::FAILED, "no_histogram", "cannot count latencies")
            .because(error.to_string())
    })?;
    let read = |name: &str, take: &mut dyn FnMut(BufReader<File>) -> io::Result<()>| {
        File::open(directory.join(name))
            .map(BufReader::new)
            .and_then(take)
            .map_err(|error| Failure::io(format!("cannot read {name}"), &error))
    };
    for run in 0..runs {
        read(&journal(run), &mut |file| check.journal(file))?;
    }
    read(SINK, &mut |file| check.sink(file))?;
    let queue = queue(directory)?;
    for letter in queue.dead_letters(&Filter::default(), DEAD_MAX)? {
        // Ids of the torture are all valid: another is nobody's.
        if let Ok(id) = letter.id.parse() {
            check.dead(&id);
        }
    }
    // Rows that wait for their time are not among these; the drain has waited for them.
    let mut cursor = Cursor::default();
    loop {
        let page = queue.candidates(cursor, PAGE)?;
        for row in page.candidates {
            check.unsettled(&row.message.id);
        }
        if page.end {
            break;
        }
        cursor = page.cursor;
    }
    for producer in queue.audit()? {
        check.audited(&producer);
    }
    Ok(check.judge())
}

/// The logs in which a thread says that it panicked.
pub(super) fn panics(directory: &Path) -> Result<Vec<String>, Failure> {
    let unread = |error| Failure::io("cannot read the logs", &error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log
            && std::fs::read_to_string(&path)
                .map_err(unread)?
                .contains("panicked at")
        {
            found.push(format!("a panic in {}", path.display()));
        }
    }
    Ok(found)
}
