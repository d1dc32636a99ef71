use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::{AckLevel, Code, Invalid, Message, MessageId, Payload, Timestamp, UNKNOWN_MAX};

fn decode(text: &str) -> Result<Message, Invalid> {
    Message::decode(&Bytes::copy_from_slice(text.as_bytes()))
}

/// A message with `members` beside type and payload.
fn with(members: &str) -> Result<Message, Invalid> {
    decode(&format!(r#"{{"type":"t","payload":1,{members}}}"#))
}

fn field(result: Result<Message, Invalid>) -> (Code, String) {
    let invalid = result.unwrap_err();
    (invalid.code, invalid.field.unwrap_or_default().into_owned())
}

fn full() -> Message {
    let mut message = Message::with_payload("t", Payload::from_json(r#"{"a" : 1}"#).unwrap())
        .id("i")
        .timestamp(Timestamp(5))
        .sender("s")
        .recipient("r")
        .topic("p")
        .folder("f")
        .key("k")
        .priority(0)
        .ttl(Duration::from_millis(9))
        .deliver_at(Timestamp(8))
        .ack(AckLevel::Received)
        .requires_ack(true)
        .correlation_id("c")
        .request_id("q")
        .reply_to("y\"\\\n\u{1}é")
        .header("traceparent", "00-\"-01");
    for (name, json) in [
        ("x", "[1, 2]"),
        ("y \"z\"", "null"),
        ("op", "{}"),
        ("é", "1e999"),
    ] {
        message
            .unknown
            .insert(name.into(), Payload::from_json(json).unwrap());
    }
    message
}

#[test]
fn what_was_encoded_is_decoded_again() {
    for message in [
        full(),
        Message::new("t", &()).unwrap(),
        Message::new("\t\"é", &"\0").unwrap(),
    ] {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        let text = out.freeze();
        let read = Message::decode(&text).unwrap();
        assert_eq!(read, message);
        let mut again = BytesMut::new();
        read.encode(&mut again);
        assert_eq!(again, text, "the encoder is canonical");
    }
}

#[test]
fn a_row_gives_back_the_message() {
    for message in [
        full(),
        Message::new("t", &7)
            .unwrap()
            .id("i")
            .timestamp(Timestamp(1)),
    ] {
        let attributes = message.encode_attributes();
        let read = Message::from_row(
            message.id.clone(),
            &*message.r#type,
            message.payload.clone(),
            message.timestamp.unwrap(),
            attributes.as_deref(),
        );
        assert_eq!(read, Ok(message));
    }
}

#[test]
fn attributes_that_do_not_fit_are_an_error_with_their_code() {
    let row = |attributes| {
        let payload = Payload::from_json("1").unwrap();
        let id = MessageId::new("row").unwrap();
        Message::from_row(id, "t", payload, Timestamp(1), Some(attributes))
    };
    for (attributes, code, name) in [
        ("", Code::BadJson, "attributes"),
        ("{", Code::BadJson, "attributes"),
        ("null", Code::Invalid, "attributes"),
        ("[]", Code::Invalid, "attributes"),
        ("[{}]", Code::Invalid, "attributes"),
        (r#"{"id":"other"}"#, Code::Invalid, "attributes"),
        (r#"{"payload":1}"#, Code::Invalid, "attributes"),
        (r#"{"priority":"high"}"#, Code::Invalid, "priority"),
    ] {
        let invalid = row(attributes).unwrap_err();
        assert_eq!(invalid.id.as_ref().map(MessageId::as_str), Some("row"));
        assert_eq!(field(Err(invalid)), (code, name.to_owned()), "{attributes}");
    }
    let lenient = row(r#"{"requestId":"q","priority":200,"key":"","x":1}"#).unwrap();
    assert_eq!(
        (lenient.request_id.as_deref(), lenient.priority),
        (Some("q"), 200)
    );
    assert_eq!(row("{}").unwrap().unknown.len(), 0);
}

#[test]
fn payload_and_unknown_members_share_the_bytes_of_the_frame() {
    let text = Bytes::from_static(br#"{"type":"t","payload": {"a": [1, 2]} ,"x": "y" }"#);
    let message = Message::decode(&text).unwrap();
    assert_eq!(message.payload.as_str(), r#"{"a": [1, 2]}"#);
    assert_eq!(message.payload.as_bytes().as_ptr(), text[23..].as_ptr());
    assert_eq!(
        message.unknown["x"].as_bytes().as_ptr(),
        text[43..].as_ptr()
    );
}

#[test]
fn id_and_timestamp_may_be_absent() {
    let message = decode(r#"{"payload":null,"type":""}"#).unwrap();
    assert!(message.id.is_empty() && message.timestamp.is_none() && message.r#type.is_empty());
    assert_eq!((message.payload.as_str(), message.priority), ("null", 50));
}

#[test]
fn every_alias_is_understood() {
    for name in ["type", "messageType", "msg_type"] {
        let message = decode(&format!(r#"{{"{name}":"t","payload":1}}"#)).unwrap();
        assert_eq!((&*message.r#type, message.unknown.len()), ("t", 0));
    }
    let aliases = concat!(
        r#""requiresAck":true,"groupFolder":"f","#,
        r#""requestId":"q","correlationId":"c""#
    );
    let message = with(aliases).unwrap();
    assert!(message.requires_ack && message.unknown.is_empty());
    assert_eq!(message.folder.as_deref(), Some("f"));
    assert_eq!(message.request_id.as_deref(), Some("q"));
    assert_eq!(message.correlation_id.as_deref(), Some("c"));
    assert_eq!(
        with(r#""\u0074opic":"p""#).unwrap().topic.as_deref(),
        Some("p"),
        "escaped name"
    );
}

#[test]
fn a_member_given_twice_is_refused_under_any_name() {
    let members = [
        ("id", &["id"][..], "\"i\""),
        ("type", &["type", "messageType", "msg_type"], "\"t\""),
        ("payload", &["payload"], "1"),
        ("timestamp", &["timestamp"], "1"),
        ("sender", &["sender"], "\"s\""),
        ("recipient", &["recipient"], "\"r\""),
        ("topic", &["topic"], "\"p\""),
        ("folder", &["folder", "groupFolder"], "\"f\""),
        ("key", &["key"], "\"k\""),
        ("priority", &["priority"], "1"),
        ("ttl_ms", &["ttl_ms"], "1"),
        ("deliver_at", &["deliver_at"], "1"),
        ("ack", &["ack"], "\"stored\""),
        ("requires_ack", &["requires_ack", "requiresAck"], "true"),
        (
            "correlation_id",
            &["correlation_id", "correlationId"],
            "\"c\"",
        ),
        ("request_id", &["request_id", "requestId"], "\"q\""),
        ("reply_to", &["reply_to"], "\"y\""),
        ("headers", &["headers"], "{}"),
    ];
    for (name, names, value) in members {
        for first in names {
            for second in names {
                let text = format!(r#"{{"{first}":{value},"{second}":{value},"x":1}}"#);
                let invalid = decode(&text).unwrap_err();
                assert_eq!(invalid.field.as_deref(), Some(name), "{text}");
                assert!(invalid.found.contains("twice"), "{invalid}");
            }
        }
    }
    assert_eq!(
        field(with(r#""topic":null,"topic":"p""#)).1,
        "topic",
        "null counts as given"
    );
    assert_eq!(
        field(with(r#""x":1,"x":1"#)),
        (Code::Invalid, "unknown".into())
    );
    assert_eq!(
        field(with(r#""headers":{"a":"1","a":"1"}"#)),
        (Code::Invalid, "headers".into())
    );
}

#[test]
fn null_and_empty_text_are_absent_where_a_member_may_be_absent() {
    let names = [
        "sender",
        "recipient",
        "topic",
        "folder",
        "correlation_id",
        "request_id",
    ];
    let plain = decode(r#"{"type":"t","payload":1}"#).unwrap();
    for name in names.into_iter().chain(["reply_to"]) {
        for value in ["null", "\"\""] {
            assert_eq!(
                with(&format!("\"{name}\":{value}")).as_ref(),
                Ok(&plain),
                "{name}"
            );
        }
    }
    let rest = [
        "id",
        "timestamp",
        "key",
        "priority",
        "ttl_ms",
        "deliver_at",
        "ack",
        "headers",
    ];
    for name in rest.into_iter().chain(["requires_ack"]) {
        assert_eq!(
            with(&format!("\"{name}\":null")).as_ref(),
            Ok(&plain),
            "{name}"
        );
    }
    assert_eq!(field(with("\"id\":\"\"")), (Code::Invalid, "id".into()));
}

#[test]
fn a_member_of_the_wrong_kind_is_named_with_what_was_found() {
    for (members, name, found) in [
        (r#""id":7"#, "id", "7"),
        (r#""sender":[1,[2]]"#, "sender", "an array"),
        (r#""topic":{"a":{}}"#, "topic", "an object"),
        (r#""folder":true"#, "folder", "true"),
        (r#""key":1.5"#, "key", "1.5"),
        (r#""priority":300"#, "priority", "300"),
        (r#""priority":-1"#, "priority", "-1"),
        (
            r#""priority":99999999999999999999"#,
            "priority",
            "100000000000000000000",
        ),
        (r#""priority":"high""#, "priority", "\"high\""),
        (r#""ttl_ms":-5"#, "ttl_ms", "-5"),
        (r#""ttl_ms":1.5"#, "ttl_ms", "1.5"),
        (r#""ttl_ms":"5s""#, "ttl_ms", "\"5s\""),
        (r#""timestamp":"yesterday""#, "timestamp", "\"yesterday\""),
        (r#""timestamp":1.5"#, "timestamp", "1.5"),
        (
            r#""timestamp":18446744073709551615"#,
            "timestamp",
            "18446744073709551615",
        ),
        (r#""deliver_at":false"#, "deliver_at", "false"),
        (r#""ack":"done""#, "ack", "\"done\""),
        (r#""ack":1"#, "ack", "1"),
        (r#""requires_ack":"yes""#, "requires_ack", "\"yes\""),
        (r#""headers":[]"#, "headers", "an array"),
        (r#""headers":"a""#, "headers", "a string"),
        (
            r#""headers":{"a":1,"b":{}}"#,
            "headers",
            "an object whose \"a\" is no string",
        ),
    ] {
        let invalid = with(members).unwrap_err();
        assert_eq!(invalid.field.as_deref(), Some(name), "{members}");
        assert_eq!(invalid.found, found, "{members}");
        assert_eq!(invalid.code, Code::Invalid);
    }
}

#[test]
fn what_is_wrong_first_is_named_and_the_rest_still_read() {
    let invalid = with(r#""priority":"x","id":"m9","requires_ack":true,"topic":7"#).unwrap_err();
    assert_eq!(invalid.field.as_deref(), Some("priority"));
    assert_eq!(
        (invalid.id.unwrap().as_str(), invalid.requires_ack),
        ("m9", true)
    );
    assert_eq!(field(with(r#""priority":"x","topic":"#)).0, Code::BadJson);
    assert_eq!(
        with(&format!(r#""id":"{}","topic":7"#, "x".repeat(129)))
            .unwrap_err()
            .id,
        None
    );
}

#[test]
fn missing_members_are_named() {
    assert_eq!(field(decode("{}")), (Code::Invalid, "type".into()));
    assert_eq!(
        field(decode(r#"{"type":null,"payload":1}"#)),
        (Code::Invalid, "type".into())
    );
    assert_eq!(
        field(decode(r#"{"type":"t"}"#)),
        (Code::Invalid, "payload".into())
    );
    for other in ["7", "null", "\"x\"", "true", "[]", "[{}]"] {
        assert_eq!(
            field(decode(other)),
            (Code::Invalid, String::new()),
            "{other}"
        );
    }
}

#[test]
fn unknown_members_are_kept_up_to_a_number() {
    let many = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!("\"m{n}\":{n}")).collect();
        with(&members.join(","))
    };
    let message = many(UNKNOWN_MAX).unwrap();
    assert_eq!(message.unknown["m63"].as_str(), "63");
    assert_eq!(
        field(many(UNKNOWN_MAX + 1)),
        (Code::Invalid, "unknown".into())
    );
}

#[test]
fn times_are_numbers_or_rfc_3339() {
    for (value, millis) in [
        ("1700000000123", 1_700_000_000_123),
        ("0", 0),
        ("-1", -1),
        ("\"2023-11-14T22:13:20.123Z\"", 1_700_000_000_123),
        ("\"2023-11-15T00:13:20.123+02:00\"", 1_700_000_000_123),
    ] {
        let message = with(&format!("\"timestamp\":{value},\"deliver_at\":{value}")).unwrap();
        assert_eq!(message.timestamp, Some(Timestamp(millis)), "{value}");
        assert_eq!(message.deliver_at, Some(Timestamp(millis)), "{value}");
    }
}

#[test]
fn cut_and_damaged_text_never_panics() {
    let mut out = BytesMut::new();
    full().encode(&mut out);
    let text = out.freeze();
    for length in 0..text.len() {
        let error = Message::decode(&text.slice(..length)).unwrap_err();
        assert_eq!(error.code, Code::BadJson, "{length}");
    }
    let mut state = 1u64;
    for _ in 0..20_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut damaged = text.to_vec();
        let at = (state >> 33) as usize % damaged.len();
        damaged[at] = (state >> 25) as u8;
        if let Ok(message) = Message::decode(&damaged.into()) {
            assert!(!message.payload.as_str().is_empty());
        }
    }
}
