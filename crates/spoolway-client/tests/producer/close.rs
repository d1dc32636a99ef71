//! The end of a producer.

use std::time::{Duration, Instant};

use spoolway_client::{Fate, Path, SendCode};

use crate::support::{Bed, message, soon};

#[tokio::test]
async fn a_close_waits_for_answers() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sending = producer.send(message(1));
    let (closed, ()) = tokio::join!(soon(producer.close(Duration::from_secs(20))), async {
        peer.message().await;
        peer.processed([1]).await;
        assert_eq!(peer.rest().await, [0; 0]);
    });
    assert!(closed.spooled.is_empty() && closed.returned.is_empty());
    assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
    let error = soon(producer.send(message(2))).await.unwrap_err();
    assert_eq!((error.fate, error.code), (Fate::NotTaken, SendCode::Closed));
    assert_eq!(
        error.to_string(),
        "not taken: the producer is closed; open another producer"
    );
}

#[tokio::test]
async fn a_close_spools_what_is_not_answered_by_its_deadline() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    for n in 1..=3 {
        producer.send_later(message(n)).unwrap();
    }
    peer.messages(3).await;
    peer.processed([2]).await;
    let closed = soon(producer.close(Duration::from_millis(500))).await;
    let spooled: Vec<_> = closed.spooled.iter().map(|id| id.as_str()).collect();
    assert_eq!(spooled, ["1", "3"]);
    assert!(closed.returned.is_empty());
    assert_eq!(bed.ids(), ["1", "3"]);
    assert!(bed.rows()[0].epoch > 1);
}

#[tokio::test]
async fn a_close_gives_back_what_nobody_took() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    producer.send_later(message(1)).unwrap();
    peer.message().await;
    std::fs::rename(&bed.database, bed.dir.path().join("moved.db")).unwrap();
    std::fs::create_dir(&bed.database).unwrap();
    let closed = soon(producer.close(Duration::from_secs(2))).await;
    assert!(closed.spooled.is_empty());
    let [error] = &closed.returned[..] else {
        panic!("{closed:?}")
    };
    assert_eq!(
        (error.fate, error.message.id.as_str()),
        (Fate::Unknown, "1")
    );
}

#[tokio::test]
async fn the_last_handle_hands_over_what_is_unsettled() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let other = producer.clone();
    let sendings: Vec<_> = (1..=3).map(|n| producer.send(message(n))).collect();
    peer.messages(3).await;
    peer.processed([2]).await;
    drop(producer);
    assert_eq!(bed.ids(), [""; 0]);
    let dropped = Instant::now();
    drop(other);
    assert!(dropped.elapsed() < Duration::from_secs(4));
    assert_eq!(bed.ids(), ["1", "3"]);
    let mut paths = Vec::new();
    for sending in sendings {
        paths.push(soon(sending).await.unwrap().path);
    }
    assert_eq!(paths, [Path::Queue, Path::Socket, Path::Queue]);
    assert_eq!(peer.rest().await, [0; 0]);
}

#[test]
fn a_producer_outlives_its_runtime() {
    let bed = Bed::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (producer, consumer, mut peer) = runtime.block_on(bed.connected(bed.builder()));
    let first = producer.send(message(1));
    runtime.block_on(peer.message());
    // The driver dies with its runtime and hands over.
    drop((runtime, peer, consumer));
    assert_eq!(first.wait().unwrap().path, Path::Queue);
    assert_eq!(bed.ids(), ["1"]);
    // Later messages still find the file.
    assert_eq!(producer.send(message(2)).wait().unwrap().path, Path::Queue);
    producer.send_later(message(3)).unwrap();
    drop(producer);
    assert_eq!(bed.ids(), ["1", "2", "3"]);
}

#[test]
fn a_drop_in_a_runtime_that_panics_hands_over() {
    let bed = Bed::new();
    let main = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
            producer.send_later(message(1)).unwrap();
            peer.message().await;
            panic!("of the program");
        })
    }));
    assert!(main.is_err());
    assert_eq!(bed.ids(), ["1"]);
}

#[tokio::test]
async fn a_flush_covers_what_was_sent_before_it() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    soon(producer.flush()).await;
    producer.send_later(message(1)).unwrap();
    let flush = {
        let producer = producer.clone();
        tokio::spawn(async move { producer.flush().await })
    };
    peer.message().await;
    peer.no_message().await;
    assert!(!flush.is_finished());
    producer.send_later(message(2)).unwrap();
    peer.message().await;
    peer.processed([1]).await;
    soon(flush).await.unwrap();
    assert_eq!(producer.status().unsettled, 1);
}
