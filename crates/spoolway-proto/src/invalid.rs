//! Why something was refused: a stable code, and what was found where.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::MessageId;

/// A stable reason, the same text in `nack`, `error`, replies and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// The first byte of a connection opens no dialect that is served.
    BadDialect,
    /// The length in front of a frame is zero or too large, the frame is cut short, or its body is
    /// neither an object nor an array of them.
    BadFrame,
    /// The bytes are not JSON in UTF-8.
    BadJson,
    /// A known op has a missing or wrong member, or does not belong at this point.
    BadOp,
    /// The peer speaks another major version of the protocol.
    BadVersion,
    /// No room for another connection.
    Busy,
    /// The same id was taken before with other content.
    Conflict,
    /// The time to live of the message has passed.
    Expired,
    /// The peer, the sender or the topic is not permitted.
    Forbidden,
    /// A member of the message is wrong.
    Invalid,
    /// A code this version does not know; what it says is in the text beside it.
    Other,
    /// A sequence number was used again for another id.
    PairReused,
    /// Over the rate limit of the sender or the topic.
    RateLimited,
    /// A newer epoch of the same producer is known.
    StaleEpoch,
    /// The message, the frame or the batch is over its limit.
    TooLarge,
    /// The message could be neither processed nor stored.
    Unavailable,
    /// No op of this version has that name.
    UnknownOp,
    /// More messages or bytes unanswered than the window grants.
    WindowOverrun,
}

impl Code {
    /// Every code of this version but [`Other`](Self::Other), in alphabetical order.
    pub const ALL: &[Self] = &[
        Self::BadDialect,
        Self::BadFrame,
        Self::BadJson,
        Self::BadOp,
        Self::BadVersion,
        Self::Busy,
        Self::Conflict,
        Self::Expired,
        Self::Forbidden,
        Self::Invalid,
        Self::PairReused,
        Self::RateLimited,
        Self::StaleEpoch,
        Self::TooLarge,
        Self::Unavailable,
        Self::UnknownOp,
        Self::WindowOverrun,
    ];

    /// The text on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadDialect => "bad_dialect",
            Self::BadFrame => "bad_frame",
            Self::BadJson => "bad_json",
            Self::BadOp => "bad_op",
            Self::BadVersion => "bad_version",
            Self::Busy => "busy",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::Other => "other",
            Self::PairReused => "pair_reused",
            Self::RateLimited => "rate_limited",
            Self::StaleEpoch => "stale_epoch",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::UnknownOp => "unknown_op",
            Self::WindowOverrun => "window_overrun",
        }
    }

    /// The code with that text; [`Code::Other`] for one this version does not know, so that a
    /// newer peer can be understood as far as possible.
    pub fn from_text(text: &str) -> Self {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == text)
            .unwrap_or(Self::Other)
    }

    /// Whether the same message may be taken later without any change to it.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::RateLimited | Self::Busy)
    }

    /// What whoever meets the code should do.
    pub const fn next_step(self) -> &'static str {
        match self {
            Self::BadDialect => {
                "open with a frame (first byte 0), a line of JSON or an HTTP request"
            }
            Self::BadFrame => "put one message, some in an array, or one op into each frame",
            Self::BadJson => "send one JSON value in UTF-8 per frame or line",
            Self::BadOp => "send the members that docs/protocol.md gives for this op",
            Self::BadVersion => "use matching versions of client and consumer",
            Self::Busy => "try again later, or raise the number of connections",
            Self::Conflict => "give each message an id of its own",
            Self::Expired => "raise `ttl_ms`, or leave it out",
            Self::Forbidden => "allow the sender in the consumer's configuration",
            Self::Invalid => "correct it before sending it again",
            Self::Other => "see the consumer's log",
            Self::PairReused => "take a new producer id and send again",
            Self::RateLimited | Self::Unavailable => "try again later, or spool",
            Self::StaleEpoch => "say hello again with a higher epoch",
            Self::TooLarge => "split it, or send a reference to the content",
            Self::UnknownOp => "leave it out, or use a consumer that knows it",
            Self::WindowOverrun => "wait for answers before sending more",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_text(&Cow::<'de, str>::deserialize(
            deserializer,
        )?))
    }
}

/// A message, frame or op that is refused: where, what was found, what is allowed.
///
/// Displays as one line that ends with the next step. It holds at most a short piece of what was
/// found, never a whole payload, so it may be logged and sent to the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Invalid {
    /// The stable reason.
    pub code: Code,
    /// The member at fault, where there is one.
    pub field: Option<Cow<'static, str>>,
    /// What was found.
    pub found: Cow<'static, str>,
    /// What is allowed instead.
    pub allowed: Cow<'static, str>,
    /// The id of the refused message, where one could be read.
    pub id: Option<MessageId>,
    /// Whether the refused message asked for an answer with `requires_ack`.
    pub requires_ack: bool,
}

impl Invalid {
    /// A refusal that names what was found and what is allowed.
    pub fn new(
        code: Code,
        found: impl Into<Cow<'static, str>>,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            code,
            field: None,
            found: found.into(),
            allowed: allowed.into(),
            id: None,
            requires_ack: false,
        }
    }

    /// Says which member is at fault.
    #[must_use]
    pub fn in_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// A piece of `text`, quoted and cut to a length that suits a log line.
    pub fn quote(text: &str) -> String {
        match text.char_indices().nth(QUOTED_CHARS_MAX) {
            None => format!("{text:?}"),
            Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        }
    }

    fn sentence(&self) -> String {
        let Self {
            code,
            found,
            allowed,
            ..
        } = self;
        let next = code.next_step();
        match &self.field {
            Some(field) => {
                format!("{code}: `{field}` is {found}, allowed is {allowed}; {next}")
            }
            None => format!("{code}: found {found}, allowed is {allowed}; {next}"),
        }
    }
}

/// Long enough for a UUID with its prefix, short enough for a log line.
const QUOTED_CHARS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_text_and_are_sorted() {
        for &code in Code::ALL {
            assert_eq!(Code::from_text(code.as_str()), code);
        }
        assert!(
            Code::ALL
                .windows(2)
                .all(|pair| pair[0].as_str() < pair[1].as_str())
        );
    }

    #[test]
    fn an_unknown_code_is_kept_as_other() {
        assert_eq!(
            serde_json::from_str::<Code>("\"of_a_later_version\"").unwrap(),
            Code::Other
        );
        assert!(serde_json::from_str::<Code>("7").is_err());
    }

    #[test]
    fn the_sentence_says_where_what_allowed_and_next() {
        let invalid = Invalid::new(Code::Invalid, "300", "0 to 100").in_field("priority");
        assert_eq!(
            invalid.to_string(),
            "invalid: `priority` is 300, allowed is 0 to 100; correct it before sending it again"
        );
    }

    #[test]
    fn long_and_odd_text_is_quoted_short() {
        assert_eq!(Invalid::quote("a\nb"), "\"a\\nb\"");
        let quoted = Invalid::quote(&"é".repeat(1000));
        assert!(quoted.chars().count() < 90, "{quoted}");
        assert!(quoted.ends_with("… (2000 bytes)"), "{quoted}");
    }

    #[test]
    fn the_error_stays_small_enough_to_return_by_value() {
        assert!(size_of::<Invalid>() <= 128, "{}", size_of::<Invalid>());
    }
}
