//! Files of other versions, and what handles in one process are to each other.

use std::fs;

use spoolway_queue::{QueueOptions, Role, SqliteQueue, Written};

use crate::child;
use crate::support::{Fixture, consumer, message, row};

#[test]
fn a_file_of_a_later_minor_version_is_used_as_it_is() {
    for role in [Role::Producer, Role::Consumer] {
        let queue = Fixture::new();
        queue.insert(message("old"));
        queue.close();
        let later = "ALTER TABLE message_queue ADD COLUMN region TEXT NOT NULL DEFAULT 'eu'; \
                     CREATE INDEX message_region ON message_queue (region); \
                     CREATE TABLE later (a); PRAGMA user_version = 1007;";
        queue.foreign().execute_batch(later).unwrap();
        let options = QueueOptions { role, ..consumer() };
        let again = SqliteQueue::open(queue.path(), options).unwrap();
        assert_eq!(
            again.write(vec![row(message("new"))]).unwrap(),
            [Written::Inserted { seq: 2 }]
        );
        let claimed = again.dequeue(9).unwrap();
        assert_eq!(claimed.len(), 2);
        for claimed in claimed {
            assert!(again.mark_processed(&claimed.message.id).unwrap());
        }
        assert_eq!(again.cleanup(std::time::Duration::ZERO).unwrap(), 2);
        assert_eq!(queue.number("PRAGMA user_version"), 1_007, "never lowered");
        assert_eq!(queue.identity(), again.identity());
    }
}

#[test]
fn a_file_of_a_later_major_version_is_refused_untouched_by_both_roles() {
    let queue = Fixture::new();
    queue.close();
    queue
        .foreign()
        .pragma_update(None, "user_version", 2_000)
        .unwrap();
    let before = fs::read(queue.path()).unwrap();
    for role in [Role::Producer, Role::Consumer] {
        let options = QueueOptions { role, ..consumer() };
        let error = SqliteQueue::open(queue.path(), options).unwrap_err();
        assert_eq!(error.code(), "queue_too_new");
        assert!(error.to_string().contains("upgrade"), "{error}");
    }
    assert_eq!(fs::read(queue.path()).unwrap(), before);
}

#[test]
fn opening_and_closing_a_handle_drops_no_lock_of_another_in_the_process() {
    let queue = Fixture::new();
    let theirs = queue.foreign();
    theirs.execute_batch("BEGIN IMMEDIATE").unwrap();
    // A plain open and close of the file would drop this process's locks on it; none of ours may do that.
    for role in [Role::Producer, Role::Consumer] {
        let options = QueueOptions { role, ..consumer() };
        let again = SqliteQueue::open(queue.path(), options).unwrap();
        again.stats().unwrap();
        again.close();
        drop(again);
    }
    queue.stats().unwrap();
    assert_eq!(child::spawn("lock", &queue.path()).line(), "locked");
    theirs.execute_batch("COMMIT").unwrap();
    assert_eq!(child::spawn("lock", &queue.path()).line(), "free");
}

#[test]
fn two_handles_in_one_process_write_beside_each_other() {
    let queue = Fixture::new();
    let other = queue.again();
    let write = |queue: &SqliteQueue, name: &str| {
        for n in 0..200 {
            queue
                .write(vec![row(message(&format!("{name}{n}")))])
                .unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(&queue, "a"));
        scope.spawn(|| write(&other, "b"));
    });
    other.close();
    write(&queue, "c");
    assert_eq!(queue.stats().unwrap().pending, 600);
    let check: String = queue
        .foreign()
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}
