//! A message has its effect in the user's database once, whatever dies and however often it comes.

use std::sync::Barrier;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use spoolway_proto::Message;
use spoolway_queue::{Inbox, QueueError};

use crate::child::{say, spawn, wait_for_go};
use crate::support::{Database, message};

/// Counts a message once; whether it did.
pub(crate) fn effect(
    conn: &mut Connection,
    behaviour: TransactionBehavior,
    message: &Message,
) -> Result<bool, QueueError> {
    let tx = conn.transaction_with_behavior(behaviour).unwrap();
    let first = Inbox::default().first_time(&tx, message)?;
    if first {
        tx.execute("INSERT INTO effect VALUES (?1)", [message.id.as_str()])
            .unwrap();
    }
    tx.commit().unwrap();
    Ok(first)
}

#[test]
fn a_message_comes_for_the_first_time_once() {
    let db = Database::new();
    let mut conn = db.open();
    let deferred = TransactionBehavior::Deferred;
    assert!(effect(&mut conn, deferred, &message("a")).unwrap());
    assert!(!effect(&mut conn, deferred, &message("a")).unwrap());
    assert!(effect(&mut conn, deferred, &message("b")).unwrap());
    assert_eq!(db.number("SELECT count(*) FROM effect"), 2);
}

#[test]
fn rolled_back_it_was_not_the_first_time() {
    let db = Database::new();
    let mut conn = db.open();
    let tx = conn.transaction().unwrap();
    assert!(Inbox::default().first_time(&tx, &message("a")).unwrap());
    tx.rollback().unwrap();
    assert!(effect(&mut conn, TransactionBehavior::Deferred, &message("a")).unwrap());
}

#[test]
fn other_content_under_the_same_id_is_a_conflict() {
    let db = Database::new();
    let mut conn = db.open();
    effect(&mut conn, TransactionBehavior::Deferred, &message("a")).unwrap();
    let other = Message::new("task", "other").unwrap().id("a");
    let refused = effect(&mut conn, TransactionBehavior::Deferred, &other).unwrap_err();
    assert_eq!(refused.code(), "conflict");
    let text = refused.to_string();
    assert!(text.contains("app.db") && text.contains(" a "), "{text}");
    assert_eq!(db.number("SELECT count(*) FROM effect"), 1);
}

#[test]
fn two_inboxes_in_one_database_know_nothing_of_each_other() {
    let db = Database::new();
    let mut conn = db.open();
    let other = Inbox::named("billing_inbox").unwrap();
    other.create(&conn).unwrap();
    let tx = conn.transaction().unwrap();
    for inbox in [Inbox::default(), other] {
        assert!(inbox.first_time(&tx, &message("a")).unwrap());
    }
}

#[test]
fn misuse_is_told_and_what_to_do() {
    let db = Database::new();
    let mut conn = db.open();
    let inbox = Inbox::default();
    let outside = inbox.first_time(&conn, &message("a")).unwrap_err();
    assert_eq!(outside.code(), "queue_misuse");
    assert!(outside.to_string().contains("begin one first"), "{outside}");
    assert_eq!(db.number("SELECT count(*) FROM spoolway_inbox"), 0);

    let missing = Inbox::named("missing").unwrap();
    let tx = conn.transaction().unwrap();
    let nameless = Message::new("task", &1).unwrap();
    for (inbox, message, told) in [
        (&missing, message("a"), "call `create` first"),
        (&inbox, nameless, "without an id"),
    ] {
        let misuse = inbox.first_time(&tx, &message).unwrap_err();
        assert_eq!(misuse.code(), "queue_misuse");
        assert!(misuse.to_string().contains(told), "{misuse}");
    }
}

#[test]
fn a_table_is_made_once_and_another_program_s_is_refused() {
    let db = Database::new();
    let conn = db.open();
    let inbox = Inbox::default();
    inbox.create(&conn).unwrap();
    conn.execute_batch("ALTER TABLE spoolway_inbox ADD COLUMN of_a_later_version TEXT")
        .unwrap();
    inbox.create(&conn).unwrap();
    conn.execute_batch("CREATE TABLE mine (message_id, crc)")
        .unwrap();
    let refused = Inbox::named("mine").unwrap().create(&conn).unwrap_err();
    assert_eq!(refused.code(), "queue_misuse");
    assert!(refused.to_string().contains("seen_at"), "{refused}");
}

#[test]
fn of_copies_that_come_at_once_one_is_the_first() {
    let (immediate, deferred) = (
        TransactionBehavior::Immediate,
        TransactionBehavior::Deferred,
    );
    for (mode, behaviour) in [
        ("wal", immediate),
        ("wal", deferred),
        ("delete", immediate),
        ("delete", deferred),
    ] {
        let db = Database::in_mode(mode);
        let start = Barrier::new(2);
        let handle = || {
            let mut conn = db.open();
            start.wait();
            let mut firsts = 0;
            for n in 0..100 {
                firsts += usize::from(effect_in_the_end(
                    &mut conn,
                    behaviour,
                    &message(&n.to_string()),
                ));
            }
            firsts
        };
        let firsts = std::thread::scope(|scope| {
            let other = scope.spawn(handle);
            handle() + other.join().unwrap()
        });
        assert_eq!((mode, firsts), (mode, 100));
        assert_eq!(db.number("SELECT count(*) FROM effect"), 100);
    }
}

/// Outside of WAL mode a deferred transaction may have to start again.
fn effect_in_the_end(
    conn: &mut Connection,
    behaviour: TransactionBehavior,
    message: &Message,
) -> bool {
    loop {
        match effect(conn, behaviour, message) {
            Err(error) if error.is_retryable() => {}
            result => return result.unwrap(),
        }
    }
}

#[test]
fn a_deferred_transaction_that_has_read_is_told_to_start_again() {
    let db = Database::new();
    let (mut one, mut two) = (db.open(), db.open());
    let tx = one.transaction().unwrap();
    let seen: i64 = tx
        .query_row("SELECT count(*) FROM effect", (), |row| row.get(0))
        .unwrap();
    assert_eq!(seen, 0);
    assert!(effect(&mut two, TransactionBehavior::Deferred, &message("a")).unwrap());
    let stale = Inbox::default().first_time(&tx, &message("a")).unwrap_err();
    assert!(stale.code() == "queue_busy" && stale.is_retryable());
    tx.rollback().unwrap();
    assert!(!effect(&mut one, TransactionBehavior::Deferred, &message("a")).unwrap());
}

#[test]
fn old_records_are_forgotten_oldest_first_and_so_many_at_a_time() {
    let db = Database::new();
    let mut conn = db.open();
    let inbox = Inbox::default();
    let tx = conn.transaction().unwrap();
    for n in 0..1_500 {
        inbox.first_time(&tx, &message(&n.to_string())).unwrap();
    }
    tx.execute(
        "UPDATE spoolway_inbox SET seen_at = 5 WHERE message_id <> '7'",
        (),
    )
    .unwrap();
    tx.execute(
        "UPDATE spoolway_inbox SET seen_at = 1 WHERE message_id = '1499'",
        (),
    )
    .unwrap();
    tx.commit().unwrap();
    let day = Duration::from_secs(86_400);
    assert_eq!(inbox.forget(&conn, day).unwrap(), Inbox::FORGET_MAX);
    let oldest = "SELECT count(*) FROM spoolway_inbox WHERE message_id = '1499'";
    assert_eq!(db.number(oldest), 0);
    assert_eq!(inbox.forget(&conn, day).unwrap(), 499);
    assert_eq!(inbox.forget(&conn, day).unwrap(), 0);
    let immediate = TransactionBehavior::Immediate;
    assert!(
        !effect(&mut conn, immediate, &message("7")).unwrap(),
        "young enough"
    );
    assert!(
        effect(&mut conn, immediate, &message("1499")).unwrap(),
        "forgotten: it runs again"
    );
}

/// Handles a message up to a step, says so, and waits to be killed.
pub(crate) fn handle_until(step: &str, db: &Database) {
    let mut conn = db.open();
    let tx = conn.transaction().unwrap();
    let first = Inbox::default().first_time(&tx, &message("a")).unwrap();
    tx.execute("INSERT INTO effect VALUES ('a')", ()).unwrap();
    if step == "handled" {
        tx.commit().unwrap();
    }
    say(format!("first {first}"));
    wait_for_go();
}

#[test]
fn killed_between_the_first_time_and_the_commit_it_runs_again_once() {
    let db = Database::new();
    let mut handler = spawn("inbox-recorded", &db.path());
    assert_eq!(handler.line(), "first true");
    handler.kill();
    assert_eq!(db.number("SELECT count(*) FROM effect"), 0);
    let mut conn = db.open();
    for first in [true, false] {
        let effect = effect(&mut conn, TransactionBehavior::Immediate, &message("a"));
        assert_eq!(effect.unwrap(), first);
    }
    assert_eq!(db.number("SELECT count(*) FROM effect"), 1);
}

#[test]
fn killed_between_the_commit_and_the_ack_the_copy_is_not_the_first() {
    let db = Database::new();
    let mut handler = spawn("inbox-handled", &db.path());
    assert_eq!(handler.line(), "first true");
    handler.kill();
    let mut conn = db.open();
    let again = effect(&mut conn, TransactionBehavior::Deferred, &message("a"));
    assert!(!again.unwrap());
    assert_eq!(db.number("SELECT count(*) FROM effect"), 1);
}
