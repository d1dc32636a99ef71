//! Spoolway: the fast path, `stored`, and through the queue file while the receiver drains it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spoolway::client::ProducerBuilder;
use spoolway::consumer::ConsumerConfig;
use spoolway::{AckLevel, Consumer, Delivery, Durability, Message, Producer, SqliteQueue};
use tokio::sync::Notify;

use super::{Place, Served, runtime, socket};
use crate::Result;
use crate::job::{Job, Seen};

/// Characters of text in a message of 200 bytes, and what is before them in the payload.
const TEXT: usize = 92;
const BEFORE: usize = r#"{"text":""#.len();

pub fn serve(_: &Place) -> Result<Served> {
    Ok(Served {
        server: None,
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

fn message(text: &str) -> Result<Message> {
    Ok(Message::new("bench", &serde_json::json!({ "text": text }))?)
}

// ---- the sending half

pub fn produce_processed(dir: &Path, job: &mut Job) -> Result<()> {
    produce(open(dir), job)
}

pub fn produce_stored(dir: &Path, job: &mut Job) -> Result<()> {
    produce(open(dir).ack(AckLevel::Stored), job)
}

pub fn produce_stored_process(dir: &Path, job: &mut Job) -> Result<()> {
    produce(
        open(dir)
            .ack(AckLevel::Stored)
            .durability(Durability::Process),
        job,
    )
}

pub fn produce_file(dir: &Path, job: &mut Job) -> Result<()> {
    produce(open(dir).spool_only(), job)
}

pub fn produce_file_process(dir: &Path, job: &mut Job) -> Result<()> {
    produce(open(dir).spool_only().durability(Durability::Process), job)
}

fn open(dir: &Path) -> ProducerBuilder {
    Producer::builder(socket(dir), dir.join("queue.db"))
}

fn produce(producer: ProducerBuilder, job: &mut Job) -> Result<()> {
    runtime()?.block_on(async {
        let producer = producer.open().await?;
        let mut failed = None;
        let window = job.window();
        job.begin();
        let messages =
            std::iter::from_fn(|| job.text(TEXT)).map(|text| message(&text).expect("plain JSON"));
        spoolway_benches::stream(&producer, window, messages, |answer| {
            failed = answer.err().or(failed.take())
        })
        .await;
        job.end();
        producer.close(Duration::from_secs(5)).await;
        failed.map_or(Ok(()), |error| Err(error.into()))
    })
}

/// Messages of a batch.
const BATCH: usize = 64;

pub fn produce_batches(dir: &Path, job: &mut Job) -> Result<()> {
    runtime()?.block_on(async {
        let producer = open(dir).open().await?;
        let window = (job.window() / BATCH).max(1);
        let mut sent = VecDeque::new();
        job.begin();
        loop {
            let texts =
                std::iter::from_fn(|| job.text(TEXT)).take(if window == 1 { 1 } else { BATCH });
            let batch = texts
                .map(|text| message(&text))
                .collect::<Result<Vec<_>>>()?;
            if batch.is_empty() {
                break;
            }
            sent.push_back(producer.send_batch(batch));
            if sent.len() == window {
                for answers in sent.drain(..window.div_ceil(2)) {
                    answers
                        .await
                        .into_iter()
                        .collect::<std::result::Result<Vec<_>, _>>()?;
                }
            }
        }
        for answers in sent {
            answers
                .await
                .into_iter()
                .collect::<std::result::Result<Vec<_>, _>>()?;
        }
        job.end();
        producer.close(Duration::from_secs(5)).await;
        Ok(())
    })
}

// ---- the receiving half

pub fn consume_full(dir: &Path, seen: Seen) -> Result<()> {
    consume(dir, seen, Durability::Full)
}

pub fn consume_process(dir: &Path, seen: Seen) -> Result<()> {
    consume(dir, seen, Durability::Process)
}

fn consume(dir: &Path, seen: Seen, durability: Durability) -> Result<()> {
    let (seen, over) = (Arc::new(Mutex::new(seen)), Arc::new(Notify::new()));
    let handler = {
        let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
        move |delivery: Delivery| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.take(&delivery.payload.as_str().as_bytes()[BEFORE..]);
            if seen.is_over() {
                over.notify_one();
            }
            async { Ok::<(), String>(()) }
        }
    };
    let queue = dir.join("queue.db");
    runtime()?.block_on(async {
        let consumer = Consumer::builder(socket(dir), &queue)
            .config(ConsumerConfig {
                durability,
                ..Default::default()
            })
            .default(handler)
            .build()
            .await?;
        // It listens from here on.
        seen.lock().unwrap_or_else(PoisonError::into_inner).ready();
        let until_settled = async {
            over.notified().await;
            let file = SqliteQueue::open(&queue, Default::default()).expect("the consumer's file");
            while file.stats().expect("its statistics").pending > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            seen.lock().unwrap_or_else(PoisonError::into_inner).tell();
            // The sender may still wait for its answers; it ends this process.
            std::future::pending::<()>().await;
        };
        consumer.run(until_settled).await?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_of_the_size_of_all_benches() {
        let mut ours = message(&"x".repeat(TEXT)).expect("plain JSON");
        let mut theirs = spoolway_benches::message();
        for message in [&mut ours, &mut theirs] {
            message.stamp(spoolway::Timestamp(1_700_000_000_000), || {
                "01234567-89ab-cdef-0123-456789abcdef"
                    .parse()
                    .expect("an id")
            });
        }
        let frame = |message: &Message| {
            let mut frame = Default::default();
            spoolway::wire::put_frame(&mut frame, |body| message.encode(body));
            frame
        };
        assert_eq!(frame(&ours), frame(&theirs));
        assert_eq!(frame(&ours).len(), 4 + crate::job::BYTES);
    }
}
