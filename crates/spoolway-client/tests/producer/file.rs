//! When the queue file cannot be written.

use std::time::{Duration, Instant};

use spoolway_client::{Fate, Path, ProducerBuilder, QueueReason, SendCode};

use crate::support::{Bed, message, soon};

/// Makes the path of the queue file name something that cannot be written, also by root.
fn break_file(bed: &Bed) {
    std::fs::rename(&bed.database, bed.dir.path().join("moved.db")).unwrap();
    std::fs::create_dir(&bed.database).unwrap();
}

fn mend_file(bed: &Bed) {
    std::fs::remove_dir(&bed.database).unwrap();
    std::fs::rename(bed.dir.path().join("moved.db"), &bed.database).unwrap();
}

#[tokio::test]
async fn with_neither_path_the_message_is_given_back_with_both_reasons() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    break_file(&bed);
    let error = soon(producer.send(message("a"))).await.unwrap_err();
    assert_eq!(error.code, SendCode::Unavailable, "{error}");
    assert_eq!(error.message.id.as_str(), "a");
    let text = error.to_string();
    assert!(
        text.contains("consumer not running (socket not found)"),
        "{text}"
    );
    assert!(
        text.contains("queue.db") && text.contains("start the consumer"),
        "{text}"
    );
    assert!(error.queue.is_some());
    assert_eq!(producer.status().returned, 1);

    mend_file(&bed);
    let end = Instant::now() + Duration::from_secs(20);
    while soon(producer.send(message("b"))).await.is_err() {
        assert!(Instant::now() < end, "the file is not back");
    }
    // `a` was committed to the file that was moved away, and found not to be where it should.
    assert!(bed.ids().contains(&"b".to_owned()));
}

#[tokio::test]
async fn what_was_sent_stays_until_the_file_or_the_consumer_takes_it() {
    let bed = Bed::new();
    let route = spoolway_client::route::RouteConfig {
        resume_grace: Duration::from_millis(5),
        ..Bed::route()
    };
    let (producer, consumer, mut peer) = bed.connected(bed.builder().route(route)).await;
    let sending = producer.send(message("a"));
    peer.message().await;
    break_file(&bed);
    drop((peer, consumer));
    let error = soon(sending).await.unwrap_err();
    assert_eq!(
        (error.fate, error.code),
        (Fate::Unknown, SendCode::Unanswered)
    );
    assert!(
        error.queue.is_some() && error.to_string().contains("queue.db"),
        "{error}"
    );
    assert_eq!(producer.status().unsettled, 1);

    let attached = producer.send(message("a"));
    mend_file(&bed);
    let receipt = soon(attached).await.unwrap();
    assert_eq!((receipt.path, receipt.duplicate), (Path::Queue, true));
    assert_eq!(bed.ids(), ["a"]);
}

#[tokio::test]
async fn with_the_consumer_there_the_file_is_not_missed() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    break_file(&bed);
    let sending = producer.send(message("a"));
    peer.message().await;
    peer.processed([1]).await;
    assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn an_id_that_the_file_has_is_not_stored_twice() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    assert!(!soon(producer.send(message("a"))).await.unwrap().duplicate);
    assert!(soon(producer.send(message("a"))).await.unwrap().duplicate);
    let other = spoolway_proto::Message::new("task", "y").unwrap().id("a");
    let error = soon(producer.send(other)).await.unwrap_err();
    assert_eq!(
        error.code,
        SendCode::Refused(spoolway_proto::Code::Conflict)
    );
    assert_eq!(error.fate, Fate::NotTaken);
    assert_eq!(bed.ids(), ["a"]);
}

#[tokio::test]
async fn a_queue_file_that_is_full_says_so_with_its_code_and_what_to_do() {
    type Set = fn(ProducerBuilder) -> ProducerBuilder;
    let limits: [(&str, Set); 2] = [
        ("queue_messages_max", |builder| {
            builder.queue_messages_max(2)
        }),
        ("queue_bytes_max", |builder| builder.queue_bytes_max(1)),
    ];
    for (limit, set) in limits {
        let bed = Bed::new();
        let producer = soon(set(bed.builder()).open()).await.unwrap();
        let mut sent = 0;
        let error = loop {
            match soon(producer.send(message(format!("m{sent}")))).await {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(sent, bed.ids().len());
        assert!(sent <= 2, "{sent}");
        let Some(QueueReason::Failed(full)) = error.queue.as_deref() else {
            panic!("{error:?}");
        };
        assert_eq!(full.code(), "queue_limit");
        let text = error.to_string();
        assert!(
            text.contains(limit) && text.contains("raise the limit"),
            "{text}"
        );
    }
}
