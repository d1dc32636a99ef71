//! What a query says of the message of `POST /send`.

use std::time::Duration;

use form_urlencoded::parse;
use spoolway_proto::{AckLevel, Code, Invalid, Limits, Message, Timestamp, validate_queue_message};

const NAMES: &str = "`type`, `id`, `timestamp`, `sender`, `recipient`, `topic`, `folder`, `key`, `priority`, `ttl_ms`, \
     `deliver_at`, `ack`, `correlation_id`, `request_id` or `reply_to`";

/// The message with what the query says of it.
pub(crate) fn message(
    query: &str,
    mut message: Message,
    limits: &Limits,
) -> Result<Message, Invalid> {
    let mut seen = Vec::new();
    for (name, value) in parse(query.as_bytes()) {
        if seen.contains(&name) {
            let found = format!("{} given twice", Invalid::quote(&name));
            return Err(Invalid::new(Code::Invalid, found, "each once").in_field("query"));
        }
        message = set(message, &name, &value).map_err(|invalid| match invalid.field {
            Some(_) => invalid,
            None => invalid.in_field(name.to_string()),
        })?;
        seen.push(name);
    }
    validate_queue_message(&message, limits)?;
    Ok(message)
}

fn set(mut message: Message, name: &str, value: &str) -> Result<Message, Invalid> {
    // As in JSON, an address that is empty is none.
    let address = || (!value.is_empty()).then(|| value.into());
    match name {
        "type" => message.r#type = value.into(),
        "id" if !value.is_empty() => message = message.id(value),
        "id" => {
            return Err(Invalid::new(
                Code::Invalid,
                "empty",
                "text of 1 to 128 bytes",
            ));
        }
        "timestamp" => message.timestamp = Some(moment(value)?),
        "sender" => message.sender = address(),
        "recipient" => message.recipient = address(),
        "topic" => message.topic = address(),
        "folder" => message.folder = address(),
        "key" => message = message.key(value),
        "priority" => message.priority = number(value, "0 to 100")?,
        "ttl_ms" => {
            let ttl = number(value, "a whole number of milliseconds above 0")?;
            message = message.ttl(Duration::from_millis(ttl));
        }
        "deliver_at" => message.deliver_at = Some(moment(value)?),
        "ack" => message.ack = Some(value.parse::<AckLevel>()?),
        "correlation_id" => message.correlation_id = address(),
        "request_id" => message.request_id = address(),
        "reply_to" => message.reply_to = address(),
        other => {
            let found = Invalid::quote(other);
            return Err(Invalid::new(Code::Invalid, found, NAMES).in_field("query"));
        }
    }
    Ok(message)
}

fn number<T: std::str::FromStr>(value: &str, allowed: &'static str) -> Result<T, Invalid> {
    value
        .parse()
        .map_err(|_| Invalid::new(Code::Invalid, Invalid::quote(value), allowed))
}

fn moment(value: &str) -> Result<Timestamp, Invalid> {
    match value.parse() {
        Ok(millis) => Ok(Timestamp(millis)),
        Err(_) => Timestamp::from_rfc3339(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Message, Invalid> {
        let plain = Message::new("message", &[1]).unwrap();
        message(query, plain, &Limits::default())
    }

    #[test]
    fn every_attribute_can_be_named() {
        let expected = Message::new("t t", &[1])
            .unwrap()
            .id("i")
            .timestamp(Timestamp(7))
            .sender("s")
            .recipient("r")
            .topic("p")
            .folder("f")
            .key("k&k")
            .priority(1)
            .ttl(Duration::from_millis(9))
            .ack(AckLevel::Stored)
            .correlation_id("c")
            .request_id("q")
            .reply_to("y");
        let query = "type=t+t&id=i&timestamp=7&sender=s&recipient=r&topic=p&folder=f&key=k%26k&priority=1\
                     &ttl_ms=9&ack=stored&correlation_id=c&request_id=q&reply_to=y";
        assert_eq!(read(query), Ok(expected));
        let later = read("deliver_at=2026-01-01T00:00:00Z&topic=").unwrap();
        assert_eq!(later.deliver_at, Some(Timestamp(1_767_225_600_000)));
        assert_eq!((&*later.r#type, later.topic), ("message", None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, field) in [
            ("type=", "type"),
            ("id=", "id"),
            ("key=", "key"),
            ("priority=x", "priority"),
            ("priority=101", "priority"),
            ("priority=-1", "priority"),
            ("ttl_ms=0", "ttl_ms"),
            ("ttl_ms=1.5", "ttl_ms"),
            ("ack=never", "ack"),
            ("deliver_at=tomorrow", "deliver_at"),
            ("Type=x", "query"),
            ("type=a&type=b", "query"),
            ("key=k&deliver_at=1", "deliver_at"),
        ] {
            let invalid = read(query).unwrap_err();
            assert_eq!(invalid.field.as_deref(), Some(field), "{query}: {invalid}");
            assert_eq!(invalid.code, Code::Invalid, "{query}");
        }
    }
}
