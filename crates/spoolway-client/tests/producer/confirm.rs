//! What the consumer is told of answers and of numbers it never sees.

use std::time::Duration;

use spoolway_client::OnFull;
use spoolway_client::route::RouteConfig;
use spoolway_proto::{Code, ConsumerOp, Message};

use crate::support::{Bed, message, soon};

#[tokio::test]
async fn a_close_in_order_confirms_every_answer_before_the_connection_ends() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    for n in 1..=3 {
        producer.send_later(message(n)).unwrap();
    }
    peer.messages(3).await;
    let (_, seen) = tokio::join!(soon(producer.close(Duration::from_secs(20))), async {
        peer.processed([1, 3]).await;
        peer.say(ConsumerOp::Nack {
            n: 2,
            code: Code::Forbidden,
            message: "no".into(),
            retry_after_ms: None,
        })
        .await;
        peer.seen().await
    });
    assert_eq!(seen, (vec![(1, 3)], 0, 1));
    assert_eq!(peer.rest().await, [0; 0]);
}

#[tokio::test]
async fn a_close_with_nothing_unsettled_confirms_too() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sending = producer.send(message(1));
    peer.message().await;
    peer.processed([1]).await;
    soon(sending).await.unwrap();
    soon(producer.close(Duration::from_secs(20))).await;
    assert_eq!(peer.seen().await, (vec![(1, 1)], 0, 0));
    assert_eq!(peer.rest().await, [0; 0]);
}

#[tokio::test]
async fn a_close_whose_time_is_over_confirms_what_was_answered() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    for n in 1..=2 {
        producer.send_later(message(n)).unwrap();
    }
    peer.messages(2).await;
    peer.processed([2]).await;
    let closed = soon(producer.close(Duration::from_secs(2))).await;
    assert_eq!(closed.spooled.len(), 1);
    assert_eq!(peer.seen().await, (vec![(2, 2)], 0, 0));
}

#[tokio::test]
async fn the_last_drop_confirms() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sending = producer.send(message(1));
    peer.message().await;
    peer.processed([1]).await;
    soon(sending).await.unwrap();
    drop(producer);
    assert_eq!(peer.seen().await, (vec![(1, 1)], 0, 0));
    assert_eq!(peer.rest().await, [0; 0]);
}

#[tokio::test]
async fn a_flush_confirms_and_the_producer_goes_on() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    for n in 1..=2 {
        producer.send_later(message(n)).unwrap();
        peer.message().await;
        peer.processed([n]).await;
        soon(producer.flush()).await;
        assert_eq!(peer.seen().await, (vec![(n, n)], 0, 0));
    }
}

#[tokio::test]
async fn counts_are_of_new_rows_and_of_numbers_that_nothing_holds() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    // Numbers 1 to 3: a row, the same again, and other content under its id.
    soon(producer.send(message("a"))).await.unwrap();
    assert!(soon(producer.send(message("a"))).await.unwrap().duplicate);
    let other = Message::new("task", "y").unwrap().id("a");
    soon(producer.send(other)).await.unwrap_err();
    let consumer = bed.listen();
    let peer = soon(consumer.greet()).await;
    let hello = peer.hello();
    assert_eq!((hello.first, hello.queue, hello.err), (4, 1, 1));
}

#[tokio::test]
async fn counts_that_change_behind_the_last_message_arrive_before_the_close() {
    let bed = Bed::new();
    let consumer = bed.listen().window(1);
    let builder = bed.builder().on_full(OnFull::Spool);
    let (producer, mut peer) = tokio::join!(builder.open(), consumer.greet());
    let producer = producer.unwrap();
    let first = producer.send(message(1));
    let (_, seen) = tokio::join!(soon(producer.send(message(2))), async {
        peer.message().await;
        peer.processed([1]).await;
        peer.seen().await
    });
    assert_eq!(seen.0, [(1, 1)], "whenever the file was ready");
    soon(first).await.unwrap();
    soon(producer.close(Duration::from_secs(20))).await;
    if seen.1 == 0 {
        assert_eq!(peer.seen().await, (vec![], 1, 0));
    }
    assert_eq!(peer.rest().await, [0; 0]);
    assert_eq!(bed.ids(), ["2"]);
}

#[tokio::test]
async fn counts_that_change_while_nothing_is_written_arrive_within_seconds() {
    let bed = Bed::new();
    let consumer = bed.listen().window(1);
    let route = RouteConfig {
        on_full: OnFull::Error,
        ..Bed::route()
    };
    let builder = bed.builder().route(route);
    let (producer, mut peer) = tokio::join!(builder.open(), consumer.greet());
    let producer = producer.unwrap();
    let _first = producer.send(message(1));
    for n in 2..=4 {
        soon(producer.send(message(n))).await.unwrap_err();
    }
    assert_eq!(peer.seen().await, (vec![], 0, 3));
}
