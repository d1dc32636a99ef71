//! A message to JSON: the payload byte for byte, then only the members that are set.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use crate::message::PRIORITY_DEFAULT;
use crate::{AckLevel, Key, Message};

/// The bytes before the value of a member whose name needs no escapes.
macro_rules! member {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

impl Message {
    /// Appends the JSON object of the message.
    ///
    /// The result is canonical: `id`, `type`, `payload`, `timestamp`, then the others in the order
    /// of `docs/protocol.md`, members at their default left out, no white space of its own.
    pub fn encode(&self, out: &mut BytesMut) {
        // The names and quotes of a plain message take less than its fixed share of a window.
        out.reserve(self.size());
        let start = out.len();
        if !self.id.is_empty() {
            put_text(out, member!("id"), self.id.as_str());
        }
        put_text(out, member!("type"), &self.r#type);
        out.put_slice(member!("payload").as_bytes());
        out.put_slice(self.payload.as_bytes());
        if let Some(timestamp) = self.timestamp {
            put_value(out, member!("timestamp"), &timestamp);
        }
        self.put_attributes(out);
        // Every member brings a comma; the first one becomes the brace.
        out[start] = b'{';
        out.put_u8(b'}');
    }

    /// The JSON object of every member but `id`, `type`, `payload` and `timestamp`, which have
    /// columns of their own in the queue file; `None` when no other member is set.
    pub fn encode_attributes(&self) -> Option<String> {
        let mut out = BytesMut::new();
        self.put_attributes(&mut out);
        *out.first_mut()? = b'{';
        out.put_u8(b'}');
        // Only text was written: escaped strings, numbers and payloads.
        Some(String::from_utf8(out.into()).expect("encoded JSON is UTF-8"))
    }

    /// Appends every member without a column, each with a comma before it.
    fn put_attributes(&self, out: &mut BytesMut) {
        let mut text = |member, text: Option<&str>| {
            if let Some(text) = text {
                put_text(out, member, text);
            }
        };
        text(member!("sender"), self.sender.as_deref());
        text(member!("recipient"), self.recipient.as_deref());
        text(member!("topic"), self.topic.as_deref());
        text(member!("folder"), self.folder.as_deref());
        text(member!("key"), self.key.as_ref().map(Key::as_str));
        text(member!("ack"), self.ack.map(AckLevel::as_str));
        text(member!("correlation_id"), self.correlation_id.as_deref());
        text(member!("request_id"), self.request_id.as_deref());
        text(member!("reply_to"), self.reply_to.as_deref());
        if self.priority != PRIORITY_DEFAULT {
            put_value(out, member!("priority"), &self.priority);
        }
        if let Some(ttl_ms) = self.ttl_ms {
            put_value(out, member!("ttl_ms"), &ttl_ms);
        }
        if let Some(deliver_at) = self.deliver_at {
            put_value(out, member!("deliver_at"), &deliver_at);
        }
        if self.requires_ack {
            put_value(out, member!("requires_ack"), &true);
        }
        if !self.headers.is_empty() {
            put_value(out, member!("headers"), &self.headers);
        }
        for (name, value) in &self.unknown {
            out.put_u8(b',');
            put_json(out, name);
            out.put_u8(b':');
            out.put_slice(value.as_bytes());
        }
    }
}

fn put_text(out: &mut BytesMut, member: &'static str, text: &str) {
    out.put_slice(member.as_bytes());
    // Checked without an early exit, so that the loop is vectorised; what needs an escape is rare.
    let plain = text.bytes().fold(true, |plain, byte| {
        plain & (byte >= 0x20) & (byte != b'"') & (byte != b'\\')
    });
    if plain {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        put_json(out, text);
    }
}

fn put_value<T: Serialize>(out: &mut BytesMut, member: &'static str, value: &T) {
    out.put_slice(member.as_bytes());
    put_json(out, value);
}

/// Appends the JSON of a value of this crate.
pub(crate) fn put_json<T: Serialize + ?Sized>(out: &mut BytesMut, value: &T) {
    // Writing to memory cannot fail, and none of our types has a map with keys that are not text.
    serde_json::to_writer(out.writer(), value).expect("values of this crate have a JSON form");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Payload, Timestamp};

    fn text(message: &Message) -> String {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        String::from_utf8(out.into()).unwrap()
    }

    #[test]
    fn a_plain_message_has_only_what_is_set() {
        let message = Message::new("task", &()).unwrap();
        assert_eq!(text(&message), r#"{"type":"task","payload":null}"#);
        assert_eq!(message.encode_attributes(), None);
        let stamped = message.id("m1").timestamp(Timestamp(7));
        assert_eq!(
            text(&stamped),
            r#"{"id":"m1","type":"task","payload":null,"timestamp":7}"#
        );
        assert_eq!(stamped.encode_attributes(), None);
    }

    #[test]
    fn every_member_is_written_once_in_order() {
        let mut message = Message::with_payload("t", Payload::from_json("[ 1 ]").unwrap())
            .id("i")
            .timestamp(Timestamp(-1))
            .sender("s")
            .recipient("r")
            .topic("p")
            .folder("f")
            .key("k")
            .priority(0)
            .ttl(Duration::from_millis(9))
            .deliver_at(Timestamp(8))
            .ack(AckLevel::Stored)
            .requires_ack(true)
            .correlation_id("c")
            .request_id("q")
            .reply_to("y")
            .header("b", "2")
            .header("a", "1");
        message
            .unknown
            .insert("x \"y\"".into(), Payload::from_json("{ }").unwrap());
        let attributes = concat!(
            r#""sender":"s","recipient":"r","topic":"p","folder":"f","key":"k","ack":"stored","#,
            r#""correlation_id":"c","request_id":"q","reply_to":"y","priority":0,"ttl_ms":9,"#,
            r#""deliver_at":8,"requires_ack":true,"headers":{"a":"1","b":"2"},"#,
            r#""x \"y\"":{ }}"#
        );
        let head = r#"{"id":"i","type":"t","payload":[ 1 ],"timestamp":-1,"#;
        assert_eq!(text(&message), format!("{head}{attributes}"));
        assert_eq!(
            message.encode_attributes().unwrap(),
            format!("{{{attributes}")
        );
    }

    #[test]
    fn text_is_escaped() {
        let message = Message::new("a\"\\\n\u{1}é", &"\u{2028}").unwrap();
        assert_eq!(
            text(&message),
            "{\"type\":\"a\\\"\\\\\\n\\u0001é\",\"payload\":\"\u{2028}\"}"
        );
    }
}
