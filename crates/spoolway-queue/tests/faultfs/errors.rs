//! Every call to the disk fails in turn, once and for ever: what is answered is true, nothing
//! panics or hangs, and once the disk works again so does the queue.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use spoolway_faultfs::{Call, Disk, Error, Fault, Image, Loss, Replay};
use spoolway_proto::MessageId;
use spoolway_queue::{Claimed, Durability, QueueError, Settlement, SqliteQueue};

use crate::support::{DEADLINE, foreign, message, options, queue_path, report, tempdir};

/// What meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Makes a file.
    Create,
    /// Opens one whose last process was killed.
    Recover,
    Enqueue,
    Batch,
    /// Enqueues, and the commit copies the WAL into the file.
    EnqueueAndCopy,
    Dequeue,
    Settle,
    CleanUp,
    /// Of another connection.
    Checkpoint,
    Close,
}

/// Pending rows that are there before.
const KEPT: usize = 6;

/// Processed rows to be cleaned up; together more than the pages that stay in the file.
const OLD: usize = 5;
const OLD_BYTES: usize = 250_000;

/// A WAL of the consumer is copied when a commit finds it as long.
const WAL_FRAMES: u64 = 1_000;

#[test]
fn opening_a_file() {
    sweep(Act::Create, &[]);
    sweep(Act::Recover, &[]);
}

#[test]
fn enqueueing() {
    sweep(Act::Enqueue, &[]);
    sweep(Act::Batch, &[]);
}

#[test]
fn dequeueing_and_settling() {
    sweep(Act::Dequeue, &[]);
    sweep(Act::Settle, &[]);
}

#[test]
fn cleaning_up() {
    sweep(Act::CleanUp, &[]);
}

#[test]
fn checkpointing() {
    sweep(Act::EnqueueAndCopy, &[]);
    sweep(Act::Checkpoint, &[]);
    sweep(Act::Close, &[]);
}

#[test]
fn a_commit_that_failed_and_what_follows_it() {
    let sync = Fault {
        call: Call::Sync,
        nth: 0,
        lasting: false,
        error: Error::Io,
    };
    sweep(Act::Enqueue, &[sync]);
    sweep(Act::Settle, &[sync]);
}

/// Each call of each kind in turn fails, beside `others`, until there is none any more.
fn sweep(act: Act, others: &[Fault]) {
    let before = before(act);
    let (mut runs, mut failed, mut all) = (0, 0, 0);
    for call in Call::ALL {
        // Only a write says that there is no room.
        let errors = match call {
            Call::Write => &[Error::Io, Error::Full, Error::Short][..],
            _ => &[Error::Io],
        };
        for (&error, lasting) in errors
            .iter()
            .flat_map(|error| [(error, false), (error, true)])
        {
            for nth in 0.. {
                let fault = Fault {
                    call,
                    nth,
                    lasting,
                    error,
                };
                let (met, answered) = within_deadline(act, &before, [others, &[fault]].concat());
                runs += 1;
                all += met;
                failed += u64::from(!answered);
                let others_of_kind = others.iter().filter(|other| other.call == call).count();
                if met <= others.len() as u64 && nth >= others_of_kind as u64 {
                    break;
                }
            }
        }
    }
    let others = others.len();
    report(&format!(
        "{act:?} beside {others}: {runs} runs, {failed} failed"
    ));
    assert!(all > 0, "no fault was met");
}

/// How many calls failed, and whether the act was answered `Ok`.
fn within_deadline(act: Act, before: &Image, faults: Vec<Fault>) -> (u64, bool) {
    let (sender, met) = mpsc::channel();
    let (image, set) = (before.clone(), faults.clone());
    let run = std::thread::spawn(move || sender.send(run(act, &image, &set)));
    match met.recv_timeout(DEADLINE) {
        Ok(met) => met,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{act:?} hangs with {faults:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            drop(run.join());
            panic!("{act:?} with {faults:?}: see above");
        }
    }
}

/// The files before the act; the process that made them was killed.
fn before(act: Act) -> Image {
    let dir = tempdir();
    let disk = Disk::under(&dir).unwrap();
    if act == Act::Create {
        return everything(&disk);
    }
    let queue = open(dir.path()).unwrap();
    for n in 0..KEPT {
        queue.enqueue(&message(&format!("kept{n}"), 100)).unwrap();
    }
    let process = |id: &str, bytes| {
        queue.enqueue(&message(id, bytes)).unwrap();
        queue.mark_processed(&MessageId::new(id).unwrap()).unwrap();
    };
    if act == Act::CleanUp {
        (0..OLD).for_each(|n| process(&format!("old{n}"), OLD_BYTES));
    }
    while act == Act::EnqueueAndCopy && queue.stats().unwrap().wal_bytes / 4_120 < WAL_FRAMES - 20 {
        process("passing", 50);
        queue.cleanup(Duration::ZERO).unwrap();
    }
    everything(&disk)
}

/// What a power cut leaves now: nothing, some, and all of what was not synced.
fn images(disk: &Disk) -> [Image; 3] {
    let log = disk.log();
    let mut replay = Replay::new();
    replay.advance(&log, log.len());
    let (seed, sector) = (log.len() as u64, 512);
    [0.0, 0.5, 1.0].map(|kept| replay.image(Loss { seed, sector, kept }))
}

fn everything(disk: &Disk) -> Image {
    let [.., everything] = images(disk);
    everything
}

fn open(dir: &Path) -> Result<SqliteQueue, QueueError> {
    SqliteQueue::open(queue_path(dir), options(Durability::Full))
}

/// Does the act under the faults and says whether what it was answered is true: at once, after a
/// power cut, and for who opens the file again.
fn run(act: Act, before: &Image, faults: &[Fault]) -> (u64, bool) {
    let dir = tempdir();
    before.write_to(&dir).unwrap();
    let disk = Disk::under(&dir).unwrap();
    let arm = || faults.iter().for_each(|&fault| disk.fail(fault));
    let mut claimed = Vec::new();
    let (queue, answer) = if matches!(act, Act::Create | Act::Recover) {
        arm();
        match open(dir.path()) {
            Ok(queue) => (Some(queue), Ok(())),
            Err(error) => (None, Err(error)),
        }
    } else {
        let queue = open(dir.path()).unwrap();
        // So that the readers are open, and the file is owned.
        assert_eq!(queue.dequeue(0).unwrap().len(), 0);
        queue.peek(1).unwrap();
        if act == Act::Settle {
            claimed = queue.dequeue(3).unwrap();
        }
        arm();
        let answer = meet(act, &queue, dir.path(), &mut claimed);
        (Some(queue), answer)
    };
    let at_once = images(&disk);
    let met = disk.heal();

    // The same queue goes on, or, where it could not be opened, a new one.
    let queue = queue.unwrap_or_else(|| open(dir.path()).unwrap());
    is_true(act, &answer, Cut::Behind, dir.path());
    let mut at_last = answer.clone();
    if answer.is_err() {
        at_last = meet(act, &queue, dir.path(), &mut claimed);
        assert!(at_last.is_ok(), "{answer:?}, and then {at_last:?}");
    }
    if act != Act::Close {
        queue.enqueue(&message("later", 10)).unwrap();
        assert_eq!(
            delivered(&queue, claimed),
            pending(dir.path()),
            "{answer:?}"
        );
    }
    let later = images(&disk);
    drop(queue);
    is_true(act, &at_last, Cut::Behind, dir.path());
    let at_once = at_once.iter().map(|image| (image, &answer, Cut::AtOnce));
    let later = later.iter().map(|image| (image, &at_last, Cut::Behind));
    for (image, answer, cut) in at_once.chain(later) {
        let dir = tempdir();
        image.write_to(&dir).unwrap();
        let _disk = Disk::under(&dir).unwrap();
        drop(open(dir.path()).unwrap());
        is_true(act, answer, cut, dir.path());
    }
    (met, answer.is_ok())
}

fn meet(
    act: Act,
    queue: &SqliteQueue,
    dir: &Path,
    claimed: &mut Vec<Claimed>,
) -> Result<(), QueueError> {
    match act {
        Act::Create | Act::Recover => Ok(()),
        Act::Enqueue | Act::EnqueueAndCopy => queue.enqueue(&message("new0", 100)).map(drop),
        Act::Batch => {
            let messages: Vec<_> = (0..9).map(|n| message(&format!("new{n}"), 900)).collect();
            queue.enqueue_batch(&messages).map(drop)
        }
        Act::Dequeue => queue.dequeue(3).map(|found| claimed.extend(found)),
        Act::Settle => settle(queue, claimed),
        Act::CleanUp => queue.cleanup(Duration::ZERO).map(drop),
        Act::Checkpoint => {
            // What it is told is not the queue's matter.
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            if let Ok(conn) = rusqlite::Connection::open(queue_path(dir)) {
                conn.query_row(checkpoint, (), |_| Ok(())).ok();
            }
            queue.enqueue(&message("new0", 100)).map(drop)
        }
        Act::Close => {
            queue.close();
            Ok(())
        }
    }
}

fn settle(queue: &SqliteQueue, claimed: &mut Vec<Claimed>) -> Result<(), QueueError> {
    let reason = "refused".to_owned();
    let error = None;
    let dead = Settlement::Dead { reason, error };
    let ends = [Settlement::Processed, dead, Settlement::Release];
    let settled: Vec<_> = claimed.iter().zip(ends).collect();
    queue.settle(&settled)?;
    claimed.clear();
    Ok(())
}

/// What is delivered from now on, and what was in the act; each once.
fn delivered(queue: &SqliteQueue, claimed: Vec<Claimed>) -> Vec<String> {
    let mut all = claimed;
    loop {
        let found = queue.dequeue(100).unwrap();
        if found.is_empty() {
            break;
        }
        // The next suspect comes when this one is settled.
        if let Some(suspect) = found.iter().find(|claimed| claimed.suspect) {
            queue.settle(&[(suspect, Settlement::Processed)]).unwrap();
        }
        all.extend(found);
    }
    let mut ids: Vec<_> = all.iter().map(|row| row.message.id.to_string()).collect();
    ids.sort();
    ids
}

/// The ids that have to be delivered.
fn pending(dir: &Path) -> Vec<String> {
    let rows = rows(dir).into_iter();
    rows.filter(|(_, state)| *state == 0)
        .map(|(id, _)| id)
        .collect()
}

/// State of each row, by id.
fn rows(dir: &Path) -> BTreeMap<String, i64> {
    let conn = foreign(dir);
    let healthy: String = conn
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(healthy, "ok");
    let mut statement = conn
        .prepare("SELECT message_id, processed FROM message_queue")
        .unwrap();
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

/// When the power was cut.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// Right behind the answer.
    AtOnce,
    /// Behind a later commit that was synced, or not at all.
    Behind,
}

/// Whether the file says the same as the answer.
fn is_true(act: Act, answer: &Result<(), QueueError>, cut: Cut, dir: &Path) {
    let rows = rows(dir);
    let count = |prefix: &str, state: i64| {
        let mut rows = rows.iter();
        let of = rows
            .by_ref()
            .filter(|(id, found)| id.starts_with(prefix) && **found == state);
        of.count()
    };
    let (changed, all) = match act {
        Act::Create | Act::Recover | Act::Dequeue | Act::Close => (0, 0),
        Act::Enqueue | Act::EnqueueAndCopy | Act::Checkpoint => (count("new", 0), 1),
        Act::Batch => (count("new", 0), 9),
        Act::Settle => (count("kept", 1) + count("kept", 2), 2),
        Act::CleanUp => (OLD - count("old", 1), OLD),
    };
    match answer {
        // Nothing syncs it by itself.
        Ok(()) if act == Act::CleanUp && cut == Cut::AtOnce => assert!(changed <= all),
        Ok(()) => assert_eq!(changed, all, "answered Ok"),
        // Slices of a cleanup that came before stay deleted, and say nothing else.
        Err(_) if act == Act::CleanUp => assert!(changed <= all),
        Err(error) if error.is_unknown() => assert!(changed == 0 || changed == all, "{error:?}"),
        Err(error) => assert_eq!(changed, 0, "{error:?}"),
    }
    if act != Act::Create {
        let kept = rows.keys().filter(|id| id.starts_with("kept")).count();
        assert_eq!(kept, KEPT, "{answer:?}");
    }
}
