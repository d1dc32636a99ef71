//! While the consumer is there.

use std::time::Duration;

use spoolway_client::route::RouteConfig;
use spoolway_client::{Fate, Path, SendCode};
use spoolway_proto::{Ack, AckLevel, Code, ConsumerOp, Message, Outcome, ProducerOp};

use crate::support::{Bed, Heard, message, soon, until};

#[tokio::test]
async fn an_answered_message_went_by_the_socket() {
    let bed = Bed::new();
    let builder = bed.builder().ack(AckLevel::Stored).client_name("test 1");
    let (producer, _consumer, mut peer) = bed.connected(builder).await;
    let hello = peer.hello();
    assert_eq!(
        (hello.ack, hello.client.as_str()),
        (AckLevel::Stored, "test 1")
    );
    assert_eq!((hello.first, hello.fresh), (1, 1));
    assert!(producer.status().connected);

    let sending = producer.send(Message::new("task", &7).unwrap());
    let (n, id) = peer.message().await;
    assert_eq!((n, id.as_str()), (1, sending.id().as_str()));
    peer.processed([1]).await;
    let receipt = soon(sending).await.unwrap();
    assert_eq!(
        (receipt.path, receipt.outcome),
        (Path::Socket, Outcome::Processed)
    );
    assert!(!receipt.duplicate);
    let status = producer.status();
    assert_eq!(
        (status.by_socket, status.by_queue, status.unsettled),
        (1, 0, 0)
    );
    assert_eq!(bed.ids(), [""; 0]);
}

#[tokio::test]
async fn each_outcome_reaches_its_sender() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sendings: Vec<_> = (1..=5).map(|n| producer.send(message(n))).collect();
    peer.messages(5).await;
    peer.say(ConsumerOp::Ack(Ack {
        processed: [5].into_iter().collect(),
        stored: [1, 3].into_iter().collect(),
        received: [2].into_iter().collect(),
        dead: vec![(4, "no_route".into())],
    }))
    .await;
    let mut outcomes = Vec::new();
    for sending in sendings {
        let receipt = soon(sending).await.unwrap();
        outcomes.push((receipt.outcome, receipt.reason));
    }
    let plain = |outcome| (outcome, None);
    assert_eq!(
        outcomes,
        [
            plain(Outcome::Stored),
            plain(Outcome::Received),
            plain(Outcome::Stored),
            (Outcome::Dead, Some("no_route".to_owned())),
            plain(Outcome::Processed),
        ]
    );
}

#[tokio::test]
async fn a_refused_message_is_given_back() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sending = producer.send(message("a"));
    let (n, _) = peer.message().await;
    peer.say(ConsumerOp::Nack {
        n,
        code: Code::Forbidden,
        message: "topic `x` is closed".into(),
        retry_after_ms: None,
    })
    .await;
    let error = soon(sending).await.unwrap_err();
    assert_eq!(error.fate, Fate::NotTaken);
    assert_eq!(error.code, SendCode::Refused(Code::Forbidden));
    assert_eq!(error.message.id.as_str(), "a");
    assert_eq!(
        error.to_string(),
        "not taken: refused by the consumer (forbidden: topic `x` is closed); \
         allow the sender in the consumer's configuration"
    );
    assert_eq!(producer.status().returned, 1);
    assert_eq!(bed.ids(), [""; 0]);
}

#[tokio::test]
async fn a_message_refused_for_now_is_tried_again() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let sending = producer.send(message("a"));
    let (n, _) = peer.message().await;
    peer.say(ConsumerOp::Nack {
        n,
        code: Code::RateLimited,
        message: "over 5/s".into(),
        retry_after_ms: Some(1),
    })
    .await;
    assert_eq!(peer.message().await, (1, "a".to_owned()));
    peer.processed([1]).await;
    assert_eq!(soon(sending).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn an_invalid_message_does_not_enter() {
    let bed = Bed::new();
    let consumer = bed.listen().message_bytes_max(1_000);
    let (producer, mut peer) = tokio::join!(bed.builder().open(), consumer.greet());
    let producer = producer.unwrap();
    until("connected", || producer.status().connected).await;
    let error = soon(producer.send(message("a").priority(101)))
        .await
        .unwrap_err();
    assert_eq!(error.code, SendCode::Refused(Code::Invalid));
    assert_eq!(
        error.to_string(),
        "not taken: invalid: `priority` is 101, allowed is a whole number from 0 to 100; \
         correct it before sending it again"
    );
    // The consumer's limit counts where it is lower than ours.
    let large = Message::new("task", &"x".repeat(1_000)).unwrap();
    let error = producer.send_later(large).unwrap_err();
    assert_eq!(error.code, SendCode::Refused(Code::TooLarge));
    producer.send_later(message("b")).unwrap();
    assert_eq!(peer.message().await, (1, "b".to_owned()));
}

#[tokio::test]
async fn no_more_is_unanswered_than_the_window_grants() {
    let bed = Bed::new();
    let consumer = bed.listen().window(2);
    let (producer, mut peer) = tokio::join!(bed.builder().open(), consumer.greet());
    let producer = producer.unwrap();
    for n in 1..=5 {
        producer.send_later(message(n)).unwrap();
    }
    peer.messages(2).await;
    peer.no_message().await;
    peer.processed([2]).await;
    assert_eq!(peer.message().await.0, 3);
    peer.no_message().await;
    peer.say(ConsumerOp::Window {
        n: 10,
        bytes: 1 << 20,
    })
    .await;
    peer.processed([1]).await;
    assert_eq!(peer.messages(2).await.last().unwrap().0, 5);
    peer.processed(3..=5).await;
    soon(producer.flush()).await;
}

#[tokio::test]
async fn what_finds_no_room_goes_by_the_file_and_its_number_is_skipped() {
    let bed = Bed::new();
    let consumer = bed.listen().window(1);
    let route = RouteConfig {
        full_wait: Duration::from_millis(10),
        ..Bed::route()
    };
    let builder = bed.builder().route(route);
    let (producer, mut peer) = tokio::join!(builder.open(), consumer.greet());
    let producer = producer.unwrap();
    let first = producer.send(message(1));
    let second = producer.send(message(2));
    let keyed = producer.send(message(3).key("k"));
    assert_eq!(soon(second).await.unwrap().path, Path::Queue);
    assert_eq!(bed.ids(), ["2"]);
    peer.message().await;
    peer.processed([1]).await;
    let at = loop {
        match peer.next().await {
            Some(Heard::Op(ProducerOp::At { n })) => break n,
            Some(Heard::Op(_)) => {}
            heard => panic!("{heard:?} before `at`"),
        }
    };
    assert_eq!(at, 3);
    assert_eq!(peer.message().await, (3, "3".to_owned()));
    peer.processed([3]).await;
    assert_eq!(soon(first).await.unwrap().path, Path::Socket);
    assert_eq!(soon(keyed).await.unwrap().path, Path::Socket);
}

#[tokio::test]
async fn a_keyed_message_without_a_turn_is_given_back() {
    let bed = Bed::new();
    let consumer = bed.listen().window(1);
    let builder = bed.builder().send_timeout(Duration::from_millis(50));
    let (producer, mut peer) = tokio::join!(builder.open(), consumer.greet());
    let producer = producer.unwrap();
    let first = producer.send(message(1));
    let error = soon(producer.send(message(2).key("k"))).await.unwrap_err();
    assert_eq!((error.fate, error.code), (Fate::NotTaken, SendCode::NoRoom));
    assert!(error.to_string().contains("window full"), "{error}");
    assert_eq!(soon(first).await.unwrap_err().fate, Fate::Unknown);
    peer.message().await;
}

#[tokio::test]
async fn over_the_hard_bound_nothing_enters() {
    let bed = Bed::new();
    let route = RouteConfig {
        messages_max: 2,
        ..Bed::route()
    };
    let (producer, _consumer, mut peer) = bed.connected(bed.builder().route(route)).await;
    producer.send_later(message(1)).unwrap();
    producer.send_later(message(2)).unwrap();
    let error = soon(producer.send(message(3))).await.unwrap_err();
    assert_eq!((error.fate, error.code), (Fate::NotTaken, SendCode::Full));
    assert_eq!(error.message.id.as_str(), "3");
    peer.messages(2).await;
    peer.processed([1]).await;
    until("room", || producer.status().unsettled == 1).await;
    producer.send_later(message(4)).unwrap();
    assert_eq!(peer.message().await, (3, "4".to_owned()));
}

#[tokio::test]
async fn an_unanswered_message_stays_and_a_resend_attaches_to_it() {
    let bed = Bed::new();
    let builder = bed.builder().send_timeout(Duration::from_millis(50));
    let (producer, _consumer, mut peer) = bed.connected(builder).await;
    let error = soon(producer.send(message("a"))).await.unwrap_err();
    assert_eq!(
        (error.fate, error.code),
        (Fate::Unknown, SendCode::Unanswered)
    );
    assert!(
        error.to_string().contains("not answered within 50ms"),
        "{error}"
    );
    assert_eq!(producer.status().unsettled, 1);

    // Another content under the id is another message.
    let other = Message::new("task", "y").unwrap().id("a");
    let conflict = soon(producer.send(other)).await.unwrap_err();
    assert_eq!(conflict.code, SendCode::Refused(Code::Conflict));

    // Whoever attaches waits its own time.
    let again = soon(producer.send(message("a"))).await.unwrap_err();
    assert_eq!(again.fate, Fate::Unknown);
    let attached = producer.send(message("a"));
    peer.message().await;
    peer.processed([1]).await;
    let receipt = soon(attached).await.unwrap();
    assert!(receipt.duplicate && receipt.outcome == Outcome::Processed);
    // And once it is settled, that is what it was.
    let receipt = soon(producer.send(message("a"))).await.unwrap();
    assert!(receipt.duplicate && receipt.outcome == Outcome::Processed);
    assert_eq!(producer.status().by_socket, 1);
}

#[tokio::test]
async fn a_dropped_answer_leaves_the_message_on_its_way() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    drop(producer.send(message("a")));
    assert_eq!(peer.message().await.1, "a");
    peer.processed([1]).await;
    soon(producer.flush()).await;
    assert_eq!(producer.status().by_socket, 1);
}

#[tokio::test]
async fn messages_that_the_kernel_cannot_hold_arrive_whole_and_in_order() {
    let bed = Bed::new();
    let (producer, _consumer, mut peer) = bed.connected(bed.builder()).await;
    let large = "x".repeat(1 << 20);
    for n in 1..=8 {
        let message = Message::new("task", &large).unwrap().id(n.to_string());
        producer.send_later(message).unwrap();
    }
    for n in 1..=8 {
        assert_eq!(peer.message().await, (n, n.to_string()));
    }
    peer.processed(1..=8).await;
    soon(producer.flush()).await;
}

#[tokio::test]
async fn answers_are_confirmed() {
    let bed = Bed::new();
    let consumer = bed.listen().window(4);
    let (producer, mut peer) = tokio::join!(bed.builder().open(), consumer.greet());
    let producer = producer.unwrap();
    for n in 1..=4 {
        producer.send_later(message(n)).unwrap();
    }
    peer.messages(4).await;
    peer.processed([1, 2]).await;
    loop {
        match peer.next().await {
            Some(Heard::Op(ProducerOp::Seen { ranges, queue, err })) => {
                assert_eq!((ranges, queue, err), ([1, 2].into_iter().collect(), 0, 0));
                break;
            }
            Some(Heard::Op(_)) => {}
            heard => panic!("{heard:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_on_many_threads_keep_each_their_order() {
    let bed = Bed::new();
    let consumer = bed.listen().window(64);
    let (producer, mut peer) = tokio::join!(bed.builder().open(), consumer.greet());
    let producer = producer.unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let producer = producer.clone();
            std::thread::spawn(move || {
                for n in 0..500 {
                    producer
                        .send_later(message(format!("{thread}-{n:03}")))
                        .unwrap();
                }
            })
        })
        .collect();
    let mut ids = Vec::new();
    while ids.len() < 2_000 {
        let (n, id) = peer.message().await;
        assert_eq!(n as usize, ids.len() + 1);
        ids.push(id);
        peer.processed([n]).await;
    }
    soon(producer.flush()).await;
    for thread in 0..4 {
        let own: Vec<_> = ids
            .iter()
            .filter(|id| id.starts_with(&thread.to_string()))
            .collect();
        assert!(own.len() == 500 && own.is_sorted());
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}
