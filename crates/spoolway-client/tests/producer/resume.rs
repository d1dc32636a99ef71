//! When the connection ends.

use std::time::Duration;

use spoolway_client::route::RouteConfig;
use spoolway_client::{Absence, Path, Producer, SendCode, SocketReason};
use spoolway_proto::{Code, ConsumerOp, Epoch, Message};

use crate::support::{Bed, Row, message, soon, until};

fn impatient() -> RouteConfig {
    RouteConfig {
        resume_grace: Duration::from_millis(20),
        ..Bed::route()
    }
}

#[tokio::test]
async fn what_was_not_answered_is_sent_again_in_order_when_the_consumer_is_back() {
    let bed = Bed::new();
    let (producer, consumer, mut peer) = bed.connected(bed.builder()).await;
    let sendings: Vec<_> = (1..=4).map(|n| producer.send(message(n))).collect();
    peer.messages(4).await;
    peer.processed([2]).await;
    drop((peer, consumer));

    let consumer = bed.listen();
    let mut peer = consumer.greet().await;
    assert_eq!(
        (peer.epoch(), peer.hello().first, peer.hello().fresh),
        (Epoch(2), 1, 5)
    );
    let again = peer.messages(3).await;
    assert_eq!(again.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 3, 4]);
    assert!(again.iter().all(|(n, id)| n.to_string() == *id));
    peer.processed([1, 3, 4]).await;
    for sending in sendings {
        assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
    }
    assert_eq!(bed.ids(), [""; 0]);
}

/// More than the kernel holds, most of which waits in the producer, unencoded.
fn send_more_than_fits(producer: &Producer) {
    let large = "x".repeat(64 << 10);
    for n in 1..=40 {
        let message = Message::new("task", &large).unwrap().id(n.to_string());
        producer.send_later(message).unwrap();
    }
}

#[tokio::test]
async fn what_the_kernel_had_no_room_for_is_sent_in_order_by_the_next_connection() {
    let bed = Bed::new();
    let (producer, consumer, mut peer) = bed.connected(bed.builder()).await;
    send_more_than_fits(&producer);
    peer.messages(2).await;
    peer.processed([1, 2]).await;
    drop((peer, consumer));

    let consumer = bed.listen();
    let mut peer = consumer.greet().await;
    assert_eq!(peer.hello().first, 3);
    let again = peer.messages(38).await;
    assert!(again.iter().map(|(n, _)| *n).eq(3..=40), "{again:?}");
    assert!(again.iter().all(|(n, id)| n.to_string() == *id));
    peer.processed(3..=40).await;
    soon(producer.flush()).await;
    assert_eq!(bed.ids(), [""; 0]);
}

#[tokio::test]
async fn a_consumer_that_answers_what_was_not_written_is_left() {
    let bed = Bed::new();
    let (producer, consumer, mut peer) = bed.connected(bed.builder()).await;
    send_more_than_fits(&producer);
    peer.processed([30]).await;
    until("the answer counts", || producer.status().by_socket == 1).await;
    // Numbers count messages: nothing behind the one that is missing may be written.
    let written = peer.rest().await;
    assert!(written.len() < 30, "{written:?}");
    assert!(written.iter().copied().eq(1..=written.len() as u64));
    drop((peer, consumer));

    let consumer = bed.listen();
    let mut peer = consumer.greet().await;
    let again = peer.messages(39).await;
    assert!(again.iter().map(|(n, _)| *n).eq((1..30).chain(31..=40)));
    assert!(again.iter().all(|(n, id)| n.to_string() == *id));
    peer.processed(1..=40).await;
    soon(producer.flush()).await;
    assert_eq!(bed.ids(), [""; 0]);
}

#[tokio::test]
async fn what_was_not_answered_is_spooled_oldest_first_under_a_higher_epoch() {
    let bed = Bed::new();
    let builder = bed.builder().route(impatient());
    let (producer, consumer, mut peer) = bed.connected(builder).await;
    let sendings: Vec<_> = (1..=4).map(|n| producer.send(message(n))).collect();
    peer.messages(4).await;
    peer.processed([2]).await;
    drop((peer, consumer));
    let paths = {
        let mut paths = Vec::new();
        for sending in sendings {
            paths.push(soon(sending).await.unwrap().path);
        }
        paths
    };
    assert_eq!(paths, [Path::Queue, Path::Socket, Path::Queue, Path::Queue]);
    // What comes later stands behind.
    assert_eq!(
        soon(producer.send(message(5))).await.unwrap().path,
        Path::Queue
    );
    let rows = bed.rows();
    let row = |n: u64, epoch| Row {
        id: n.to_string(),
        producer: rows[0].producer.clone(),
        epoch,
        sequence: n,
    };
    assert!(rows[0].epoch > 1);
    let epoch = rows[0].epoch;
    assert_eq!(rows[..3], [row(1, epoch), row(3, epoch), row(4, epoch)]);
    assert!(rows[3].id == "5" && rows[3].epoch >= epoch);
    assert_eq!(producer.status().socket, Some(Absence::Refused.into()));

    // The next connection names a higher epoch than any row.
    let consumer = bed.listen();
    let peer = consumer.greet().await;
    assert!(peer.epoch().0 > rows[3].epoch);
    assert_eq!((peer.hello().first, peer.hello().queue), (6, 4));
}

#[tokio::test]
async fn an_answer_counts_when_the_connection_ends_behind_it() {
    let bed = Bed::new();
    let builder = bed.builder().route(impatient());
    let (producer, consumer, mut peer) = bed.connected(builder).await;
    let sendings: Vec<_> = (1..=100).map(|n| producer.send(message(n))).collect();
    peer.messages(100).await;
    peer.processed(1..=60).await;
    peer.processed(61..=100).await;
    drop((peer, consumer));
    for sending in sendings {
        assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
    }
    assert_eq!(bed.ids(), [""; 0]);
}

#[tokio::test]
async fn an_answer_counts_also_when_a_write_notices_the_end_first() {
    let bed = Bed::new();
    let builder = bed.builder().route(impatient());
    let (producer, consumer, mut peer) = bed.connected(builder).await;
    let first = producer.send(message(1));
    peer.message().await;
    peer.processed([1]).await;
    drop((peer, consumer));
    // No await since: the driver has read nothing, and this write is the first to know.
    let second = producer.send(message(2));
    assert_eq!(soon(first).await.unwrap().path, Path::Socket);
    assert_eq!(soon(second).await.unwrap().path, Path::Queue);
    assert_eq!(bed.ids(), ["2"]);
}

#[tokio::test]
async fn a_consumer_that_falls_silent_is_left_and_what_it_has_is_spooled() {
    let bed = Bed::new();
    let route = RouteConfig {
        silence_max: Duration::from_millis(100),
        ..impatient()
    };
    let (producer, _consumer, peer) = bed.connected(bed.builder().route(route)).await;
    let sending = producer.send(message(1));
    let receipt = soon(sending).await.unwrap();
    assert_eq!(receipt.path, Path::Queue);
    assert_eq!(bed.ids(), ["1"]);
    drop(peer);
}

#[tokio::test]
async fn a_slow_handler_is_no_silence() {
    let bed = Bed::new();
    let route = RouteConfig {
        silence_max: Duration::from_millis(150),
        ..impatient()
    };
    let (producer, _consumer, mut peer) = bed.connected(bed.builder().route(route)).await;
    let sending = producer.send(message(1));
    peer.message().await;
    for _ in 0..5 {
        // Three pings of 20 ms each, and their answers.
        peer.no_message().await;
    }
    peer.processed([1]).await;
    assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn after_a_goodbye_messages_are_held_for_the_successor() {
    let bed = Bed::new();
    let builder = bed.builder().route(impatient());
    let (producer, consumer, mut peer) = bed.connected(builder).await;
    let first = producer.send(message(1));
    peer.message().await;
    peer.say(ConsumerOp::Goodbye { ms: 10_000 }).await;
    until("goodbye heard", || !producer.status().connected).await;
    assert_eq!(producer.status().socket, Some(SocketReason::Leaving));
    let second = producer.send(message(2));
    peer.no_message().await;
    peer.processed([1]).await;
    drop((peer, consumer));
    assert_eq!(soon(first).await.unwrap().path, Path::Socket);

    let consumer = bed.listen();
    let mut peer = consumer.greet().await;
    assert_eq!(peer.message().await, (2, "2".to_owned()));
    peer.processed([2]).await;
    assert_eq!(soon(second).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn after_an_error_the_named_message_is_given_back_and_the_rest_is_spooled() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sendings: Vec<_> = (1..=3).map(|n| producer.send(message(n))).collect();
    peer.messages(3).await;
    peer.say(ConsumerOp::Error {
        code: Code::BadJson,
        message: "not JSON".into(),
        n: Some(2),
    })
    .await;
    assert_eq!(peer.rest().await, [0; 0]);
    let mut answers = Vec::new();
    for sending in sendings {
        answers.push(
            soon(sending)
                .await
                .map(|receipt| receipt.path)
                .map_err(|e| e.code),
        );
    }
    assert_eq!(
        answers,
        [
            Ok(Path::Queue),
            Err(SendCode::Refused(Code::BadJson)),
            Ok(Path::Queue)
        ]
    );
    assert_eq!(bed.ids(), ["1", "3"]);
}

#[tokio::test]
async fn what_is_not_understood_ends_the_connection() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sending = producer.send(message(1));
    peer.message().await;
    peer.write(b"\0\0\0\x08{\"op\":1}").await;
    assert_eq!(peer.rest().await, [0; 0]);
    assert_eq!(soon(sending).await.unwrap().path, Path::Queue);
}

#[tokio::test]
async fn the_order_of_a_key_survives_the_ends_of_connections() {
    let bed = Bed::new();
    let builder = bed.builder().route(impatient());
    let (producer, mut consumer, mut peer) = bed.connected(builder).await;
    // (epoch, number) of everything that was taken, by either way.
    let mut taken = Vec::new();
    for round in 0..5 {
        for n in 0..20 {
            producer
                .send_later(message(format!("{round}-{n}")).key("k"))
                .unwrap();
        }
        for _ in 0..7 {
            let (n, _) = peer.message().await;
            peer.processed([n]).await;
            taken.push(n);
        }
        drop((peer, consumer));
        soon(producer.flush()).await;
        consumer = bed.listen();
        peer = consumer.greet().await;
        until("connected", || producer.status().connected).await;
    }
    let rows = bed.rows();
    assert!(rows.is_sorted_by_key(|row| (row.epoch, row.sequence)));
    taken.extend(rows.iter().map(|row| row.sequence));
    taken.sort_unstable();
    assert_eq!(taken, (1..=100).collect::<Vec<_>>());
}
