//! Control objects: what producer and consumer say beside the messages.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::encode::put_json;
use crate::incoming::Op;
use crate::{AckLevel, Code, Epoch, InstanceId, ProducerId, QueueId, Ranges, put_frame};

/// The version of this protocol. Members and ops may be added within it.
pub const PROTOCOL_VERSION: u32 = 1;

/// A ping goes out this often while anything is unanswered, in milliseconds.
pub const PING_EVERY_MS: u64 = 1_000;

/// A connection that brings no byte for this long is over, in milliseconds.
pub const SILENCE_MAX_MS: u64 = 5_000;

/// The consumer answers every message within this time, in milliseconds.
pub const HOLD_MAX_MS: u64 = 2_000;

/// A producer whose connection broke tries to resume for this long before it spools, in
/// milliseconds.
pub const RESUME_GRACE_MS: u64 = 250;

/// The highest number, count or epoch that a producer may name: what is added to it overflows nowhere, and the queue file
/// can hold it.
pub const NUMBER_MAX: u64 = i64::MAX as u64;

/// What a producer says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ProducerOp {
    /// Opens the conversation.
    Hello(ProducerHello),
    /// The next message has number `n`. Sent only after what it skips is committed.
    At {
        /// The number of the next message.
        #[serde(deserialize_with = "number")]
        n: u64,
    },
    /// Which answers have arrived: the consumer may forget those outcomes.
    Seen {
        /// Numbers that are settled; none where only the counts are news.
        ranges: Ranges,
        /// How many numbers ended with a row of the queue file that this producer made, cumulative.
        #[serde(default, deserialize_with = "number")]
        queue: u64,
        /// How many numbers ended with nothing that holds them, cumulative.
        #[serde(default, deserialize_with = "number")]
        err: u64,
    },
    /// Asks for a `pong`.
    Ping,
    /// Answers a `ping`.
    Pong,
    /// Asks the consumer to write what it knows of producers to the queue file; answered by `saved`.
    Save,
}

/// The first op of a producer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerHello {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Who sends.
    pub producer: ProducerId,
    /// Which connection of it.
    #[serde(deserialize_with = "number")]
    pub epoch: Epoch,
    /// Name and version of the program, for logs; at most 255 bytes.
    #[serde(default, deserialize_with = "short_text")]
    pub client: String,
    /// The outcome its messages wait for unless they say otherwise.
    #[serde(default)]
    pub ack: AckLevel,
    /// The number of the first message on this connection; all below are settled.
    #[serde(deserialize_with = "number")]
    pub first: u64,
    /// The first number that was never sent before.
    #[serde(deserialize_with = "number")]
    pub fresh: u64,
    /// How many messages of this producer were answered over the socket, cumulative.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "number")]
    pub socket: u64,
    /// How many numbers ended with a row of the queue file that this producer made, cumulative.
    #[serde(default, deserialize_with = "number")]
    pub queue: u64,
    /// How many numbers ended with nothing that holds them, cumulative.
    #[serde(default, deserialize_with = "number")]
    pub err: u64,
}

/// What a consumer says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum ConsumerOp {
    /// Answers `hello`.
    Hello(ConsumerHello),
    /// Outcomes of messages.
    Ack(Ack),
    /// One message is refused.
    Nack {
        /// Its number.
        n: u64,
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        message: String,
        /// When to try again, if at all, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// The window is now this.
    Window {
        /// Messages that may be unanswered.
        n: u32,
        /// Bytes that may be unanswered, by [`Message::size`](crate::Message::size).
        bytes: u64,
    },
    /// Asks for a `pong`.
    Ping,
    /// Answers a `ping`.
    Pong,
    /// Answers `save`: whether it is in the queue file.
    Saved {
        /// False if it could not be written.
        saved: bool,
    },
    /// The consumer is going away: hold new messages for `ms`, then spool.
    Goodbye {
        /// How long a successor may take, in milliseconds.
        ms: u64,
    },
    /// The connection ends.
    Error {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        message: String,
        /// The number of the message at fault, or the first of the frame at fault.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n: Option<u64>,
    },
}

/// The consumer's answer to `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerHello {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Name and version of the program, for logs.
    #[serde(default)]
    pub server: String,
    /// Which run of the consumer.
    pub instance: InstanceId,
    /// Messages that may be unanswered.
    pub window: u32,
    /// Bytes that may be unanswered, by [`Message::size`](crate::Message::size).
    pub window_bytes: u64,
    /// The largest message that is taken, in bytes.
    pub message_bytes_max: u64,
    /// What survives what in the queue file: `full` (power loss) or `process` (kill -9).
    pub durability: String,
    /// Which queue file the consumer reads.
    pub queue: QueueId,
}

/// Outcomes of messages by number. A number is in at most one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ack {
    /// Handlers succeeded.
    #[serde(skip_serializing_if = "Ranges::is_empty")]
    pub processed: Ranges,
    /// Committed in the queue file.
    #[serde(skip_serializing_if = "Ranges::is_empty")]
    pub stored: Ranges,
    /// In memory only.
    #[serde(skip_serializing_if = "Ranges::is_empty")]
    pub received: Ranges,
    /// Set aside and committed, each with its reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<(u64, String)>,
}

impl Ack {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.processed.is_empty()
            && self.stored.is_empty()
            && self.received.is_empty()
            && self.dead.is_empty()
    }
}

impl ProducerOp {
    /// Appends the frame of this op.
    pub fn put(&self, out: &mut BytesMut) {
        put_frame(out, |out| put_json(out, self));
    }
}

impl ConsumerOp {
    /// Appends the frame of this op.
    pub fn put(&self, out: &mut BytesMut) {
        put_frame(out, |out| put_json(out, self));
    }

    /// Appends this op as a line of JSON.
    pub fn put_line(&self, out: &mut BytesMut) {
        put_json(out, self);
        out.put_u8(b'\n');
    }
}

impl Op for ProducerOp {
    const NAMES: &'static str = "`hello`, `at`, `seen`, `ping`, `pong` or `save`";

    fn is_known(name: &str) -> bool {
        matches!(name, "hello" | "at" | "seen" | "ping" | "pong" | "save")
    }

    fn decode_frequent(_: &str, _: &str) -> Option<serde_json::Result<Self>> {
        None
    }
}

impl Op for ConsumerOp {
    const NAMES: &'static str =
        "`hello`, `ack`, `nack`, `window`, `ping`, `pong`, `saved`, `goodbye` or `error`";

    fn is_known(name: &str) -> bool {
        let names = [
            "hello", "ack", "nack", "window", "ping", "pong", "saved", "goodbye", "error",
        ];
        names.contains(&name)
    }

    fn decode_frequent(name: &str, text: &str) -> Option<serde_json::Result<Self>> {
        (name == "ack").then(|| serde_json::from_str(text).map(Self::Ack))
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The longest name of a program that is kept for logs.
const PROGRAM_BYTES_MAX: usize = 255;

/// A number or a count.
fn number<'de, D: Deserializer<'de>, T: From<Bounded>>(deserializer: D) -> Result<T, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if number > NUMBER_MAX {
        let found = de::Unexpected::Unsigned(number);
        return Err(de::Error::invalid_value(found, &"at most 2^63 - 1"));
    }
    Ok(Bounded(number).into())
}

/// A number of at most [`NUMBER_MAX`].
struct Bounded(u64);

impl From<Bounded> for u64 {
    fn from(Bounded(number): Bounded) -> Self {
        number
    }
}

impl From<Bounded> for Epoch {
    fn from(Bounded(number): Bounded) -> Self {
        Self(number)
    }
}

fn short_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > PROGRAM_BYTES_MAX {
        return Err(de::Error::invalid_length(text.len(), &"at most 255 bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;
    use crate::{Incoming, Limits, decode_for_consumer, decode_for_producer};

    fn body(put: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        put(&mut out);
        assert_eq!(out.get_u32() as usize, out.len());
        out
    }

    #[test]
    fn numbers_counts_and_epochs_end_where_the_queue_file_does() {
        let hello = |member: &str, n: u64| {
            let rest: String = ["epoch", "first", "fresh", "socket", "queue", "err"]
                .iter()
                .map(|name| format!(",\"{name}\":{}", if *name == member { n } else { 1 }))
                .collect();
            format!(
                r#"{{"op":"hello","version":1,"producer":"{}"{rest}}}"#,
                ProducerId::from_u128(1)
            )
        };
        let past = NUMBER_MAX + 1;
        let mut pairs = vec![(
            format!(r#"{{"op":"at","n":{NUMBER_MAX}}}"#),
            format!(r#"{{"op":"at","n":{past}}}"#),
        )];
        for member in ["epoch", "first", "fresh", "socket", "queue", "err"] {
            pairs.push((hello(member, NUMBER_MAX), hello(member, past)));
        }
        for member in ["queue", "err"] {
            let seen = |n: u64| format!(r#"{{"op":"seen","ranges":[],"{member}":{n}}}"#);
            pairs.push((seen(NUMBER_MAX), seen(past)));
        }
        for (last, past) in pairs {
            let read = |text: &str| {
                decode_for_consumer(&text.to_owned().into(), &Limits::default())
                    .map_err(|invalid| invalid.code)
            };
            assert!(matches!(read(&last), Ok(Incoming::Op(_))), "{last}");
            assert_eq!(read(&past), Err(Code::BadOp), "{past}");
        }
    }

    #[test]
    fn ops_of_a_producer_survive_the_wire() {
        let hello = ProducerHello {
            version: PROTOCOL_VERSION,
            producer: ProducerId::from_u128(7),
            epoch: Epoch(2),
            client: "test 1".into(),
            ack: AckLevel::Stored,
            first: 5,
            fresh: 9,
            socket: 4,
            queue: 3,
            err: 1,
        };
        let ranges = Ranges::from_iter([1, 2, 4]);
        for op in [
            ProducerOp::Hello(hello),
            ProducerOp::At { n: NUMBER_MAX },
            ProducerOp::Seen {
                ranges,
                queue: 12,
                err: 3,
            },
            ProducerOp::Ping,
            ProducerOp::Pong,
            ProducerOp::Save,
        ] {
            let frame = body(|out| op.put(out)).freeze();
            let read = decode_for_consumer(&frame, &Limits::default());
            assert_eq!(read, Ok(Incoming::Op(op)));
        }
    }

    #[test]
    fn ops_of_a_consumer_survive_the_wire() {
        let hello = ConsumerHello {
            version: PROTOCOL_VERSION,
            server: "test 1".into(),
            instance: InstanceId::from_u128(8),
            window: 1_024,
            window_bytes: 1 << 22,
            message_bytes_max: 10 << 20,
            durability: "full".into(),
            queue: QueueId::from_u128(9),
        };
        let ack = Ack {
            processed: Ranges::from(1..=64),
            stored: Ranges::from(65..=65),
            received: Ranges::from(67..=67),
            dead: vec![(66, "expired".into())],
        };
        let nack = |retry_after_ms| ConsumerOp::Nack {
            n: 72,
            code: Code::RateLimited,
            message: "over \"5/s\"".into(),
            retry_after_ms,
        };
        let error = |n| ConsumerOp::Error {
            code: Code::BadJson,
            message: "x".into(),
            n,
        };
        for op in [
            ConsumerOp::Hello(hello),
            ConsumerOp::Ack(ack),
            ConsumerOp::Ack(Ack::default()),
            nack(None),
            nack(Some(50)),
            ConsumerOp::Window { n: 1, bytes: 0 },
            ConsumerOp::Ping,
            ConsumerOp::Pong,
            ConsumerOp::Saved { saved: true },
            ConsumerOp::Goodbye { ms: 250 },
            error(None),
            error(Some(9)),
        ] {
            let frame = body(|out| op.put(out)).freeze();
            assert_eq!(decode_for_producer(&frame), Ok(op));
        }
    }

    #[test]
    fn an_ack_says_only_what_there_is_to_say() {
        assert!(Ack::default().is_empty());
        let ack = Ack {
            dead: vec![(7, "no_route".into())],
            ..Ack::default()
        };
        assert!(!ack.is_empty());
        assert_eq!(
            body(|out| ConsumerOp::Ack(ack).put(out)),
            r#"{"op":"ack","dead":[[7,"no_route"]]}"#
        );
    }

    #[test]
    fn a_hello_needs_only_what_has_no_default() {
        let id = "00000000-0000-0000-0000-000000000007";
        let least = format!(
            r#"{{"op":"hello","version":1,"producer":"{id}","epoch":1,"first":1,"fresh":1}}"#
        );
        let read = decode_for_consumer(&least.into(), &Limits::default());
        let Ok(Incoming::Op(ProducerOp::Hello(hello))) = read else {
            panic!("{read:?}")
        };
        assert_eq!(
            (hello.ack, hello.queue, hello.err),
            (AckLevel::Processed, 0, 0)
        );
        assert_eq!(hello.client, "");
    }

    #[test]
    fn the_name_of_a_client_holds_at_its_limit_and_not_one_past_it() {
        let id = ProducerId::from_u128(7);
        let read = |length: usize| {
            let client = "x".repeat(length);
            let text = format!(
                r#"{{"op":"hello","version":1,"producer":"{id}","epoch":1,"client":"{client}","first":1,"fresh":1}}"#
            );
            decode_for_consumer(&text.into(), &Limits::default()).is_ok()
        };
        assert!(read(255) && !read(256));
    }

    #[test]
    fn a_null_means_absent_where_a_member_may_be_absent() {
        let text = r#"{"op":"nack","n":72,"code":"soon","message":"m","retry_after_ms":null}"#;
        let expected = ConsumerOp::Nack {
            n: 72,
            code: Code::Other,
            message: "m".into(),
            retry_after_ms: None,
        };
        assert_eq!(decode_for_producer(&text.into()), Ok(expected));
    }
}
