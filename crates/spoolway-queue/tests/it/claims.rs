//! Claims end with an outcome or with their owner.

use spoolway_queue::{Due, NewRow, RowState, Settlement, SqliteQueue, Write, Written};

use crate::child;
use crate::support::{Fixture, instance, message, row, take_over};

fn suspects(queue: &SqliteQueue) -> Vec<i64> {
    queue
        .suspects(0, 100)
        .unwrap()
        .candidates
        .iter()
        .map(|row| row.seq)
        .collect()
}

fn ten(queue: &SqliteQueue) {
    queue
        .write((1..=10).map(|n| row(message(&format!("m{n}")))).collect())
        .unwrap();
}

#[test]
fn what_a_dead_owner_had_claimed_becomes_suspect_and_nothing_else() {
    let queue = Fixture::new();
    let (taken, lock) = take_over(&queue);
    assert_eq!(
        (taken.clean, taken.last_owner, taken.suspects),
        (false, None, 0)
    );
    ten(&queue);
    queue
        .write(vec![
            Write::Claim(vec![1, 2, 3, 4, 5, 6, 8, 9]),
            Write::Processed {
                seq: 2,
                attempts: 1,
            },
            Write::Release(vec![4]),
            Write::Retry {
                seq: 5,
                attempts: 1,
                due: Due::Now,
                error: "no".into(),
            },
            Write::Dead {
                seq: 8,
                attempts: 1,
                reason: "no_route".into(),
                error: None,
            },
        ])
        .unwrap();
    assert_eq!(queue.number("SELECT count(*) FROM claim"), 3);
    // The owner is gone without a word; its lock went with it.
    drop(lock);
    let successor = queue.again();
    let (taken, _lock) = take_over(&successor);
    assert!(!taken.clean && taken.last_owner.is_some());
    assert_eq!(
        (taken.suspects, suspects(&successor)),
        (4, vec![1, 3, 6, 9])
    );
    assert_eq!(queue.number("SELECT count(*) FROM claim"), 0);

    let written = successor
        .write(vec![Write::Begin { seq: 1 }, Write::Begin { seq: 2 }])
        .unwrap();
    assert_eq!(
        written,
        [
            Written::Began { attempts: 1 },
            Written::Began { attempts: 0 }
        ]
    );
    successor
        .write(vec![
            Write::Processed {
                seq: 1,
                attempts: 1,
            },
            Write::Retry {
                seq: 3,
                attempts: 1,
                due: Due::Now,
                error: "no".into(),
            },
        ])
        .unwrap();
    assert_eq!(
        suspects(&successor),
        [6, 9],
        "a retry is no suspect any more"
    );
}

#[test]
fn a_killed_process_leaves_suspects() {
    let queue = Fixture::new();
    ten(&queue);
    let mut child = child::spawn("dequeue", &queue.path());
    assert_eq!(child.line(), "claimed 3");
    let owned = queue.dequeue(1).unwrap_err();
    assert_eq!(owned.code(), "owned");
    assert!(
        owned.to_string().contains(&child.id().to_string()),
        "{owned}"
    );
    child.kill();
    let claimed = queue.dequeue(10).unwrap();
    let suspects = claimed
        .iter()
        .filter(|claimed| claimed.suspect)
        .map(|claimed| claimed.seq);
    // One at a time.
    assert_eq!((suspects.collect(), claimed.len()), (vec![1], 8));
    assert_eq!(
        queue.number("SELECT attempts FROM message_queue WHERE seq = 1"),
        1
    );
    assert_eq!(
        queue.number("SELECT attempts FROM message_queue WHERE seq = 4"),
        0
    );
}

#[test]
fn a_clean_shutdown_leaves_its_mark_once_and_no_suspects() {
    let queue = Fixture::new();
    let (_, lock) = take_over(&queue);
    ten(&queue);
    queue.write(vec![Write::Claim(vec![1, 2])]).unwrap();
    queue.shutdown_clean(Vec::new()).unwrap();
    drop(lock);
    let (taken, lock) = take_over(&queue.again());
    assert_eq!((taken.clean, taken.suspects), (true, 0));
    drop(lock);
    let (taken, _lock) = take_over(&queue.again());
    assert!(!taken.clean, "the mark is taken");
}

#[test]
fn a_row_stored_claimed_is_claimed_in_the_same_commit() {
    let queue = Fixture::new();
    let (_, lock) = take_over(&queue);
    let claimed = |claimed| RowState::Pending {
        attempts: 1,
        due: Due::Now,
        error: None,
        suspect: false,
        claimed,
    };
    let rows = [("a", true), ("b", false), ("c", true)].map(|(id, yes)| {
        let message = std::sync::Arc::new(message(id));
        Write::Insert(NewRow {
            message,
            origin: None,
            state: claimed(yes),
        })
    });
    queue.write(rows.to_vec()).unwrap();
    queue.write(vec![Write::Release(vec![3])]).unwrap();
    drop(lock);
    let successor = queue.again();
    let (_, _lock) = take_over(&successor);
    assert_eq!(suspects(&successor), [1]);
}

#[test]
fn only_the_lock_of_the_file_takes_it_over() {
    let queue = Fixture::new();
    let other = queue.dir.path().join("other.lock");
    let lock = spoolway_queue::ConsumerLock::acquire(&other).unwrap();
    let refused = queue.take_over(instance(), &lock).unwrap_err();
    assert_eq!(refused.code(), "queue_misuse");
}

#[test]
fn released_messages_come_again() {
    let queue = Fixture::new();
    ten(&queue);
    let claimed = queue.dequeue(3).unwrap();
    let dead = Settlement::Dead {
        reason: "no_route".into(),
        error: None,
    };
    queue
        .settle(&[(&claimed[0], Settlement::Release), (&claimed[1], dead)])
        .unwrap();
    let again = queue.dequeue(2).unwrap();
    assert_eq!(
        again.iter().map(|claimed| claimed.seq).collect::<Vec<_>>(),
        [1, 4]
    );
    assert_eq!(again[0].attempts, 0);
}

/// The model test found that its start was counted twice: when it was given out, and again here.
#[test]
fn a_suspect_that_is_settled_by_its_id_was_started_once() {
    let queue = Fixture::new();
    let claimed = {
        queue.insert(message("a"));
        queue.again().dequeue(1).unwrap()
    };
    assert_eq!(claimed.len(), 1, "and its owner is gone");
    let again = queue.dequeue(1).unwrap();
    assert!(again[0].suspect);
    assert!(queue.mark_processed(&again[0].message.id).unwrap());
    assert_eq!(queue.number("SELECT attempts FROM message_queue"), 1);
}
