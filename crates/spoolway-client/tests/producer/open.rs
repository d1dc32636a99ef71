//! Opening, and what is found there.

use std::time::Duration;

use spoolway_client::route::RouteConfig;
use spoolway_client::{
    Absence, Fate, OpenError, OtherQueue, Path, PathTooLong, Producer, SOCKET_PATH_BYTES_MAX,
    SendCode, SocketReason,
};
use spoolway_proto::{ConsumerOp, Outcome, QueueId};

use crate::support::{Bed, message, soon, until};

#[tokio::test]
async fn without_a_consumer_messages_go_to_the_file_at_once() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    assert_eq!(producer.status().socket, Some(Absence::NotFound.into()));
    let receipt = soon(producer.send(message("a"))).await.unwrap();
    assert_eq!(
        (receipt.path, receipt.outcome),
        (Path::Queue, Outcome::Stored)
    );
    assert_eq!(bed.ids(), ["a"]);
    assert_eq!(producer.status().by_queue, 1);
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_told_apart() {
    let bed = Bed::new();
    drop(bed.listen());
    let producer = soon(bed.builder().open()).await.unwrap();
    assert_eq!(producer.status().socket, Some(Absence::Refused.into()));
    assert_eq!(
        soon(producer.send(message("a"))).await.unwrap().path,
        Path::Queue
    );
}

#[tokio::test]
async fn the_directory_of_the_socket_may_be_missing_and_that_of_the_file_may_not() {
    let bed = Bed::new();
    let nowhere = bed.dir.path().join("nowhere");
    let producer = Producer::open(nowhere.join("c.sock"), &bed.database)
        .await
        .unwrap();
    assert_eq!(producer.status().socket, Some(Absence::NotFound.into()));

    let error = Producer::open(&bed.socket, nowhere.join("q.db"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "no_directory");
    assert!(
        error.to_string().contains(nowhere.to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_named() {
    let bed = Bed::new();
    let of_length = |length: usize| format!("/{}", "s".repeat(length - 1));
    let longest = of_length(SOCKET_PATH_BYTES_MAX);
    let producer = Producer::open(longest, &bed.database).await.unwrap();
    assert_eq!(producer.status().socket, Some(Absence::NotFound.into()));
    let error = Producer::open(of_length(108), &bed.database)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        OpenError::SocketPath(PathTooLong { length: 108, .. })
    ));
    assert!(
        error.to_string().contains("108 bytes long, at most 107"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_queue_file_is_an_error() {
    let bed = Bed::new();
    let path = bed.dir.path().join("other.db");
    std::fs::write(
        &path,
        "not a database, and longer than a header of one is: ".repeat(9),
    )
    .unwrap();
    let error = Producer::open(&bed.socket, &path).await.unwrap_err();
    assert!(matches!(error, OpenError::Queue(_)), "{error}");
    assert!(error.to_string().contains("other.db"), "{error}");
}

#[tokio::test]
async fn a_consumer_of_another_file_is_refused() {
    let bed = Bed::new();
    let consumer = bed.listen().queue(QueueId::from_u128(9));
    let (error, _peer) = tokio::join!(bed.builder().open(), consumer.greet());
    let error = error.unwrap_err();
    assert_eq!(error.code(), "other_queue");
    let text = error.to_string();
    assert!(
        text.contains("queue.db") && text.contains("consumer.sock"),
        "{text}"
    );

    let builder = bed.builder().on_other_queue(OtherQueue::Allow);
    let (producer, mut peer) = tokio::join!(builder.open(), consumer.greet());
    let producer = producer.unwrap();
    let sending = producer.send(message("a"));
    peer.message().await;
    peer.processed([1]).await;
    assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn a_consumer_of_another_file_that_comes_later_ends_the_producer() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    soon(producer.send(message("a"))).await.unwrap();
    let consumer = bed.listen().queue(QueueId::from_u128(9));
    let mut peer = consumer.greet().await;
    assert_eq!(peer.rest().await, [0; 0]);
    let error = soon(producer.send(message("b"))).await.unwrap_err();
    assert_eq!(
        (error.fate, error.code),
        (Fate::NotTaken, SendCode::OtherQueue)
    );
    assert!(error.to_string().contains("would not be read"), "{error}");
    assert_eq!(bed.ids(), ["a"]);
}

#[tokio::test]
async fn a_consumer_that_never_answers_hello_is_given_up() {
    let bed = Bed::new();
    let consumer = bed.listen();
    let route = RouteConfig {
        connect_timeout: Duration::from_millis(50),
        ..Bed::route()
    };
    let (producer, mut peer) = tokio::join!(bed.builder().route(route).open(), consumer.accept());
    let producer = producer.unwrap();
    assert_eq!(producer.status().socket, Some(Absence::Silent.into()));
    assert_eq!(
        soon(producer.send(message("a"))).await.unwrap().path,
        Path::Queue
    );
    assert_eq!(peer.rest().await, [0; 0]);
}

#[tokio::test]
async fn a_consumer_of_another_version_is_not_understood() {
    let bed = Bed::new();
    let consumer = bed.listen();
    let (producer, mut peer) = tokio::join!(bed.builder().open(), async {
        let mut peer = consumer.accept().await;
        peer.write(b"\0\0\0\x04null").await;
        peer
    });
    let producer = producer.unwrap();
    let socket = producer.status().socket;
    assert!(
        matches!(socket, Some(SocketReason::Garbled(_))),
        "{socket:?}"
    );
    assert_eq!(
        soon(producer.send(message("a"))).await.unwrap().path,
        Path::Queue
    );
    assert_eq!(peer.rest().await, [0; 0]);
}

#[tokio::test]
async fn what_the_consumer_says_at_its_end_is_the_reason() {
    let bed = Bed::new();
    let consumer = bed.listen();
    let (producer, _peer) = tokio::join!(bed.builder().open(), async {
        let mut peer = consumer.accept().await;
        let code = spoolway_proto::Code::Busy;
        let message = "100 connections".to_owned();
        peer.say(ConsumerOp::Error {
            code,
            message,
            n: None,
        })
        .await;
        peer
    });
    let producer = producer.unwrap();
    assert_eq!(
        producer.status().socket.unwrap().to_string(),
        "refused by the consumer (busy: 100 connections)"
    );
    assert_eq!(
        soon(producer.send(message("a"))).await.unwrap().path,
        Path::Queue
    );
}

#[tokio::test]
async fn a_socket_that_appears_is_dialled_without_waiting_for_the_backoff() {
    let bed = Bed::new();
    let route = RouteConfig {
        // The second dial, from which on the directory is watched, comes soon; the third never.
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_secs(3_600),
        ..Bed::route()
    };
    let producer = soon(bed.builder().route(route).open()).await.unwrap();
    for n in 0..20 {
        // By now the backoff is 1 ms doubled n times.
        let consumer = bed.listen();
        let peer = soon(consumer.greet()).await;
        until("connected", || producer.status().connected).await;
        drop((peer, consumer));
        std::fs::remove_file(&bed.socket).unwrap();
        until("gone", || !producer.status().connected).await;
        let receipt = soon(producer.send(message(n))).await.unwrap();
        assert_eq!(receipt.path, Path::Queue);
    }
}

#[tokio::test]
async fn one_that_only_spools_leaves_the_socket_alone() {
    let bed = Bed::new();
    let _consumer = bed.listen();
    let producer = soon(bed.builder().spool_only().open()).await.unwrap();
    for n in 0..3 {
        let receipt = soon(producer.send(message(n).key("k"))).await.unwrap();
        assert_eq!(receipt.path, Path::Queue);
    }
    assert_eq!(bed.ids(), ["0", "1", "2"]);
    assert!(!producer.status().connected);
}
