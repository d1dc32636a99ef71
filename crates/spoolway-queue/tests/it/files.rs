//! The file itself: made, refused, moved, replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use spoolway_queue::{Durability, QueueOptions, SqliteQueue, Watch, Write, Written, side_file};

use crate::support::{Fixture, consumer, message, row, take_over, wait_until};

fn orphans(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains(".orphan-")
        })
        .count()
}

fn pragma(path: &Path, name: &str) -> i64 {
    Connection::open(path)
        .unwrap()
        .pragma_query_value(None, name, |row| row.get(0))
        .unwrap()
}

#[test]
fn a_missing_file_is_made_private_and_complete() {
    let queue = Fixture::new();
    let mode = fs::metadata(queue.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(pragma(&queue.path(), "auto_vacuum"), 2);
    assert_eq!(pragma(&queue.path(), "page_size"), 4_096);
    assert_eq!(pragma(&queue.path(), "user_version"), 1_000);
    let mode: String = queue
        .foreign()
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    let missing = SqliteQueue::open(queue.dir.path().join("no/q.db"), consumer()).unwrap_err();
    assert_eq!(missing.code(), "queue_io");
}

#[test]
fn an_empty_file_is_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    fs::write(&path, "").unwrap();
    let options = QueueOptions {
        durability: Durability::Process,
        ..consumer()
    };
    let queue = SqliteQueue::open(&path, options).unwrap();
    queue.enqueue(&message("a")).unwrap();
    assert_eq!(pragma(&path, "auto_vacuum"), 2);
}

#[test]
fn what_is_not_a_queue_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, statements: &str| {
        let path = dir.path().join(name);
        Connection::open(&path)
            .unwrap()
            .execute_batch(statements)
            .unwrap();
        path
    };
    let flowtrace = "CREATE TABLE message_queue (message_id TEXT PRIMARY KEY, type TEXT NOT NULL, \
                     payload TEXT NOT NULL, timestamp INTEGER NOT NULL, processed INTEGER DEFAULT 0)";
    let garbage = dir.path().join("garbage.db");
    fs::write(
        &garbage,
        "this is no database, however long one looks at it".repeat(200),
    )
    .unwrap();
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(dir.path().join("elsewhere.db"), &link).unwrap();
    let newer = Fixture::new();
    newer
        .foreign()
        .pragma_update(None, "user_version", 2_000)
        .unwrap();
    newer.close();
    for (path, code, said) in [
        (
            make("other.db", "CREATE TABLE users (id)"),
            "queue_not_ours",
            "users",
        ),
        (
            make("flowtrace.db", flowtrace),
            "queue_not_ours",
            "FlowTrace",
        ),
        (garbage, "queue_corrupt", "left as it is"),
        (link, "queue_not_ours", "symbolic link"),
        (newer.path(), "queue_too_new", "upgrade"),
    ] {
        let before = fs::read(&path).ok();
        let error = SqliteQueue::open(&path, consumer()).unwrap_err();
        assert_eq!(error.code(), code, "{path:?}");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(fs::read(&path).ok(), before, "{path:?}");
        assert!(!path.with_extension("db-wal").exists());
    }
}

#[test]
fn a_deleted_file_is_made_again_before_anything_is_ok() {
    for side_files_too in [false, true] {
        let queue = Fixture::new();
        let identity = queue.identity();
        queue.insert(message("lost with the file"));
        fs::remove_file(queue.path()).unwrap();
        if side_files_too {
            for suffix in ["-wal", "-shm"] {
                fs::remove_file(side_file(&queue.path(), suffix)).unwrap();
            }
        }
        let written = queue.write(vec![row(message("a"))]).unwrap();
        assert_eq!(written, [Written::Inserted { seq: 1 }]);
        assert_ne!(queue.identity(), identity);
        // Another process, which knows nothing of this one, finds it under the path.
        assert_eq!(queue.again().peek(9).unwrap()[0].message.id.as_str(), "a");
        assert_eq!(queue.candidate_ids(), ["a"]);
    }
}

#[test]
fn an_idle_writer_notices_too() {
    let queue = Fixture::new();
    fs::remove_file(queue.path()).unwrap();
    wait_until("the file is made again", || queue.path().exists());
}

#[test]
fn a_file_moved_away_keeps_its_rows_and_the_next_go_to_a_new_one() {
    let queue = Fixture::new();
    let away = queue.dir.path().join("away.db");
    queue.insert(message("before"));
    fs::rename(queue.path(), &away).unwrap();
    queue.write(vec![row(message("after"))]).unwrap();
    assert_eq!(queue.candidate_ids(), ["after"]);
    let old = SqliteQueue::open(&away, consumer()).unwrap();
    let ids: Vec<_> = old
        .peek(9)
        .unwrap()
        .iter()
        .map(|row| row.message.id.to_string())
        .collect();
    assert!(ids.contains(&"before".to_owned()), "{ids:?}");
}

#[test]
fn a_file_replaced_by_another_queue_is_followed_without_its_old_log() {
    let queue = Fixture::new();
    let (_, lock) = take_over(&queue);
    for n in 0..100 {
        queue.insert(message(&format!("old{n}")));
    }
    queue.write(vec![Write::Claim(vec![1])]).unwrap();
    let other = queue.dir.path().join("other.db");
    let replacement = SqliteQueue::open(&other, consumer()).unwrap();
    replacement.write(vec![row(message("theirs"))]).unwrap();
    let identity = replacement.identity();
    replacement.close();
    fs::rename(&other, queue.path()).unwrap();

    queue.write(vec![row(message("ours"))]).unwrap();
    assert_eq!(queue.identity(), identity);
    assert_eq!(queue.candidate_ids(), ["theirs", "ours"]);
    assert_eq!(queue.number("SELECT count(*) FROM claim"), 0);
    let check: String = queue
        .foreign()
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");

    // Row 1 is another message now: numbers of the old file are refused until it is taken over.
    let settle = || {
        vec![Write::Processed {
            seq: 1,
            attempts: 1,
        }]
    };
    assert_eq!(queue.write(settle()).unwrap_err().code(), "queue_moved");
    queue.take_over(crate::support::instance(), &lock).unwrap();
    assert_eq!(
        queue.write(settle()).unwrap(),
        [Written::Settled { seq: Some(1) }]
    );
}

#[test]
fn dequeue_goes_on_in_a_new_file() {
    let queue = Fixture::new();
    queue.insert(message("a"));
    assert_eq!(queue.dequeue(9).unwrap().len(), 1);
    fs::remove_file(queue.path()).unwrap();
    queue.insert(message("b"));
    let claimed = queue.dequeue(9).unwrap();
    assert_eq!(claimed[0].message.id.as_str(), "b");
}

#[test]
fn a_log_left_by_a_file_that_is_gone_is_set_aside_not_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    let wal = side_file(&path, "-wal");
    let copy = dir.path().join("copy");
    {
        let queue = SqliteQueue::open(&path, consumer()).unwrap();
        queue.write(vec![row(message("a"))]).unwrap();
        fs::copy(&wal, &copy).unwrap();
    }
    fs::remove_file(&path).unwrap();
    fs::rename(&copy, &wal).unwrap();
    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    assert_eq!(queue.peek(9).unwrap().len(), 0);
    assert_eq!(orphans(dir.path()), 1);
}

#[test]
fn a_file_replaced_by_something_else_is_an_error_until_it_is_gone() {
    let queue = Fixture::new();
    let other = queue.dir.path().join("other.db");
    Connection::open(&other)
        .unwrap()
        .execute_batch("CREATE TABLE users (id)")
        .unwrap();
    fs::rename(&other, queue.path()).unwrap();
    for _ in 0..2 {
        let error = queue.write(vec![row(message("a"))]).unwrap_err();
        assert_eq!(error.code(), "queue_not_ours");
    }
    let users = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'";
    assert_eq!(queue.number(users), 1, "left as it is");
    fs::remove_file(queue.path()).unwrap();
    queue.write(vec![row(message("a"))]).unwrap();
    assert_eq!(queue.candidate_ids(), ["a"]);
}

#[test]
fn a_producer_s_writer_copies_a_large_log_and_starts_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    let queue = SqliteQueue::open(&path, QueueOptions::default()).unwrap();
    let large = "x".repeat(1 << 20);
    for n in 0..60 {
        let message = spoolway_proto::Message::new("task", &large)
            .unwrap()
            .id(format!("m{n}"));
        queue.enqueue(&message).unwrap();
        let wal_bytes = queue.stats().unwrap().wal_bytes;
        assert!(wal_bytes < 20 << 20, "{wal_bytes} after {n}");
    }
    wait_until("the log is copied", || {
        queue.stats().unwrap().file_bytes > 40 << 20
    });
}

/// What else is in a directory with a queue, by name.
fn beside(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "q.db" && ![".guard", ".turn"].iter().any(|end| name.ends_with(end)))
        .collect();
    names.sort();
    names
}

/// The pool's readers were closed after the writer, and who may only read cannot empty a log.
#[test]
fn a_closed_queue_leaves_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    queue.enqueue(&message("a")).unwrap();
    let watch = Watch::start(&queue, || {}).unwrap();
    assert_eq!(queue.stats().unwrap().pending, 1);
    assert!(beside(&path).contains(&"q.db-wal".into()));
    drop(watch);
    queue.close();
    assert_eq!(beside(&path), [""; 0]);
    assert_eq!(queue.stats().unwrap().pending, 1, "readers go on");
    drop(queue);
    wait_until("the readers leave no log either", || {
        beside(&path).is_empty()
    });
}

#[test]
fn a_queue_that_another_has_open_keeps_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    let other = SqliteQueue::open(&path, consumer()).unwrap();
    queue.close();
    other.enqueue(&message("a")).unwrap();
    assert_eq!(beside(&path), ["q.db-shm", "q.db-wal"]);
    other.close();
    assert_eq!(beside(&path), [""; 0]);
}

/// Another SQLite library has a descriptor of the `-shm` beside ours.
#[test]
fn a_second_sqlite_in_the_process_is_refused() {
    let queue = Fixture::new();
    let shm = side_file(&queue.path(), "-shm");
    let second = fs::File::open(&shm).unwrap();
    let refused = SqliteQueue::open(queue.path(), consumer()).unwrap_err();
    assert_eq!(refused.code(), "queue_not_alone");
    let text = refused.to_string();
    assert!(text.contains("another SQLite library") && text.contains("start the program again"));
    wait_until("the writer sees it", || {
        queue
            .write(Vec::new())
            .is_err_and(|error| error.code() == "queue_not_alone")
    });
    let again = queue.write(Vec::new()).unwrap_err();
    assert_eq!(again.code(), "queue_not_alone", "and stays so");
    drop(second);
}

/// Closing any descriptor of a file ends all locks that the process has on it.
#[test]
fn a_file_closed_outside_of_sqlite_stops_the_writer() {
    let queue = Fixture::new();
    queue.insert(message("a"));
    drop(fs::File::open(queue.path()).unwrap());
    wait_until("the writer sees it", || {
        queue
            .write(Vec::new())
            .is_err_and(|error| error.code() == "queue_not_alone")
    });
    let error = queue.enqueue(&message("b")).unwrap_err();
    assert!(error.to_string().contains("its locks are gone"), "{error}");
    assert!(!error.is_unknown(), "nothing of it was committed");
}

/// That is what another process does that finds no lock, and takes itself for the last one.
#[test]
fn nothing_is_ok_in_a_log_that_was_deleted() {
    let queue = Fixture::new();
    queue.insert(message("a"));
    fs::remove_file(side_file(&queue.path(), "-wal")).unwrap();
    let error = queue.enqueue(&message("b")).unwrap_err();
    assert_eq!(
        (error.code(), error.is_unknown()),
        ("queue_not_alone", true)
    );
    assert_eq!(
        queue.enqueue(&message("c")).unwrap_err().code(),
        "queue_not_alone"
    );
    queue.close();

    let queue = SqliteQueue::open(queue.path(), consumer()).unwrap();
    let left: Vec<_> = queue
        .peek(10)
        .unwrap()
        .iter()
        .map(|found| found.message.id.to_string())
        .collect();
    assert_eq!(left, ["a", "b"], "what was in the log was saved");
}
