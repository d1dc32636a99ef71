//! Dead letters: listed, shown, requeued, purged, capped.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::{Epoch, Key, Message, ProducerId, Timestamp};
use spoolway_queue::{
    Cursor, Due, Filter, HeldKey, NewRow, Origin, RowState, Settled, Settlement, SqliteQueue,
    Write, side_file,
};

use crate::support::{Fixture, consumer, message, row, take_over, wait_until};

const WHO: ProducerId = ProducerId::from_u128(9);

fn dead(message: Message, reason: &str) -> Write {
    Write::Insert(NewRow {
        message: Arc::new(message),
        origin: None,
        state: RowState::Dead {
            attempts: 4,
            reason: reason.into(),
            error: Some(format!("no {reason}")),
        },
    })
}

fn of_producer(n: u64) -> Write {
    Write::Insert(NewRow {
        message: Arc::new(message(&format!("p{n}"))),
        origin: Some(Origin {
            producer: WHO,
            epoch: Epoch(1),
            sequence: n,
        }),
        state: RowState::default(),
    })
}

fn candle(id: &str, r#type: &str) -> Message {
    let mut candle = message(id);
    candle.r#type = r#type.into();
    candle
}

fn ids(queue: &SqliteQueue, filter: &Filter) -> Vec<String> {
    let letters = queue.dead_letters(filter, 100).unwrap();
    let ids: Vec<String> = letters.into_iter().map(|letter| letter.id).collect();
    assert_eq!(queue.count_dead(filter).unwrap(), ids.len() as u64);
    ids
}

#[test]
fn dead_letters_are_listed_those_that_died_last_first_and_by_every_filter() {
    let queue = Fixture::new();
    queue
        .write(vec![
            dead(candle("a", "candle:open"), "expired"),
            dead(candle("b", "candle:complete").key("k"), "attempts"),
            dead(message("c"), "attempts"),
            row(message("alive")),
        ])
        .unwrap();
    let set = "UPDATE message_queue SET processed_at = CASE message_id WHEN 'a' THEN 300 WHEN 'b' THEN 200 ELSE 100 END";
    queue.foreign().execute(set, ()).unwrap();

    let all = Filter::default();
    assert_eq!(ids(&queue, &all), ["a", "b", "c"]);
    assert_eq!(queue.dead_letters(&all, 1).unwrap()[0].id, "a");
    let glob = |glob: &str| Filter {
        types: vec![glob.into()],
        ..Filter::default()
    };
    assert_eq!(ids(&queue, &glob("candle:*")), ["a", "b"]);
    assert_eq!(ids(&queue, &glob("candle")), [""; 0]);
    let reason = Filter {
        reason: Some("attempts".into()),
        ..Filter::default()
    };
    assert_eq!(ids(&queue, &reason), ["b", "c"]);
    let key = Filter {
        key: Some(Key::new("k").unwrap()),
        ..Filter::default()
    };
    assert_eq!(ids(&queue, &key), ["b"]);
    let between = Filter {
        since: Some(Timestamp(200_000)),
        until: Some(Timestamp(299_999)),
        ..Filter::default()
    };
    assert_eq!(ids(&queue, &between), ["b"]);
    assert_eq!(ids(&queue, &Filter::one(message("c").id)), ["c"]);
    assert_eq!(ids(&queue, &Filter::one(message("alive").id)), [""; 0]);

    let letter = queue.dead_letter("b").unwrap().unwrap();
    assert_eq!(
        (letter.attempts, letter.payload.as_deref()),
        (4, Some("\"b\""))
    );
    assert_eq!(letter.error.as_deref(), Some("no attempts"));
    assert!(letter.first_attempt_at.is_some() && letter.last_attempt_at.is_some());
    assert_eq!(letter.died_at, Some(Timestamp(200_000)));
    assert_eq!(queue.dead_letter("alive").unwrap(), None);
}

#[test]
fn a_requeued_letter_runs_again_under_its_id_outside_its_lane_and_wakes_the_consumer() {
    let queue = Fixture::new();
    let wake = UnixDatagram::bind(side_file(&queue.path(), ".wake")).unwrap();
    wake.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let woken = || wake.recv(&mut [0; 16]).is_ok();
    queue
        .write(vec![
            dead(
                message("a").key("k").ttl(Duration::from_millis(1)),
                "expired",
            ),
            row(message("ahead").key("k")),
        ])
        .unwrap();
    assert!(woken());
    // By another process, as a command would.
    assert_eq!(
        queue
            .again()
            .requeue(&Filter::one(message("a").id))
            .unwrap(),
        1
    );
    assert!(woken(), "the consumer is");

    let page = queue.candidates(Cursor::default(), 9).unwrap();
    let again = page
        .candidates
        .iter()
        .find(|row| row.message.id.as_str() == "a")
        .unwrap();
    assert_eq!((again.attempts, again.delivery), (0, 1));
    // It is late, and runs all the same: whoever requeued it knows.
    let claimed = queue.dequeue(9).unwrap();
    let claimed: Vec<&str> = claimed.iter().map(|one| one.message.id.as_str()).collect();
    assert_eq!(claimed, ["a", "ahead"]);
    assert_eq!(queue.requeue(&Filter::default()).unwrap(), 0);
}

/// The model test found that it was counted as claimed, and became suspect with its neighbours: a
/// claim is a range of rows.
#[test]
fn a_requeued_letter_is_nobodys_though_its_neighbours_are_held() {
    let queue = Fixture::new();
    let owner = queue.again();
    queue
        .write(["a", "b", "c"].map(|id| row(message(id))).into())
        .unwrap();
    let claimed = owner.dequeue(3).unwrap();
    let dead = Settlement::Dead {
        reason: "attempts".into(),
        error: None,
    };
    owner.settle(&[(&claimed[1], dead)]).unwrap();
    assert_eq!(queue.requeue(&Filter::default()).unwrap(), 1);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.claimed, stats.ready), (2, 1));

    drop(owner);
    let (taken, _lock) = take_over(&queue);
    let suspects = queue.suspects(0, 9).unwrap().candidates;
    let suspects: Vec<_> = suspects.iter().map(|row| row.seq).collect();
    assert_eq!((taken.suspects, suspects), (2, vec![1, 3]));
}

#[test]
fn many_letters_are_requeued_in_slices_while_others_write() {
    let queue = Fixture::new();
    let letters = (0..5_000).map(|n| dead(message(&format!("d{n}")), "attempts"));
    queue.write(letters.collect()).unwrap();
    let other = queue.again();
    let writer = std::thread::spawn(move || {
        for n in 0..50 {
            other.write(vec![row(message(&format!("w{n}")))]).unwrap();
        }
    });
    let before = queue.commits();
    assert_eq!(queue.requeue(&Filter::default()).unwrap(), 5_000);
    assert!(queue.commits() - before > 5, "in one transaction");
    writer.join().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.pending, stats.ready, stats.dead), (5_050, 5_050, 0));
}

#[test]
fn a_letter_that_dies_again_at_once_is_requeued_once_a_call() {
    let queue = Fixture::new();
    let letters = (0..500).map(|n| dead(message(&format!("d{n}")), "attempts"));
    queue.write(letters.collect()).unwrap();
    let (mut after, mut requeued) = (0, 0);
    loop {
        let slice = queue
            .requeue_some(Settled::Dead, &Filter::default(), after, 100)
            .unwrap();
        requeued += slice.requeued;
        let page = queue.candidates(Cursor::default(), 1_000).unwrap();
        let again = page.candidates.iter().map(|row| Write::Dead {
            seq: row.seq,
            attempts: 1,
            reason: "attempts".into(),
            error: None,
        });
        queue.write(again.collect()).unwrap();
        match slice.after {
            Some(seq) => after = seq,
            None => break,
        }
    }
    assert_eq!((requeued, queue.stats().unwrap().dead), (500, 500));
    assert_eq!(queue.number("SELECT max(delivery) FROM message_queue"), 1);
}

#[test]
fn what_was_processed_can_run_again_too() {
    let queue = Fixture::new();
    queue.write((0..10).map(of_producer).collect()).unwrap();
    let done = (1..=10).map(|seq| Write::Processed { seq, attempts: 1 });
    queue.write(done.collect()).unwrap();
    let slice = queue
        .requeue_some(Settled::Processed, &Filter::default(), 0, 4)
        .unwrap();
    assert_eq!((slice.requeued, slice.after), (4, Some(4)));
    let audit = queue.audit().unwrap()[0];
    assert_eq!((audit.processed, audit.stored, audit.missing), (6, 4, 0));
    assert_eq!(
        queue.requeue(&Filter::default()).unwrap(),
        0,
        "none is dead"
    );
}

#[test]
fn the_audit_balances_whatever_becomes_of_dead_letters() {
    let queue = Fixture::new();
    queue.write((1..=6).map(of_producer).collect()).unwrap();
    let bury = |seq| Write::Dead {
        seq,
        attempts: 1,
        reason: "attempts".into(),
        error: None,
    };
    queue.write((1..=6).map(bury).collect()).unwrap();
    let audited = |queue: &SqliteQueue| {
        let audit = queue.audit().unwrap()[0];
        assert_eq!(audit.missing, 0);
        (audit.dead, audit.stored, audit.processed)
    };
    assert_eq!(audited(&queue), (6, 0, 0));
    assert_eq!(queue.purge(&Filter::one(message("p1").id)).unwrap(), 1);
    assert_eq!(audited(&queue), (6, 0, 0), "purged since, and counted");
    queue.requeue(&Filter::one(message("p2").id)).unwrap();
    assert_eq!(audited(&queue), (5, 1, 0));
    queue
        .write(vec![Write::Processed {
            seq: 2,
            attempts: 1,
        }])
        .unwrap();
    assert_eq!(audited(&queue), (5, 0, 1));

    // Nobody heard of the producer for long: it is forgotten, its letters are not.
    assert_eq!(queue.cleanup_producers(Duration::ZERO).unwrap(), 1);
    assert_eq!(queue.requeue(&Filter::default()).unwrap(), 4);
    assert_eq!(audited(&queue), (0, 4, 0));
    queue.write((3..=6).map(bury).collect()).unwrap();
    assert_eq!(audited(&queue), (4, 0, 0));
    let checked = spoolway_queue::check(queue.path(), true, |_| {}).unwrap();
    assert!(checked.is_ok(), "{checked:?}");

    // Buried by another program, which counts nothing.
    queue.write(vec![of_producer(7)]).unwrap();
    queue
        .write(vec![
            of_producer(8),
            Write::Processed {
                seq: 8,
                attempts: 1,
            },
        ])
        .unwrap();
    queue.purge(&Filter::default()).unwrap();
    let bury = "UPDATE producer SET dead = 0, stored = 2, by_queue = 0, processed = 1; \
        UPDATE message_queue SET processed = 2 WHERE message_id = 'p7'";
    queue.foreign().execute_batch(bury).unwrap();
    assert_eq!(queue.requeue(&Filter::default()).unwrap(), 1);
    assert_eq!(audited(&queue), (0, 1, 1));
}

#[test]
fn a_cap_drops_those_that_died_first_and_says_of_what() {
    let queue = Fixture::new();
    let old = (0..50).map(|n| dead(message(&format!("old{n}")), "expired"));
    let new = (0..50).map(|n| dead(message(&format!("new{n}")), "attempts"));
    queue.write(new.chain(old).collect()).unwrap();
    let set =
        "UPDATE message_queue SET processed_at = processed_at - 60 WHERE dead_reason = 'expired'";
    queue.foreign().execute(set, ()).unwrap();
    assert!(queue.cap_dead(100).unwrap().is_empty());
    let dropped = queue.cap_dead(40).unwrap();
    assert_eq!((dropped["expired"], dropped["attempts"]), (50, 10));
    assert_eq!(queue.stats().unwrap().dead, 40);
    assert_eq!(
        queue.cleanup(Duration::ZERO).unwrap(),
        0,
        "retention drops none"
    );
    assert_eq!(queue.stats().unwrap().dead, 40);
}

#[test]
fn every_pending_message_is_counted_in_one_state() {
    let queue = Fixture::new();
    let (_, _lock) = take_over(&queue);
    for id in ["ready", "claimed", "retry", "suspect"] {
        queue.insert(message(id));
    }
    queue.insert(message("behind").key("k"));
    queue.insert(message("behind too, and late").key("k"));
    let later = Timestamp(i64::MAX / 2);
    queue.insert(message("deliver_at").deliver_at(later));
    // Ours are refused with both, and other programs can insert them.
    let both = "INSERT INTO message_queue (message_id, type, payload, timestamp, key, due_at) \
                VALUES ('both', 't', '1', 7, 'k', ?)";
    queue.foreign().execute(both, [later.0]).unwrap();
    queue.insert(message("behind, and claimed").key("k"));
    queue.insert(message("behind, and alone").key("k"));
    let retry = |seq| Write::Retry {
        seq,
        attempts: 1,
        due: Due::In(Duration::from_secs(60)),
        error: "no".into(),
    };
    queue
        .write(vec![
            Write::Claim(vec![2, 9]),
            retry(3),
            retry(6),
            Write::HoldKey(HeldKey {
                key: Key::new("k").unwrap(),
                since: Timestamp(0),
                message_id: message("x").id,
                reason: "attempts".into(),
            }),
            dead(message("dead"), "attempts"),
        ])
        .unwrap();
    let suspect = "UPDATE message_queue SET suspect = 1 WHERE seq IN (2, 3, 4, 5)";
    queue.foreign().execute(suspect, ()).unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!(stats.pending, 10);
    let states = (
        stats.ready,
        stats.claimed,
        stats.delayed,
        stats.held,
        stats.suspects,
    );
    assert_eq!(states, (1, 2, 4, 2, 1));
    assert_eq!((stats.retries, stats.dead), (2, 1));
    assert_eq!(stats.dead_by_reason["attempts"], 1);
    let top = queue.top(9).unwrap();
    assert_eq!((top.keys, top.exact), (vec![("k".to_owned(), 5)], true));
}

#[test]
fn a_requeued_letter_releases_the_key_that_it_stopped_and_no_other() {
    let queue = Fixture::new();
    let hold = |key: &str, id: &str| {
        let held = HeldKey {
            key: Key::new(key).unwrap(),
            since: Timestamp(0),
            message_id: message(id).id,
            reason: "attempts".into(),
        };
        vec![
            dead(message(id).key(key), "attempts"),
            Write::HoldKey(held),
            row(message(&format!("behind {id}")).key(key)),
        ]
    };
    let writes = [
        hold("k", "a"),
        hold("l", "b"),
        vec![dead(message("c").key("l"), "expired")],
    ];
    queue.write(writes.concat()).unwrap();
    let stopped = || -> Vec<_> {
        let held = queue.held_keys().unwrap();
        held.into_iter().map(|held| held.key.to_string()).collect()
    };
    assert_eq!(
        (queue.stats().unwrap().held, stopped()),
        (2, vec!["k".into(), "l".into()])
    );

    assert_eq!(queue.requeue(&Filter::one(message("c").id)).unwrap(), 1);
    assert_eq!(stopped(), ["k", "l"], "another letter of the key");
    assert_eq!(queue.requeue(&Filter::one(message("a").id)).unwrap(), 1);
    assert_eq!(
        (queue.stats().unwrap().held, stopped()),
        (1, vec!["l".into()])
    );
    let page = queue
        .replay(Settled::Dead, Filter::default(), 0)
        .unwrap()
        .step(usize::MAX);
    assert_eq!(
        (page.unwrap(), stopped()),
        (1, vec![]),
        "a replay of dead letters too"
    );
}

#[test]
fn numbers_read_from_another_file_requeue_nothing() {
    let queue = Fixture::new();
    queue.write(vec![dead(message("a"), "attempts")]).unwrap();
    let elsewhere = queue.dir.path().join("elsewhere.db");
    std::fs::rename(queue.path(), &elsewhere).unwrap();
    wait_until("the move is noticed", || queue.generation() > 0);
    assert_eq!(queue.requeue(&Filter::default()).unwrap(), 0);
    let moved = SqliteQueue::open(&elsewhere, consumer()).unwrap();
    assert_eq!(moved.stats().unwrap().dead, 1);
}
