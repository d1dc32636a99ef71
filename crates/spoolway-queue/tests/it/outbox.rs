//! Messages in the user's transaction, and the relay that sends what was committed.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use spoolway_proto::Message;
use spoolway_queue::{Outbox, Relay, Ticket};

use crate::child::{say, spawn, wait_for_go};
use crate::inbox::effect;
use crate::support::{DEADLINE, Database, message, wait_until};

fn enqueue(conn: &mut Connection, messages: impl IntoIterator<Item = Message>) {
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    for message in messages {
        Outbox::default().enqueue(&tx, message).unwrap();
    }
    tx.commit().unwrap();
}

fn numbered(numbers: std::ops::Range<u32>) -> impl Iterator<Item = Message> {
    numbers.map(|n| message(&n.to_string()))
}

/// A relay whose messages come out of a channel, each with its ticket.
fn relay(db: &Database) -> (Relay, Receiver<(Message, Ticket)>) {
    let (sender, sent) = mpsc::channel();
    let send = move |message, ticket| drop(sender.send((message, ticket)));
    let relay = Relay::start(db.path(), &Outbox::default(), send).unwrap();
    (relay, sent)
}

fn next(sent: &Receiver<(Message, Ticket)>) -> (String, Ticket) {
    let (message, ticket) = sent.recv_timeout(DEADLINE).unwrap();
    (message.id.to_string(), ticket)
}

fn wait_for_empty(db: &Database) {
    let outbox = Outbox::default();
    let conn = db.open();
    wait_until("the outbox is empty", || {
        outbox.waiting(&conn).unwrap() == 0
    });
}

#[test]
fn a_message_is_there_when_the_transaction_is() {
    let db = Database::new();
    let mut conn = db.open();
    let outbox = Outbox::default();
    let tx = conn.transaction().unwrap();
    let bare = Message::new("task", &1).unwrap();
    let id = outbox.enqueue(&tx, bare.clone()).unwrap();
    assert_eq!(id.as_str().len(), 36, "chosen");
    assert_eq!(outbox.waiting(&db.open()).unwrap(), 0, "not yet");
    tx.commit().unwrap();
    assert_eq!(outbox.waiting(&conn).unwrap(), 1);

    let tx = conn.transaction().unwrap();
    outbox.enqueue(&tx, bare).unwrap();
    tx.rollback().unwrap();
    assert_eq!(outbox.waiting(&conn).unwrap(), 1);
}

#[test]
fn what_cannot_be_enqueued_is_refused_and_the_same_again_is_no_error() {
    let db = Database::new();
    let mut conn = db.open();
    let outbox = Outbox::default();
    let outside = outbox.enqueue(&conn, message("a")).unwrap_err();
    assert_eq!(outside.code(), "queue_misuse");
    let tx = conn.transaction().unwrap();
    for _ in 0..2 {
        assert_eq!(outbox.enqueue(&tx, message("a")).unwrap().as_str(), "a");
    }
    let other = Message::new("task", "other").unwrap().id("a");
    assert_eq!(outbox.enqueue(&tx, other).unwrap_err().code(), "conflict");
    let invalid = outbox.enqueue(&tx, message("b").priority(101)).unwrap_err();
    assert_eq!(invalid.code(), "invalid");
    let missing = Outbox::named("missing").unwrap();
    let missing = missing.enqueue(&tx, message("c")).unwrap_err();
    assert!(
        missing.to_string().contains("call `create` first"),
        "{missing}"
    );
    tx.commit().unwrap();
    assert_eq!(outbox.waiting(&conn).unwrap(), 1);
}

#[test]
fn a_message_comes_out_as_it_went_in() {
    let db = Database::new();
    let mut full = message("a")
        .topic("t")
        .header("h", "v")
        .key("k")
        .priority(70);
    full.ttl_ms = Some(1 << 50);
    enqueue(&mut db.open(), [full.clone()]);
    let (_relay, sent) = relay(&db);
    let (message, ticket) = sent.recv_timeout(DEADLINE).unwrap();
    assert_eq!(message, full);
    ticket.sent();
    wait_for_empty(&db);
}

#[test]
fn what_is_committed_is_sent_in_order_many_at_once_and_deleted() {
    let db = Database::new();
    let mut conn = db.open();
    enqueue(&mut conn, numbered(0..1_500));
    let (relay, sent) = relay(&db);
    let mut out: Vec<_> = (0..1_000).map(|_| next(&sent)).collect();
    let ids: Vec<_> = out.iter().map(|(id, _)| id.clone()).collect();
    let expected: Vec<_> = (0..1_000).map(|n| n.to_string()).collect();
    assert_eq!(ids, expected);
    wait_until("all of them are out", || relay.status().out == 1_000);
    assert!(sent.try_recv().is_err(), "no more without an answer");
    out.pop().unwrap().1.sent();
    let (id, ticket) = next(&sent);
    assert_eq!(id, "1000");
    ticket.sent();
    out.into_iter().for_each(|(_, ticket)| ticket.sent());
    for n in 1_001..1_500 {
        let (id, ticket) = next(&sent);
        assert_eq!(id, n.to_string());
        ticket.sent();
    }
    wait_for_empty(&db);
    wait_until("all of them are counted", || relay.status().sent == 1_500);
    enqueue(&mut conn, [message("later")]);
    assert_eq!(next(&sent).0, "later", "a commit is noticed");
}

#[test]
fn a_database_without_a_log_is_relayed_too() {
    let db = Database::in_mode("delete");
    let mut conn = db.open();
    let (relay, sent) = relay(&db);
    for round in 0..3 {
        enqueue(&mut conn, numbered(round * 10..round * 10 + 10));
        for n in round * 10..round * 10 + 10 {
            let (id, ticket) = next(&sent);
            assert_eq!(id, n.to_string());
            ticket.sent();
        }
    }
    wait_for_empty(&db);
    wait_until("all of them are counted", || relay.status().sent == 30);
}

#[test]
fn nothing_overtakes_an_earlier_message_of_its_key() {
    let db = Database::new();
    let keyed = |n: u32| message(&n.to_string()).key(["a", "b", "c"][n as usize % 3]);
    enqueue(&mut db.open(), (0..300).map(keyed));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let mut tries = HashMap::new();
    // Some are sent only when they are tried for the third time.
    let send = move |message: Message, ticket: Ticket| {
        let n: u32 = message.id.as_str().parse().unwrap();
        let tries = tries.entry(n).or_insert(0);
        *tries += 1;
        if n.is_multiple_of(70) && *tries < 3 {
            return ticket.later("not now");
        }
        log.lock().unwrap().push(n);
        ticket.sent();
    };
    let relay = Relay::start(db.path(), &Outbox::default(), send).unwrap();
    wait_for_empty(&db);
    wait_until("all of them are counted", || relay.status().sent == 300);
    let sent = sent.lock().unwrap();
    assert!(!sent.is_sorted(), "other keys did not wait");
    for key in 0..3 {
        let of_key: Vec<_> = sent.iter().filter(|n| *n % 3 == key).collect();
        assert!(of_key.len() == 100 && of_key.is_sorted(), "{of_key:?}");
    }
}

#[test]
fn a_key_that_is_held_up_holds_up_no_other_however_much_waits_behind_it() {
    let db = Database::new();
    let held = numbered(0..12_000).map(|message| message.key("held"));
    enqueue(
        &mut db.open(),
        held.chain([message("free"), message("other").key("k")]),
    );
    let (_relay, sent) = relay(&db);
    let ((first, _held), (free, _), (other, _)) = (next(&sent), next(&sent), next(&sent));
    assert_eq!([&*first, &*free, &*other], ["0", "free", "other"]);
}

#[test]
fn what_could_not_be_sent_stays_and_is_sent_again_under_its_id() {
    let db = Database::new();
    let mut conn = db.open();
    let tx = conn.transaction().unwrap();
    let bare = Message::new("task", &1).unwrap();
    let id = Outbox::default().enqueue(&tx, bare).unwrap();
    tx.commit().unwrap();
    let (relay, sent) = relay(&db);
    let (first, ticket) = next(&sent);
    ticket.later("the line is down");
    wait_until("it is told", || relay.status().error.is_some());
    assert_eq!(relay.status().error.unwrap(), "the line is down");
    let (second, ticket) = next(&sent);
    drop(ticket);
    let (third, ticket) = next(&sent);
    assert_eq!([&*first, &*second, &*third], [id.as_str(); 3]);
    assert_eq!(Outbox::default().waiting(&conn).unwrap(), 1);
    ticket.sent();
    wait_for_empty(&db);
    wait_until("the error is over", || relay.status().error.is_none());
}

#[test]
fn a_refused_message_is_kept_aside_and_blocks_nobody() {
    let db = Database::new();
    let mut conn = db.open();
    enqueue(&mut conn, ["a", "b", "c"].map(|id| message(id).key("k")));
    let (relay, sent) = relay(&db);
    let (_, ticket) = next(&sent);
    ticket.refused("too large");
    for expected in ["b", "c"] {
        let (id, ticket) = next(&sent);
        assert_eq!(id, expected);
        ticket.sent();
    }
    wait_for_empty(&db);
    wait_until("it is counted", || relay.status().refused == 1);

    let outbox = Outbox::default();
    let [refused] = &outbox.failed(&conn, 9).unwrap()[..] else {
        panic!("one is kept");
    };
    assert_eq!(refused.message.as_ref(), Some(&message("a").key("k")));
    assert_eq!((refused.id.as_str(), &*refused.error), ("a", "too large"));
    assert!(refused.at.0 > 1_700_000_000_000);

    assert!(outbox.retry(&conn, &refused.id).unwrap());
    assert!(!outbox.retry(&conn, &refused.id).unwrap(), "it waits");
    let (id, ticket) = next(&sent);
    assert_eq!(id, "a");
    ticket.refused("still too large");
    wait_until("it is back", || outbox.failed(&conn, 9).unwrap().len() == 1);
    assert!(outbox.discard(&conn, &refused.id).unwrap());
    assert_eq!(db.number("SELECT count(*) FROM spoolway_outbox"), 0);
}

#[test]
fn a_damaged_row_is_kept_aside_and_its_neighbours_are_sent() {
    let db = Database::new();
    let mut conn = db.open();
    enqueue(&mut conn, ["a", "b", "c"].map(|id| message(id).key("k")));
    conn.execute(
        "UPDATE spoolway_outbox SET payload = '9' WHERE message_id = 'b'",
        (),
    )
    .unwrap();
    let (_relay, sent) = relay(&db);
    for expected in ["a", "c"] {
        let (id, ticket) = next(&sent);
        assert_eq!(id, expected);
        ticket.sent();
    }
    wait_for_empty(&db);
    let refused = Outbox::default().failed(&conn, 9).unwrap();
    assert_eq!((refused.len(), refused[0].id.as_str()), (1, "b"));
    assert!(refused[0].message.is_none() && refused[0].error.starts_with("damaged"));
}

#[test]
fn a_second_relay_is_refused_until_the_first_is_gone() {
    let db = Database::new();
    let other = Outbox::named("other").unwrap();
    other.create(&db.open()).unwrap();
    let (first, _sent) = relay(&db);
    let start = |outbox: &Outbox| Relay::start(db.path(), outbox, |_, ticket| ticket.sent());
    let refused = start(&Outbox::default()).unwrap_err();
    assert_eq!(refused.code(), "owned");
    assert!(
        refused
            .to_string()
            .contains(&std::process::id().to_string())
    );
    start(&other).unwrap();
    drop(first);
    start(&Outbox::default()).unwrap();
}

#[test]
fn a_relay_without_a_table_or_a_database_does_not_start() {
    let db = Database::new();
    let start = |path, outbox: &Outbox| Relay::start(path, outbox, |_, _| {}).unwrap_err();
    let missing = start(db.path(), &Outbox::named("missing").unwrap());
    assert!(
        missing.to_string().contains("call `create` first"),
        "{missing}"
    );
    let elsewhere = db.path().with_extension("elsewhere");
    assert_eq!(
        start(elsewhere.clone(), &Outbox::default()).code(),
        "queue_io"
    );
    assert!(!elsewhere.exists(), "a relay makes no database");
}

#[test]
fn answers_wait_for_the_lock_of_another_and_nothing_is_sent_twice() {
    let db = Database::new();
    let mut conn = db.open();
    enqueue(&mut conn, numbered(0..3));
    let (relay, sent) = relay(&db);
    let tickets: Vec<_> = (0..3).map(|_| next(&sent).1).collect();
    let locked = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    tickets.into_iter().for_each(Ticket::sent);
    wait_until("it ran into the lock", || relay.status().error.is_some());
    locked.rollback().unwrap();
    wait_for_empty(&db);
    assert!(sent.try_recv().is_err());
    wait_until("all of them are counted", || relay.status().sent == 3);
    assert_eq!(relay.status().error, None);
}

#[test]
fn a_database_that_is_replaced_is_relayed_from_then_on() {
    let (db, other) = (Database::new(), Database::new());
    enqueue(&mut db.open(), [message("old")]);
    enqueue(&mut other.open(), [message("new")]);
    let (_relay, sent) = relay(&db);
    let (_, old) = next(&sent);
    std::fs::rename(other.path(), db.path()).unwrap();
    let (id, new) = next(&sent);
    assert_eq!(id, "new");
    // Both are row 1, each of its own file.
    old.sent();
    assert_eq!(Outbox::default().waiting(&db.open()).unwrap(), 1);
    new.sent();
    wait_for_empty(&db);
}

#[test]
fn a_sender_that_panics_is_called_again() {
    let db = Database::new();
    enqueue(&mut db.open(), numbered(0..2));
    let mut calls = 0;
    let send = move |_, ticket: Ticket| {
        calls += 1;
        assert_ne!(calls, 1, "on purpose");
        ticket.sent();
    };
    let _relay = Relay::start(db.path(), &Outbox::default(), send).unwrap();
    wait_for_empty(&db);
}

#[test]
fn closing_waits_for_the_answers_that_are_owed() {
    let db = Database::new();
    enqueue(&mut db.open(), numbered(0..2));
    let (relay, sent) = relay(&db);
    let (answered, unanswered) = (next(&sent), next(&sent));
    std::thread::scope(|scope| {
        let closing = scope.spawn(move || relay.close(Duration::from_millis(200)));
        answered.1.sent();
        closing.join().unwrap();
    });
    unanswered.1.sent();
    let left = db.number("SELECT count(*) FROM spoolway_outbox");
    assert_eq!(left, 1, "an answer that comes too late is not heard");
    let (relay, sent) = self::relay(&db);
    let (id, ticket) = next(&sent);
    assert_eq!(id, "1");
    ticket.sent();
    relay.close(DEADLINE);
    assert_eq!(db.number("SELECT count(*) FROM spoolway_outbox"), 0);
}

/// Enqueues up to a step, says so, and waits to be killed.
pub(crate) fn enqueue_until(step: &str, db: &Database) {
    let mut conn = db.open();
    let tx = conn.transaction().unwrap();
    tx.execute("INSERT INTO effect VALUES ('ordered')", ())
        .unwrap();
    let id = Outbox::default()
        .enqueue(&tx, Message::new("task", &1).unwrap())
        .unwrap();
    if step == "committed" {
        tx.commit().unwrap();
    }
    say(id);
    wait_for_go();
}

/// Relays: says each id, and answers that it was sent.
pub(crate) fn relay_until_killed(db: &Database) {
    let _relay = Relay::start(db.path(), &Outbox::default(), |message, ticket| {
        say(&message.id);
        ticket.sent();
    })
    .unwrap();
    wait_for_go();
}

#[test]
fn killed_between_enqueue_and_commit_nothing_is_relayed() {
    let db = Database::new();
    let mut program = spawn("outbox-enqueued", &db.path());
    assert_eq!(program.line().len(), 36);
    program.kill();
    enqueue(&mut db.open(), [message("next")]);
    let (_relay, sent) = relay(&db);
    assert_eq!(next(&sent).0, "next", "and not what was never committed");
    assert_eq!(db.number("SELECT count(*) FROM effect"), 0);
}

#[test]
fn killed_after_the_commit_the_next_relay_sends() {
    let db = Database::new();
    let mut program = spawn("outbox-committed", &db.path());
    let id = program.line();
    program.kill();
    let (_relay, sent) = relay(&db);
    let (message, ticket) = next(&sent);
    assert_eq!(message, id);
    ticket.sent();
    wait_for_empty(&db);
    assert_eq!(db.number("SELECT count(*) FROM effect"), 1);
}

#[test]
fn killed_between_send_and_delete_it_sends_the_same_id_again_to_one_effect() {
    let db = Database::new();
    let mut conn = db.open();
    let tx = conn.transaction().unwrap();
    let bare = Message::new("task", &1).unwrap();
    let id = Outbox::default().enqueue(&tx, bare).unwrap();
    tx.commit().unwrap();

    // Nothing can be deleted while this is held.
    let locked = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    let mut program = spawn("outbox-relay", &db.path());
    assert_eq!(program.line(), id.as_str());
    program.kill();
    locked.rollback().unwrap();

    let receiver = Database::new();
    let mut receiver = receiver.open();
    let immediate = TransactionBehavior::Immediate;
    let (_relay, sent) = relay(&db);
    let (message, ticket) = sent.recv_timeout(DEADLINE).unwrap();
    assert_eq!(message.id, id);
    // Once for the relay that was killed, once for this one.
    assert!(effect(&mut receiver, immediate, &message).unwrap());
    assert!(!effect(&mut receiver, immediate, &message).unwrap());
    ticket.sent();
    wait_for_empty(&db);
}
