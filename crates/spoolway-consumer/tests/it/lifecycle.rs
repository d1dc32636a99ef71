//! Starting, owning, ending.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use serde_json::json;
use spoolway_consumer::{Consumer, ConsumerConfig, ConsumerError, Delivery, ListenError};
use tokio::sync::Semaphore;

use crate::support::{Rig, Seen, hello, message, until};

#[tokio::test]
async fn a_second_consumer_is_refused_and_told_the_owner() {
    let rig = Rig::new();
    let running = rig.start(rig.builder()).await;
    let other = rig.path("other.sock");
    for (socket, what) in [(rig.socket(), "s.sock.lock"), (other.clone(), "q.db.lock")] {
        let error = Consumer::builder(&socket, rig.queue())
            .build()
            .await
            .err()
            .unwrap();
        let ConsumerError::Owned { path, pid } = &error else {
            panic!("{error:?}")
        };
        assert!(path.ends_with(what), "{path:?}");
        assert_eq!(*pid, Some(std::process::id()));
        assert!(
            error
                .to_string()
                .contains(&format!("(pid {})", std::process::id())),
            "{error}"
        );
    }
    assert!(!other.exists(), "nothing is left behind");
    rig.peer().await.hello(1, 1, 1).await;
    running.stop().await;
    rig.start(rig.builder()).await.stop().await;
}

#[tokio::test]
async fn a_path_is_as_long_as_the_system_allows_and_no_longer() {
    let rig = Rig::new();
    let base = rig.dir.path().as_os_str().len() + 1;
    let name = |length: usize| rig.path(&"x".repeat(length - base));
    let error = Consumer::builder(name(108), rig.queue())
        .build()
        .await
        .err()
        .unwrap();
    assert!(
        matches!(&error, ConsumerError::Socket(ListenError::PathTooLong(long)) if long.length == 108),
        "{error:?}"
    );
    let said = error.to_string();
    assert!(said.contains("108 bytes long, at most 107"), "{said}");
    let consumer = Consumer::builder(name(107), rig.queue())
        .build()
        .await
        .unwrap();
    tokio::net::UnixStream::connect(name(107)).await.unwrap();
    drop(consumer);
    // A name shorter than the temporary one, in a directory as long as it may be.
    let deep = rig.path(&"d".repeat(107 - base - 2));
    let short = deep.join("s");
    assert_eq!(short.as_os_str().len(), 107);
    let consumer = Consumer::builder(&short, rig.queue())
        .build()
        .await
        .unwrap();
    tokio::net::UnixStream::connect(&short).await.unwrap();
    drop(consumer);
    assert_eq!(
        fs::read_dir(&deep).unwrap().count(),
        1,
        "only the lock file stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_never_there_unprotected_or_deaf() {
    let rig = Rig::new();
    let socket = rig.socket();
    for _ in 0..20 {
        let path = socket.clone();
        let watcher = std::thread::spawn(move || {
            loop {
                if let Ok(found) = fs::symlink_metadata(&path) {
                    assert_eq!(found.mode() & 0o777, 0o600);
                    std::os::unix::net::UnixStream::connect(&path).unwrap();
                    return;
                }
            }
        });
        let consumer = rig.builder().build().await.unwrap();
        watcher.join().unwrap();
        assert_eq!(consumer.socket_path(), socket);
        drop(consumer);
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn what_is_in_the_way_is_replaced_only_if_it_is_a_stale_socket() {
    let rig = Rig::new();
    fs::write(rig.socket(), "text").unwrap();
    let error = rig.builder().build().await.err().unwrap();
    assert!(
        matches!(error, ConsumerError::Socket(ListenError::Occupied { .. })),
        "{error:?}"
    );
    fs::remove_file(rig.socket()).unwrap();
    let listener = UnixListener::bind(rig.socket()).unwrap();
    let error = rig.builder().build().await.err().unwrap();
    assert!(
        matches!(error, ConsumerError::Socket(ListenError::Occupied { .. })),
        "{error:?}"
    );
    drop(listener);
    assert!(rig.socket().exists(), "stale");
    let running = rig.start(rig.builder()).await;
    rig.peer().await.hello(1, 1, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn the_directory_is_made_and_must_not_be_open_to_others() {
    let rig = Rig::new();
    let open = rig.path("open");
    fs::create_dir(&open).unwrap();
    let set = |mode| fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
    set(0o777);
    let build = || Consumer::builder(open.join("s.sock"), rig.queue()).build();
    let error = build().await.err().unwrap();
    assert!(
        matches!(
            error,
            ConsumerError::Socket(ListenError::OpenDirectory { .. })
        ),
        "{error:?}"
    );
    set(0o1777);
    drop(build().await.unwrap());

    let made = rig.path("a/b/s.sock");
    drop(Consumer::builder(&made, rig.queue()).build().await.unwrap());
    let mode = fs::metadata(made.parent().unwrap()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[tokio::test]
async fn a_socket_that_someone_put_there_since_is_left_alone() {
    let rig = Rig::new();
    let running = rig.start(rig.builder()).await;
    fs::remove_file(rig.socket()).unwrap();
    let _other = UnixListener::bind(rig.socket()).unwrap();
    running.stop().await;
    assert!(rig.socket().exists());
}

#[tokio::test]
async fn a_shutdown_stores_what_has_not_finished_and_leaves_the_clean_mark() {
    let rig = Rig::new();
    let seen = Seen::default();
    let noted = seen.clone();
    let builder = rig.builder().default(move |delivery: Delivery| {
        noted.note(&delivery);
        async move {
            if delivery.id.as_str() == "slow" {
                std::future::pending::<()>().await;
            }
        }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(message("quick")).await;
    assert_eq!(peer.outcome(1).await, "processed");
    peer.send(json!({"id": "slow", "type": "t", "payload": 1, "key": "k"}))
        .await;
    peer.send(json!({"id": "behind", "type": "t", "payload": 1, "key": "k"}))
        .await;
    seen.until_count(2).await;
    let stopping = running.tell_to_stop();
    let mut goodbye = false;
    let mut stored = Vec::new();
    while let Some(told) = peer.next().await {
        goodbye |= told["op"] == "goodbye" && told["ms"] == 1_000;
        for range in told["stored"].as_array().cloned().unwrap_or_default() {
            stored.extend(range[0].as_u64().unwrap()..=range[1].as_u64().unwrap());
        }
    }
    let summary = stopping.await.unwrap().unwrap();
    assert!(goodbye);
    stored.sort_unstable();
    assert_eq!(stored, [2, 3]);
    assert_eq!(
        (summary.processed, summary.stored, summary.aborted),
        (1, 2, 1)
    );
    assert!(!rig.socket().exists());
    for id in ["slow", "behind"] {
        assert_eq!(rig.row(id).unwrap().processed, 0, "{id}");
    }
    let count = |query: &str| {
        rig.sql()
            .query_row(query, (), |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(
        count("SELECT count(*) FROM meta WHERE name = 'clean_shutdown'"),
        1
    );
    assert_eq!(count("SELECT count(*) FROM claim"), 0);

    let next = Seen::default();
    let running = rig.start(rig.builder().default(next.handler())).await;
    next.until_count(2).await;
    assert_eq!(next.ids(), ["slow", "behind"]);
    running.stop().await;
}

#[tokio::test]
async fn outcomes_a_producer_has_not_confirmed_outlive_a_shutdown() {
    let rig = Rig::new();
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(message("a")).await;
    assert_eq!(peer.outcome(1).await, "processed");
    running.stop().await;
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.peer().await;
    let mut again = hello(1, 2, 1);
    again["fresh"] = json!(2);
    peer.send(again).await;
    assert_eq!(peer.recv().await["op"], "hello");
    peer.send(message("a")).await;
    assert_eq!(peer.outcome(1).await, "processed");
    assert!(seen.ids().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_the_shutdown_is_taken() {
    let rig = Rig::new();
    let seen = Seen::default();
    let consumer = rig.builder().default(seen.handler()).build().await.unwrap();
    // They connect, write and are gone before anything is accepted.
    for n in 0..20 {
        let mut peer = rig.peer().await;
        for m in 0..20 {
            peer.send(message(&format!("{n}-{m}"))).await;
        }
    }
    let summary = consumer.run(std::future::ready(())).await.unwrap();
    assert_eq!(summary.processed, 400);
    assert_eq!(seen.all().len(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_hello_loses_nothing_that_its_system_took() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let socket = rig.socket();
    let writer = std::thread::spawn(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let mut written = 0;
        for n in 0.. {
            let frame = crate::support::frame(&message(&n.to_string()).to_string());
            if std::io::Write::write_all(&mut stream, &frame).is_err() {
                break;
            }
            written += 1;
        }
        written
    });
    seen.until_count(1_000).await;
    running.stop().await;
    let written = tokio::task::spawn_blocking(move || writer.join().unwrap())
        .await
        .unwrap();
    let stored: i64 = rig
        .sql()
        .query_row(
            "SELECT count(*) FROM message_queue WHERE processed = 0",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(seen.all().len() as i64 + stored, written);
}

#[tokio::test]
async fn a_killed_consumer_leaves_its_rows_to_the_next_one() {
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
    running.kill().await;
    until("the dead one is gone", || Arc::strong_count(&gate) == 1).await;
    let next = Seen::default();
    let running = rig.start(rig.builder().default(next.handler())).await;
    next.until_count(1).await;
    assert_eq!(next.ids(), ["a"]);
    until("it is settled", || {
        rig.row("a").is_some_and(|row| row.processed == 1)
    })
    .await;
    running.stop().await;
}

/// The file is moved away while the consumer runs: a new one is made, and both paths go on.
#[tokio::test]
async fn a_queue_file_that_is_moved_away_is_replaced_by_a_new_one() {
    let rig = Rig::new();
    let seen = Seen::default();
    let noted = seen.clone();
    let builder = rig.builder().default(move |delivery: Delivery| {
        let fails = delivery.attempt == 1 && delivery.id.as_str().starts_with("retried");
        if !fails {
            noted.note(&delivery);
        }
        async move { if fails { Err("not yet") } else { Ok(()) } }
    });
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(json!({"id": "retried-1", "type": "t", "payload": 1}))
        .await;
    assert_eq!(peer.outcome(1).await, "stored");
    seen.until_count(1).await;
    for suffix in ["", "-wal", "-shm"] {
        let from = rig.path(&format!("q.db{suffix}"));
        fs::rename(from, rig.path(&format!("old.db{suffix}"))).unwrap();
    }
    peer.send(json!({"id": "retried-2", "type": "t", "payload": 1}))
        .await;
    assert_eq!(peer.outcome(2).await, "stored");
    seen.until_count(2).await;
    until("it is settled in the new file", || {
        rig.row("retried-2").is_some_and(|row| row.processed == 1)
    })
    .await;
    assert_eq!(seen.ids(), ["retried-1", "retried-2"]);
    running.stop().await;
}

#[tokio::test]
async fn the_limits_of_its_queue_file_are_kept() {
    let rig = Rig::new();
    let config = ConsumerConfig {
        queue_messages_max: Some(2),
        ..ConsumerConfig::default()
    };
    let consumer = rig.builder().config(config).build().await.unwrap();
    let queue = consumer.queue().clone();
    let stored = tokio::task::spawn_blocking(move || {
        ["a", "b", "c"].map(|id| {
            let message = spoolway_proto::Message::new("t", &1).unwrap().id(id);
            queue.enqueue(&message).map_err(|error| error.code())
        })
    });
    let codes = stored.await.unwrap().map(Result::err);
    assert_eq!(codes, [None, None, Some("queue_limit")]);
}
