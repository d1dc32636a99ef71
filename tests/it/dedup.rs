//! What a killed consumer remembers of the outcomes it has answered. The sink is the standard output, which knows no
//! message from another: what runs twice is there twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use spoolway::proto::{
    AckLevel, ConsumerOp, Epoch, FRAME_BYTES_CEILING, FrameDecoder, PROTOCOL_VERSION,
    ProducerHello, ProducerId, ProducerOp, Ranges, decode_for_producer, put_frame,
};

use crate::support::{Place, Serve, eventually, message, stream};

/// Messages of one producer that are unanswered at a time, by default.
const WINDOW: usize = 1_024;

/// Starts a consumer whose lines go to a file of this run.
fn serve(place: &Place, run: usize, dedup: &str) -> Serve {
    let child = place
        .command(&["serve", "--sink", "stdout", "--dedup", dedup])
        .stdout(File::create(place.path(&format!("run-{run}"))).expect("a file"))
        .stderr(File::create(place.path(&format!("log-{run}"))).expect("a file"))
        .spawn()
        .expect("the binary runs");
    place.listens();
    Serve { child }
}

/// How often each id was handled by the first so many runs. The last line of a killed one may be torn.
fn handled(place: &Place, runs: usize) -> HashMap<String, usize> {
    let mut ids = HashMap::new();
    for run in 0..runs {
        let text = std::fs::read(place.path(&format!("run-{run}"))).unwrap_or_default();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if let Ok(line) = serde_json::from_slice::<serde_json::Value>(line) {
                *ids.entry(line["id"].as_str().expect("an id").to_owned())
                    .or_default() += 1;
            }
        }
    }
    ids
}

/// A producer that never confirms what it was answered.
struct Forgetful(UnixStream, FrameDecoder, BytesMut);

impl Forgetful {
    fn hello(place: &Place, epoch: u64, fresh: u64) -> Self {
        let stream = UnixStream::connect(place.socket()).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .expect("a timeout");
        let mut one = Self(
            stream,
            FrameDecoder::new(FRAME_BYTES_CEILING),
            BytesMut::new(),
        );
        let hello = ProducerHello {
            version: PROTOCOL_VERSION,
            producer: ProducerId::from_u128(7),
            epoch: Epoch(epoch),
            client: "test".into(),
            ack: AckLevel::Processed,
            first: 1,
            fresh,
            socket: 0,
            queue: 0,
            err: 0,
        };
        one.say(|out| ProducerOp::Hello(hello).put(out));
        let answer = one.hear();
        assert!(matches!(answer, ConsumerOp::Hello(_)), "{answer:?}");
        one
    }

    fn say(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        put(&mut out);
        self.0.write_all(&out).expect("it reads");
    }

    fn hear(&mut self) -> ConsumerOp {
        loop {
            if let Some(frame) = self.1.next(&mut self.2).expect("a frame") {
                return decode_for_producer(&frame).expect("an op");
            }
            let mut chunk = [0; 4_096];
            let length = self.0.read(&mut chunk).expect("it answers");
            assert!(length > 0, "it closed");
            self.2.extend_from_slice(&chunk[..length]);
        }
    }

    /// Sends messages 1 to `count`, and waits until each is answered; how many were `processed`.
    fn send(&mut self, count: u64) -> u64 {
        for n in 1..=count {
            let message = message(None, n)
                .id(format!("m{n}"))
                .timestamp(spoolway::Timestamp(1));
            self.say(|out| put_frame(out, |out| message.encode(out)));
        }
        let (mut answered, mut processed) = (0, 0);
        let numbers = |ranges: &Ranges| {
            ranges
                .iter()
                .map(|(first, last)| last - first + 1)
                .sum::<u64>()
        };
        while answered < count {
            match self.hear() {
                ConsumerOp::Ack(ack) => {
                    processed += numbers(&ack.processed);
                    answered += numbers(&ack.processed) + numbers(&ack.stored);
                }
                ConsumerOp::Ping => self.say(|out| ProducerOp::Pong.put(out)),
                ConsumerOp::Window { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        processed
    }
}

const AGAIN: u64 = 40;

/// Has all answered `processed`, kills the consumer, and sends all again to the next one.
fn sent_again(dedup: &str) -> (Place, Serve) {
    let place = Place::new();
    let first = serve(&place, 0, dedup);
    let processed = Forgetful::hello(&place, 1, 1).send(AGAIN);
    assert_eq!(processed, AGAIN);
    first.kill();
    let second = serve(&place, 1, dedup);
    Forgetful::hello(&place, 2, AGAIN + 1).send(AGAIN);
    (place, second)
}

#[test]
fn with_durable_dedup_what_was_answered_processed_never_runs_again_whoever_is_killed() {
    let (place, second) = sent_again("durable");
    place.drained();
    assert!(second.terminate().success());
    let handled = handled(&place, 2);
    assert_eq!(handled.len() as u64, AGAIN);
    assert!(handled.values().all(|times| *times == 1), "{handled:?}");
}

/// What the test above would find if nothing were remembered.
#[test]
fn without_it_what_was_not_confirmed_runs_again() {
    let (place, _second) = sent_again("memory");
    eventually("all have run twice", || {
        handled(&place, 2).values().sum::<usize>() as u64 == 2 * AGAIN
    });
}

#[test]
fn killed_under_load_it_doubles_no_more_than_was_not_answered() {
    const SENT: u64 = 6_000;
    const KILLS: usize = 3;
    let place = Arc::new(Place::new());
    let mut consumer = serve(&place, 0, "durable");
    let sending = std::thread::spawn({
        let place = Arc::clone(&place);
        move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(stream(&place, 0, SENT))
        }
    });
    for kill in 1..=KILLS {
        let enough = kill * 1_000;
        eventually("it is at work", || handled(&place, kill).len() >= enough);
        consumer.kill();
        consumer = serve(&place, kill, "durable");
    }
    let sent = sending.join().expect("a stream");
    place.drained();
    eventually("every message was handled", || {
        let handled = handled(&place, KILLS + 1);
        sent.iter().all(|id| handled.contains_key(id))
    });
    drop(consumer);
    let handled = handled(&place, KILLS + 1);
    assert_eq!(handled.len(), sent.len(), "there is more than was sent");
    let doubles: usize = handled.values().map(|times| times - 1).sum();
    // Running, or ended and being written: of one producer at most its window.
    assert!(doubles <= KILLS * WINDOW, "{doubles} doubles");
}
