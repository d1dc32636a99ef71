//! What is in the file after a power cut, held against the ledger.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use spoolway_queue::{Cursor, QueueOptions, SqliteQueue};

use crate::ledger::{Entry, Ledger, Span};
use crate::support::{foreign, message, queue_path};

/// What is not as it should be.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Answered `Ok` and not there.
    pub(crate) lost: Vec<String>,
    /// What no power cut may cause, whatever was answered.
    pub(crate) wrong: Vec<String>,
}

/// What is sent after each check.
const AFTER: &str = "after";

#[derive(Debug)]
struct Row {
    seq: i64,
    kind: String,
    payload: String,
    processed: i64,
    attempts: u32,
}

/// Opens what the cut left in `dir` as a consumer does, compares it with what was answered before
/// the position `cut`, and drains it.
///
/// Returns what goes on from there: a ledger of what is in the file.
pub(crate) fn check(
    dir: &Path,
    options: &QueueOptions,
    ledger: &Ledger,
    cut: usize,
) -> (Verdict, Ledger) {
    let mut verdict = Verdict::default();
    let queue = match SqliteQueue::open(queue_path(dir), options.clone()) {
        Ok(queue) => queue,
        Err(error) => {
            verdict.wrong.push(format!("it does not open: {error:?}"));
            return (verdict, Ledger::default());
        }
    };
    let rows = match rows(dir) {
        Ok(rows) => rows,
        Err(error) => {
            verdict.wrong.push(format!("it is damaged: {error}"));
            return (verdict, Ledger::default());
        }
    };
    let found = compare(&rows, ledger, cut, &mut verdict);
    in_order(&rows, ledger, cut, &mut verdict);
    drain(&queue, &rows, &mut verdict);
    if let Err(error) = queue.enqueue(&message(AFTER, 10)) {
        verdict
            .wrong
            .push(format!("it takes nothing more: {error:?}"));
    }
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.contains("corrupt") {
            verdict.wrong.push(format!("it was quarantined: {name}"));
        }
    }
    (verdict, found)
}

fn rows(dir: &Path) -> Result<HashMap<String, Row>, String> {
    let conn = foreign(dir);
    let text = |error: rusqlite::Error| error.to_string();
    let healthy: String = conn
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .map_err(text)?;
    if healthy != "ok" {
        return Err(healthy);
    }
    let mut statement = conn
        .prepare("SELECT message_id, seq, type, payload, processed, attempts FROM message_queue")
        .map_err(text)?;
    let rows = statement.query_map((), |row| {
        let found = Row {
            seq: row.get(1)?,
            kind: row.get(2)?,
            payload: row.get(3)?,
            processed: row.get(4)?,
            attempts: row.get(5)?,
        };
        Ok((row.get(0)?, found))
    });
    rows.and_then(Iterator::collect).map_err(text)
}

/// Each message by itself.
fn compare(
    rows: &HashMap<String, Row>,
    ledger: &Ledger,
    cut: usize,
    verdict: &mut Verdict,
) -> Ledger {
    let mut known: HashSet<&str> = HashSet::new();
    let mut found = Ledger::default();
    for entry in &ledger.entries {
        let id = entry.message.id.as_str();
        known.insert(id);
        let expected = ledger.expected(entry, cut);
        let Some(row) = rows.get(id) else {
            if expected.present {
                verdict.lost.push(format!("{id} is gone"));
            }
            continue;
        };
        if expected.absent {
            let what = format!("{id} is there, and should not be");
            match entry.stored.is_possible(cut) {
                true => verdict.lost.push(what),
                false => verdict.wrong.push(what),
            }
        }
        if row.kind != *entry.message.r#type || row.payload != entry.message.payload.as_str() {
            verdict.wrong.push(format!("{id} has another content"));
        }
        match row.processed {
            0 if !expected.pending => verdict.lost.push(format!("{id} is pending again")),
            1 if !expected.processed => verdict.wrong.push(format!("{id} is processed")),
            2 if !expected.dead => verdict.wrong.push(format!("{id} is dead")),
            _ => {}
        }
        if row.attempts < expected.attempts {
            verdict.lost.push(format!("{id} forgot an attempt"));
        }
        found.entries.push(settled(entry, row));
    }
    known.insert(AFTER);
    let foreign = rows.keys().filter(|id| !known.contains(id.as_str()));
    verdict
        .wrong
        .extend(foreign.map(|id| format!("nobody sent {id}")));
    found
}

/// The entry as it is after the cut, before the first operation of the next life.
fn settled(entry: &Entry, row: &Row) -> Entry {
    use crate::ledger::End;
    let before = Span {
        begun: 0,
        answered: Some(0),
    };
    let end = match row.processed {
        1 => Some(End::Processed),
        2 => Some(End::Dead),
        _ => None,
    };
    Entry {
        stored: before,
        ends: end.into_iter().map(|end| (end, before)).collect(),
        ..entry.clone()
    }
}

/// What one sender sent is there in its order, without holes, and batches are whole.
fn in_order(rows: &HashMap<String, Row>, ledger: &Ledger, cut: usize, verdict: &mut Verdict) {
    // By sender: the last row seen; of it, whether one before it was missing.
    let mut last: HashMap<u64, i64> = HashMap::new();
    let mut missing: HashMap<u64, &str> = HashMap::new();
    let mut batches: HashMap<u64, (bool, bool)> = HashMap::new();
    for entry in &ledger.entries {
        let (id, sender) = (entry.message.id.as_str(), entry.sender);
        let expected = ledger.expected(entry, cut);
        // A row that may have been deleted says nothing.
        let deletable = entry.stored.is_sure(cut) && !expected.present || expected.processed;
        let batch = batches.entry(entry.batch).or_default();
        match rows.get(id) {
            Some(row) => {
                batch.0 = true;
                if let Some(hole) = missing.get(&sender) {
                    verdict
                        .wrong
                        .push(format!("{id} is there, but not {hole} before it"));
                }
                if last
                    .insert(sender, row.seq)
                    .is_some_and(|last| last >= row.seq)
                {
                    verdict
                        .wrong
                        .push(format!("{id} is before what was sent before it"));
                }
            }
            None if deletable => {}
            None => {
                batch.1 = true;
                missing.insert(sender, id);
            }
        }
        if *batch == (true, true) {
            verdict
                .wrong
                .push(format!("{id} is of a batch that is torn"));
        }
    }
}

/// Everything pending is delivered once, and nothing else.
fn drain(queue: &SqliteQueue, rows: &HashMap<String, Row>, verdict: &mut Verdict) {
    let mut pending: HashSet<&str> = rows
        .iter()
        .filter(|(_, row)| row.processed == 0)
        .map(|(id, _)| id.as_str())
        .collect();
    loop {
        let claimed = match queue.dequeue(1_000) {
            Ok(claimed) => claimed,
            Err(error) => {
                verdict.wrong.push(format!("it does not drain: {error:?}"));
                return;
            }
        };
        if claimed.is_empty() {
            break;
        }
        for claimed in claimed {
            let id = claimed.message.id.as_str();
            if !pending.remove(id) {
                verdict
                    .wrong
                    .push(format!("{id} is delivered, and is not pending"));
            }
        }
    }
    // One suspect comes at a time, and settling it would change what the next life starts with.
    match queue.candidates(Cursor::default(), usize::MAX) {
        Ok(page) => page.candidates.iter().for_each(|waiting| {
            pending.remove(waiting.message.id.as_str());
        }),
        Err(error) => verdict.wrong.push(format!("it does not read: {error:?}")),
    }
    let left = pending.into_iter();
    verdict
        .wrong
        .extend(left.map(|id| format!("{id} is not delivered")));
}
