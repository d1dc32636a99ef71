//! The order of a key: without a connection, over reconnects and restarts, and beside other producers.

use std::time::Duration;

use spoolway_client::{Path, Producer};
use spoolway_proto::{Message, ProducerOp};

use crate::support::{Bed, Heard, message, soon, until};

fn keyed(id: impl ToString) -> Message {
    message(id).key("k")
}

#[tokio::test]
async fn what_was_sent_without_a_consumer_is_committed_before_anything_of_its_key_is_written() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    for n in 1..=50 {
        producer.send_later(keyed(n)).unwrap();
    }
    // It connects while groups are under way. Nothing is answered before the end: the window has room for all, however
    // many are sent until it is connected.
    let consumer = bed.listen().window(u32::MAX);
    let greeting = tokio::spawn(async move { (consumer.greet().await, consumer) });
    let mut sent = 50;
    soon(async {
        while !producer.status().connected {
            sent += 1;
            producer.send_later(keyed(sent)).unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (mut peer, _consumer) = soon(greeting).await.unwrap();
    for n in sent + 1..=sent + 10 {
        producer.send_later(keyed(n)).unwrap();
    }
    let first = loop {
        match peer.next().await {
            Some(Heard::Message(n, message)) => break (n, message.id.to_string()),
            Some(Heard::Op(ProducerOp::At { n })) => {
                let last = bed.rows().last().map(|row| row.sequence);
                assert_eq!(last, Some(n - 1), "what `at` skips is committed");
            }
            Some(Heard::Op(_)) => {}
            None => panic!("the connection ended"),
        }
    };
    assert_eq!(first.0.to_string(), first.1);
    // The file has all before it, in order and nothing else, and the socket the rest.
    let rows: Vec<_> = bed.rows().iter().map(|row| row.sequence).collect();
    assert_eq!(rows, (1..first.0).collect::<Vec<_>>());
    let rest = peer.messages((sent + 10 - first.0) as usize).await;
    let rest: Vec<_> = rest.iter().map(|(n, _)| *n).collect();
    assert_eq!(rest, (first.0 + 1..=sent + 10).collect::<Vec<_>>());
    peer.processed(first.0..=sent + 10).await;
    soon(producer.flush()).await;
}

#[tokio::test]
async fn a_producer_that_is_opened_again_is_another_one_and_its_rows_stand_behind() {
    let bed = Bed::new();
    let mut producers = Vec::new();
    for round in 0..3 {
        let producer = soon(bed.builder().open()).await.unwrap();
        for n in 1..=4 {
            producer.send_later(keyed(format!("{round}-{n}"))).unwrap();
        }
        let closed = soon(producer.close(Duration::from_secs(20))).await;
        assert!(closed.returned.is_empty());
        let rows = bed.rows();
        let row = rows.last().unwrap();
        assert_eq!((row.sequence, rows.len()), (4, 4 * (round + 1)));
        producers.push(row.producer.clone());
    }
    producers.dedup();
    assert_eq!(producers.len(), 3);
    let ids = (0..3).flat_map(|round| (1..=4).map(move |n| format!("{round}-{n}")));
    assert_eq!(bed.ids(), ids.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_producer_that_comes_back_goes_by_the_socket_under_its_own_numbers() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    assert_eq!(
        soon(producer.send(keyed("a"))).await.unwrap().path,
        Path::Queue
    );
    drop(producer);
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let hello = peer.hello();
    assert_eq!((hello.first, hello.fresh, hello.queue), (1, 1, 0));
    let id = hello.producer.to_string();
    assert_ne!(bed.rows()[0].producer, id);
    let sending = producer.send(keyed("b"));
    assert_eq!(peer.message().await, (1, "b".to_owned()));
    peer.processed([1]).await;
    assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn several_producers_of_one_key_keep_each_its_order_in_the_file() {
    let bed = Bed::new();
    let mut producers = Vec::new();
    for _ in 0..3 {
        producers.push(soon(bed.builder().open()).await.unwrap());
    }
    for n in 0..40 {
        for (who, producer) in producers.iter().enumerate() {
            producer.send_later(keyed(format!("{who}-{n:02}"))).unwrap();
        }
    }
    for producer in &producers {
        soon(producer.flush()).await;
        assert_eq!(producer.status().by_queue, 40);
    }
    let rows = bed.rows();
    for who in 0..3 {
        let own = rows
            .iter()
            .filter(|row| row.id.starts_with(&format!("{who}-")));
        let own: Vec<_> = own.map(|row| (row.id.clone(), row.sequence)).collect();
        assert!(own.len() == 40 && own.is_sorted_by_key(|(id, _)| id.clone()));
        assert!(own.iter().map(|(_, n)| *n).eq(1..=40));
    }
}

#[tokio::test]
async fn several_producers_of_one_key_keep_each_its_order_on_the_socket() {
    let bed = Bed::new();
    let (first, consumer, mut one) = bed.connected(bed.builder()).await;
    let (second, mut two) = tokio::join!(bed.builder().open(), consumer.greet());
    let second = second.unwrap();
    assert_ne!(one.hello().producer, two.hello().producer);
    for n in 1..=20 {
        first.send_later(keyed(format!("one-{n}"))).unwrap();
        second.send_later(keyed(format!("two-{n}"))).unwrap();
    }
    for n in 1..=20 {
        assert_eq!(one.message().await, (n, format!("one-{n}")));
        assert_eq!(two.message().await, (n, format!("two-{n}")));
    }
}

#[tokio::test]
async fn a_spooling_producer_beside_a_connected_one_never_waits_for_the_consumer() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let outer = producer.send(keyed("outer"));
    peer.message().await;
    // As a handler would: the consumer answers nothing until its own messages are settled.
    let spooling = soon(Producer::spooling(&bed.database)).await.unwrap();
    for n in 1..=3 {
        let receipt = soon(spooling.send(keyed(n))).await.unwrap();
        assert_eq!(receipt.path, Path::Queue);
    }
    assert_eq!(bed.ids(), ["1", "2", "3"]);
    let rows = bed.rows();
    assert!(rows.iter().all(|row| row.epoch == rows[0].epoch));
    assert!(rows.iter().map(|row| row.sequence).eq(1..=3));
    assert_ne!(rows[0].producer, peer.hello().producer.to_string());
    assert!(!spooling.status().connected);
    let closed = soon(spooling.close(Duration::from_secs(20))).await;
    assert!(closed.returned.is_empty());
    peer.processed([1]).await;
    assert_eq!(soon(outer).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn many_threads_share_a_spooling_producer_in_the_order_of_each() {
    let bed = Bed::new();
    let producer = soon(Producer::spooling(&bed.database)).await.unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let producer = producer.clone();
            std::thread::spawn(move || {
                for n in 0..100 {
                    producer
                        .send_later(keyed(format!("{thread}-{n:02}")))
                        .unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    soon(producer.flush()).await;
    until("settled", || producer.status().by_queue == 400).await;
    let rows = bed.rows();
    assert!(rows.iter().map(|row| row.sequence).eq(1..=400));
    for thread in 0..4 {
        let ids = rows.iter().map(|row| &row.id);
        assert!(
            ids.filter(|id| id.starts_with(&format!("{thread}-")))
                .is_sorted()
        );
    }
}
