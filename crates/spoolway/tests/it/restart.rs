//! A consumer that is back within the time its goodbye named.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use spoolway::client::Path;
use spoolway::consumer::{ConsumerConfig, Summary};
use spoolway::queue::QueueOptions;
use spoolway::{Consumer, ConsumerError, Message, Producer, SqliteQueue};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, yield_now};

use crate::place::{DEADLINE, Place};

/// Longer than a start takes on a loaded machine.
const GOODBYE: Duration = Duration::from_secs(30);
const MESSAGES: u64 = 1_000;

struct Running {
    close: oneshot::Sender<()>,
    task: JoinHandle<Result<Summary, ConsumerError>>,
}

async fn start(place: &Place, processed: &Arc<AtomicU64>) -> Running {
    let processed = Arc::clone(processed);
    let (close, closed) = oneshot::channel::<()>();
    let consumer = Consumer::builder(place.socket(), place.queue())
        .default(move |_| {
            let processed = Arc::clone(&processed);
            async move {
                processed.fetch_add(1, Ordering::Relaxed);
            }
        })
        .config(ConsumerConfig {
            goodbye: GOODBYE,
            ..ConsumerConfig::default()
        })
        .build()
        .await
        .unwrap();
    let task = tokio::spawn(consumer.run(async { drop(closed.await) }));
    Running { close, task }
}

impl Running {
    async fn stop(self) -> Summary {
        drop(self.close);
        self.task.await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_goodbye_no_send_fails_and_none_is_spooled() {
    let place = Place::new();
    let processed = Arc::new(AtomicU64::new(0));
    let first = start(&place, &processed).await;
    let producer = Producer::builder(place.socket(), place.queue())
        .send_timeout(DEADLINE)
        .open()
        .await
        .unwrap();

    // So many may be sent: some before the first is told to go, some while it goes, the rest when it is gone.
    let allowed = Arc::new(AtomicU64::new(400));
    let sends = tokio::spawn({
        let (producer, allowed) = (producer.clone(), Arc::clone(&allowed));
        async move {
            let mut sending = Vec::new();
            for n in 0..MESSAGES {
                while n >= allowed.load(Ordering::Relaxed) {
                    yield_now().await;
                }
                let message = Message::new("task", &n).unwrap().key(format!("{}", n % 7));
                sending.push(producer.send(message));
            }
            sending
        }
    });
    while processed.load(Ordering::Relaxed) < 100 {
        yield_now().await;
    }
    allowed.store(700, Ordering::Relaxed);
    let before = first.stop().await;
    allowed.store(MESSAGES, Ordering::Relaxed);
    let second = start(&place, &processed).await;

    for sending in sends.await.unwrap() {
        let receipt = sending.await.expect("no send fails");
        assert_eq!(receipt.path, Path::Socket, "none is spooled");
    }
    producer.close(DEADLINE).await;
    // What the first one was given and had not begun is in the file, and the second one's.
    let all = async {
        while processed.load(Ordering::Relaxed) < MESSAGES {
            yield_now().await;
        }
    };
    let all = tokio::time::timeout(DEADLINE, all).await;
    assert!(all.is_ok(), "each message is processed");
    let after = second.stop().await;
    assert!(before.processed >= 100, "{before:?}");
    assert!(after.processed >= 300, "{after:?}");
    assert_eq!(before.processed + after.processed, MESSAGES);
    let queue = SqliteQueue::open(place.queue(), QueueOptions::default()).unwrap();
    assert_eq!(queue.stats().unwrap().pending, 0);
}
