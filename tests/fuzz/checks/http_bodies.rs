//! What an HTTP request says of messages: its query on the first line, the type of its body on the second, its body.

use bytes::Bytes;
use spoolway_consumer::fuzzing::{messages, send};
use spoolway_proto::{Incoming, Limits, decode_for_consumer};

use crate::envelope;

pub(crate) fn check(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == b'\n');
    let (Some(query), Some(content_type), Some(body)) = (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    envelope::check(body);
    let body = Bytes::copy_from_slice(body);
    let limits = Limits {
        batch_max: 100,
        ..Limits::default()
    };
    several(content_type, &body, &limits);
    one(&String::from_utf8_lossy(query), &body, &limits);
}

fn several(content_type: &[u8], body: &Bytes, limits: &Limits) {
    let Some(taken) = messages(content_type, body.clone(), limits) else {
        return;
    };
    assert!((1..=limits.batch_max).contains(&taken.len()));
    for message in taken.iter().flatten() {
        envelope::survives(message);
    }
    // However it is told from lines, one JSON value is what it is on every path.
    match decode_for_consumer(body, limits) {
        Ok(Incoming::Message(message)) => assert_eq!(taken, [message]),
        Ok(Incoming::Batch(batch)) => assert_eq!(taken, batch),
        Ok(Incoming::Op(_)) => assert!(taken.iter().all(Result::is_err)),
        Err(_) => {}
    }
}

fn one(query: &str, body: &Bytes, limits: &Limits) {
    let Some(sent) = send(query, body.clone(), limits) else {
        return;
    };
    if query.is_empty() {
        assert!(sent.is_ok(), "nothing is said of it");
    }
    match sent {
        Ok(message) => {
            assert_eq!(message.payload.as_bytes(), body.trim_ascii());
            envelope::survives(&message);
        }
        Err(invalid) => envelope::is_short(&invalid),
    }
}
