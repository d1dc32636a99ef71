//! Limits: what goes first, what is refused, and a log that a reader pins.

use std::sync::Arc;

use spoolway_proto::{Message, MessageId};
use tempfile::TempDir;

use crate::write::{NewRow, Write, Written};
use crate::{QueueOptions, SqliteQueue};

fn queue(options: QueueOptions) -> (TempDir, SqliteQueue) {
    let dir = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(dir.path().join("q.db"), options).unwrap();
    (dir, queue)
}

fn row(id: &str) -> Write {
    let message = Message::new("task", &"x".repeat(1_000)).unwrap().id(id);
    Write::Insert(NewRow::pending(Arc::new(message), None))
}

fn processed(queue: &SqliteQueue) -> Vec<MessageId> {
    let ids = "SELECT message_id FROM message_queue WHERE processed = 1 ORDER BY seq";
    queue
        .shared()
        .read(|conn| {
            conn.prepare(ids)?
                .query_map((), |row| row.get::<_, String>(0))?
                .map(|id| id.map(|id| id.parse().unwrap()))
                .collect()
        })
        .unwrap()
}

#[test]
fn processed_messages_go_oldest_first_before_one_is_refused() {
    let (_dir, queue) = queue(QueueOptions {
        queue_messages_max: Some(200),
        ..QueueOptions::default()
    });
    let rows = (0..200).map(|n| row(&format!("m{n}"))).collect();
    queue.write(rows).unwrap();
    let error = queue.write(vec![row("more")]).unwrap_err();
    assert_eq!(error.code(), "queue_limit");
    assert!(error.to_string().contains("queue_messages_max"), "{error}");
    assert!(error.is_retryable() && !error.is_unknown());
    // What is there already is no new message.
    assert!(matches!(
        queue.write(vec![row("m7")]).unwrap()[..],
        [Written::Exists { seq: 8, .. }]
    ));
    // Of a batch that does not fit nothing is written, and others beside it are.
    let refused = queue.write(vec![row("p"), row("q")]).unwrap_err();
    assert_eq!(refused.code(), "queue_limit");

    let settle = |seqs: std::ops::Range<i64>| {
        let writes = seqs.map(|seq| Write::Processed { seq, attempts: 1 });
        queue.write(writes.collect()).unwrap();
    };
    settle(1..101);
    queue.write(vec![row("more")]).unwrap();
    let left = processed(&queue);
    assert_eq!(left.len(), 36, "64 at a time");
    assert_eq!(left[0].as_str(), "m64", "the oldest went");
    let stats = queue.stats().unwrap();
    assert_eq!((stats.pending, stats.processed), (101, 36));
    for n in 0..99 {
        queue.write(vec![row(&format!("n{n}"))]).unwrap();
    }
    assert_eq!(
        queue.write(vec![row("end")]).unwrap_err().code(),
        "queue_limit"
    );
}

#[test]
fn the_bytes_in_use_stay_within_their_limit() {
    let max = 1 << 20;
    let (_dir, queue) = queue(QueueOptions {
        queue_bytes_max: Some(max),
        ..QueueOptions::default()
    });
    let mut stored = 0;
    let error = loop {
        match queue.write(vec![row(&format!("m{stored}"))]) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "queue_limit");
    assert!((500..1_000).contains(&stored), "{stored} of 1,000 bytes");
    let used = || {
        queue
            .shared()
            .read(|conn| conn.query_row(crate::sql::USED_BYTES, (), |row| row.get::<_, u64>(0)))
            .unwrap()
    };
    // Pages that split take a little more than the message.
    let max = max + 8 * 4_096;
    assert!(used() <= max);
    let writes = (1..=stored).map(|seq| Write::Processed { seq, attempts: 1 });
    queue.write(writes.collect()).unwrap();
    for n in 0..stored / 2 {
        queue.write(vec![row(&format!("n{n}"))]).unwrap();
        assert!(used() <= max);
    }
}

#[test]
fn a_reader_that_pins_the_log_is_an_alarm_until_it_ends() {
    let (_dir, queue) = queue(QueueOptions::default());
    queue.write(vec![row("a")]).unwrap();
    let reader = rusqlite::Connection::open(queue.path()).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM message_queue;")
        .unwrap();
    let large = "x".repeat(1 << 20);
    for n in 0..70 {
        let message = Message::new("task", &large).unwrap().id(format!("l{n}"));
        queue.enqueue(&message).unwrap();
    }
    let stats = queue.stats().unwrap();
    assert!(stats.wal_bytes > super::WAL_BYTES_ALARM);
    assert!(stats.wal_pinned);
    reader.execute_batch("COMMIT").unwrap();
    let started = std::time::Instant::now();
    while queue.stats().unwrap().wal_pinned
        || queue.stats().unwrap().wal_bytes > super::WAL_BYTES_ALARM
    {
        assert!(started.elapsed().as_secs() < 20, "the log stays");
    }
}

#[test]
fn so_much_of_a_disk_is_kept_free_as_is_asked_for_and_an_eighth_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let kept = |disk_bytes_kept| {
        let limits = super::Limits {
            disk_bytes_kept,
            ..super::Limits::default()
        };
        super::Room::new(limits)
            .space(&dir.path().join("q.db"))
            .unwrap()
            .1
    };
    assert_eq!([kept(0), kept(4_096)], [0, 4_096]);
    let found = rustix::fs::statvfs(dir.path()).unwrap();
    assert_eq!(kept(u64::MAX), found.f_blocks * found.f_frsize / 8);
}

#[test]
fn an_alarm_is_raised_where_it_is_set() {
    let (_dir, queue) = queue(QueueOptions {
        wal_bytes_alarm: 1 << 20,
        ..QueueOptions::default()
    });
    queue.write(vec![row("a")]).unwrap();
    let reader = rusqlite::Connection::open(queue.path()).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM message_queue;")
        .unwrap();
    let large = Message::new("task", &"x".repeat(2 << 20)).unwrap();
    assert!(!queue.stats().unwrap().wal_pinned);
    queue.enqueue(&large).unwrap();
    assert!(queue.stats().unwrap().wal_pinned);
}
