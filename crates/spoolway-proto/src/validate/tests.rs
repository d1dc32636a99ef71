use std::time::Duration;

use super::*;

fn message() -> Message {
    Message::new("task", &"x").unwrap()
}

fn refusal(message: &Message) -> Option<(Code, Option<String>)> {
    let result = validate_queue_message(message, &Limits::default());
    result
        .err()
        .map(|invalid| (invalid.code, invalid.field.map(Cow::into_owned)))
}

/// Passes at the edge, and one past it is refused in the name of `field`.
fn edge(field: &str, good: &[Message], bad: &[Message]) {
    for message in good {
        assert_eq!(refusal(message), None, "{field}: {message:?}");
    }
    for message in bad {
        let expected = (Code::Invalid, Some(field.to_owned()));
        assert_eq!(refusal(message), Some(expected), "{field}: {message:?}");
    }
}

#[test]
fn id_type_and_key_hold_at_the_edge_and_not_one_past_it() {
    let n = |count: usize| "x".repeat(count);
    let id = |text: &str| message().id(text);
    edge(
        "id",
        &[id(""), id("x"), id(&n(128))],
        &[id(&n(129)), id("a\0"), id("\u{7f}")],
    );
    let kind = |text: String| Message::new(text, &1).unwrap();
    edge(
        "type",
        &[kind(n(1)), kind(n(255))],
        &[kind(n(0)), kind(n(256)), kind("\t".into())],
    );
    let key = |text: &str| message().key(text);
    edge(
        "key",
        &[key("x"), key(&n(255))],
        &[key(""), key(&n(256)), key("a\u{85}")],
    );
}

#[test]
fn addresses_hold_at_the_edge_and_not_one_past_it() {
    type Setter = fn(Message, Box<str>) -> Message;
    let setters: &[(&str, Setter)] = &[
        ("sender", Message::sender),
        ("recipient", Message::recipient),
        ("topic", Message::topic),
        ("folder", Message::folder),
        ("correlation_id", Message::correlation_id),
        ("request_id", Message::request_id),
        ("reply_to", Message::reply_to),
    ];
    for (field, set) in setters {
        let with = |text: String| set(message(), text.into());
        let good = [with("x".repeat(255)), with("é".repeat(127))];
        edge(
            field,
            &good,
            &[
                with(String::new()),
                with("x".repeat(256)),
                with("\r".into()),
            ],
        );
    }
}

#[test]
fn numbers_hold_at_the_edge_and_not_one_past_it() {
    let priority = |n| message().priority(n);
    edge(
        "priority",
        &[priority(0), priority(100)],
        &[priority(101), priority(255)],
    );
    let ttl = |ms| message().ttl(Duration::from_millis(ms));
    edge("ttl_ms", &[ttl(1), ttl(u64::MAX)], &[ttl(0)]);
    let (last, past) = (TIMESTAMP_MAX, Timestamp(TIMESTAMP_MAX.0 + 1));
    assert_eq!(last.to_rfc3339(), "9998-12-31T23:59:59.999Z");
    let made = |at| message().timestamp(at);
    edge(
        "timestamp",
        &[made(Timestamp(0)), made(last)],
        &[made(Timestamp(-1)), made(past)],
    );
    let due = |at| message().deliver_at(at);
    edge(
        "deliver_at",
        &[due(Timestamp(0)), due(last)],
        &[due(Timestamp(-1)), due(past)],
    );
}

#[test]
fn headers_hold_at_the_edge_and_not_one_past_it() {
    let many = |count: usize| (0..count).fold(message(), |m, n| m.header(n.to_string(), "v"));
    let name = |count| message().header("n".repeat(count), "");
    let value = |count| message().header("n", "v".repeat(count));
    let good = [many(64), name(1), name(128), value(0), value(8_192)];
    let control = message().header("a\n", "v");
    edge(
        "headers",
        &good,
        &[many(65), name(0), name(129), value(8_193), control],
    );
}

#[test]
fn unknown_members_hold_at_the_edge_and_not_one_past_it() {
    let with = |names: &mut dyn Iterator<Item = String>| {
        let mut message = message();
        message.unknown = names
            .map(|name| (name, Payload::from_json("1").unwrap()))
            .collect();
        message
    };
    let many = |count: u32| with(&mut (0..count).map(|n| n.to_string()));
    let one = |name: String| with(&mut std::iter::once(name));
    let good = [
        many(64),
        one(String::new()),
        one("n".repeat(255)),
        one("op".into()),
    ];
    let bad = [
        many(65),
        one("n".repeat(256)),
        one("payload".into()),
        one("msg_type".into()),
    ];
    edge("unknown", &good, &bad);
}

#[test]
fn a_key_and_a_delivery_time_exclude_each_other() {
    let both = message().key("k").deliver_at(Timestamp(1));
    edge("deliver_at", &[], std::slice::from_ref(&both));
    let error = validate_queue_message(&both, &Limits::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`deliver_at` is set together with `key`"),
        "{error}"
    );
}

#[test]
fn the_size_holds_at_the_limit_and_not_one_past_it() {
    let message = message();
    let mut limits = Limits {
        message_bytes_max: message.size(),
        ..Limits::default()
    };
    assert_eq!(validate_queue_message(&message, &limits), Ok(()));
    limits.message_bytes_max -= 1;
    let error = validate_queue_message(&message, &limits).unwrap_err();
    assert_eq!((error.code, error.field), (Code::TooLarge, None));
}

#[test]
fn the_first_wrong_member_is_named_with_id_and_wish_for_an_answer() {
    let wrong = message()
        .id("m1")
        .requires_ack(true)
        .priority(200)
        .topic("");
    let error = validate_queue_message(&wrong, &Limits::default()).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("topic"));
    assert_eq!(error.id, Some(MessageId::new("m1").unwrap()));
    assert!(error.requires_ack);
}

#[test]
fn a_valid_message_fits_a_frame_however_it_is_escaped() {
    // Everything that can grow on the wire is bounded: a control character takes six bytes.
    let texts = (HEADER_NAME_BYTES_MAX + HEADER_VALUE_BYTES_MAX) * HEADERS_MAX
        + UNKNOWN_NAME_BYTES_MAX * UNKNOWN_MAX
        + ADDRESS_BYTES_MAX * 9;
    let limits = Limits::default();
    assert!(limits.message_bytes_max + 6 * texts <= limits.frame_bytes_max);
}
