//! An outbox that is relayed through a producer.

use std::time::Duration;

use spoolway::queue::QueueOptions;
use spoolway::{Message, Outbox, Producer, SqliteQueue};

use crate::place::{Place, begin, number, take_order, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_consumer_the_messages_go_on_into_the_queue_file() {
    let place = Place::new();
    let mut shop = place.shop();
    let tx = begin(&mut shop);
    (1..=30).for_each(|number| take_order(&tx, number));
    tx.commit().unwrap();
    let producer = Producer::open(place.socket(), place.queue()).await.unwrap();
    let relay = spoolway::relay(place.shop_path(), &Outbox::default(), &producer).unwrap();
    wait_until("all are relayed", || relay.status().sent == 30);
    assert_eq!(number(&shop, "SELECT count(*) FROM spoolway_outbox"), 0);

    let queue = SqliteQueue::open(place.queue(), QueueOptions::default()).unwrap();
    let stored = queue.peek(100).unwrap();
    for digit in 0..10 {
        let of_key = |number: &i64| number % 10 == digit;
        let numbers = stored
            .iter()
            .map(|row| row.message.payload.as_str().parse().unwrap());
        let numbers: Vec<i64> = numbers.filter(of_key).collect();
        assert!(numbers.len() == 3 && numbers.is_sorted(), "{numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_what_it_is_is_kept_aside() {
    let place = Place::new();
    let queue = SqliteQueue::open(place.queue(), QueueOptions::default()).unwrap();
    let taken = Message::new("order", "something else").unwrap().id("taken");
    queue.enqueue(&taken).unwrap();

    let mut shop = place.shop();
    let outbox = Outbox::default();
    let tx = begin(&mut shop);
    for id in ["taken", "free"] {
        let message = Message::new("order", &1).unwrap().id(id).key("k");
        outbox.enqueue(&tx, message).unwrap();
    }
    tx.commit().unwrap();
    let producer = Producer::open(place.socket(), place.queue()).await.unwrap();
    let relay = spoolway::relay(place.shop_path(), &outbox, &producer).unwrap();
    wait_until("the other is relayed", || relay.status().sent == 1);
    assert_eq!(outbox.waiting(&shop).unwrap(), 0);
    let refused = outbox.failed(&shop, 9).unwrap();
    assert_eq!((refused.len(), refused[0].id.as_str()), (1, "taken"));
    assert!(
        refused[0].error.contains("other content"),
        "{}",
        refused[0].error
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_stays() {
    let place = Place::new();
    let mut shop = place.shop();
    let tx = begin(&mut shop);
    take_order(&tx, 1);
    tx.commit().unwrap();
    let producer = Producer::open(place.socket(), place.queue()).await.unwrap();
    producer.close(Duration::from_secs(1)).await;
    let relay = spoolway::relay(place.shop_path(), &Outbox::default(), &producer).unwrap();
    wait_until("it was tried", || relay.status().error.is_some());
    assert!(relay.status().error.unwrap().contains("producer is closed"));
    assert_eq!(Outbox::default().waiting(&shop).unwrap(), 1);
    drop(relay);

    let producer = Producer::open(place.socket(), place.queue()).await.unwrap();
    let relay = spoolway::relay(place.shop_path(), &Outbox::default(), &producer).unwrap();
    wait_until("it is relayed", || relay.status().sent == 1);
}

#[test]
fn outside_of_a_runtime_it_is_refused() {
    let place = Place::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let producer = runtime
        .block_on(Producer::open(place.socket(), place.queue()))
        .unwrap();
    let refused = spoolway::relay(place.shop_path(), &Outbox::default(), &producer);
    assert_eq!(refused.unwrap_err().code(), "queue_misuse");
}
