//! No room in the window, and windows that change.

use std::time::Duration;

use spoolway_client::route::RouteConfig;
use spoolway_client::{Fate, OnFull, Path, Producer, SendCode, SocketReason};
use spoolway_proto::{ConsumerOp, Message};

use crate::support::{Bed, Peer, message, soon};

/// A producer connected to a consumer that takes one message at a time, with number 1 unanswered.
async fn full(bed: &Bed, on_full: OnFull) -> (Producer, Peer) {
    let consumer = bed.listen().window(1);
    let builder = bed.builder().on_full(on_full);
    let (producer, mut peer) = tokio::join!(builder.open(), consumer.greet());
    let producer = producer.unwrap();
    producer.send_later(message(1).key("k")).unwrap();
    peer.message().await;
    (producer, peer)
}

#[tokio::test]
async fn spool_sends_a_keyless_message_to_the_file_at_once_and_a_keyed_one_waits() {
    let bed = Bed::new();
    let (producer, mut peer) = full(&bed, OnFull::Spool).await;
    let keyed = producer.send(message(2).key("k"));
    // The wait for room is 20 s here, so this is no end of it.
    let keyless = soon(producer.send(message(3))).await.unwrap();
    assert_eq!(keyless.path, Path::Queue);
    peer.processed([1]).await;
    assert_eq!(peer.message().await, (2, "2".to_owned()));
    peer.processed([2]).await;
    assert_eq!(soon(keyed).await.unwrap().path, Path::Socket);
    assert_eq!(bed.ids(), ["3"]);
}

#[tokio::test]
async fn error_gives_a_message_back_at_once_and_takes_a_later_one() {
    let bed = Bed::new();
    let (producer, mut peer) = full(&bed, OnFull::Error).await;
    for message in [message(2), message(3).key("k")] {
        let id = message.id.clone();
        let error = soon(producer.send(message)).await.unwrap_err();
        assert_eq!((error.fate, error.code), (Fate::NotTaken, SendCode::NoRoom));
        assert_eq!(error.message.id, id);
        assert_eq!(
            error.to_string(),
            "not taken: the consumer has no room (window full); \
             send it again later, or give the consumer more room"
        );
    }
    peer.processed([1]).await;
    soon(producer.flush()).await;
    let later = producer.send(message(4).key("k"));
    assert_eq!(peer.message().await, (4, "4".to_owned()));
    peer.processed([4]).await;
    assert_eq!(soon(later).await.unwrap().path, Path::Socket);
    assert_eq!(bed.ids(), [""; 0]);
}

#[tokio::test]
async fn try_send_gives_back_what_would_wait_and_takes_the_rest() {
    let bed = Bed::new();
    let (producer, mut peer) = full(&bed, OnFull::Wait).await;
    for message in [message(2), message(3).key("k")] {
        let error = producer.try_send(message).unwrap_err();
        assert_eq!((error.fate, error.code), (Fate::NotTaken, SendCode::Full));
        assert_eq!(error.socket.as_deref(), Some(&SocketReason::NoRoom));
        assert_eq!(
            error.to_string(),
            "not taken: the consumer has no room (window full); \
             wait for earlier messages, then send it again"
        );
    }
    assert_eq!(producer.status().unsettled, 1);
    peer.processed([1]).await;
    soon(producer.flush()).await;
    let taken = producer.try_send(message(4)).unwrap();
    assert_eq!(
        peer.message().await,
        (2, "4".to_owned()),
        "no number was taken"
    );
    peer.processed([2]).await;
    assert_eq!(soon(taken).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn try_send_without_a_consumer_goes_to_the_file() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    let sending = producer.try_send(message(1).key("k")).unwrap();
    assert_eq!(soon(sending).await.unwrap().path, Path::Queue);
    soon(producer.close(Duration::from_secs(20))).await;
    let error = producer.try_send(message(2)).unwrap_err();
    assert_eq!(error.code, SendCode::Closed);
}

#[tokio::test]
async fn a_window_that_shrinks_below_what_is_unanswered_takes_hold_as_answers_come() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    for n in 1..=4 {
        producer.send_later(message(n)).unwrap();
    }
    peer.messages(4).await;
    peer.say(ConsumerOp::Window {
        n: 2,
        bytes: 1 << 20,
    })
    .await;
    // An answer behind it shows that it was heard.
    peer.processed([1]).await;
    assert_eq!(peer.seen().await.0, [(1, 1)]);
    producer.send_later(message(5)).unwrap();
    peer.processed([2]).await;
    peer.no_message().await;
    peer.processed([3]).await;
    assert_eq!(peer.message().await.0, 5);
}

#[tokio::test]
async fn a_window_of_nothing_lets_one_message_through_at_a_time() {
    for (window, bytes) in [(0, 1 << 20), (8, 0)] {
        let bed = Bed::new();
        let consumer = bed.listen().window(window).window_bytes(bytes);
        let (producer, mut peer) = tokio::join!(bed.builder().open(), consumer.greet());
        let producer = producer.unwrap();
        for n in 1..=3 {
            producer.send_later(message(n)).unwrap();
        }
        for n in 1..=3 {
            assert_eq!(peer.message().await.0, n);
            peer.no_message().await;
            peer.processed([n]).await;
        }
        soon(producer.flush()).await;
    }
}

#[tokio::test]
async fn a_message_larger_than_the_window_goes_alone() {
    let bed = Bed::new();
    let consumer = bed.listen().window_bytes(1_000);
    let (producer, mut peer) = tokio::join!(bed.builder().open(), consumer.greet());
    let producer = producer.unwrap();
    let large = Message::new("task", &"x".repeat(5_000)).unwrap().id("2");
    for message in [message(1), large, message(3)] {
        producer.send_later(message).unwrap();
    }
    for n in 1..=3 {
        assert_eq!(peer.message().await.0, n);
        peer.no_message().await;
        peer.processed([n]).await;
    }
    soon(producer.flush()).await;
}

#[tokio::test]
async fn what_waits_for_room_when_the_connection_ends_is_sent_by_the_next() {
    let bed = Bed::new();
    let route = RouteConfig {
        on_full: OnFull::Error,
        ..Bed::route()
    };
    let (producer, consumer, mut peer) = bed.connected(bed.builder().route(route)).await;
    let sendings: Vec<_> = (1..=3)
        .map(|n| producer.send(message(n).key("k")))
        .collect();
    peer.messages(3).await;
    drop((peer, consumer));
    // The next grants less than is to be sent again: that is no reason to give anything back.
    let consumer = bed.listen().window(1);
    let mut peer = consumer.greet().await;
    for n in 1..=3 {
        assert_eq!(peer.message().await, (n, n.to_string()));
        peer.processed([n]).await;
    }
    for sending in sendings {
        assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
    }
}
