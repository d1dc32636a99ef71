//! The messages of the bench, and how a producer sends them.

use std::collections::VecDeque;
use std::time::Instant;

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway::{Message, Payload, Producer, Receipt, SendError};

use super::side::{histogram, monotonic};
use crate::args::{BenchSide, Work};
use crate::failure::{Failure, exit};

/// How many keys the messages of `keyed` are spread over.
const KEYS: usize = 10_000;
/// Messages of a batch.
pub(super) const BATCH: u64 = 64;
/// Bytes of a message besides its text: id, type, timestamp and the names.
const ENVELOPE: usize = 108;
/// Bytes of the member `key`.
const KEY: usize = 16;

/// Makes messages of one size.
pub(super) struct Messages {
    payload: Payload,
    keys: Vec<String>,
    rng: SmallRng,
}

impl Messages {
    /// Messages of `bytes` bytes on the wire, or as few as a message can have.
    pub(super) fn new(work: Work, bytes: usize, seed: u32) -> Self {
        let keyed = work == Work::Keyed;
        let text = bytes.saturating_sub(ENVELOPE + if keyed { KEY } else { 0 });
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(text));
        let keys = if keyed { KEYS } else { 0 };
        Self {
            payload: Payload::from_trusted_json(payload),
            keys: (0..keys).map(|key| format!("{key:07}")).collect(),
            rng: SmallRng::seed_from_u64(seed.into()),
        }
    }

    pub(super) fn next(&mut self) -> Message {
        let message = Message::with_payload("bench", self.payload.clone());
        if self.keys.is_empty() {
            message
        } else {
            message.key(&self.keys[self.rng.random_range(0..self.keys.len())])
        }
    }
}

/// Sends all messages of this producer. Returns when the first one was sent, and how long each took.
pub(super) async fn send(
    producer: &Producer,
    args: &BenchSide,
) -> Result<(u64, Histogram<u64>), Failure> {
    let mut messages = Messages::new(args.work, args.bytes, args.number);
    let mut times = histogram();
    let start = monotonic();
    if args.work == Work::Batch {
        send_batches(producer, args, &mut messages, &mut times).await?;
        return Ok((start, times));
    }
    let mut sent = VecDeque::with_capacity(args.window);
    for _ in 0..args.messages {
        sent.push_back((Instant::now(), producer.send(messages.next())));
        if sent.len() == args.window {
            for (at, sending) in sent.drain(..args.window.div_ceil(2)) {
                taken(sending.await, args.work)?;
                times.saturating_record(nanos(at));
            }
        }
    }
    for (at, sending) in sent {
        taken(sending.await, args.work)?;
        times.saturating_record(nanos(at));
    }
    Ok((start, times))
}

/// The same in batches: a window of messages, so some batches, on their way.
async fn send_batches(
    producer: &Producer,
    args: &BenchSide,
    messages: &mut Messages,
    times: &mut Histogram<u64>,
) -> Result<(), Failure> {
    let mut left = args.messages;
    let mut sent = VecDeque::new();
    let window = (args.window / BATCH as usize).max(1);
    while left > 0 || !sent.is_empty() {
        while left > 0 && sent.len() < window {
            let batch: Vec<Message> = (0..left.min(BATCH)).map(|_| messages.next()).collect();
            left -= batch.len() as u64;
            sent.push_back((Instant::now(), producer.send_batch(batch)));
        }
        for (at, sending) in sent.drain(..window.div_ceil(2).min(sent.len())) {
            let answers = sending.await;
            times.saturating_record_n(nanos(at), answers.len() as u64);
            for answer in answers {
                taken(answer, args.work)?;
            }
        }
    }
    Ok(())
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// An answer of the kind that is measured; any other would make the figure a lie.
fn taken(answer: Result<Receipt, SendError>, work: Work) -> Result<(), Failure> {
    let receipt = answer?;
    let (path, outcome) = work.answer();
    if (receipt.path, receipt.outcome) == (path, outcome) {
        return Ok(());
    }
    let what = format!(
        "a message was {} by {}, where {outcome} by {path} is measured",
        receipt.outcome, receipt.path
    );
    Err(Failure::new(exit::FAILED, "other_answer", what)
        .help("the machine may be too busy to measure"))
}
