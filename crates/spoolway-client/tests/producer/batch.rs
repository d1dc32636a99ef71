//! Messages that are sent together.

use spoolway_client::{Fate, Path, SendCode};
use spoolway_proto::{Code, Message};

use crate::support::{Bed, message, soon};

#[tokio::test]
async fn a_batch_is_few_frames_and_is_answered_together_in_its_order() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sending = producer.send_batch((1..=100).map(message).collect::<Vec<_>>());
    let ids: Vec<String> = peer
        .messages(100)
        .await
        .into_iter()
        .map(|(_, id)| id)
        .collect();
    assert_eq!(peer.frames, [64, 36]);
    peer.processed(2..=100).await;
    peer.processed([1]).await;
    let answers = soon(sending).await;
    let told: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.unwrap().id.to_string())
        .collect();
    assert_eq!(told, ids);
}

#[tokio::test]
async fn a_message_that_is_refused_stops_none_of_its_batch() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let messages = [message(1), Message::new("", &2).unwrap(), message(3)];
    let sending = producer.send_batch(messages);
    peer.messages(2).await;
    peer.processed([1, 2]).await;
    let answers = soon(sending).await;
    let [Ok(_), Err(error), Ok(_)] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (error.fate, error.code),
        (Fate::NotTaken, SendCode::Refused(Code::Invalid))
    );
    assert_eq!(error.message.payload.as_str(), "2");
}

#[tokio::test]
async fn what_of_a_batch_finds_no_room_in_the_window_follows_when_there_is_some() {
    let bed = Bed::new();
    let consumer = bed.listen().window(4);
    let (producer, peer) = tokio::join!(bed.builder().open(), consumer.greet());
    let (producer, mut peer) = (producer.unwrap(), peer);
    let sending = producer.send_batch((1..=6).map(message).collect::<Vec<_>>());
    peer.messages(4).await;
    assert_eq!(peer.frames, [4]);
    peer.processed(1..=4).await;
    peer.messages(2).await;
    peer.processed([5, 6]).await;
    assert_eq!(
        soon(sending)
            .await
            .into_iter()
            .filter(Result::is_ok)
            .count(),
        6
    );
}

#[tokio::test]
async fn without_a_consumer_a_batch_is_stored_in_its_order() {
    let bed = Bed::new();
    let producer = bed.builder().open().await.unwrap();
    let answers = soon(producer.send_batch((1..=5).map(message).collect::<Vec<_>>())).await;
    let receipts: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(receipts.iter().all(|receipt| receipt.path == Path::Queue));
    let ids: Vec<String> = receipts
        .iter()
        .map(|receipt| receipt.id.to_string())
        .collect();
    assert_eq!(bed.ids(), ids);
}

#[tokio::test]
async fn large_messages_of_a_batch_have_frames_of_their_own() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let large = || Message::new("task", &"x".repeat(50_000)).unwrap();
    let sending = producer.send_batch([large(), large(), message(3)]);
    peer.messages(3).await;
    assert_eq!(peer.frames, [1, 2], "64 KiB of messages a frame");
    peer.processed(1..=3).await;
    soon(sending).await;
}

#[tokio::test]
async fn an_empty_batch_is_answered_at_once() {
    let bed = Bed::new();
    let producer = bed.builder().open().await.unwrap();
    assert_eq!(soon(producer.send_batch([])).await.len(), 0);
}

#[test]
fn a_thread_without_a_runtime_waits_for_a_batch() {
    let bed = Bed::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let producer = runtime.block_on(bed.builder().open()).unwrap();
    assert!(producer.send_batch([message(1)]).wait()[0].is_ok());
}
