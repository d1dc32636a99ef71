//! What happens to messages: handlers that succeed, fail, take long, panic; rows, keys, retries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use spoolway_consumer::{Delivery, Finish};
use spoolway_queue::{Filter, QueueOptions, SqliteQueue};
use tokio::sync::Semaphore;

use crate::support::{Rig, Seen, message, until};

#[derive(serde::Deserialize)]
struct Candle {
    close: f64,
}

#[tokio::test]
async fn each_type_goes_to_its_handler_and_what_fits_none_is_dead_with_a_reason() {
    let rig = Rig::new();
    let closes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (noted, tasks) = (closes.clone(), Seen::default());
    let builder = rig
        .builder()
        .on("candle", move |candle: Candle| {
            noted.lock().unwrap().push(candle.close);
            async { Ok::<(), std::io::Error>(()) }
        })
        .on_message("task", tasks.handler())
        .on_message("refused", |_| async {
            Finish::Rejected {
                reason: "not_wanted".into(),
                error: None,
            }
        });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    for (n, (r#type, payload, outcome)) in [
        ("candle", json!({"close": 1.5}), "processed"),
        ("task", json!(null), "processed"),
        ("candle", json!({"close": "high"}), "dead: invalid_payload"),
        ("other", json!(1), "dead: no_route"),
        ("refused", json!(1), "dead: not_wanted"),
    ]
    .into_iter()
    .enumerate()
    {
        peer.send(json!({"id": n.to_string(), "type": r#type, "payload": payload}))
            .await;
        assert_eq!(peer.outcome(n as u64 + 1).await, outcome);
    }
    assert_eq!(*closes.lock().unwrap(), [1.5]);
    assert_eq!(tasks.ids(), ["1"]);
    let row = rig.row("2").unwrap();
    assert_eq!(
        (row.processed, row.reason.as_deref()),
        (2, Some("invalid_payload"))
    );
    assert!(row.error.unwrap().contains("payload.close"));
    let summary = running.stop().await;
    assert_eq!((summary.processed, summary.dead), (2, 3));
}

#[tokio::test]
async fn a_handler_that_fails_is_tried_again_from_the_file_until_it_is_dead() {
    let mut rig = Rig::new();
    rig.config.machine.retries.default.attempts_max = 3;
    let attempts = Arc::new(AtomicU64::new(0));
    let counted = attempts.clone();
    let builder = rig.builder().default(move |delivery: Delivery| {
        let nth = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            assert_eq!(u64::from(delivery.attempt), nth);
            Err::<(), _>(format!("broken {nth} times"))
        }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(message("a")).await;
    assert_eq!(peer.outcome(1).await, "stored");
    until("it is dead", || {
        rig.row("a").is_some_and(|row| row.processed == 2)
    })
    .await;
    let row = rig.row("a").unwrap();
    assert_eq!((row.attempts, row.reason.as_deref()), (3, Some("attempts")));
    assert_eq!(row.error.as_deref(), Some("broken 3 times"));
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
    let summary = running.stop().await;
    assert_eq!((summary.failed, summary.stored, summary.dead), (3, 1, 1));
}

#[tokio::test]
async fn a_requeued_dead_letter_runs_again_late_or_not_and_its_handler_is_told() {
    let mut rig = Rig::new();
    rig.config.machine.retries.default.attempts_max = 2;
    let seen = Seen::default();
    let noted = seen.clone();
    let builder = rig.builder().default(move |delivery: Delivery| {
        noted.note(&delivery);
        async move {
            match delivery.replayed {
                true => Ok(()),
                false => Err("not yet"),
            }
        }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(message("a")).await;
    assert_eq!(peer.outcome(1).await, "stored");
    peer.send(json!({"id": "late", "type": "task", "payload": 1, "timestamp": 1, "ttl_ms": 1}))
        .await;
    assert_eq!(peer.outcome(2).await, "dead: expired");
    let is = |id, state| rig.row(id).is_some_and(|row| row.processed == state);
    until("both are dead", || is("a", 2) && is("late", 2)).await;

    let (path, filter) = (rig.queue(), Filter::default());
    let requeue = move || {
        let queue = SqliteQueue::open(path, QueueOptions::default())?;
        queue.requeue(&filter)
    };
    let requeued = tokio::task::spawn_blocking(requeue).await.unwrap();
    assert_eq!(requeued.unwrap(), 2);
    until("both are processed", || is("a", 1) && is("late", 1)).await;
    let again: Vec<_> = seen.all().into_iter().filter(|run| run.replayed).collect();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|run| run.attempt == 1), "{again:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_handler_that_fails_once_succeeds_from_the_file() {
    let rig = Rig::new();
    let seen = Seen::default();
    let noted = seen.clone();
    let builder = rig.builder().default(move |delivery: Delivery| {
        noted.note(&delivery);
        async move {
            if delivery.attempt == 1 {
                Err("not yet")
            } else {
                Ok(())
            }
        }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(message("a")).await;
    assert_eq!(peer.outcome(1).await, "stored");
    until("it is processed", || {
        rig.row("a").is_some_and(|row| row.processed == 1)
    })
    .await;
    assert_eq!(rig.row("a").unwrap().attempts, 2);
    assert_eq!(seen.all()[1].attempt, 2);
    running.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_has_failed_and_nothing_else_has() {
    let mut rig = Rig::new();
    rig.config.machine.retries.default.attempts_max = 2;
    let builder = rig
        .builder()
        .on_message("now", |delivery: Delivery| async move {
            assert!(delivery.attempt > 9, "at once");
        })
        .on_message("later", |delivery: Delivery| async move {
            tokio::task::yield_now().await;
            assert!(delivery.attempt > 9, "after a while");
        })
        .default(|_| async {});
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    for (n, kind) in [(1, "now"), (2, "later"), (3, "other")] {
        peer.send(json!({"id": kind, "type": kind, "payload": 1}))
            .await;
        assert_eq!(
            peer.outcome(n).await,
            if n < 3 { "stored" } else { "processed" }
        );
    }
    for (kind, text) in [("now", "at once"), ("later", "after a while")] {
        until("it is dead", || {
            rig.row(kind).is_some_and(|row| row.processed == 2)
        })
        .await;
        let error = rig.row(kind).unwrap().error.unwrap();
        assert_eq!(error, format!("handler panicked: {text}"));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_slow_handler_is_answered_stored_and_its_message_processed_once() {
    let rig = Rig::new();
    let gate = Arc::new(Semaphore::new(0));
    let seen = Seen::default();
    let (noted, open) = (seen.clone(), gate.clone());
    let builder = rig.builder().default(move |delivery: Delivery| {
        noted.note(&delivery);
        let open = open.clone();
        async move { open.acquire().await.unwrap().forget() }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(message("a")).await;
    assert_eq!(peer.outcome(1).await, "stored");
    assert_eq!(rig.row("a").unwrap().processed, 0);
    gate.add_permits(1);
    until("its row is settled", || {
        rig.row("a").is_some_and(|row| row.processed == 1)
    })
    .await;
    assert_eq!(seen.ids(), ["a"]);
    running.stop().await;
}

#[tokio::test]
async fn handlers_run_beside_each_other_up_to_the_slots() {
    let mut rig = Rig::new();
    rig.config.machine.slots = 3;
    rig.config.machine.hold_max = Duration::from_secs(60);
    let gate = Arc::new(Semaphore::new(0));
    let seen = Seen::default();
    let (noted, open) = (seen.clone(), gate.clone());
    let builder = rig.builder().default(move |delivery: Delivery| {
        noted.note(&delivery);
        let open = open.clone();
        async move { open.acquire().await.unwrap().forget() }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    for n in 0..5 {
        peer.send(message(&n.to_string())).await;
    }
    seen.until_count(3).await;
    peer.send(json!({"op": "ping"})).await;
    assert_eq!(peer.recv().await["op"], "pong");
    assert_eq!(seen.ids(), ["0", "1", "2"]);
    gate.add_permits(5);
    seen.until_count(5).await;
    running.stop().await;
}

#[tokio::test]
async fn a_row_that_another_program_inserts_is_processed() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let sql = rig.sql();
    for n in 0..100 {
        sql.execute(
            "INSERT INTO message_queue (message_id, type, payload, timestamp) VALUES (?1, 't', '{\"a\":1}', 1)",
            [format!("row-{n}")],
        )
        .unwrap();
    }
    seen.until_count(100).await;
    let open = || {
        sql.query_row(
            "SELECT count(*) FROM message_queue WHERE processed = 0",
            (),
            |row| row.get::<_, i64>(0),
        )
    };
    until("all are settled", || open().unwrap() == 0).await;
    // Without a key they may run in any order.
    let once: BTreeSet<String> = (0..100).map(|n| format!("row-{n}")).collect();
    assert_eq!(seen.ids().into_iter().collect::<BTreeSet<_>>(), once);
    running.stop().await;
}

#[tokio::test]
async fn rows_that_were_there_before_the_start_are_processed() {
    let rig = Rig::new();
    rig.start(rig.builder()).await.stop().await;
    let sql = rig.sql();
    for n in 0..1_000 {
        sql.execute(
            "INSERT INTO message_queue (message_id, type, payload, timestamp) VALUES (?1, 't', '1', 1)",
            [n.to_string()],
        )
        .unwrap();
    }
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    seen.until_count(1_000).await;
    assert_eq!(running.stop().await.processed, 1_000);
    let left: i64 = sql
        .query_row(
            "SELECT count(*) FROM message_queue WHERE processed <> 1",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_key_run_in_order_one_at_a_time() {
    let mut rig = Rig::new();
    rig.config.machine.hold_max = Duration::from_secs(2);
    let running_now: Arc<[AtomicU64; 4]> = Arc::default();
    let seen = Seen::default();
    let (noted, busy) = (seen.clone(), running_now.clone());
    let builder = rig.builder().default(move |delivery: Delivery| {
        let (noted, busy) = (noted.clone(), busy.clone());
        async move {
            let key: usize = delivery.key.as_ref().unwrap().as_str().parse().unwrap();
            assert_eq!(
                busy[key].fetch_add(1, Ordering::SeqCst),
                0,
                "two of one key at a time"
            );
            tokio::task::yield_now().await;
            noted.note(&delivery);
            busy[key].fetch_sub(1, Ordering::SeqCst);
        }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    for n in 0..200u64 {
        let key = (n % 4).to_string();
        peer.send(json!({"id": n.to_string(), "type": "t", "payload": n, "key": key}))
            .await;
    }
    seen.until_count(200).await;
    assert_eq!(running.stop().await.failed, 0);
    for key in 0..4 {
        let of_key: Vec<u64> = seen
            .ids()
            .iter()
            .map(|id| id.parse().unwrap())
            .filter(|n| n % 4 == key)
            .collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

#[tokio::test]
async fn a_failing_message_holds_its_key_back_and_no_other() {
    let rig = Rig::new();
    let seen = Seen::default();
    let noted = seen.clone();
    let builder = rig.builder().default(move |delivery: Delivery| {
        let fails = delivery.id.as_str() == "a1" && delivery.attempt < 3;
        if !fails {
            noted.note(&delivery);
        }
        async move { if fails { Err("not yet") } else { Ok(()) } }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    for id in ["a1", "a2", "b1", "a3", "b2"] {
        peer.send(json!({"id": id, "type": "t", "payload": 1, "key": &id[..1]}))
            .await;
    }
    seen.until_count(5).await;
    let ids = seen.ids();
    let of_key = |key: &str| {
        ids.iter()
            .filter(|id| id.starts_with(key))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(of_key("a"), ["a1", "a2", "a3"]);
    assert_eq!(of_key("b"), ["b1", "b2"]);
    running.stop().await;
}

#[tokio::test]
async fn many_rows_of_one_key_run_in_their_order() {
    let rig = Rig::new();
    rig.start(rig.builder()).await.stop().await;
    let mut sql = rig.sql();
    let insert = sql.transaction().unwrap();
    for n in 0..500 {
        let key = if n % 3 == 0 {
            "hot".to_owned()
        } else {
            format!("k{}", n % 7)
        };
        insert
            .execute(
                "INSERT INTO message_queue (message_id, type, payload, timestamp, key, attributes) \
                 VALUES (?1, 't', '1', 1, ?2, json_object('key', ?2))",
                [n.to_string(), key],
            )
            .unwrap();
    }
    insert.commit().unwrap();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    seen.until_count(500).await;
    running.stop().await;
    let mut last = std::collections::HashMap::new();
    for delivery in seen.all() {
        let n: u64 = delivery.id.as_str().parse().unwrap();
        let before = last.insert(delivery.key.clone().unwrap(), n);
        assert!(
            before.is_none_or(|before| before < n),
            "{n} after {before:?}"
        );
    }
}
