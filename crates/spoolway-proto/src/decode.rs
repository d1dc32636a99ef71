//! JSON to messages, in one pass that borrows from the frame.
//!
//! A wrong member must not stop the pass: the rest of the frame has to be read to know that it is
//! JSON at all, and how many messages it holds. So the pass fails only on what is not JSON; what is
//! wrong with a message is kept beside it, the first thing first.

mod members;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use members::Given;
pub(crate) use members::{Object, is_known};

use crate::payload::utf8;
use crate::{Code, Invalid, Message, MessageId, Payload, Timestamp};

impl Message {
    /// The message that one JSON object describes. Payload and unknown members share the bytes of
    /// `text`; aliases are understood, id and timestamp may be absent.
    ///
    /// Bounds are not checked here: [`validate_queue_message`](crate::validate_queue_message) does.
    ///
    /// # Errors
    ///
    /// [`Code::BadJson`] when it is not one JSON value in UTF-8, [`Code::Invalid`] when a member is
    /// missing, given twice or of the wrong kind.
    pub fn decode(text: &Bytes) -> Result<Self, Invalid> {
        let mut object = Object::new();
        match parse(text, 0, &mut object)? {
            Parsed::Object => object.check()?,
            Parsed::Array(_) => return Err(not_a_message("an array")),
            Parsed::Other(found) => return Err(not_a_message(found)),
        }
        Ok(object.message)
    }

    /// The message of a row of the queue file: what has a column of its own, and the JSON object of
    /// [`Message::encode_attributes`].
    ///
    /// Bounds are not checked: rows of other writers are delivered as they are.
    ///
    /// # Errors
    ///
    /// [`Code::BadJson`] when the attributes are not JSON, [`Code::Invalid`] when they are not an
    /// object or a member of them is of the wrong kind.
    pub fn from_row(
        id: MessageId,
        r#type: impl Into<Box<str>>,
        payload: Payload,
        timestamp: Timestamp,
        attributes: Option<&str>,
    ) -> Result<Self, Invalid> {
        let mut object = Object::new();
        if let Some(text) = attributes {
            // Copied once, so that unknown members can share the text.
            let text = Bytes::copy_from_slice(text.as_bytes());
            let checked = match parse(&text, 0, &mut object) {
                Ok(Parsed::Object) => object.check_attributes(),
                Ok(Parsed::Array(_)) => Err(not_an_object("an array")),
                Ok(Parsed::Other(found)) => Err(not_an_object(found)),
                Err(invalid) => Err(invalid),
            };
            checked.map_err(|mut invalid| {
                invalid.field.get_or_insert("attributes".into());
                invalid.id = Some(id.clone());
                invalid
            })?;
        }
        let mut message = object.message;
        message.r#type = r#type.into();
        message.payload = payload;
        message.id = id;
        message.timestamp = Some(timestamp);
        Ok(message)
    }
}

/// What one JSON text holds, as far as this protocol cares.
pub(crate) enum Parsed {
    /// An object, a message or a control object: it is in the `Object` that was passed in.
    Object,
    /// An array, each element taken for a message.
    Array(Vec<Result<Message, Invalid>>),
    /// Anything else, in words.
    Other(&'static str),
}

/// Reads one JSON value, an object into `object`, an array of at most `batch_max` messages into the
/// result; where `batch_max` is 0, an array is no batch and comes back empty.
pub(crate) fn parse(
    source: &Bytes,
    batch_max: usize,
    object: &mut Object,
) -> Result<Parsed, Invalid> {
    let text = utf8(source)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut overrun = false;
    let pass = Pass {
        source,
        batch_max,
        object,
        overrun: &mut overrun,
    };
    let parsed = deserializer.deserialize_any(pass).and_then(|parsed| {
        deserializer.end()?;
        Ok(parsed)
    });
    match parsed {
        Ok(parsed) => Ok(parsed),
        Err(_) if overrun => Err(Invalid::new(
            Code::TooLarge,
            format!("a batch of more than {batch_max} messages"),
            format!("{batch_max} messages in a batch"),
        )),
        Err(error) => Err(not_json(&error)),
    }
}

pub(crate) fn not_json(error: &serde_json::Error) -> Invalid {
    Invalid::new(Code::BadJson, error.to_string(), "one JSON value in UTF-8")
}

fn not_a_message(found: &'static str) -> Invalid {
    Invalid::new(Code::Invalid, found, "an object with `type` and `payload`")
}

fn not_an_object(found: &'static str) -> Invalid {
    Invalid::new(Code::Invalid, found, "a JSON object")
}

/// The top of a frame.
struct Pass<'a> {
    source: &'a Bytes,
    batch_max: usize,
    /// Filled in place: it is large, and moving it out of the parser costs as much as the parsing.
    object: &'a mut Object,
    /// Set when the pass was ended by `batch_max`, as the error of the parser cannot carry it.
    overrun: &'a mut bool,
}

/// The scalars that cannot be what is looked for, each answered with its name.
macro_rules! scalars {
    ($lifetime:lifetime, $map:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($map("null"))
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($map("a boolean"))
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($map("a number"))
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($map("a number"))
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($map("a number"))
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($map("a string"))
        }
    };
}
use scalars;

impl<'de> Visitor<'de> for Pass<'_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message, an array of messages or a control object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Parsed, A::Error> {
        self.object.read(self.source, map)?;
        Ok(Parsed::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parsed, A::Error> {
        let mut batch = Vec::new();
        if self.batch_max == 0 {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        while let Some(message) = seq.next_element_seed(Element {
            source: self.source,
        })? {
            if batch.len() == self.batch_max {
                *self.overrun = true;
                return Err(de::Error::custom("batch_max"));
            }
            batch.push(message);
        }
        Ok(Parsed::Array(batch))
    }

    scalars!('de, Parsed::Other);
}

/// One element of a batch.
struct Element<'a> {
    source: &'a Bytes,
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Result<Message, Invalid>;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = Result<Message, Invalid>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object::new();
        object.read(self.source, map)?;
        Ok(object.check().map(|()| object.message))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err(not_a_message("an array")))
    }

    scalars!('de, |found| Err(not_a_message(found)));
}

/// One value of a known member, borrowed where it can be.
impl<'de> de::Deserialize<'de> for Given<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Given<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Given<'de>, E> {
        Ok(Given::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Given<'de>, E> {
        Ok(Given::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Given<'de>, E> {
        Ok(Given::Negative(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Given<'de>, E> {
        Ok(Given::Number(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Given<'de>, E> {
        Ok(Given::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Given<'de>, E> {
        Ok(Given::Text(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Given<'de>, E> {
        Ok(Given::Text(value.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Given<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Given::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Given::Object)
    }
}
