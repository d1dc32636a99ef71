//! One frame or line: read as JSON says it is, refused in a few words, and the same after a round trip.

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use serde_json::value::RawValue;
use spoolway_proto::{
    Code, Incoming, Invalid, Limits, Message, MessageId, Timestamp, decode_for_consumer,
    decode_for_producer, validate_queue_message,
};

/// Room for the piece that a refusal quotes, every character of it escaped, and the sentence around it.
const REFUSAL_BYTES_MAX: usize = 1_024;

pub(crate) fn check(body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let small = Limits {
        message_bytes_max: 160,
        batch_max: 3,
        ..Limits::default()
    };
    let taken = decode_for_consumer(&body, &Limits::default());
    let narrow = decode_for_consumer(&body, &small);
    counts_as_json_does(&body, &taken);
    for incoming in [taken, narrow] {
        match incoming {
            Ok(Incoming::Message(message)) => sound(&message),
            Ok(Incoming::Batch(batch)) => batch.iter().for_each(sound),
            Ok(Incoming::Op(op)) => {
                let mut out = BytesMut::new();
                op.put(&mut out);
                let again = decode_for_consumer(&out.freeze().slice(4..), &Limits::default());
                assert_eq!(again, Ok(Incoming::Op(op)));
            }
            Err(invalid) => is_short(&invalid),
        }
    }
    match decode_for_producer(&body) {
        Ok(op) => {
            let mut out = BytesMut::new();
            op.put(&mut out);
            assert_eq!(decode_for_producer(&out.freeze().slice(4..)), Ok(op));
        }
        Err(invalid) => is_short(&invalid),
    }
}

/// What is JSON is told from what is not, and an array takes as many numbers as it has elements.
fn counts_as_json_does(body: &[u8], taken: &Result<Incoming, Invalid>) {
    let code = taken.as_ref().err().map(|invalid| invalid.code);
    if serde_json::from_slice::<&RawValue>(body).is_err() {
        assert_eq!(code, Some(Code::BadJson), "it is not JSON");
        return;
    }
    // It refuses some JSON that is taken here: what nests deep.
    match serde_json::from_slice(body) {
        Ok(Value::Array(all)) if !all.is_empty() => {
            assert!(matches!(taken, Ok(Incoming::Batch(batch)) if batch.len() == all.len()));
        }
        Ok(Value::Object(_)) => assert!(
            matches!(taken, Ok(Incoming::Message(_) | Incoming::Op(_)))
                || matches!(code, Some(Code::BadOp | Code::UnknownOp)),
            "an object: {taken:?}"
        ),
        Ok(_) => assert_eq!(code, Some(Code::BadFrame), "{taken:?}"),
        Err(_) => {}
    }
}

fn sound(message: &Result<Message, Invalid>) {
    match message {
        Ok(message) => survives(message),
        Err(invalid) => is_short(invalid),
    }
}

/// A refusal goes to the peer and into the log: it is one line, and no payload.
pub(crate) fn is_short(invalid: &Invalid) {
    let sentence = invalid.to_string();
    assert!(
        sentence.len() <= REFUSAL_BYTES_MAX && !sentence.contains(char::is_control),
        "{} bytes: {sentence:.2000}",
        sentence.len()
    );
}

/// A message is the same behind the socket, and behind the queue file.
pub(crate) fn survives(message: &Message) {
    let limits = Limits::default();
    assert_eq!(validate_queue_message(message, &limits), Ok(()));

    let mut out = BytesMut::new();
    message.encode(&mut out);
    let text = out.freeze();
    let again = decode_for_consumer(&text, &limits);
    assert_eq!(
        again,
        Ok(Incoming::Message(Ok(message.clone()))),
        "{text:?}"
    );
    let again = Message::decode(&text).expect("a message that was decoded is one");
    let mut out = BytesMut::new();
    again.encode(&mut out);
    assert_eq!(out, text, "there is one way to write a message");

    let mut stored = message.clone();
    stored.stamp(Timestamp(1), || MessageId::v7(1, [0; 10]));
    stored.detach();
    let row = Message::from_row(
        stored.id.clone(),
        stored.r#type.clone(),
        stored.payload.clone(),
        stored.timestamp.unwrap_or_default(),
        stored.encode_attributes().as_deref(),
    );
    assert_eq!(row.as_ref(), Ok(&stored), "from a row");
    assert_eq!(row.map(|row| row.crc()), Ok(stored.crc()));
}
