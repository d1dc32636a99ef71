//! What is stored comes out: in order, once, when its time has come.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spoolway_proto::{Epoch, Message, Outcome, ProducerId, Timestamp};
use spoolway_queue::{
    Before, Cursor, Due, Enqueued, Existing, HeldKey, NewRow, Origin, RowState, Settlement, Write,
    Written,
};

use crate::support::{Fixture, message, row, take_over, wait_until};

fn now() -> Timestamp {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    Timestamp(i64::try_from(millis).unwrap())
}

fn tried(attempts: u32, due: Due) -> RowState {
    RowState::Pending {
        attempts,
        due,
        error: Some("it failed".into()),
        suspect: false,
        claimed: false,
    }
}

#[test]
fn messages_come_out_as_they_went_in_and_once() {
    let queue = Fixture::new();
    let mut full = message("a")
        .topic("t")
        .sender("s")
        .header("h", "v")
        .key("k")
        .priority(70);
    full.ttl_ms = Some(1 << 50);
    queue.enqueue(&full).unwrap();
    queue.enqueue(&message("b")).unwrap();

    let claimed = queue.dequeue(10).unwrap();
    assert_eq!(claimed.len(), 2);
    assert_eq!(*claimed[0].message, full);
    assert_eq!(
        (claimed[1].message.id.as_str(), claimed[1].attempts),
        ("b", 0)
    );
    assert!(queue.dequeue(10).unwrap().is_empty(), "claimed");

    assert!(queue.mark_processed(&claimed[0].message.id).unwrap());
    assert!(
        !queue.mark_processed(&claimed[0].message.id).unwrap(),
        "settled before"
    );
    queue
        .settle(&[(&claimed[1], Settlement::Processed)])
        .unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.pending, stats.processed, stats.claimed), (0, 2, 0));
    assert_eq!(queue.number("SELECT count(*) FROM claim"), 0);
    assert_eq!(queue.number("SELECT min(attempts) FROM message_queue"), 1);
}

#[test]
fn ids_and_timestamps_are_filled_in_and_bad_messages_refused() {
    let queue = Fixture::new();
    let bare = Message::new("task", &1).unwrap();
    let Enqueued { id, written } = queue.enqueue(&bare).unwrap();
    assert_eq!(
        (id.as_str().len(), written),
        (36, Written::Inserted { seq: 1 })
    );
    assert!(queue.peek(1).unwrap()[0].message.timestamp.unwrap() <= now());
    let refused = queue.enqueue(&bare.priority(101)).unwrap_err();
    assert_eq!(refused.code(), "invalid");
    let nameless = row(Message::new("task", &1).unwrap());
    assert_eq!(
        queue.write(vec![nameless]).unwrap_err().code(),
        "queue_misuse"
    );
    assert_eq!(queue.stats().unwrap().pending, 1);
}

#[test]
fn the_same_id_is_there_already_and_other_content_is_a_conflict() {
    let queue = Fixture::new();
    let seq = queue.insert(message("a"));
    let other = Message::new("task", &"other").unwrap().id("a");
    let written = queue
        .write(vec![row(message("a")), row(other.clone())])
        .unwrap();
    let state = Existing::Pending;
    assert_eq!(written, [Written::Exists { seq, state }, Written::Conflict]);
    assert_eq!(queue.enqueue(&other).unwrap_err().code(), "conflict");

    queue
        .write(vec![Write::Processed { seq, attempts: 1 }])
        .unwrap();
    let state = Existing::Processed;
    assert_eq!(
        queue.write(vec![row(message("a"))]).unwrap(),
        [Written::Exists { seq, state }]
    );
    let dead = RowState::Dead {
        attempts: 4,
        reason: "attempts".into(),
        error: None,
    };
    let new = NewRow {
        message: Arc::new(message("b")),
        origin: None,
        state: dead,
    };
    let written = queue
        .write(vec![Write::Insert(new.clone()), Write::Insert(new)])
        .unwrap();
    let Written::Inserted { seq } = written[0] else {
        panic!("{written:?}")
    };
    assert_eq!(
        written[1],
        Written::Exists {
            seq,
            state: Existing::Dead
        }
    );
    assert_eq!(queue.stats().unwrap().dead, 1);
}

#[test]
fn a_foreign_writer_needs_four_columns() {
    let queue = Fixture::new();
    let foreign = queue.foreign();
    let insert =
        "INSERT INTO message_queue (message_id, type, payload, timestamp) VALUES (?, ?, ?, ?)";
    foreign
        .execute(insert, ("f1", "task", "{\"n\": 1}", 7))
        .unwrap();
    foreign
        .execute(insert, ("f2", "task", "not json", 8))
        .unwrap();
    foreign
        .execute(insert, ("f3", "task", "[3]", "2023-11-14T22:13:20Z"))
        .unwrap();

    let claimed = queue.dequeue(10).unwrap();
    let ids: Vec<_> = claimed
        .iter()
        .map(|claimed| claimed.message.id.as_str())
        .collect();
    assert_eq!(ids, ["f1", "f3"]);
    assert_eq!(claimed[0].message.payload.as_str(), "{\"n\": 1}");
    assert_eq!(claimed[0].message.priority, 50);
    assert_eq!(
        claimed[1].message.timestamp,
        Some(Timestamp(1_700_000_000_000))
    );
    let reason: String = foreign
        .query_row(
            "SELECT dead_reason FROM message_queue WHERE processed = 2",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(reason, "invalid");

    let copy = Message::with_payload("task", claimed[0].message.payload.clone()).id("f1");
    let written = queue.write(vec![row(copy), row(message("f3"))]).unwrap();
    assert!(matches!(
        written[..],
        [Written::Exists { seq: 1, .. }, Written::Conflict]
    ));
    // A FlowTrace reader sees what was settled, and what it settles is settled.
    queue.mark_processed(&claimed[0].message.id).unwrap();
    foreign
        .execute(
            "UPDATE message_queue SET processed = 1 WHERE message_id = 'f3'",
            (),
        )
        .unwrap();
    assert!(!queue.mark_processed(&claimed[1].message.id).unwrap());
    assert_eq!(queue.stats().unwrap().processed, 2);
}

#[test]
fn a_damaged_row_is_named_and_its_neighbours_are_delivered() {
    let queue = Fixture::new();
    for id in ["a", "b", "c", "d"] {
        queue.insert(message(id));
    }
    let foreign = queue.foreign();
    foreign
        .execute(
            "UPDATE message_queue SET payload = '\"x\"' WHERE seq = 2",
            (),
        )
        .unwrap();
    foreign
        .execute(
            "UPDATE message_queue SET attributes = '{' WHERE seq = 3",
            (),
        )
        .unwrap();
    let page = queue.candidates(Cursor::default(), 10).unwrap();
    assert_eq!(queue.candidate_ids(), ["a", "d"]);
    let damaged: Vec<_> = page
        .damaged
        .iter()
        .map(|row| (row.seq, row.reason))
        .collect();
    assert_eq!(damaged, [(2, "corrupt"), (3, "corrupt")]);
    assert_eq!(queue.dequeue(10).unwrap().len(), 2);
    assert_eq!(queue.stats().unwrap().dead, 2);
}

#[test]
fn the_order_is_priority_then_seq_and_pages_go_on_where_they_ended() {
    let queue = Fixture::new();
    for (id, priority) in [
        ("a", 10),
        ("b", 50),
        ("c", 90),
        ("d", 50),
        ("e", 10),
        ("f", 90),
    ] {
        queue.insert(message(id).priority(priority));
    }
    let (mut cursor, mut ids, mut pages) = (Cursor::default(), Vec::new(), 0);
    loop {
        let page = queue.candidates(cursor, 2).unwrap();
        assert!(page.candidates.len() <= 2);
        ids.extend(
            page.candidates
                .iter()
                .map(|candidate| candidate.message.id.to_string()),
        );
        (cursor, pages) = (page.cursor, pages + 1);
        if page.end {
            break;
        }
        assert!(pages < 10);
    }
    assert_eq!(ids, ["c", "f", "b", "d", "a", "e"]);
    // An operator's change of the column counts.
    queue
        .foreign()
        .execute("UPDATE message_queue SET priority = 99 WHERE seq = 5", ())
        .unwrap();
    let first = &queue.peek(1).unwrap()[0];
    assert_eq!(
        (first.message.id.as_str(), first.message.priority),
        ("e", 99)
    );
}

#[test]
fn a_candidate_says_what_is_before_it_in_its_lane() {
    let queue = Fixture::new();
    assert!(!queue.has_keyed_backlog().unwrap());
    let rows: Vec<_> = (0..40)
        .map(|n| row(message(&format!("k{n}")).key("k")))
        .collect();
    queue.write(rows).unwrap();
    queue.insert(message("free"));
    queue.insert(message("other").key("o"));
    assert!(queue.has_keyed_backlog().unwrap());

    let page = queue.candidates(Cursor::default(), 100).unwrap();
    let before = |index: usize| page.candidates[index].before.clone();
    assert_eq!(before(0), Before::None);
    assert_eq!(before(2), Before::Rows(vec![1, 2]));
    assert_eq!(before(32), Before::Rows((1..=32).collect()));
    assert_eq!(before(33), Before::Many);
    assert_eq!((before(40), before(41)), (Before::None, Before::None));

    queue
        .write(vec![
            Write::Processed {
                seq: 1,
                attempts: 1,
            },
            Write::Dead {
                seq: 2,
                attempts: 1,
                reason: "no_route".into(),
                error: None,
            },
        ])
        .unwrap();
    queue
        .foreign()
        .execute("UPDATE message_queue SET delivery = 1 WHERE seq = 3", ())
        .unwrap();
    let key = message("x").key("k").key.unwrap();
    assert_eq!(queue.rows_of_key(&key, 2).unwrap().rows, [4, 5]);
    let page = queue.candidates(Cursor::default(), 3).unwrap();
    assert_eq!(page.candidates[0].delivery, 1);
    let before: Vec<_> = page
        .candidates
        .iter()
        .map(|row| row.before.clone())
        .collect();
    assert_eq!(before, [Before::None, Before::None, Before::Rows(vec![4])]);
}

#[test]
fn dequeue_keeps_the_order_of_a_key() {
    let queue = Fixture::new();
    for id in ["a1", "a2", "b1", "a3"] {
        queue.insert(message(id).key(&id[..1]));
    }
    let first = queue.dequeue(2).unwrap();
    let ids = |claimed: &[spoolway_queue::Claimed]| -> Vec<String> {
        claimed
            .iter()
            .map(|claimed| claimed.message.id.to_string())
            .collect()
    };
    assert_eq!(ids(&first), ["a1", "a2"]);
    assert_eq!(
        ids(&queue.dequeue(2).unwrap()),
        ["b1"],
        "a3 waits for a1 and a2"
    );
    let retry = Settlement::Retry {
        after: Duration::from_secs(3_600),
        error: "no".into(),
    };
    queue
        .settle(&[(&first[0], retry), (&first[1], Settlement::Processed)])
        .unwrap();
    assert!(queue.dequeue(2).unwrap().is_empty(), "a1 keeps its place");
}

#[test]
fn what_is_not_due_waits_and_says_how_long() {
    let queue = Fixture::new();
    let insert = |id: &str, due| {
        let state = tried(1, due);
        let new = NewRow {
            message: Arc::new(message(id)),
            origin: None,
            state,
        };
        queue.write(vec![Write::Insert(new)]).unwrap();
    };
    insert("retry", Due::In(Duration::from_secs(600)));
    insert("past", Due::At(Timestamp(5)));
    insert(
        "future",
        Due::At(now().saturating_add(Duration::from_secs(300))),
    );
    queue.insert(message("later").deliver_at(now().saturating_add(Duration::from_secs(900))));
    queue.insert(message("now"));
    assert_eq!(queue.candidate_ids(), ["past", "now"]);
    let wait = queue
        .candidates(Cursor::default(), 1)
        .unwrap()
        .next_due_in
        .unwrap();
    assert!((290..=300).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(queue.stats().unwrap().delayed, 3);

    // After a reboot the wait is over: nobody knows how long the machine was off.
    let foreign = queue.foreign();
    let rebooted = "UPDATE message_queue SET due_boot = 'another' WHERE message_id = 'retry'";
    foreign.execute(rebooted, ()).unwrap();
    assert_eq!(queue.candidate_ids(), ["retry", "past", "now"]);

    insert("soon", Due::In(Duration::from_millis(20)));
    wait_until("a retry comes due", || {
        queue.candidate_ids().contains(&"soon".to_owned())
    });
}

#[test]
fn storing_for_retry_updates_the_row_that_is_there() {
    let queue = Fixture::new();
    let origin = Origin {
        producer: ProducerId::from_u128(9),
        epoch: Epoch(3),
        sequence: 12,
    };
    let seq = queue.insert(message("a"));
    let again = |origin, state| {
        let new = NewRow {
            message: Arc::new(message("a")),
            origin,
            state,
        };
        queue.write(vec![Write::Insert(new)]).unwrap()[0]
    };
    let there = Written::Exists {
        seq,
        state: Existing::Pending,
    };
    assert_eq!(again(Some(origin), tried(2, Due::Now)), there);
    assert_eq!(again(None, RowState::default()), there);
    let candidate = &queue.peek(1).unwrap()[0];
    assert_eq!((candidate.attempts, candidate.origin), (2, Some(origin)));
    assert_eq!(
        again(None, tried(1, Due::In(Duration::from_secs(60)))),
        there
    );
    assert!(queue.peek(1).unwrap().is_empty(), "put off");
    assert_eq!(queue.number("SELECT attempts FROM message_queue"), 2);
    let dead = RowState::Dead {
        attempts: 4,
        reason: "attempts".into(),
        error: None,
    };
    assert_eq!(again(None, dead), there);
    assert_eq!(queue.stats().unwrap().dead, 1);
}

#[test]
fn a_kept_outcome_settles_only_an_untouched_copy() {
    let queue = Fixture::new();
    let settle = |id: &str, crc, outcome| Write::SettleById {
        id: message(id).id,
        crc,
        outcome,
        reason: Some("expired".into()),
    };
    let [a, b, c] = ["a", "b", "c"].map(|id| queue.insert(message(id)));
    queue
        .foreign()
        .execute("UPDATE message_queue SET delivery = 1 WHERE seq = ?", [c])
        .unwrap();
    let written = queue
        .write(vec![
            settle("a", message("a").crc() ^ 1, Outcome::Processed),
            settle("a", message("a").crc(), Outcome::Processed),
            settle("b", message("b").crc(), Outcome::Stored),
            settle("b", message("b").crc(), Outcome::Dead),
            settle("c", message("c").crc(), Outcome::Processed),
            settle("d", 0, Outcome::Processed),
        ])
        .unwrap();
    let seqs: Vec<_> = written
        .iter()
        .map(|written| match written {
            Written::Settled { seq } => *seq,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seqs, [None, Some(a), None, Some(b), None, None]);
}

#[test]
fn keys_are_held_and_texts_remembered() {
    let queue = Fixture::new();
    let held = HeldKey {
        key: message("x").key("k").key.unwrap(),
        since: Timestamp(3),
        message_id: message("x").id,
        reason: "attempts".into(),
    };
    let second = HeldKey {
        reason: "expired".into(),
        ..held.clone()
    };
    let save = |value: Option<&str>| Write::SaveMeta {
        name: "cleanup".into(),
        value: value.map(str::to_owned),
    };
    queue
        .write(vec![
            Write::HoldKey(held.clone()),
            Write::HoldKey(second),
            save(Some("x")),
        ])
        .unwrap();
    assert_eq!(
        queue.held_keys().unwrap(),
        std::slice::from_ref(&held),
        "the first reason stays"
    );
    assert_eq!(queue.meta("cleanup").unwrap().as_deref(), Some("x"));
    queue
        .write(vec![Write::FreeKey(held.key), save(None)])
        .unwrap();
    assert_eq!(queue.held_keys().unwrap(), []);
    assert_eq!(queue.meta("cleanup").unwrap(), None);
    let own = Write::SaveMeta {
        name: "identity".into(),
        value: None,
    };
    assert_eq!(queue.write(vec![own]).unwrap_err().code(), "queue_misuse");
    assert_eq!(queue.again().identity(), queue.identity());
}

#[test]
fn expired_messages_become_dead_letters() {
    let queue = Fixture::new();
    queue.insert(message("old").ttl(Duration::from_secs(1)));
    queue.insert(message("lasting"));
    assert_eq!(queue.dequeue(10).unwrap().len(), 1);
    assert_eq!(
        queue.number("SELECT count(*) FROM message_queue WHERE dead_reason = 'expired'"),
        1
    );
}

/// The model test found that a whole key waited for the next call, and that who dequeues until
/// nothing comes stopped too early.
#[test]
fn what_is_buried_is_in_the_way_of_nothing_in_the_same_answer() {
    let queue = Fixture::new();
    let late = message("late").key("k").ttl(Duration::from_secs(1));
    for message in [late, message("damaged").key("k"), message("next").key("k")] {
        queue.insert(message);
    }
    let damage = "UPDATE message_queue SET payload = '1' WHERE message_id = 'damaged'";
    queue.foreign().execute(damage, ()).unwrap();
    let claimed = queue.dequeue(10).unwrap();
    let ids: Vec<_> = claimed.iter().map(|one| one.message.id.as_str()).collect();
    assert_eq!((ids, queue.stats().unwrap().dead), (vec!["next"], 2));
}

#[test]
fn cleanup_deletes_what_was_kept_long_enough_and_shrinks_the_file() {
    let queue = Fixture::new();
    let large = "x".repeat(2_000);
    let rows = |from: i64, to: i64| -> Vec<Write> {
        (from..to)
            .map(|n| row(Message::new("task", &large).unwrap().id(format!("m{n}"))))
            .collect()
    };
    queue.write(rows(0, 3_000)).unwrap();
    let seqs = 1..=3_000;
    let settle = |seq| match seq {
        2_999 => Write::Dead {
            seq,
            attempts: 1,
            reason: "no_route".into(),
            error: None,
        },
        seq => Write::Processed { seq, attempts: 1 },
    };
    queue
        .write(seqs.filter(|&seq| seq != 3_000).map(settle).collect())
        .unwrap();
    assert_eq!(queue.cleanup(Duration::from_secs(3_600)).unwrap(), 0);
    queue
        .foreign()
        .execute(
            "UPDATE message_queue SET processed_at = NULL, created_at = 5 WHERE seq = 7",
            (),
        )
        .unwrap();
    let before = queue.stats().unwrap();
    assert_eq!(queue.cleanup(Duration::ZERO).unwrap(), 2_998);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.pending, stats.processed, stats.dead), (1, 0, 1));
    assert!(stats.free_bytes <= 1 << 20, "{stats:?}");
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    assert_eq!(queue.number(checkpoint), 0);
    let size = queue.stats().unwrap().file_bytes;
    assert!(
        size < before.file_bytes.max(5 << 20) / 2,
        "{size} of {before:?}"
    );
    let again = queue.again();
    again.write(vec![row(message("new"))]).unwrap();
    let seqs: Vec<_> = again.peek(9).unwrap().iter().map(|row| row.seq).collect();
    assert_eq!(seqs, [3_000, 3_001], "numbers are never used again");
}

#[test]
fn statistics_count_every_state() {
    let queue = Fixture::new();
    let (_, _lock) = take_over(&queue);
    let rows = ["a", "b", "c", "d"].map(|id| row(message(id)));
    queue.write(rows.to_vec()).unwrap();
    queue
        .write(vec![
            row(Message::new("command", &1).unwrap().id("e")),
            Write::Claim(vec![1, 2]),
            Write::Processed {
                seq: 2,
                attempts: 1,
            },
            Write::Dead {
                seq: 3,
                attempts: 1,
                reason: "no_route".into(),
                error: None,
            },
            Write::Retry {
                seq: 4,
                attempts: 1,
                due: Due::In(Duration::from_secs(60)),
                error: "no".into(),
            },
        ])
        .unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!(
        (stats.pending, stats.claimed, stats.delayed, stats.suspects),
        (3, 1, 1, 0)
    );
    assert_eq!((stats.processed, stats.dead), (1, 1));
    assert_eq!((stats.ready, stats.retries, stats.held), (1, 1, 0));
    assert_eq!(stats.dead_by_reason["no_route"], 1);
    let top = queue.top(1).unwrap();
    assert_eq!((top.types, top.exact), (vec![("task".to_owned(), 2)], true));
    assert!(stats.oldest_pending_age_s.unwrap() < 60);
    assert!(stats.wal_bytes > 0 && stats.identity == queue.identity());
}

#[test]
fn counts_that_another_program_spoiled_hold_nothing_up() {
    let queue = Fixture::new();
    for id in ["a", "b", "c"] {
        queue.enqueue(&message(id)).unwrap();
    }
    let spoil = "UPDATE message_queue SET attempts = -1 WHERE message_id = 'a'; \
                 UPDATE message_queue SET delivery = 'x', suspect = x'00' WHERE message_id = 'b';";
    queue.foreign().execute_batch(spoil).unwrap();
    let claimed = queue.dequeue(10).unwrap();
    let found: Vec<_> = claimed
        .iter()
        .map(|row| (row.message.id.as_str(), row.attempts))
        .collect();
    assert_eq!(found, [("a", 0), ("b", 0), ("c", 0)]);
}
