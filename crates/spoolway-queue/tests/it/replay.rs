//! Replay: what is meant, what it promises, and where it goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::{Epoch, Key, Message, ProducerId, Timestamp};
use spoolway_queue::{
    Filter, NewRow, Origin, QueueError, Replay, RowState, Settled, SqliteQueue, Write,
};

use crate::child::{say, spawn};
use crate::support::{Fixture, consumer, message, row, wait_until};

fn typed(id: &str, r#type: &str) -> Message {
    let mut typed = message(id);
    typed.r#type = r#type.into();
    typed
}

/// A file with these messages, each processed.
fn processed(messages: impl IntoIterator<Item = Message>) -> Fixture {
    let queue = Fixture::new();
    let inserted = queue
        .write(messages.into_iter().map(row).collect())
        .unwrap();
    settle(&queue, 1..=i64::try_from(inserted.len()).unwrap());
    queue
}

fn settle(queue: &SqliteQueue, seqs: impl IntoIterator<Item = i64>) {
    let done = seqs.into_iter();
    let done = done.map(|seq| Write::Processed { seq, attempts: 1 });
    queue.write(done.collect()).unwrap();
}

fn numbered(count: usize) -> impl Iterator<Item = Message> {
    (0..count).map(|n| message(&format!("m{n}")))
}

fn types(globs: &[&str]) -> Filter {
    Filter {
        types: globs.iter().map(|glob| (*glob).to_owned()).collect(),
        ..Filter::default()
    }
}

fn finish(replay: &mut Replay) -> u64 {
    let mut replayed = 0;
    while !replay.is_done() {
        replayed += replay.step(usize::MAX).unwrap();
    }
    replayed
}

#[test]
fn every_filter_means_what_it_says_for_the_count_and_for_the_replay() {
    let id = |id: &str| message(id).id;
    let at = |seconds: i64| Some(Timestamp(seconds * 1_000));
    let none = Filter::default;
    let cases: [(Filter, &[&str]); 9] = [
        (none(), &["a", "b", "c", "undated"]),
        (types(&["candle:*"]), &["a", "b"]),
        (
            types(&["candle:open", "or[dt]er", "it's \"7\""]),
            &["a", "c"],
        ),
        (types(&["candle"]), &[]),
        (
            Filter {
                ids: vec![
                    id("c"),
                    id("a"),
                    id("a"),
                    id("pending"),
                    id("dead"),
                    id("no"),
                ],
                ..none()
            },
            &["a", "c"],
        ),
        (
            Filter {
                ids: vec![id("a"), id("c")],
                ..types(&["order"])
            },
            &["c"],
        ),
        (
            Filter {
                key: Some(Key::new("k").unwrap()),
                ..none()
            },
            &["b"],
        ),
        (
            Filter {
                since: at(200),
                until: at(299),
                ..none()
            },
            &["b", "undated"],
        ),
        (
            Filter {
                since: at(301),
                ..none()
            },
            &[],
        ),
    ];
    for (filter, meant) in cases {
        let queue = processed([
            typed("a", "candle:open"),
            typed("b", "candle:close").key("k"),
            typed("c", "order"),
            typed("undated", "undated"),
        ]);
        queue
            .write(vec![
                row(typed("pending", "candle:open").key("k")),
                Write::Insert(NewRow {
                    message: Arc::new(typed("dead", "candle:open").key("k")),
                    origin: None,
                    state: RowState::Dead {
                        attempts: 1,
                        reason: "attempts".into(),
                        error: None,
                    },
                }),
            ])
            .unwrap();
        let set = "UPDATE message_queue SET processed_at = 100 * seq, created_at = 1 WHERE processed <> 0; \
            UPDATE message_queue SET processed_at = NULL, created_at = 250 WHERE message_id = 'undated'";
        queue.foreign().execute_batch(set).unwrap();
        let mut replay = queue.replay(Settled::Processed, filter.clone(), 0).unwrap();
        let counted: u64 = replay.count().unwrap().values().sum();
        assert_eq!(finish(&mut replay), counted, "{filter:?}");
        let again = "SELECT message_id FROM message_queue WHERE processed = 0 AND delivery = 1 \
            AND attempts = 0 AND processed_at IS NULL ORDER BY seq";
        let conn = queue.foreign();
        let mut again = conn.prepare(again).unwrap();
        let again: Vec<String> = again
            .query_map((), |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(again, meant, "{filter:?}");
        let touched = "SELECT count(*) FROM message_queue WHERE delivery > 0";
        assert_eq!(queue.number(touched), i64::try_from(meant.len()).unwrap());
    }
}

#[test]
fn a_count_is_by_type_and_changes_nothing() {
    let queue = processed([typed("a", "x"), typed("b", "y"), typed("c", "x")]);
    let changes = "SELECT count(*) FROM message_queue WHERE processed = 1 AND delivery = 0";
    let commits = queue.commits();
    let replay = queue
        .replay(Settled::Processed, Filter::default(), 0)
        .unwrap();
    let counted = replay.count().unwrap();
    assert_eq!((counted["x"], counted["y"], counted.len()), (2, 1, 2));
    assert_eq!((queue.number(changes), queue.commits()), (3, commits));
}

#[test]
fn what_is_settled_after_it_began_is_not_replayed() {
    let queue = processed(numbered(3));
    let waiting = queue.insert(message("waiting"));
    let mut replay = queue
        .replay(Settled::Processed, Filter::default(), 0)
        .unwrap();
    let new = queue.insert(message("new"));
    settle(&queue, [waiting, new]);
    // Seconds are what a file keeps; and a clock that was set back must not let new ones in.
    let set = "UPDATE message_queue SET processed_at = processed_at + 2 WHERE message_id = 'waiting'; \
        UPDATE message_queue SET processed_at = 5 WHERE message_id = 'new'";
    queue.foreign().execute_batch(set).unwrap();
    assert_eq!(finish(&mut replay), 3);
    assert_eq!(queue.stats().unwrap().processed, 2);
}

#[test]
fn one_that_is_processed_again_at_once_is_replayed_once() {
    let queue = processed(numbered(300));
    let mut replay = queue
        .replay(Settled::Processed, Filter::default(), 0)
        .unwrap();
    let mut replayed = 0;
    while !replay.is_done() {
        replayed += replay.step(7).unwrap();
        settle(&queue, 1..=300);
    }
    assert_eq!(replayed, 300);
    assert_eq!(queue.number("SELECT max(delivery) FROM message_queue"), 1);
    let ended = replay.look().unwrap();
    assert_eq!((ended.delivered, ended.pending), (300, 0));
}

#[test]
fn a_pending_message_is_never_replayed_again() {
    let queue = processed(numbered(20));
    for _ in 0..3 {
        let mut replay = queue
            .replay(Settled::Processed, Filter::default(), 0)
            .unwrap();
        finish(&mut replay);
    }
    assert_eq!(queue.number("SELECT max(delivery) FROM message_queue"), 1);
    assert_eq!(queue.pending().unwrap(), 20);
}

#[test]
fn a_replay_goes_on_where_another_stopped() {
    let queue = processed(numbered(100));
    let all = Filter::default();
    let mut first = queue.replay(Settled::Processed, all, 0).unwrap();
    assert_eq!(first.step(30).unwrap(), 30);
    let (after, filter) = (first.after(), first.filter().clone());
    drop(first);
    settle(&queue, 1..=100);
    let mut second = queue.replay(Settled::Processed, filter, after).unwrap();
    assert_eq!(second.count().unwrap()["task"], 70);
    assert_eq!(finish(&mut second), 70);
    let once = "SELECT count(*) FROM message_queue WHERE delivery = 1";
    assert_eq!(queue.number(once), 100);
}

#[test]
fn a_look_says_what_became_of_them() {
    let queue = processed(numbered(6));
    let mut replay = queue
        .replay(Settled::Processed, Filter::default(), 0)
        .unwrap();
    finish(&mut replay);
    settle(&queue, [1, 2]);
    queue
        .write(vec![Write::Dead {
            seq: 3,
            attempts: 4,
            reason: "attempts".into(),
            error: None,
        }])
        .unwrap();
    settle(&queue, [4]);
    let gone = "DELETE FROM message_queue WHERE seq = 4";
    queue.foreign().execute(gone, ()).unwrap();
    let so_far = replay.look().unwrap();
    assert_eq!(
        (
            so_far.replayed,
            so_far.delivered,
            so_far.dead,
            so_far.pending
        ),
        (6, 3, 1, 2)
    );
    settle(&queue, [5, 6]);
    let so_far = replay.look().unwrap();
    assert_eq!((so_far.delivered, so_far.pending), (5, 0));
    assert_eq!(replay.look().unwrap(), so_far, "nothing is counted twice");
}

#[test]
fn a_step_looks_at_a_bounded_number_of_messages() {
    let mut messages: Vec<Message> = numbered(25_000).collect();
    messages.push(typed("needle", "needle"));
    let queue = processed(messages);
    let mut replay = queue
        .replay(Settled::Processed, types(&["needle"]), 0)
        .unwrap();
    assert_eq!((replay.step(10).unwrap(), replay.after()), (0, 10_000));
    assert_eq!((replay.step(10).unwrap(), replay.after()), (0, 20_000));
    assert_eq!((replay.step(10).unwrap(), replay.is_done()), (1, true));
    assert_eq!(replay.step(10).unwrap(), 0);
}

#[test]
fn messages_before_the_first_that_is_recent_enough_are_not_even_looked_at() {
    let queue = processed(numbered(20_000));
    let old = "UPDATE message_queue SET processed_at = 100 WHERE seq < 20000";
    queue.foreign().execute(old, ()).unwrap();
    let recent = Filter {
        since: Some(Timestamp(200_000)),
        ..Filter::default()
    };
    let mut replay = queue.replay(Settled::Processed, recent, 0).unwrap();
    assert_eq!((replay.step(10).unwrap(), replay.is_done()), (1, true));
}

#[test]
fn numbers_of_one_file_replay_nothing_in_another() {
    let queue = processed(numbered(10));
    let mut replay = queue
        .replay(Settled::Processed, Filter::default(), 0)
        .unwrap();
    replay.step(1).unwrap();
    let elsewhere = queue.dir.path().join("elsewhere.db");
    std::fs::rename(queue.path(), &elsewhere).unwrap();
    wait_until("the move is noticed", || queue.generation() > 0);
    assert!(matches!(replay.step(1), Err(QueueError::Moved { .. })));
    assert!(matches!(replay.look(), Err(QueueError::Moved { .. })));
    let moved = SqliteQueue::open(&elsewhere, consumer()).unwrap();
    assert_eq!(moved.pending().unwrap(), 1);
}

/// Says after each step how far it came, until it is killed.
pub(crate) fn replay_step_by_step(path: &Path) {
    let queue = SqliteQueue::open(path, consumer()).unwrap();
    let mut replay = queue
        .replay(Settled::Processed, Filter::default(), 0)
        .unwrap();
    while !replay.is_done() {
        replay.step(3).unwrap();
        say(replay.after());
    }
    say("done");
}

#[test]
fn killed_in_the_middle_each_message_is_replayed_or_not_and_the_next_replay_finishes() {
    const MESSAGES: u64 = 3_000;
    let queue = Fixture::new();
    let of_producer = |n: u64| {
        Write::Insert(NewRow {
            message: Arc::new(message(&format!("m{n}"))),
            origin: Some(Origin {
                producer: ProducerId::from_u128(9),
                epoch: Epoch(1),
                sequence: n,
            }),
            state: RowState::default(),
        })
    };
    queue
        .write((1..=MESSAGES).map(of_producer).collect())
        .unwrap();
    settle(&queue, 1..=MESSAGES.cast_signed());

    let mut replaying = spawn("replay", &queue.path());
    let mut said = 0;
    for _ in 0..20 {
        said = replaying.line().parse().unwrap();
    }
    replaying.kill();
    let whole = "SELECT count(*) FROM message_queue WHERE (processed = 1 AND delivery = 0 AND attempts = 1) \
        OR (processed = 0 AND delivery = 1 AND attempts = 0 AND processed_at IS NULL)";
    assert_eq!(queue.number(whole).unsigned_abs(), MESSAGES);
    let replayed = queue.number("SELECT count(*) FROM message_queue WHERE delivery = 1");
    assert!(
        replayed >= said && replayed < MESSAGES.cast_signed(),
        "{replayed} replayed, {said} were said"
    );
    let audit = queue.audit().unwrap()[0];
    assert_eq!((audit.stored, audit.missing), (replayed.unsigned_abs(), 0));

    // It was killed before it said how far it came: what is pending already is passed over.
    let mut next = queue
        .replay(Settled::Processed, Filter::default(), said)
        .unwrap();
    assert_eq!(finish(&mut next), MESSAGES - replayed.unsigned_abs());
    assert_eq!(queue.number("SELECT max(delivery) FROM message_queue"), 1);
    assert_eq!(queue.pending().unwrap(), MESSAGES);
    let checked = spoolway_queue::check(queue.path(), true, |_| {}).unwrap();
    assert!(checked.is_ok(), "{checked:?}");
    assert_eq!(
        queue.cleanup(Duration::ZERO).unwrap(),
        0,
        "none is processed"
    );
}
