//! A damaged file on a full disk: it stays as it was, the error says what is missing, and with room again nothing of
//! it is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use spoolway_faultfs::{Call, Disk, Error, Fault};
use spoolway_queue::{ConsumerLock, Durability, QueueError, SqliteQueue, side_file};

use crate::support::{DEADLINE, foreign, message, options, queue_path, report, tempdir};

const PAGE: usize = 4_096;

/// Rows of the damaged file.
const ROWS: usize = 60;

/// Writes that are passed over between two that fail.
const STRIDE: usize = 3;

#[test]
fn a_damaged_file_is_kept_while_the_disk_is_full_and_saved_when_it_is_not() {
    let damaged = damaged();
    let (mut refused, mut runs) = (0, 0);
    for error in [Error::Full, Error::Short] {
        for nth in (0..).step_by(STRIDE) {
            let fault = Fault {
                call: Call::Write,
                nth,
                lasting: true,
                error,
            };
            let (met, answered) = run(&damaged, fault);
            runs += 1;
            refused += usize::from(!answered);
            if met == 0 {
                break;
            }
        }
    }
    report(&format!("quarantine: {runs} runs, {refused} refused"));
    assert!(refused > 4 && runs > refused, "{refused} of {runs}");
}

/// A queue file whose ids cannot be looked up; every row can be read.
fn damaged() -> Vec<u8> {
    let dir = tempdir();
    let path = queue_path(dir.path());
    let queue = open(dir.path()).unwrap();
    for n in 0..ROWS {
        queue.enqueue(&message(&format!("m{n}"), 100)).unwrap();
    }
    drop(queue);
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_message_queue_1'";
    let root: usize = foreign(dir.path())
        .query_row(root, (), |row| row.get(0))
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[(root - 1) * PAGE..root * PAGE].fill(0xaa);
    bytes
}

fn open(dir: &Path) -> Result<SqliteQueue, QueueError> {
    SqliteQueue::open(queue_path(dir), options(Durability::Full))
}

/// How many calls failed, and whether the first message was taken all the same.
fn run(damaged: &[u8], fault: Fault) -> (u64, bool) {
    let dir = tempdir();
    let path = queue_path(dir.path());
    fs::write(&path, damaged).unwrap();
    let disk = Disk::under(&dir).unwrap();
    let _lock = ConsumerLock::acquire(&side_file(&path, ".lock")).unwrap();
    disk.fail(fault);
    let queue = open(dir.path());
    let answer = match &queue {
        Ok(queue) => queue.enqueue(&message("new", 100)).map(drop),
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = &answer {
        assert_eq!(error.code(), "queue_full", "{fault:?}: {error:?}");
        assert!(error.to_string().contains("free some"), "{error}");
    }
    is_as_it_was(&path, damaged, fault);
    let met = disk.heal();

    let queue = queue.or_else(|_| open(dir.path())).unwrap();
    let started = Instant::now();
    let all = ROWS as u64 + 1;
    while queue.enqueue(&message("new", 100)).is_err() || queue.stats().unwrap().pending < all {
        let stats = queue.stats();
        assert!(started.elapsed() < DEADLINE, "{fault:?}: {stats:?}");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(queue.stats().unwrap().pending, all, "{fault:?}");
    assert!(kept(&path) != path, "it was set aside");
    is_as_it_was(&path, damaged, fault);
    (met, answer.is_ok())
}

/// Byte for byte, and the only one: the new file was placed without its log once, and was set aside in its turn.
fn is_as_it_was(path: &Path, damaged: &[u8], fault: Fault) {
    let kept = kept(path);
    let found = fs::read(&kept).unwrap();
    let differs = found.iter().zip(damaged).position(|(a, b)| a != b);
    assert!(
        found == damaged,
        "{fault:?}: {} of {} and {} bytes, from {differs:?}",
        kept.display(),
        found.len(),
        damaged.len()
    );
}

/// Where the damaged file is by now.
fn kept(path: &Path) -> PathBuf {
    let is_kept = |name: &str| {
        name.contains(".corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut aside = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| is_kept(&entry.file_name().to_string_lossy()));
    let kept = aside
        .next()
        .map_or_else(|| path.into(), |entry| entry.path());
    assert!(aside.next().is_none(), "one file was damaged");
    kept
}
