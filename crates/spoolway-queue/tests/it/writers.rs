//! Many writers: grouped, in order, atomic, and none left without an answer.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use spoolway_proto::Message;
use spoolway_queue::{Cursor, QueueError, QueueOptions, SqliteQueue, Write, Written};

use crate::child;
use crate::support::{DEADLINE, Fixture, message, row};

#[test]
fn what_comes_together_is_committed_together() {
    let queue = Fixture::new();
    thread::scope(|scope| {
        for thread in 0..8 {
            let queue = queue.queue.clone();
            scope.spawn(move || {
                let (sender, answers) = mpsc::channel();
                for n in 0..250 {
                    let sender = sender.clone();
                    queue.submit(
                        vec![row(message(&format!("{thread}-{n}")))],
                        move |written| {
                            sender.send(written.unwrap()[0]).unwrap();
                        },
                    );
                }
                drop(sender);
                assert_eq!(answers.iter().count(), 250);
            });
        }
    });
    assert_eq!(queue.stats().unwrap().pending, 2_000);
    assert!(queue.commits() < 1_000, "{} commits", queue.commits());
}

#[test]
fn submissions_are_committed_and_answered_in_order() {
    let queue = Fixture::new();
    let (sender, answers) = mpsc::channel();
    for n in 0..500 {
        let sender = sender.clone();
        queue.submit(vec![row(message(&format!("m{n}")))], move |written| {
            sender.send(written.unwrap()[0]).unwrap();
        });
    }
    for seq in 1..=500 {
        let answer = answers.recv_timeout(DEADLINE).unwrap();
        assert_eq!(answer, Written::Inserted { seq });
    }
    let ids: Vec<_> = (0..500).map(|n| format!("m{n}")).collect();
    assert_eq!(queue.candidate_ids(), ids);
}

#[test]
fn a_bad_request_fails_alone_and_as_a_whole() {
    let queue = Fixture::new();
    queue
        .foreign()
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON message_queue WHEN NEW.type = 'bad' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        .unwrap();
    let bad = || row(Message::new("bad", &1).unwrap().id("bad"));
    let (sender, answers) = mpsc::channel();
    let submit = |writes| {
        let sender = sender.clone();
        queue.submit(writes, move |answer| sender.send(answer).unwrap());
    };
    submit(vec![row(message("a"))]);
    submit(vec![
        row(message("b")),
        Write::Claim(vec![1]),
        bad(),
        row(message("c")),
    ]);
    submit(vec![bad()]);
    submit(vec![row(message("d"))]);
    let answers: Vec<_> = answers
        .iter()
        .take(4)
        .map(|answer| answer.map_err(|e| e.code()))
        .collect();
    assert!(answers[0].is_ok() && answers[3].is_ok());
    assert_eq!(answers[1], Err("queue_statement"));
    assert_eq!(answers[2], Err("queue_statement"));
    assert_eq!(queue.candidate_ids(), ["a", "d"]);
    assert_eq!(queue.number("SELECT count(*) FROM claim"), 0);
}

#[test]
fn a_callback_that_panics_harms_nobody_else() {
    let queue = Fixture::new();
    queue.submit(vec![row(message("a"))], |_| panic!("on purpose"));
    queue.write(vec![row(message("b"))]).unwrap();
    assert_eq!(queue.candidate_ids(), ["a", "b"]);
}

#[test]
fn the_last_handle_writes_what_waits_and_a_closed_queue_answers() {
    let queue = Fixture::new();
    let handle = queue.again();
    let (sender, answers) = mpsc::channel();
    for n in 0..300 {
        let sender = sender.clone();
        handle.submit(vec![row(message(&format!("m{n}")))], move |answer| {
            sender.send(answer.is_ok()).unwrap();
        });
    }
    drop(handle);
    assert_eq!(answers.try_iter().filter(|&written| written).count(), 300);
    queue.close();
    let closed = queue.write(vec![row(message("late"))]).unwrap_err();
    assert_eq!(closed.code(), "queue_closed");
    assert_eq!(queue.candidate_ids().len(), 300, "readers go on");
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    let queue = Fixture::new();
    let handle = queue.again();
    let (sender, done) = mpsc::channel();
    let inner = handle.clone();
    handle.submit(vec![row(message("a"))], move |written| {
        written.unwrap();
        drop(inner);
        sender.send(()).unwrap();
    });
    drop(handle);
    done.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn a_lock_held_by_another_is_waited_for_and_then_an_error() {
    let queue = Fixture::new();
    let foreign = queue.foreign();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let options = QueueOptions {
        busy_wait_max: Duration::from_millis(50),
        ..QueueOptions::default()
    };
    let impatient = SqliteQueue::open(queue.path(), options).unwrap();
    let busy = impatient.write(vec![row(message("a"))]).unwrap_err();
    assert!(
        matches!(busy, QueueError::Busy { waited, .. } if waited.as_millis() >= 50),
        "{busy:?}"
    );

    let (sender, answer) = mpsc::channel();
    queue.submit(vec![row(message("b"))], move |written| {
        sender.send(written).unwrap()
    });
    assert!(
        answer.recv_timeout(Duration::from_millis(50)).is_err(),
        "it waits"
    );
    foreign.execute_batch("COMMIT").unwrap();
    answer.recv_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(queue.candidate_ids(), ["b"]);
}

/// With every core busy a writer that never rested left the lock only for moments in which nobody else ran, and three
/// others waited for 30 s in vain.
#[test]
fn a_writer_that_never_rests_keeps_no_other_out() {
    let queue = Fixture::new();
    let other = queue.again();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (queue, over) = (&queue, &over);
            scope.spawn(move || {
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = format!("{thread}-{n}");
                    queue.write(vec![row(message(&id))]).unwrap();
                }
            });
        }
        let written = (0..50).map(|n| other.write(vec![row(message(&format!("other-{n}")))]));
        let written: Result<Vec<_>, _> = written.collect();
        over.store(true, Ordering::Relaxed);
        written.unwrap();
    });
}

#[test]
fn too_much_waiting_is_refused() {
    let queue = Fixture::new();
    let foreign = queue.foreign();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (sender, answers) = mpsc::channel();
    for _ in 0..12 {
        let sender = sender.clone();
        let claim = Write::Claim((1..=10_000).collect());
        queue.submit(vec![claim], move |written| {
            sender.send(written.map_err(|error| error.code())).unwrap();
        });
    }
    drop(sender);
    foreign.execute_batch("COMMIT").unwrap();
    let refused = answers
        .iter()
        .filter(|answer| *answer == Err("queue_overloaded"))
        .count();
    assert!((1..=2).contains(&refused), "{refused}");
}

#[test]
fn two_processes_that_make_the_file_at_once_make_one() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.db");
        let mut children: Vec<_> = (0..4).map(|_| child::spawn("create", &path)).collect();
        for child in &mut children {
            assert_eq!(child.line(), "ready");
        }
        children.iter_mut().for_each(child::Process::go);
        let identities: HashSet<_> = children.iter_mut().map(child::Process::line).collect();
        assert_eq!(identities.len(), 1, "{identities:?}");
        let queue = SqliteQueue::open(&path, QueueOptions::default()).unwrap();
        assert_eq!(queue.stats().unwrap().pending, 4);
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".new-") || name.contains("orphan"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    let queue = Fixture::new();
    let mut acknowledged = HashSet::new();
    for round in 1..=4 {
        let mut child = child::spawn("insert", &queue.path());
        for _ in 0..200 * round {
            acknowledged.insert(child.line());
        }
        child.kill();
        // What was said before the end counts too.
        acknowledged.extend(std::iter::from_fn(|| {
            let line = child.line();
            (!line.is_empty()).then_some(line)
        }));
    }
    let (mut cursor, mut stored) = (Cursor::default(), HashSet::new());
    loop {
        let page = queue.candidates(cursor, 1_000).unwrap();
        stored.extend(page.candidates.iter().map(|row| row.message.id.to_string()));
        cursor = page.cursor;
        if page.end {
            break;
        }
    }
    assert!(acknowledged.len() >= 2_000);
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let check: String = queue
        .foreign()
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

/// A call that waits writes itself, and with it what others have handed over: closing from their callbacks must not
/// wait for that call.
#[test]
fn a_queue_may_be_closed_in_a_callback_whoever_writes() {
    let fixture = Fixture::new();
    for round in 0..50 {
        let queue = fixture.again();
        let (sender, done) = mpsc::channel();
        let closes = queue.clone();
        queue.submit(vec![row(message(&format!("a{round}")))], move |written| {
            closes.close();
            sender.send(written.is_ok()).unwrap();
        });
        // It comes before the close, or is told of it.
        match queue.write(vec![row(message(&format!("b{round}")))]) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.code(), "queue_closed"),
        }
        assert!(done.recv_timeout(DEADLINE).unwrap());
    }
}

#[test]
fn callers_and_submissions_are_all_answered_whoever_writes() {
    let queue = Fixture::new();
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        for thread in 0..8 {
            let (queue, sender) = (queue.queue.clone(), sender.clone());
            scope.spawn(move || {
                for n in 0..50 {
                    let submitted = sender.clone();
                    queue.submit(
                        vec![row(message(&format!("s{thread}-{n}")))],
                        move |written| submitted.send(written.unwrap()[0]).unwrap(),
                    );
                    let written = queue.write(vec![row(message(&format!("w{thread}-{n}")))]);
                    sender.send(written.unwrap()[0]).unwrap();
                }
            });
        }
    });
    drop(sender);
    let seqs: HashSet<i64> = answers
        .iter()
        .map(|written| match written {
            Written::Inserted { seq } => seq,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seqs.len(), 800);
}
