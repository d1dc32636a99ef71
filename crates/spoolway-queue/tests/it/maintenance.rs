//! Check, backup, compaction and the state of the schema, on files that are in use and on damaged ones.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use spoolway_proto::{Epoch, Message, ProducerId};
use spoolway_queue::{
    Checked, NewRow, Origin, QueueOptions, RowState, Severity, SqliteQueue, Write, check,
    migration_status,
};

use crate::child::spawn;
use crate::support::{Fixture, consumer, message, row, take_over};

fn codes(checked: &Checked) -> Vec<&'static str> {
    checked
        .findings
        .iter()
        .map(|finding| finding.code)
        .collect()
}

fn full(path: &Path) -> Checked {
    check(path, true, |_| {}).unwrap()
}

fn quick(path: &Path) -> Checked {
    check(path, false, |_| {}).unwrap()
}

#[test]
fn a_healthy_file_that_is_in_use_has_no_findings() {
    let queue = Fixture::new();
    let (_, _lock) = take_over(&queue);
    queue
        .write((0..2_500).map(|n| row(message(&format!("m{n}")))).collect())
        .unwrap();
    queue.write(vec![Write::Claim(vec![1, 2, 3])]).unwrap();
    let checked = full(&queue.path());
    assert_eq!(codes(&checked), [""; 0], "{checked:?}");
    assert_eq!((checked.rows, checked.version), (2_500, Some(1_000)));
    assert_eq!(quick(&queue.path()).rows, 0);
}

#[test]
fn a_damaged_row_is_found_in_full_and_its_burial_is_known() {
    let queue = Fixture::new();
    for id in ["a", "b", "c"] {
        queue.insert(message(id));
    }
    let conn = queue.foreign();
    conn.execute_batch(
        "UPDATE message_queue SET payload = '\"x\"' WHERE message_id = 'a';
         UPDATE message_queue SET attributes = 'no json' WHERE message_id = 'b';",
    )
    .unwrap();
    assert!(quick(&queue.path()).is_ok());
    let checked = full(&queue.path());
    assert_eq!(codes(&checked), ["row_corrupt", "row_corrupt"]);
    assert!(checked.findings[0].what.contains("seq 1"), "{checked:?}");

    assert_eq!(queue.dequeue(9).unwrap().len(), 1);
    let checked = full(&queue.path());
    assert_eq!(codes(&checked), ["rows_buried"]);
    assert!(checked.is_ok() && checked.findings[0].severity == Severity::Note);
}

#[test]
fn damaged_pages_are_found_and_a_file_that_is_no_database_is_a_finding_too() {
    let queue = Fixture::new();
    queue
        .write((0..3_000).map(|n| row(message(&format!("m{n}")))).collect())
        .unwrap();
    let path = queue.path();
    queue
        .foreign()
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
        .unwrap();
    let Fixture { queue, dir } = queue;
    drop(queue);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 3 * 4_096], 40 * 4_096).unwrap();
    let checked = quick(&path);
    assert!(codes(&checked).contains(&"page_damage"), "{checked:?}");
    assert!(!checked.is_ok());

    std::fs::write(
        dir.path().join("text.db"),
        "no database at all, but text of some length",
    )
    .unwrap();
    let checked = quick(&dir.path().join("text.db"));
    assert_eq!(codes(&checked), ["not_a_database"]);
    let conn = Connection::open(dir.path().join("users.db")).unwrap();
    conn.execute_batch("CREATE TABLE users (id)").unwrap();
    assert_eq!(codes(&quick(&dir.path().join("users.db"))), ["not_ours"]);
    assert!(check(dir.path().join("none.db"), false, |_| {}).is_err());
}

#[test]
fn rows_that_vanished_and_states_that_are_none_are_found() {
    let queue = Fixture::new();
    let new = |n| {
        Write::Insert(NewRow {
            message: Arc::new(message(&format!("m{n}"))),
            origin: Some(Origin {
                producer: ProducerId::from_u128(1),
                epoch: Epoch(1),
                sequence: n,
            }),
            state: RowState::default(),
        })
    };
    queue.write((0..5).map(new).collect()).unwrap();
    let conn = queue.foreign();
    conn.execute("DELETE FROM message_queue WHERE seq = 2", ())
        .unwrap();
    assert_eq!(codes(&quick(&queue.path())), ["rows_missing"]);
    conn.execute("UPDATE producer SET stored = 3", ()).unwrap();
    assert_eq!(codes(&quick(&queue.path())), ["rows_surplus"]);
    conn.execute_batch("UPDATE message_queue SET processed = 7 WHERE seq = 3")
        .unwrap();
    assert_eq!(codes(&full(&queue.path())), ["state_unknown"]);
}

#[test]
fn claims_without_their_owner_and_a_missing_index_are_found() {
    let queue = Fixture::new();
    queue
        .write(["a", "b", "c", "d"].map(|id| row(message(id))).to_vec())
        .unwrap();
    let mut part = spawn("dequeue", &queue.path());
    assert_eq!(part.line(), "claimed 3");
    assert_eq!(codes(&quick(&queue.path())), [""; 0], "its owner lives");
    part.kill();
    let checked = quick(&queue.path());
    assert_eq!(codes(&checked), ["claims_left"]);
    assert!(checked.is_ok(), "the next consumer sees to it");
    let conn = queue.foreign();
    conn.execute("UPDATE claim SET instance = 'another'", ())
        .unwrap();
    let checked = quick(&queue.path());
    assert_eq!(codes(&checked), ["claims_dangling"]);
    assert!(!checked.is_ok());
    conn.execute_batch("DELETE FROM claim; DROP INDEX message_ready")
        .unwrap();
    let checked = quick(&queue.path());
    assert_eq!(codes(&checked), ["schema_differs"]);
    assert!(
        checked.findings[0].what.contains("message_ready"),
        "{checked:?}"
    );
}

#[test]
fn a_backup_of_a_file_in_use_is_one_moment_of_it() {
    let queue = Fixture::new();
    let (_, _lock) = take_over(&queue);
    // Always two at a time: a copy that is not one moment has an odd number.
    let half = |n: u64, half: &str| {
        let message = Message::new("task", &"x".repeat(500)).unwrap();
        row(message.id(format!("{n}{half}")))
    };
    let pair = move |n: u64| vec![half(n, "a"), half(n, "b")];
    queue.write((0..3_000).flat_map(pair).collect()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (other, stop) = (queue.again(), Arc::clone(&stop));
        move || {
            let mut n = 3_000;
            while !stop.load(Ordering::Relaxed) {
                other.write(pair(n)).unwrap();
                n += 1;
            }
            n
        }
    });
    let to = queue.dir.path().join("copy.db");
    let mut steps = Vec::new();
    let before = queue.commits();
    let made = queue
        .backup(&to, |done, total| steps.push((done, total)))
        .unwrap();
    stop.store(true, Ordering::Relaxed);
    let written = writer.join().unwrap();
    assert!(written > 3_000 && steps.len() > 1, "{steps:?}");
    assert_eq!(queue.commits(), before, "nothing is written here");
    let &(done, total) = steps.last().unwrap();
    assert_eq!(done, total);
    assert_eq!(made.messages % 2, 0);
    assert_eq!(made.bytes, std::fs::metadata(&to).unwrap().len());
    let names = std::fs::read_dir(queue.dir.path()).unwrap();
    let names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names.iter().any(|name| name.contains("partial")),
        "{names:?}"
    );
    assert_eq!(
        std::fs::metadata(&to).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(full(&to).is_ok());
    let copy = SqliteQueue::open(&to, consumer()).unwrap();
    assert_eq!(copy.stats().unwrap().pending, made.messages);
}

#[test]
fn a_backup_never_overwrites() {
    let queue = Fixture::new();
    let to = queue.dir.path().join("precious");
    std::fs::write(&to, "mine").unwrap();
    let refused = queue.backup(&to, |_, _| {}).unwrap_err();
    assert_eq!(refused.code(), "exists");
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "mine");
    let itself = queue.backup(queue.path(), |_, _| {}).unwrap_err();
    assert_eq!(itself.code(), "exists");
    let nowhere = queue.dir.path().join("none/copy.db");
    assert!(queue.backup(nowhere, |_, _| {}).is_err());
}

#[test]
fn a_backup_is_another_file_until_it_takes_the_place_of_the_first() {
    let queue = Fixture::new();
    let (_, lock) = take_over(&queue);
    queue
        .write(["a", "b"].map(|id| row(message(id))).to_vec())
        .unwrap();
    queue.write(vec![Write::Claim(vec![1])]).unwrap();
    let to = queue.dir.path().join("copy.db");
    let made = queue.backup(&to, |_, _| {}).unwrap();
    let copy = SqliteQueue::open(&to, QueueOptions::default()).unwrap();
    assert_eq!(copy.identity(), made.identity);
    assert_ne!(
        copy.identity(),
        queue.identity(),
        "a producer would be told `other queue`"
    );
    drop(copy);

    let producer = queue.again();
    queue.shutdown_clean(Vec::new()).unwrap();
    queue.close();
    drop(lock);
    std::fs::rename(&to, queue.path()).unwrap();
    // Whoever has the first one open finds the copy, and so does the next consumer.
    producer.write(vec![row(message("after"))]).unwrap();
    assert_eq!(producer.identity(), made.identity);
    let consumer = queue.again();
    assert_eq!(consumer.identity(), made.identity);
    let (taken, _lock) = take_over(&consumer);
    assert!(!taken.clean, "it remembers less than has happened");
    assert_eq!(taken.suspects, 1, "what was claimed when it was made");
    assert_eq!(consumer.stats().unwrap().pending, 3);
}

#[test]
fn compaction_gives_space_back_beside_others_that_write() {
    let queue = Fixture::new();
    let big = "x".repeat(2_000);
    let large = |n: i64| Message::new("task", &big).unwrap().id(format!("m{n}"));
    queue
        .write((0..2_000).map(|n| row(large(n))).collect())
        .unwrap();
    let done = (1..=1_900).map(|seq| Write::Processed { seq, attempts: 1 });
    queue.write(done.collect()).unwrap();
    let delete = "DELETE FROM message_queue WHERE processed = 1";
    queue.foreign().execute(delete, ()).unwrap();
    let other = queue.again();
    let writer = std::thread::spawn(move || {
        for n in 0..50 {
            other.write(vec![row(message(&format!("w{n}")))]).unwrap();
        }
    });
    let done = queue.compact().unwrap();
    writer.join().unwrap();
    assert!(
        done.file_bytes * 3 < done.wal_bytes_before.max(done.file_bytes_before),
        "{done:?}"
    );
    assert!(done.held_up || done.wal_bytes < 1 << 20, "{done:?}");
    assert_eq!(queue.stats().unwrap().pending, 150);
    assert!(full(&queue.path()).is_ok());
}

#[test]
fn a_reader_that_holds_the_log_is_told_and_nothing_waits_for_it() {
    let queue = Fixture::new();
    queue.insert(message("a"));
    let reader = queue.foreign();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM message_queue;")
        .unwrap();
    queue.insert(message("b"));
    assert!(queue.compact().unwrap().held_up);
    reader.execute_batch("COMMIT").unwrap();
    let done = queue.compact().unwrap();
    assert!(!done.held_up && done.wal_bytes == 0, "{done:?}");
}

#[test]
fn the_state_of_the_schema_is_told_without_a_change() {
    let queue = Fixture::new();
    let status = migration_status(queue.path()).unwrap();
    assert_eq!((status.file, status.program), (Some(1_000), 1_000));
    assert!(status.pending.is_empty() && status.usable);

    let set = |version: i64| {
        queue
            .foreign()
            .pragma_update(None, "user_version", version)
            .unwrap()
    };
    set(1_007);
    assert_eq!(codes(&quick(&queue.path())), ["schema_newer"]);
    assert!(migration_status(queue.path()).unwrap().usable);
    set(2_000);
    assert_eq!(codes(&quick(&queue.path())), ["schema_too_new"]);
    assert!(!migration_status(queue.path()).unwrap().usable);

    let empty = queue.dir.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let status = migration_status(&empty).unwrap();
    assert_eq!((status.file, &*status.pending), (None, &["0001_queue"][..]));
    assert_eq!(std::fs::metadata(&empty).unwrap().len(), 0);
}
