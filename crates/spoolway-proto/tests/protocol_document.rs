//! Holds `docs/protocol.md` to the code: its examples decode, its worked session is what the
//! encoder writes, its tables name every code and limit.

#![allow(clippy::unwrap_used, reason = "a test: a panic is the report")]

use bytes::{Bytes, BytesMut};
use spoolway_proto::{
    Ack, AckLevel, Code, ConsumerHello, ConsumerOp, Epoch, FRAME_BYTES_CEILING, FrameDecoder,
    HOLD_MAX_MS, Incoming, InstanceId, Limits, Message, Outcome, PING_EVERY_MS, PROTOCOL_VERSION,
    ProducerHello, ProducerId, ProducerOp, QueueId, RANGES_MAX, RESUME_GRACE_MS, Ranges, Reply,
    SILENCE_MAX_MS, Timestamp, decode_for_consumer, decode_for_producer, put_frame,
};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    std::fs::read_to_string(path).expect("docs/protocol.md is beside the workspace's crates")
}

/// The contents of every fence that opens with ```` ```info ````.
fn fences<'a>(document: &'a str, info: &str) -> Vec<&'a str> {
    let open = format!("\n```{info}\n");
    let parts = document.split(open.as_str()).skip(1);
    parts
        .map(|part| part.split("\n```").next().unwrap())
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Producer,
    Consumer,
}

/// One step of the session: who writes, its title, and the bytes.
struct Step {
    from: Side,
    title: &'static str,
    bytes: BytesMut,
}

fn producer(title: &'static str, op: ProducerOp) -> Step {
    let mut bytes = BytesMut::new();
    op.put(&mut bytes);
    Step {
        from: Side::Producer,
        title,
        bytes,
    }
}

fn consumer(title: &'static str, op: ConsumerOp) -> Step {
    let mut bytes = BytesMut::new();
    op.put(&mut bytes);
    Step {
        from: Side::Consumer,
        title,
        bytes,
    }
}

fn text(title: &'static str, body: &str) -> Step {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, |out| out.extend_from_slice(body.as_bytes()));
    Step {
        from: Side::Producer,
        title,
        bytes,
    }
}

fn message(title: &'static str, message: &Message) -> Step {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, |out| message.encode(out));
    Step {
        from: Side::Producer,
        title,
        bytes,
    }
}

fn first() -> Message {
    Message::new("order", &[1])
        .unwrap()
        .id("m1")
        .timestamp(Timestamp(1_767_225_600_000))
}

fn second() -> Message {
    Message::new("order", &"ü")
        .unwrap()
        .id("m2")
        .timestamp(Timestamp(1_767_225_600_001))
        .key("k")
}

const BATCH: &str = r#"[{"id":"m3","msg_type":"order","payload": null},
 {"id":"m4","type":"order","payload":{},"priority":300}]"#;

fn hello() -> ProducerOp {
    ProducerOp::Hello(ProducerHello {
        version: PROTOCOL_VERSION,
        producer: ProducerId::from_u128(0x0199_c5c2_0000_4000_8000_0000_0000_0001),
        epoch: Epoch(1),
        client: "demo".into(),
        ack: AckLevel::Processed,
        first: 1,
        fresh: 1,
        socket: 0,
        queue: 0,
        err: 0,
    })
}

fn hello_answer() -> ConsumerOp {
    ConsumerOp::Hello(ConsumerHello {
        version: PROTOCOL_VERSION,
        server: "demo".into(),
        instance: InstanceId::from_u128(0x0199_c5c2_0000_4000_8000_0000_0000_0002),
        window: 1_024,
        window_bytes: 4_194_304,
        message_bytes_max: 10_485_760,
        durability: "full".into(),
        queue: QueueId::from_u128(0x0199_c5c2_0000_4000_8000_0000_0000_0003),
    })
}

fn ack() -> ConsumerOp {
    ConsumerOp::Ack(Ack {
        processed: Ranges::from(1..=2),
        stored: Ranges::from(3..=3),
        received: Ranges::new(),
        dead: vec![(7, "no_route".into())],
    })
}

fn nack() -> ConsumerOp {
    let batch = Bytes::from_static(BATCH.as_bytes());
    let Ok(Incoming::Batch(batch)) = decode_for_consumer(&batch, &Limits::default()) else {
        panic!("the batch of the session is one")
    };
    let invalid = batch[1].clone().unwrap_err();
    ConsumerOp::Nack {
        n: 4,
        code: invalid.code,
        message: invalid.to_string(),
        retry_after_ms: None,
    }
}

fn seen() -> ProducerOp {
    let mut ranges = Ranges::from(1..=4);
    ranges.insert(7);
    ProducerOp::Seen {
        ranges,
        queue: 2,
        err: 1,
    }
}

fn error() -> ConsumerOp {
    let found = decode_for_consumer(&Bytes::from_static(b"[]"), &Limits::default()).unwrap_err();
    ConsumerOp::Error {
        code: found.code,
        message: found.to_string(),
        n: Some(8),
    }
}

fn session() -> Vec<Step> {
    vec![
        producer("hello", hello()),
        consumer(
            "hello: 1,024 messages and 4 MiB may be unanswered",
            hello_answer(),
        ),
        message("message 1", &first()),
        message("message 2", &second()),
        text("a batch: message 3, and 4, whose priority is wrong", BATCH),
        producer(
            "at: messages 5 and 6 went by the queue file",
            ProducerOp::At { n: 7 },
        ),
        text(
            "message 7, without id and timestamp",
            r#"{"type":"lost","payload":7}"#,
        ),
        consumer("ack: 1 and 2 processed, 3 stored, 7 a dead letter", ack()),
        consumer("nack: 4 is invalid", nack()),
        producer(
            "seen: those five are settled, 2 went by the file, 1 returned Err",
            seen(),
        ),
        consumer("ping", ConsumerOp::Ping),
        producer("pong", ProducerOp::Pong),
        consumer(
            "goodbye: a successor may take 2 s",
            ConsumerOp::Goodbye { ms: 2_000 },
        ),
        text("a batch of nothing: it cannot be counted", "[]"),
        consumer("error, then the connection ends", error()),
    ]
}

/// Wide enough to keep the session on two screens.
const BYTES_A_ROW: usize = 32;

fn render(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        out += match step.from {
            Side::Producer => "> ",
            Side::Consumer => "< ",
        };
        out += step.title;
        out.push('\n');
        for (row, bytes) in step.bytes.chunks(BYTES_A_ROW).enumerate() {
            let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let shown = |byte: &u8| {
                if matches!(byte, 0x20..=0x7e) {
                    *byte as char
                } else {
                    '.'
                }
            };
            let ascii: String = bytes.iter().map(shown).collect();
            out += &format!("{:04x}  {:95}  {ascii}\n", row * BYTES_A_ROW, hex.join(" "));
        }
    }
    out.trim_end().to_owned()
}

/// What each side wrote, read from the hex alone, as frames in order.
fn frames(session: &str) -> Vec<(Side, Bytes)> {
    let mut streams: Vec<(Side, BytesMut)> = Vec::new();
    for line in session.lines() {
        match line.get(..2) {
            Some("> ") => streams.push((Side::Producer, BytesMut::new())),
            Some("< ") => streams.push((Side::Consumer, BytesMut::new())),
            _ => {
                let bytes = line[6..101].split_whitespace();
                let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap());
                streams
                    .last_mut()
                    .expect("a title comes first")
                    .1
                    .extend(bytes);
            }
        }
    }
    let frame = |(from, mut bytes): (Side, BytesMut)| {
        let mut decoder = FrameDecoder::new(FRAME_BYTES_CEILING);
        let frame = decoder.next(&mut bytes).unwrap().expect("a whole frame");
        decoder.end(&bytes).expect("one frame for each title");
        (from, frame)
    };
    streams.into_iter().map(frame).collect()
}

#[test]
fn the_session_is_what_the_encoder_writes() {
    let document = document();
    let expected = render(&session());
    let found = fences(&document, "hex");
    assert_eq!(found.len(), 1);
    assert!(
        found[0] == expected,
        "put this in section 10 of docs/protocol.md:\n{expected}"
    );
}

#[test]
fn the_session_decodes_to_what_its_titles_say() {
    let document = document();
    let limits = Limits::default();
    let mut from_producer = Vec::new();
    let mut from_consumer = Vec::new();
    for (from, frame) in frames(fences(&document, "hex")[0]) {
        match from {
            Side::Producer => from_producer.push(decode_for_consumer(&frame, &limits)),
            Side::Consumer => from_consumer.push(decode_for_producer(&frame).unwrap()),
        }
    }
    let nothing = from_producer.pop().unwrap().unwrap_err();
    assert_eq!(nothing.code, Code::BadFrame);
    let mut from_producer = from_producer.into_iter().map(Result::unwrap);
    let mut next = || from_producer.next().unwrap();

    assert_eq!(next(), Incoming::Op(hello()));
    assert_eq!(next(), Incoming::Message(Ok(first())));
    assert_eq!(next(), Incoming::Message(Ok(second())));
    let Incoming::Batch(batch) = next() else {
        panic!("a batch")
    };
    let third = batch[0].as_ref().unwrap();
    assert_eq!((third.id.as_str(), third.payload.as_str()), ("m3", "null"));
    let fourth = batch[1].as_ref().unwrap_err();
    assert_eq!(
        (fourth.field.as_deref(), fourth.found.as_ref()),
        (Some("priority"), "300")
    );
    assert_eq!(next(), Incoming::Op(ProducerOp::At { n: 7 }));
    let Incoming::Message(Ok(seventh)) = next() else {
        panic!("a message")
    };
    assert!(seventh.id.is_empty() && seventh.timestamp.is_none());
    assert_eq!(next(), Incoming::Op(seen()));
    assert_eq!(next(), Incoming::Op(ProducerOp::Pong));

    let goodbye = ConsumerOp::Goodbye { ms: 2_000 };
    let expected = [
        hello_answer(),
        ack(),
        nack(),
        ConsumerOp::Ping,
        goodbye,
        error(),
    ];
    assert_eq!(from_consumer, expected);
}

#[test]
fn what_the_session_holds_is_encoded_to_the_same_bytes() {
    let document = document();
    for (from, frame) in frames(fences(&document, "hex")[0]) {
        let mut out = BytesMut::new();
        match from {
            Side::Consumer => decode_for_producer(&frame).unwrap().put(&mut out),
            Side::Producer => match decode_for_consumer(&frame, &Limits::default()) {
                Ok(Incoming::Op(op)) => op.put(&mut out),
                Ok(Incoming::Message(Ok(message))) => {
                    put_frame(&mut out, |out| message.encode(out))
                }
                // The batch and the frame of nothing are written by hand.
                _ => continue,
            },
        }
        assert_eq!(out[4..], frame[..]);
    }
}

#[test]
fn every_example_decodes() {
    let document = document();
    for example in fences(&document, "json producer") {
        let read = decode_for_consumer(&example.to_owned().into(), &Limits::default());
        assert!(
            !matches!(read, Err(_) | Ok(Incoming::Message(Err(_)))),
            "{example}: {read:?}"
        );
    }
    for example in fences(&document, "json consumer") {
        let read = decode_for_producer(&example.to_owned().into());
        assert!(read.is_ok(), "{example}: {read:?}");
    }
    for example in fences(&document, "json reply") {
        let read: Reply = serde_json::from_str(example).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), example);
    }
    let count = |info| fences(&document, info).len();
    assert!(
        count("json producer") >= 5 && count("json consumer") >= 6,
        "each op has an example"
    );
    assert!(count("json reply") >= 2);
}

#[test]
fn every_code_and_word_is_in_a_table() {
    let document = document();
    for code in Code::ALL {
        assert!(
            document.contains(&format!("\n| `{code}` |")),
            "section 7 lacks `{code}`"
        );
    }
    let rows = document
        .split("\n## ")
        .find(|part| part.starts_with("7."))
        .unwrap();
    let rows = rows.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, Code::ALL.len(), "section 7 has a row that is no code");
    for outcome in Outcome::ALL {
        assert!(
            document.contains(&format!("`{outcome}`")),
            "`{outcome}` is not explained"
        );
    }
}

#[test]
fn every_limit_in_the_tables_is_the_one_in_force() {
    use spoolway_proto as proto;

    let document = document();
    let limits = Limits::default();
    for (name, value) in [
        ("frame_bytes_max", limits.frame_bytes_max),
        ("message_bytes_max", limits.message_bytes_max),
        ("batch_max", limits.batch_max),
        ("size of a message, fixed part", proto::SIZE_FIXED),
        ("`id`", proto::ID_BYTES_MAX),
        ("`type`", proto::TYPE_BYTES_MAX),
        ("`key`", proto::KEY_BYTES_MAX),
        ("addresses", proto::ADDRESS_BYTES_MAX),
        ("`priority`", usize::from(proto::PRIORITY_MAX)),
        ("headers", proto::HEADERS_MAX),
        ("name of a header", proto::HEADER_NAME_BYTES_MAX),
        ("value of a header", proto::HEADER_VALUE_BYTES_MAX),
        ("unknown members", proto::UNKNOWN_MAX),
        ("name of an unknown member", proto::UNKNOWN_NAME_BYTES_MAX),
        ("times", usize::try_from(proto::TIMESTAMP_MAX.0).unwrap()),
        ("ranges in one list", RANGES_MAX),
        ("ping_every", usize::try_from(PING_EVERY_MS).unwrap()),
        ("silence_max", usize::try_from(SILENCE_MAX_MS).unwrap()),
        ("hold_max", usize::try_from(HOLD_MAX_MS).unwrap()),
        ("resume_grace", usize::try_from(RESUME_GRACE_MS).unwrap()),
    ] {
        let row = format!("\n| {name} | {} |", grouped(value));
        assert!(
            document.contains(&row),
            "docs/protocol.md lacks the row{row}"
        );
    }
}

/// The number with a comma before every three digits.
fn grouped(value: usize) -> String {
    let digits = value.to_string();
    let group = |chunk: &[u8]| String::from_utf8_lossy(chunk).into_owned();
    let groups: Vec<String> = digits.as_bytes().rchunks(3).rev().map(group).collect();
    groups.join(",")
}

#[test]
fn the_document_stays_short() {
    assert!(document().lines().count() < 500);
}
