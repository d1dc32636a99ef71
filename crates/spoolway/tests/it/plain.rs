//! The plain client with a consumer behind the socket, and a producer with the plain server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use spoolway::client::Path;
use spoolway::{
    Consumer, Message, Outcome, Producer, UnixSocketClient, UnixSocketServer,
    UnixSocketServerConfig,
};

use crate::place::{DEADLINE, Place};

#[tokio::test]
async fn a_consumer_takes_and_answers_the_messages_of_a_plain_client() {
    let place = Place::new();
    let heard = Arc::new(AtomicU64::new(0));
    let hears = Arc::clone(&heard);
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let consumer = Consumer::builder(place.socket(), place.queue())
        .on_message("order", move |_| {
            let hears = Arc::clone(&hears);
            async move {
                hears.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build()
        .await
        .unwrap();
    let running = tokio::spawn(consumer.run(async { drop(closed.await) }));
    let client = UnixSocketClient::connect(place.socket(), DEADLINE)
        .await
        .unwrap();
    let order = Message::new("order", "tea").unwrap();
    for _ in 0..1_000 {
        client.send(&order).await.unwrap();
    }
    let reply = client.send(&order.clone().requires_ack(true)).await;
    assert_eq!(reply.unwrap().unwrap().outcome, Some(Outcome::Processed));
    let unknown = Message::new("unknown", "tea").unwrap().requires_ack(true);
    let error = client.send(&unknown).await.unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().contains("no_route")),
        ("dead", true)
    );
    client.disconnect().await.unwrap();
    drop(close);
    running.await.unwrap().unwrap();
    assert_eq!(heard.load(Ordering::Relaxed), 1_001);
}

#[tokio::test]
async fn a_producer_that_finds_a_plain_server_spools() {
    let place = Place::new();
    let mut server = UnixSocketServer::new(UnixSocketServerConfig::new(place.socket()));
    server.set_message_handler(|_| async { Ok::<(), String>(()) });
    server.start().await.unwrap();
    let producer = Producer::open(place.socket(), place.queue()).await.unwrap();
    let receipt = producer.send(Message::new("order", "tea").unwrap()).await;
    assert_eq!(receipt.unwrap().path, Path::Queue);
    producer.close(Duration::from_secs(5)).await;
    server.stop().await;
}
