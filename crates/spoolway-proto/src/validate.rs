//! What a message may be: one rule per member, and the limits they share.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

use validator::{ValidateArgs, ValidationError, ValidationErrors, ValidationErrorsKind};

use crate::ids::has_control;
use crate::{Code, FRAME_BYTES_CEILING, Invalid, Key, Message, MessageId, Payload, Timestamp};

/// Bytes of an `id`: a UUID is 36; what people put in front of one fits too.
pub const ID_BYTES_MAX: usize = 128;
/// Bytes of a `type`.
pub const TYPE_BYTES_MAX: usize = 255;
/// Bytes of a `key`.
pub const KEY_BYTES_MAX: usize = 255;
/// Bytes of `sender`, `recipient`, `topic`, `folder`, `correlation_id`, `request_id`, `reply_to`.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// The highest `priority`.
pub const PRIORITY_MAX: u8 = 100;
/// The last moment a `timestamp` or `deliver_at` may name: the end of the year 9998,
/// which is the last that every calendar library can express in every zone.
pub const TIMESTAMP_MAX: Timestamp = Timestamp(253_370_764_799_999);
/// How many headers a message may have.
pub const HEADERS_MAX: usize = 64;
/// Bytes of the name of a header.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// Bytes of the value of a header: proxies pass headers of 8 KiB.
pub const HEADER_VALUE_BYTES_MAX: usize = 8_192;
/// How many members unknown to this version a message may have.
pub const UNKNOWN_MAX: usize = 64;
/// Bytes of the name of an unknown member.
pub const UNKNOWN_NAME_BYTES_MAX: usize = 255;

/// The limits a consumer may choose; everything else is fixed by the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest [`Message::size`], in bytes; 10 MiB by default.
    pub message_bytes_max: usize,
    /// The largest body of a frame, in bytes; 16 MiB − 1 by default, which is also the most:
    /// the first byte of every frame must be 0.
    ///
    /// Keep 4 MiB more than `message_bytes_max`: texts may grow on the wire by their escapes.
    pub frame_bytes_max: usize,
    /// The most messages in one batch; 16,384 by default. It bounds the memory that a frame of
    /// empty objects can make a reader take.
    pub batch_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 10 * 1024 * 1024,
            frame_bytes_max: FRAME_BYTES_CEILING,
            batch_max: 16_384,
        }
    }
}

/// Checks a message before it is sent and again when it is taken. An empty id passes: it is chosen
/// by [`Message::stamp`].
///
/// # Errors
///
/// [`Code::TooLarge`] over `message_bytes_max`, else [`Code::Invalid`] with the member, what was
/// found and what is allowed. Of several wrong members the first in declaration order is named.
pub fn validate_queue_message(message: &Message, limits: &Limits) -> Result<(), Invalid> {
    message.validate_with_args(limits).map_err(|errors| {
        let mut invalid = first(&errors);
        invalid.id = (!message.id.is_empty()).then(|| message.id.clone());
        invalid.requires_ack = message.requires_ack;
        invalid
    })
}

/// The order in which members are reported; the same as in `Message`.
const REPORTED: &[&str] = &[
    "id",
    "type",
    "r#type",
    "timestamp",
    "sender",
    "recipient",
    "topic",
    "folder",
    "key",
    "priority",
    "ttl_ms",
    "deliver_at",
    "correlation_id",
    "request_id",
    "reply_to",
    "headers",
    "unknown",
];

fn first(errors: &ValidationErrors) -> Invalid {
    let rank = |field: &str| REPORTED.iter().position(|name| *name == field);
    let found = errors
        .errors()
        .iter()
        .min_by_key(|(field, _)| rank(field).unwrap_or(usize::MAX));
    let (field, error) = match found {
        Some((field, ValidationErrorsKind::Field(list))) => (field, list.first()),
        _ => {
            return Invalid::new(
                Code::Invalid,
                "a message that breaks a rule",
                "no such message",
            );
        }
    };
    let text = |name: &str| {
        let value = error.and_then(|error| error.params.get(name))?.as_str()?;
        Some(Cow::Owned(value.to_owned()))
    };
    let code = error.map_or(Code::Invalid, |error| Code::from_text(&error.code));
    let mut invalid = Invalid::new(
        code,
        text(FOUND).unwrap_or_default(),
        text(ALLOWED).unwrap_or_default(),
    );
    // A rule about several members names the one to change.
    let field = text(FIELD).unwrap_or_else(|| match field.as_ref() {
        "r#type" => Cow::Borrowed("type"),
        _ => field.clone(),
    });
    invalid.field = (field != "__all__").then_some(field);
    invalid
}

const FOUND: &str = "found";
const ALLOWED: &str = "allowed";
const FIELD: &str = "field";

fn wrong(found: impl Into<String>, allowed: &str) -> ValidationError {
    let mut error = ValidationError::new(Code::Invalid.as_str());
    error.add_param(FOUND.into(), &found.into());
    error.add_param(ALLOWED.into(), &allowed);
    error
}

fn check(fits: bool, found: impl FnOnce() -> String, allowed: &str) -> Result<(), ValidationError> {
    if fits {
        Ok(())
    } else {
        Err(wrong(found(), allowed))
    }
}

pub(crate) fn id(id: &MessageId) -> Result<(), ValidationError> {
    check(
        MessageId::fits(id.as_str()),
        || Invalid::quote(id.as_str()),
        MessageId::ALLOWED,
    )
}

pub(crate) fn kind(text: &str) -> Result<(), ValidationError> {
    let fits = (1..=TYPE_BYTES_MAX).contains(&text.len()) && !has_control(text);
    check(fits, || Invalid::quote(text), WORD_ALLOWED)
}

pub(crate) fn address(text: &str) -> Result<(), ValidationError> {
    let fits = (1..=ADDRESS_BYTES_MAX).contains(&text.len()) && !has_control(text);
    check(fits, || Invalid::quote(text), WORD_ALLOWED)
}

const WORD_ALLOWED: &str = "1 to 255 bytes without control characters";

pub(crate) fn key(key: &Key) -> Result<(), ValidationError> {
    check(
        Key::fits(key.as_str()),
        || Invalid::quote(key.as_str()),
        Key::ALLOWED,
    )
}

pub(crate) fn priority(priority: u8) -> Result<(), ValidationError> {
    check(
        priority <= PRIORITY_MAX,
        || priority.to_string(),
        PRIORITY_ALLOWED,
    )
}

pub(crate) const PRIORITY_ALLOWED: &str = "a whole number from 0 to 100";

pub(crate) fn ttl(ttl_ms: u64) -> Result<(), ValidationError> {
    check(ttl_ms > 0, || ttl_ms.to_string(), TTL_ALLOWED)
}

pub(crate) const TTL_ALLOWED: &str = "a whole number of milliseconds, more than 0";

pub(crate) fn moment(moment: &Timestamp) -> Result<(), ValidationError> {
    let fits = (Timestamp(0)..=TIMESTAMP_MAX).contains(moment);
    check(
        fits,
        || moment.to_string(),
        "milliseconds from 1970 to the end of 9998",
    )
}

pub(crate) fn headers(headers: &BTreeMap<String, String>) -> Result<(), ValidationError> {
    check(
        headers.len() <= HEADERS_MAX,
        || format!("{} headers", headers.len()),
        "64 headers",
    )?;
    headers.iter().try_for_each(|(name, value)| {
        let fits = (1..=HEADER_NAME_BYTES_MAX).contains(&name.len()) && !has_control(name);
        let allowed = "names of 1 to 128 bytes without control characters";
        check(
            fits,
            || format!("an object with the name {}", Invalid::quote(name)),
            allowed,
        )?;
        let fits = value.len() <= HEADER_VALUE_BYTES_MAX;
        let found = || format!("an object with {} bytes for {name:?}", value.len());
        check(fits, found, "values of at most 8,192 bytes")
    })
}

pub(crate) fn unknown(unknown: &BTreeMap<String, Payload>) -> Result<(), ValidationError> {
    let found = || format!("{} members", unknown.len());
    check(
        unknown.len() <= UNKNOWN_MAX,
        found,
        "64 members this version does not know",
    )?;
    unknown.keys().try_for_each(|name| {
        let fits = name.len() <= UNKNOWN_NAME_BYTES_MAX;
        let found = || format!("a member named {}", Invalid::quote(name));
        check(fits, found, "names of at most 255 bytes")?;
        // It would be written a second time and read as the member of that name.
        let found = || format!("the known member {name:?}");
        check(
            !crate::decode::is_known(name),
            found,
            "members this version does not know",
        )
    })
}

/// The rules that look at more than one member.
pub(crate) fn whole(message: &Message, limits: &Limits) -> Result<(), ValidationError> {
    if message.deliver_at.is_some() && message.key.is_some() {
        let mut error = wrong("set together with `key`", "one of the two");
        error.add_param(FIELD.into(), &"deliver_at");
        return Err(error);
    }
    if message.size() > limits.message_bytes_max {
        let allowed = format!("{} bytes (`message_bytes_max`)", limits.message_bytes_max);
        let mut error = wrong(format!("a message of {} bytes", message.size()), &allowed);
        error.code = Cow::Borrowed(Code::TooLarge.as_str());
        return Err(error);
    }
    Ok(())
}
