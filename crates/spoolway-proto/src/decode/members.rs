//! The members of a message: their names, their aliases, and what each takes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{self, Deserialize, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::scalars;
use crate::message::COMMAND;
use crate::validate::{HEADERS_MAX, PRIORITY_ALLOWED, TTL_ALLOWED, TYPE_BYTES_MAX, UNKNOWN_MAX};
use crate::{AckLevel, Code, Invalid, Key, Message, MessageId, Payload, Timestamp};

/// A known member, as a bit so that duplicates cost one `and`.
#[derive(Clone, Copy, PartialEq)]
#[repr(u32)]
enum Member {
    Id = 1 << 0,
    Type = 1 << 1,
    Payload = 1 << 2,
    Timestamp = 1 << 3,
    Sender = 1 << 4,
    Recipient = 1 << 5,
    Topic = 1 << 6,
    Folder = 1 << 7,
    Key = 1 << 8,
    Priority = 1 << 9,
    TtlMs = 1 << 10,
    DeliverAt = 1 << 11,
    Ack = 1 << 12,
    RequiresAck = 1 << 13,
    CorrelationId = 1 << 14,
    RequestId = 1 << 15,
    ReplyTo = 1 << 16,
    Headers = 1 << 17,
}

/// The member of that name or alias, and its name.
fn member(name: &str) -> Option<(Member, &'static str)> {
    Some(match name {
        "id" => (Member::Id, "id"),
        "type" | "messageType" | "msg_type" => (Member::Type, "type"),
        "payload" => (Member::Payload, "payload"),
        "timestamp" => (Member::Timestamp, "timestamp"),
        "sender" => (Member::Sender, "sender"),
        "recipient" => (Member::Recipient, "recipient"),
        "topic" => (Member::Topic, "topic"),
        "folder" | "groupFolder" => (Member::Folder, "folder"),
        "key" => (Member::Key, "key"),
        "priority" => (Member::Priority, "priority"),
        "ttl_ms" => (Member::TtlMs, "ttl_ms"),
        "deliver_at" => (Member::DeliverAt, "deliver_at"),
        "ack" => (Member::Ack, "ack"),
        "requires_ack" | "requiresAck" => (Member::RequiresAck, "requires_ack"),
        "correlation_id" | "correlationId" => (Member::CorrelationId, "correlation_id"),
        "request_id" | "requestId" => (Member::RequestId, "request_id"),
        "reply_to" => (Member::ReplyTo, "reply_to"),
        "headers" => (Member::Headers, "headers"),
        _ => return None,
    })
}

/// Whether a member of that name is read as one of the envelope.
pub(crate) fn is_known(name: &str) -> bool {
    member(name).is_some()
}

/// The name of a member as it stands in the text.
enum Name {
    Known(Member, &'static str),
    Unknown(String),
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyName;

        impl Visitor<'_> for AnyName {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a member")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match member(name) {
                    Some((member, name)) => Name::Known(member, name),
                    None => Name::Unknown(name.to_owned()),
                })
            }
        }

        deserializer.deserialize_identifier(AnyName)
    }
}

/// An object that was read to its end, whatever may be wrong with it.
pub(crate) struct Object {
    pub(crate) message: Message,
    /// The known members that were given, as bits; those of value null too.
    seen: u32,
    typed: bool,
    op: bool,
    command: bool,
    wrong: Option<Invalid>,
}

impl Object {
    pub(crate) fn new() -> Self {
        Self {
            message: Message::with_payload("", Payload::NULL),
            seen: 0,
            typed: false,
            op: false,
            command: false,
            wrong: None,
        }
    }

    pub(super) fn read<'de, A: MapAccess<'de>>(
        &mut self,
        source: &Bytes,
        mut map: A,
    ) -> Result<(), A::Error> {
        while let Some(name) = map.next_key()? {
            match name {
                Name::Unknown(name) => {
                    let value = Payload::slice(source, map.next_value::<&RawValue>()?);
                    self.add_unknown(name, value);
                }
                Name::Known(member, name) => {
                    let result = if self.seen & member as u32 != 0 {
                        map.next_value::<IgnoredAny>()?;
                        Err(wrong(
                            "given twice, perhaps under an alias",
                            "one of that name",
                        ))
                    } else if member == Member::Payload {
                        let raw = map.next_value::<&RawValue>()?;
                        self.message.payload = Payload::slice(source, raw);
                        Ok(())
                    } else if member == Member::Headers {
                        map.next_value::<Headers>()?
                            .0
                            .map(|read| self.message.headers = read)
                    } else {
                        self.set(member, map.next_value()?)
                    };
                    self.seen |= member as u32;
                    self.note(result, name);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, result: Result<(), Invalid>, field: &'static str) {
        if let Err(invalid) = result
            && self.wrong.is_none()
        {
            self.wrong = Some(invalid.in_field(field));
        }
    }

    fn add_unknown(&mut self, name: String, value: Payload) {
        self.op |= name == "op";
        self.command |= name == "command";
        let unknown = &mut self.message.unknown;
        let result = if unknown.contains_key(&name) {
            Err(wrong(
                format!("{} given twice", Invalid::quote(&name)),
                "one member of a name",
            ))
        } else if unknown.len() == UNKNOWN_MAX {
            // Not kept, so that a frame of tiny members cannot grow to many times its size.
            Err(wrong(
                "more than 64 members",
                "64 members this version does not know",
            ))
        } else {
            unknown.insert(name, value);
            Ok(())
        };
        self.note(result, "unknown");
    }

    fn set(&mut self, member: Member, given: Given<'_>) -> Result<(), Invalid> {
        let message = &mut self.message;
        match member {
            Member::Id => match given {
                Given::Null => {}
                Given::Text(text) if !text.is_empty() => message.id = MessageId::unchecked(&text),
                other => return Err(other.instead_of(MessageId::ALLOWED)),
            },
            Member::Type => match given {
                Given::Null => {}
                given => {
                    self.typed = true;
                    message.r#type = given.required_text()?;
                }
            },
            Member::Key => match given {
                Given::Null => {}
                Given::Text(text) => message.key = Some(Key::unchecked(&text)),
                other => return Err(other.instead_of(Key::ALLOWED)),
            },
            Member::Timestamp => message.timestamp = given.moment()?,
            Member::DeliverAt => message.deliver_at = given.moment()?,
            Member::Sender => message.sender = given.text()?,
            Member::Recipient => message.recipient = given.text()?,
            Member::Topic => message.topic = given.text()?,
            Member::Folder => message.folder = given.text()?,
            Member::CorrelationId => message.correlation_id = given.text()?,
            Member::RequestId => message.request_id = given.text()?,
            Member::ReplyTo => message.reply_to = given.text()?,
            Member::Priority => match given {
                Given::Null => {}
                Given::Number(n @ 0..=255) => message.priority = n as u8,
                other => return Err(other.instead_of(PRIORITY_ALLOWED)),
            },
            Member::TtlMs => match given {
                Given::Null => {}
                Given::Number(ms) => message.ttl_ms = Some(ms),
                other => return Err(other.instead_of(TTL_ALLOWED)),
            },
            Member::Ack => match given {
                Given::Null => {}
                Given::Text(text) => message.ack = Some(text.parse::<AckLevel>()?),
                other => return Err(other.instead_of("`received`, `stored` or `processed`")),
            },
            Member::RequiresAck => match given {
                Given::Null => {}
                Given::Bool(wish) => message.requires_ack = wish,
                other => return Err(other.instead_of("true or false")),
            },
            // These two are read without a `Given` in between.
            Member::Payload | Member::Headers => {}
        }
        Ok(())
    }

    /// Whether this is a control object: it has an `op` and no `type`.
    pub(crate) fn is_op(&self) -> bool {
        self.op && !self.typed
    }

    /// Whether this is a command: it has a `command`, no `type` and no `op`.
    pub(crate) fn is_command(&self) -> bool {
        self.command && !self.typed && !self.op
    }

    /// Makes the message of a command: `text`, the whole object, is its payload.
    pub(crate) fn make_command(&mut self, text: Payload) {
        let name = self.message.unknown.remove("command");
        let name = name.map(|name| name.decode::<Cow<'_, str>>());
        if !matches!(name, Some(Ok(name)) if (1..=TYPE_BYTES_MAX).contains(&name.len())) {
            let result = Err(wrong("no such text", "a string of 1 to 255 bytes"));
            self.note(result, "command");
        }
        // What it says beside the envelope is in the payload.
        self.message.unknown.clear();
        self.message.r#type = COMMAND.into();
        self.message.payload = text;
        self.typed = true;
        self.seen |= Member::Payload as u32;
    }

    /// Says the first thing that is wrong with the message, with its id and its wish for an answer.
    pub(crate) fn check(&mut self) -> Result<(), Invalid> {
        let mut invalid = if self.is_op() {
            wrong("a control object", "a message with `type` and `payload`")
        } else if let Some(invalid) = self.wrong.take() {
            invalid
        } else if !self.typed {
            wrong("missing", "a string").in_field("type")
        } else if self.seen & Member::Payload as u32 == 0 {
            wrong("missing", "any JSON value").in_field("payload")
        } else {
            return Ok(());
        };
        let id = &self.message.id;
        invalid.id = (!id.is_empty() && MessageId::fits(id.as_str())).then(|| id.clone());
        invalid.requires_ack = self.message.requires_ack;
        Err(invalid)
    }

    /// Says the first thing that is wrong with the attributes of a row.
    pub(super) fn check_attributes(&mut self) -> Result<(), Invalid> {
        let columns = [Member::Id, Member::Type, Member::Payload, Member::Timestamp];
        if let Some(invalid) = self.wrong.take() {
            return Err(invalid);
        }
        if columns.iter().any(|&column| self.seen & column as u32 != 0) {
            let found = "an object with `id`, `type`, `payload` or `timestamp`";
            return Err(wrong(found, "members that have no column"));
        }
        Ok(())
    }
}

fn wrong(found: impl Into<Cow<'static, str>>, allowed: &'static str) -> Invalid {
    Invalid::new(Code::Invalid, found, allowed)
}

/// The value of a known member as it was given.
pub(super) enum Given<'a> {
    Null,
    Bool(bool),
    Negative(i64),
    Number(u64),
    Float(f64),
    Text(Cow<'a, str>),
    Array,
    Object,
}

impl Given<'_> {
    fn instead_of(&self, allowed: &'static str) -> Invalid {
        let found = match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::Negative(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => Invalid::quote(value),
            Self::Array => "an array".into(),
            Self::Object => "an object".into(),
        };
        wrong(found, allowed)
    }

    fn required_text(self) -> Result<Box<str>, Invalid> {
        match self {
            Self::Text(text) => Ok(text.into()),
            other => Err(other.instead_of("a string")),
        }
    }

    /// A text that may be absent. Writers that have no value often give an empty one.
    fn text(self) -> Result<Option<Box<str>>, Invalid> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) if text.is_empty() => Ok(None),
            given => given.required_text().map(Some),
        }
    }

    fn moment(self) -> Result<Option<Timestamp>, Invalid> {
        match &self {
            Self::Null => Ok(None),
            Self::Negative(millis) => Ok(Some(Timestamp(*millis))),
            Self::Number(millis) => match i64::try_from(*millis) {
                Ok(millis) => Ok(Some(Timestamp(millis))),
                Err(_) => Err(self.instead_of(Timestamp::ALLOWED)),
            },
            Self::Text(text) => Timestamp::from_rfc3339(text).map(Some),
            _ => Err(self.instead_of(Timestamp::ALLOWED)),
        }
    }
}

/// An object of strings; read to its end also when it is something else.
struct Headers(Result<BTreeMap<String, String>, Invalid>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strings)
    }
}

struct Strings;

impl Strings {
    fn refuse(found: impl Into<Cow<'static, str>>) -> Headers {
        Headers(Err(wrong(found, "an object of at most 64 strings")))
    }
}

impl<'de> Visitor<'de> for Strings {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let mut headers = Headers(Ok(BTreeMap::new()));
        while let Some((name, value)) = map.next_entry::<String, Given<'de>>()? {
            let Ok(read) = &mut headers.0 else { continue };
            let quoted = Invalid::quote(&name);
            headers = match value {
                _ if read.len() == HEADERS_MAX => Self::refuse("an object of more than 64 members"),
                Given::Text(value) => match read.insert(name, value.into_owned()) {
                    None => continue,
                    Some(_) => Self::refuse(format!("an object with {quoted} twice")),
                },
                _ => Self::refuse(format!("an object whose {quoted} is no string")),
            };
        }
        Ok(headers)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Headers, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::refuse("an array"))
    }

    scalars!('de, |found| match found {
        "null" => Headers(Ok(BTreeMap::new())),
        found => Self::refuse(found),
    });
}
