//! Commits that fail: with faults put in their place, since a disk does not break on demand.

use std::sync::mpsc;

use spoolway_proto::{InstanceId, Message, Timestamp};

use super::*;
use crate::write::{Existing, NewRow, Write, Written};
use crate::{ConsumerLock, QueueOptions, SqliteQueue};

#[test]
fn waits_are_short_and_differ() {
    let mut jitter = Jitter::new();
    let waits: Vec<_> = (0..100).map(|_| jitter.next()).collect();
    assert!(
        waits
            .iter()
            .all(|wait| (100..1_000).contains(&wait.as_micros()))
    );
    assert!(waits.iter().any(|wait| *wait != waits[0]));
}

fn row(id: &str) -> Write {
    let message = Message::new("task", &id)
        .unwrap()
        .id(id)
        .timestamp(Timestamp(1));
    Write::Insert(NewRow::pending(Arc::new(message), None))
}

fn queue() -> (tempfile::TempDir, SqliteQueue) {
    let dir = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(dir.path().join("q.db"), QueueOptions::default()).unwrap();
    (dir, queue)
}

fn number(queue: &SqliteQueue, statement: &str) -> i64 {
    queue
        .shared()
        .read(|conn| conn.query_row(statement, (), |row| row.get(0)))
        .unwrap()
}

#[test]
fn a_commit_that_failed_is_looked_up_and_made_good_whether_or_not_it_took_effect() {
    for fault in [sql::COMMIT, sql::ROLLBACK] {
        let (_dir, queue) = queue();
        let lock = ConsumerLock::acquire(&queue.lock_path()).unwrap();
        queue.take_over(InstanceId::from_u128(7), &lock).unwrap();
        let rows = ["a", "b", "c"].map(row).to_vec();
        queue.write(rows).unwrap();
        queue.write(vec![Write::Claim(vec![1, 2])]).unwrap();

        queue.shared().set_faults(&[fault]);
        let written = queue
            .write(vec![
                row("d"),
                row("a"),
                Write::Processed {
                    seq: 1,
                    attempts: 1,
                },
                Write::Claim(vec![3]),
            ])
            .unwrap();
        let state = Existing::Pending;
        let expected = [
            Written::Inserted { seq: 4 },
            Written::Exists { seq: 1, state },
            Written::Settled { seq: Some(1) },
            Written::Done,
        ];
        if fault == sql::ROLLBACK {
            assert_eq!(written, expected);
        } else {
            // Row 1 was processed by the commit that seemed to fail.
            let state = Existing::Processed;
            assert_eq!(written[1], Written::Exists { seq: 1, state });
            assert_eq!((written[0], written[2]), (expected[0], expected[2]));
        }
        assert_eq!(number(&queue, "SELECT count(*) FROM message_queue"), 4);
        let covered = "SELECT count(*) FROM claim JOIN message_queue \
                       ON seq BETWEEN first_seq AND last_seq WHERE processed = 0";
        assert_eq!(number(&queue, covered), 2);
        queue
            .write(
                vec![2, 3]
                    .into_iter()
                    .map(|seq| Write::Processed { seq, attempts: 1 })
                    .collect(),
            )
            .unwrap();
        assert_eq!(number(&queue, "SELECT count(*) FROM claim"), 0);
    }
}

#[test]
fn a_commit_that_fails_twice_is_an_error_of_unknown_fate_and_the_next_one_is_fine() {
    let (_dir, queue) = queue();
    queue.shared().set_faults(&[sql::COMMIT, sql::COMMIT]);
    let error = queue.write(vec![row("a")]).unwrap_err();
    assert!(error.is_unknown() && error.is_retryable(), "{error:?}");
    assert_eq!(error.code(), "queue_io");
    let state = Existing::Pending;
    assert_eq!(
        queue.write(vec![row("a")]).unwrap(),
        [Written::Exists { seq: 1, state }]
    );
}

#[test]
fn after_a_failed_commit_nothing_is_written_before_the_log_is_empty() {
    let (_dir, queue) = queue();
    queue.write(vec![row("a")]).unwrap();
    // A reader of an old snapshot keeps the log from being emptied.
    let (started, go) = mpsc::channel();
    let (end, wait) = mpsc::channel::<()>();
    let shared = Arc::clone(queue.shared());
    let reader = thread::spawn(move || {
        shared.snapshot(|conn, _| {
            let count: i64 =
                conn.query_row("SELECT count(*) FROM message_queue", (), |row| row.get(0))?;
            started.send(count).unwrap();
            wait.recv().ok();
            Ok(())
        })
    });
    assert_eq!(go.recv().unwrap(), 1);
    queue.write(vec![row("b")]).unwrap();
    queue.shared().set_faults(&[sql::ROLLBACK]);
    let (sender, answer) = mpsc::channel();
    queue.submit(vec![row("c")], move |written| sender.send(written).unwrap());
    assert!(
        answer.recv_timeout(Duration::from_millis(100)).is_err(),
        "it waits"
    );
    drop(end);
    reader.join().unwrap().unwrap();
    assert_eq!(
        answer.recv().unwrap().unwrap(),
        [Written::Inserted { seq: 3 }]
    );
}
