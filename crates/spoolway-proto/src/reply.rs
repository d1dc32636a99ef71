//! The answer to one message on a connection that said no hello.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use crate::encode::put_json;
use crate::{Code, Invalid, MessageId, Outcome, put_frame};

/// What a connection without hello gets for a message with `requires_ack`.
///
/// `success` is true for every outcome but `dead`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether the message was taken and will not be lost.
    pub success: bool,
    /// The id of the message, where it is known.
    #[serde(default, skip_serializing_if = "MessageId::is_empty")]
    pub id: MessageId,
    /// What became of the message; absent when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What went wrong, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What went wrong, for programs; absent for a dead letter, whose reason is `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

impl Reply {
    /// The message was taken, with this outcome.
    pub fn taken(id: MessageId, outcome: Outcome) -> Self {
        let success = outcome != Outcome::Dead;
        Self {
            success,
            id,
            outcome: Some(outcome),
            error: None,
            code: None,
        }
    }

    /// The message became a dead letter, for this reason.
    pub fn dead(id: MessageId, reason: impl Into<String>) -> Self {
        Self {
            error: Some(reason.into()),
            ..Self::taken(id, Outcome::Dead)
        }
    }

    /// The message was refused.
    pub fn refused(id: MessageId, code: Code, error: impl Into<String>) -> Self {
        Self {
            success: false,
            id,
            outcome: None,
            error: Some(error.into()),
            code: Some(code),
        }
    }

    /// Appends the frame of this reply.
    pub fn put(&self, out: &mut BytesMut) {
        put_frame(out, |out| put_json(out, self));
    }

    /// Appends this reply as a line of JSON: what a connection is told that speaks no frames.
    pub fn put_line(&self, out: &mut BytesMut) {
        put_json(out, self);
        out.put_u8(b'\n');
    }
}

impl From<&Invalid> for Reply {
    fn from(invalid: &Invalid) -> Self {
        let id = invalid.id.clone().unwrap_or_default();
        Self::refused(id, invalid.code, invalid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> MessageId {
        MessageId::new("m1").unwrap()
    }

    #[test]
    fn only_what_is_known_is_written() {
        let invalid = Invalid::new(Code::Invalid, "7", "a string");
        for (reply, text) in [
            (
                Reply::taken(id(), Outcome::Stored),
                r#"{"success":true,"id":"m1","outcome":"stored"}"#,
            ),
            (
                Reply::dead(id(), "no_route"),
                r#"{"success":false,"id":"m1","outcome":"dead","error":"no_route"}"#,
            ),
            (
                Reply::from(&invalid),
                concat!(
                    r#"{"success":false,"error":"invalid: found 7, allowed is a string; "#,
                    r#"correct it before sending it again","code":"invalid"}"#
                ),
            ),
        ] {
            let mut line = BytesMut::new();
            reply.put_line(&mut line);
            assert_eq!(line, format!("{text}\n"));
            assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), reply);
            let mut frame = BytesMut::new();
            reply.put(&mut frame);
            assert_eq!(&frame[4..], text.as_bytes());
        }
    }
}
