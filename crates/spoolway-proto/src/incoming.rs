//! What a frame holds, seen from each end.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::decode::{Object, Parsed, not_json, parse};
use crate::payload::utf8;
use crate::{
    Code, ConsumerOp, Invalid, Limits, Message, Payload, ProducerOp, validate_queue_message,
};

/// What a frame from a producer holds. Each message takes one number, also one that is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// One message.
    Message(Result<Message, Invalid>),
    /// An array of messages, at least one.
    Batch(Vec<Result<Message, Invalid>>),
    /// A control object.
    Op(ProducerOp),
}

/// Reads a frame that a producer sent, and validates its messages.
///
/// An object with an `op` and no `type` is a control object; every other object is a message, if
/// perhaps an invalid one. One with a `command` and neither `type` nor `op` is a message of type
/// [`COMMAND`](crate::COMMAND), the whole object its payload. Elements of an array are messages only.
///
/// # Errors
///
/// When it is unknown how many numbers the frame takes, or an op cannot be followed: the connection
/// ends with an `error` of that code.
pub fn decode_for_consumer(frame: &Bytes, limits: &Limits) -> Result<Incoming, Invalid> {
    let mut object = Object::new();
    match parse(frame, limits.batch_max, &mut object)? {
        Parsed::Object if object.is_op() => decode_op(frame).map(Incoming::Op),
        Parsed::Object => {
            if object.is_command() {
                object.make_command(Payload::whole(frame));
            }
            let checked = object
                .check()
                .and_then(|()| validate_queue_message(&object.message, limits));
            Ok(Incoming::Message(checked.map(|()| object.message)))
        }
        Parsed::Array(batch) if batch.is_empty() => Err(no_frame("an empty array")),
        Parsed::Array(mut batch) => {
            if batch.iter().any(is_untyped) {
                find_commands(frame, &mut batch);
            }
            for result in &mut batch {
                if let Ok(message) = result
                    && let Err(invalid) = validate_queue_message(message, limits)
                {
                    *result = Err(invalid);
                }
            }
            Ok(Incoming::Batch(batch))
        }
        Parsed::Other(found) => Err(no_frame(found)),
    }
}

/// Whether the element of a batch may be a command, which has no `type`.
fn is_untyped(element: &Result<Message, Invalid>) -> bool {
    matches!(element, Err(Invalid { field: Some(field), .. }) if field == "type")
}

/// Reads the elements without `type` again, each by itself: the text of a command is its payload.
fn find_commands(frame: &Bytes, batch: &mut [Result<Message, Invalid>]) {
    // It was read as an array once.
    let Ok(texts) = serde_json::from_slice::<Vec<&RawValue>>(frame) else {
        return;
    };
    for (element, text) in batch.iter_mut().zip(texts) {
        let text = frame.slice_ref(text.get().as_bytes());
        let mut object = Object::new();
        if is_untyped(element)
            && matches!(parse(&text, 0, &mut object), Ok(Parsed::Object))
            && object.is_command()
        {
            object.make_command(Payload::whole(&text));
            *element = object.check().map(|()| object.message);
        }
    }
}

/// Reads a frame that a consumer sent.
///
/// # Errors
///
/// When it is not a control object that this version knows: the producer closes the connection.
pub fn decode_for_producer(frame: &Bytes) -> Result<ConsumerOp, Invalid> {
    decode_op(frame)
}

fn no_frame(found: &'static str) -> Invalid {
    Invalid::new(
        Code::BadFrame,
        found,
        "a message, an array of messages or a control object",
    )
}

/// The ops of one direction.
pub(crate) trait Op: for<'de> Deserialize<'de> {
    /// The names of the ops, for the error text.
    const NAMES: &'static str;
    /// Whether there is an op of that name.
    fn is_known(name: &str) -> bool;
    /// The op that is sent most, read without the buffering that a tag needs.
    fn decode_frequent(name: &str, text: &str) -> Option<serde_json::Result<Self>>;
}

fn decode_op<T: Op>(frame: &Bytes) -> Result<T, Invalid> {
    #[derive(Deserialize)]
    struct Tag<'a> {
        #[serde(borrow)]
        op: Cow<'a, str>,
    }

    let text = utf8(frame)?;
    let tag: Tag<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            Invalid::new(Code::BadOp, brief(&error), "an object with a string `op`")
        }
        _ => not_json(&error),
    })?;
    if !T::is_known(&tag.op) {
        let found = Invalid::quote(&tag.op);
        return Err(Invalid::new(Code::UnknownOp, found, T::NAMES).in_field("op"));
    }
    T::decode_frequent(&tag.op, text)
        .unwrap_or_else(|| serde_json::from_str(text))
        .map_err(|error| {
            let found = format!("{} with {}", Invalid::quote(&tag.op), brief(&error));
            Invalid::new(Code::BadOp, found, "the members of that op").in_field("op")
        })
}

/// What a parser says, without the rest of a long value that it quotes.
fn brief(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if let Some((end, _)) = text.char_indices().nth(BRIEF_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The sentences of parsers are shorter, but for the value in them.
const BRIEF_CHARS_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ack, COMMAND, Ranges};

    fn read(text: &str) -> Result<Incoming, Invalid> {
        decode_for_consumer(&Bytes::copy_from_slice(text.as_bytes()), &Limits::default())
    }

    fn batch(text: &str) -> Vec<Result<Message, Invalid>> {
        match read(text) {
            Ok(Incoming::Batch(batch)) => batch,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_op_is_an_object_with_op_and_without_type() {
        for ping in [
            r#"{"op":"ping"}"#,
            r#" { "later" : [1], "op" : "ping" } "#,
            r#"{"\u006fp":"ping"}"#,
            r#"{"op":"ping","type":null}"#,
        ] {
            assert_eq!(read(ping), Ok(Incoming::Op(ProducerOp::Ping)), "{ping}");
        }
        for kind in ["type", "messageType", "msg_type"] {
            let text = format!(r#"{{"op":"ping","{kind}":"t","payload":1}}"#);
            let Ok(Incoming::Message(Ok(message))) = read(&text) else {
                panic!("{text}")
            };
            assert_eq!(
                message.unknown["op"],
                Payload::from_json("\"ping\"").unwrap()
            );
        }
        let many: String = (0..100).map(|n| format!("\"m{n}\":0,")).collect();
        let late = format!(r#"{{{many}"op":"ping"}}"#);
        assert_eq!(
            read(&late),
            Ok(Incoming::Op(ProducerOp::Ping)),
            "op behind many members"
        );
    }

    #[test]
    fn an_object_that_is_neither_is_an_invalid_message_with_a_number() {
        for text in [
            "{}",
            r#"{"payload":1}"#,
            r#"{"type":"t"}"#,
            r#"{"type":7,"op":"ping"}"#,
        ] {
            let Ok(Incoming::Message(Err(invalid))) = read(text) else {
                panic!("{text}")
            };
            assert_eq!(invalid.code, Code::Invalid, "{text}");
        }
    }

    #[test]
    fn a_command_is_a_message_whose_payload_is_the_whole_object() {
        let text =
            r##"{"command":"privmsg","target":"#ruby","message":"hi","id":"m1","payload":1}"##;
        for text in [text.to_owned(), format!(" {text}\t")] {
            let Ok(Incoming::Message(Ok(message))) = read(&text) else {
                panic!("{text}")
            };
            assert_eq!((&*message.r#type, message.id.as_str()), (COMMAND, "m1"));
            assert_eq!(message.payload.as_str(), text.trim());
            assert!(message.unknown.is_empty(), "they are in the payload");
        }
        let good = r#"{"type":"t","payload":1}"#;
        let some = batch(&format!("[{good}, {text} ,{{}}]"));
        assert!(some[0].is_ok() && some[2].is_err());
        assert_eq!(some[1].as_ref().unwrap().payload.as_str(), text);
        for other in [
            r#"{"command":"x","type":"t","payload":1}"#,
            r#"{"command":"x","op":"ping"}"#,
        ] {
            match read(other) {
                Ok(Incoming::Message(Ok(message))) => assert_eq!(&*message.r#type, "t"),
                other => assert_eq!(other, Ok(Incoming::Op(ProducerOp::Ping))),
            }
        }
        for wrong in ["7", "null", "\"\"", "{}"] {
            let text = format!(r#"{{"command":{wrong},"id":"m1"}}"#);
            let Ok(Incoming::Message(Err(invalid))) = read(&text) else {
                panic!("{text}")
            };
            assert_eq!(invalid.field.as_deref(), Some("command"), "{text}");
            assert_eq!(invalid.id.unwrap().as_str(), "m1");
        }
    }

    #[test]
    fn messages_are_validated() {
        let text = r#"{"id":"m1","type":"t","payload":1,"priority":101,"requires_ack":true}"#;
        let Ok(Incoming::Message(Err(invalid))) = read(text) else {
            panic!("{text}")
        };
        assert_eq!(invalid.field.as_deref(), Some("priority"));
        assert_eq!(
            (invalid.id.unwrap().as_str(), invalid.requires_ack),
            ("m1", true)
        );
        let small = Limits {
            message_bytes_max: 104,
            ..Limits::default()
        };
        let frame = Bytes::from_static(br#"{"type":"type","payload":1}"#);
        let Ok(Incoming::Message(Err(invalid))) = decode_for_consumer(&frame, &small) else {
            panic!("64 for itself, 36 for the id, 4 for the type and 1 for the payload")
        };
        assert_eq!(invalid.code, Code::TooLarge);
    }

    #[test]
    fn every_element_of_a_batch_takes_a_number_good_or_bad() {
        let good = r#"{"type":"t","payload":[1]}"#;
        let bad = [
            "null",
            "7",
            "-7",
            "1.5",
            "true",
            "\"text\"",
            "[]",
            "[[{}]]",
            "{}",
            r#"{"op":"ping"}"#,
            r#"{"type":"","payload":1}"#,
            r#"{"type":"t","payload":1,"key":"k","deliver_at":1}"#,
        ];
        let text = format!("[{good},{},{good}]", bad.join(","));
        let batch = batch(&text);
        assert_eq!(batch.len(), bad.len() + 2);
        assert!(batch[0].is_ok() && batch[bad.len() + 1].is_ok());
        for (text, result) in bad.iter().zip(&batch[1..]) {
            assert!(
                matches!(
                    result,
                    Err(Invalid {
                        code: Code::Invalid,
                        ..
                    })
                ),
                "{text}"
            );
        }
        let op = batch[10].as_ref().unwrap_err().to_string();
        assert!(op.contains("a control object"), "{op}");
    }

    #[test]
    fn a_batch_holds_at_its_limit_and_not_one_past_it() {
        let limits = Limits {
            batch_max: 3,
            ..Limits::default()
        };
        let read = |count: usize| {
            let text = format!("[{}]", vec!["{}"; count].join(","));
            decode_for_consumer(&text.into(), &limits)
        };
        assert!(matches!(read(3), Ok(Incoming::Batch(batch)) if batch.len() == 3));
        assert_eq!(read(4).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn what_cannot_be_counted_is_an_error() {
        for (text, code) in [
            ("[]", Code::BadFrame),
            (" [ ] ", Code::BadFrame),
            ("7", Code::BadFrame),
            ("null", Code::BadFrame),
            ("\"hello\"", Code::BadFrame),
            ("", Code::BadJson),
            (" ", Code::BadJson),
            ("{", Code::BadJson),
            (r#"{"type":"t","payload":}"#, Code::BadJson),
            (r#"{"type":"t","payload":1}{"#, Code::BadJson),
            (
                r#"{"type":"t","payload":1} {"type":"t","payload":1}"#,
                Code::BadJson,
            ),
            (r#"[{"type":"t","payload":1},]"#, Code::BadJson),
            (r#"[{"type":"t","payload":1}"#, Code::BadJson),
            (r#"{"op":"ping"}x"#, Code::BadJson),
            (r#"{"op":"deliver","n":1}"#, Code::UnknownOp),
            (r#"{"op":"Ping"}"#, Code::UnknownOp),
            (r#"{"op":7}"#, Code::BadOp),
            (r#"{"op":"ping","op":"pong"}"#, Code::BadOp),
            (r#"{"op":"at"}"#, Code::BadOp),
            (r#"{"op":"at","n":-1}"#, Code::BadOp),
            (r#"{"op":"at","n":9223372036854775808}"#, Code::BadOp),
            (r#"{"op":"seen","ranges":[[2,1]]}"#, Code::BadOp),
        ] {
            assert_eq!(
                read(text).map_err(|invalid| invalid.code),
                Err(code),
                "{text}"
            );
        }
        let frame = Bytes::from_static(b"{\"type\":\"\xff\",\"payload\":1}");
        let error = decode_for_consumer(&frame, &Limits::default()).unwrap_err();
        assert_eq!(error.code, Code::BadJson);
        let long = "x".repeat(100_000);
        for text in [
            format!(r#"{{"op":"at","n":"{long}"}}"#),
            format!(r#"{{"op":"hello","producer":"{long}"}}"#),
            format!(r#"{{"op":"{long}"}}"#),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.len() < 500, "{} bytes", error.len());
        }
        let error = read(r#"{"op":"deliver"}"#).unwrap_err().to_string();
        assert!(error.contains("\"deliver\""), "it names the op: {error}");
    }

    #[test]
    fn deep_nesting_anywhere_does_not_exhaust_the_stack() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let objects = r#"{"a":"#.repeat(200_000) + "1" + &"}".repeat(200_000);
        for value in [&deep, &objects] {
            for text in [
                format!(r#"{{"type":"t","payload":{value}}}"#),
                format!(r#"{{"type":"t","payload":1,"x":{value}}}"#),
                format!(r#"{{"type":{value},"payload":1}}"#),
                format!(r#"{{"type":"t","payload":1,"headers":{{"h":{value}}}}}"#),
                format!(r#"{{"op":{value}}}"#),
                format!(r#"{{"op":"ping","x":{value}}}"#),
                format!(r#"{{"op":"seen","ranges":{value}}}"#),
                value.clone(),
                format!("[{value}]"),
            ] {
                let _ = read(&text);
                let _ = decode_for_producer(&text.into());
            }
        }
        let text = format!(r#"{{"type":"t","payload":{deep}}}"#);
        assert!(
            matches!(read(&text), Ok(Incoming::Message(Ok(_)))),
            "it is valid JSON"
        );
    }

    #[test]
    fn a_producer_reads_control_objects_only() {
        let read = |text: &str| decode_for_producer(&Bytes::copy_from_slice(text.as_bytes()));
        let ack = Ack {
            processed: Ranges::from(1..=64),
            ..Ack::default()
        };
        assert_eq!(
            read(r#"{"op":"ack","processed":[[1,64]]}"#),
            Ok(ConsumerOp::Ack(ack.clone()))
        );
        let spread = r#"{"dead":[],"stored":[],"later":{},"processed":[[1,64]],"op":"ack"}"#;
        assert_eq!(read(spread), Ok(ConsumerOp::Ack(ack)));
        for (text, code) in [
            ("[]", Code::BadOp),
            (r#"{"type":"t","payload":1}"#, Code::BadOp),
            (r#"{"op":"seen","ranges":[]}"#, Code::UnknownOp),
            (r#"{"op":"ack","processed":[[1,2],[2,3]]}"#, Code::BadOp),
            (r#"{"op":"nack","n":1}"#, Code::BadOp),
            ("{", Code::BadJson),
        ] {
            assert_eq!(
                read(text).map_err(|invalid| invalid.code),
                Err(code),
                "{text}"
            );
        }
    }
}
