//! The message: the unit that is sent, stored and processed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use validator::Validate;

use crate::validate::{self, Limits};
use crate::{AckLevel, Invalid, Key, MessageId, Payload, Timestamp};

/// The priority of a message that names none.
pub const PRIORITY_DEFAULT: u8 = 50;

/// The type of a command message: an object with a `command` and no `type`.
pub const COMMAND: &str = "command";

/// What every message counts for in a window beside its texts, in bytes: its share of the tables
/// that hold it in memory.
pub const SIZE_FIXED: usize = 64;

/// A UUID in text. A message that is sent without an id counts as if it had one of this length,
/// which is what the consumer will give it.
const ID_BYTES_CHOSEN: usize = 36;

/// One message. Only `type` and `payload` are required; see `docs/protocol.md`, section 4.
///
/// The setters take anything; [`validate_queue_message`](crate::validate_queue_message) says what
/// is wrong with it, and whoever sends or takes a message calls that.
#[derive(Clone, Debug, PartialEq, Eq, Validate)]
#[validate(context = Limits)]
#[validate(schema(function = "validate::whole", use_context))]
pub struct Message {
    /// Unique; the deduplication key on both paths. Empty until chosen, by [`Message::stamp`].
    #[validate(custom(function = "validate::id"))]
    pub id: MessageId,
    /// What it is, such as `candle:complete`.
    #[validate(custom(function = "validate::kind"))]
    pub r#type: Box<str>,
    /// The content.
    pub payload: Payload,
    /// When it was made.
    #[validate(custom(function = "validate::moment"))]
    pub timestamp: Option<Timestamp>,
    /// Who sent it, in words.
    #[validate(custom(function = "validate::address"))]
    pub sender: Option<Box<str>>,
    /// To whom it is directed.
    #[validate(custom(function = "validate::address"))]
    pub recipient: Option<Box<str>>,
    /// Under which topic it is published.
    #[validate(custom(function = "validate::address"))]
    pub topic: Option<Box<str>>,
    /// The directory it came from.
    #[validate(custom(function = "validate::address"))]
    pub folder: Option<Box<str>>,
    /// Messages of one key run one at a time, in order.
    #[validate(custom(function = "validate::key"))]
    pub key: Option<Key>,
    /// 0 to 100, higher first; 50 when not named.
    #[validate(custom(function = "validate::priority"))]
    pub priority: u8,
    /// How long after `timestamp` it is worth processing, in milliseconds; more than 0.
    #[validate(custom(function = "validate::ttl"))]
    pub ttl_ms: Option<u64>,
    /// Not to be processed before; not together with `key`.
    #[validate(custom(function = "validate::moment"))]
    pub deliver_at: Option<Timestamp>,
    /// The outcome to wait for, where it differs from the producer's.
    pub ack: Option<AckLevel>,
    /// Asks for an answer on a connection that said no hello.
    pub requires_ack: bool,
    /// Ties the messages of a conversation together.
    #[validate(custom(function = "validate::address"))]
    pub correlation_id: Option<Box<str>>,
    /// Ties a response to its request.
    #[validate(custom(function = "validate::address"))]
    pub request_id: Option<Box<str>>,
    /// Where a response should go.
    #[validate(custom(function = "validate::address"))]
    pub reply_to: Option<Box<str>>,
    /// Free, for tracing and the like.
    #[validate(custom(function = "validate::headers"))]
    pub headers: BTreeMap<String, String>,
    /// Members this version does not know, kept and delivered.
    #[validate(custom(function = "validate::unknown"))]
    pub unknown: BTreeMap<String, Payload>,
}

impl Message {
    /// A message of that type whose payload is the JSON of `payload`.
    ///
    /// # Errors
    ///
    /// [`Code::Invalid`](crate::Code::Invalid) when `payload` has no JSON form.
    pub fn new<T: Serialize + ?Sized>(
        r#type: impl Into<Box<str>>,
        payload: &T,
    ) -> Result<Self, Invalid> {
        Ok(Self::with_payload(r#type, Payload::from_value(payload)?))
    }

    /// A message of that type with a payload that is JSON already.
    pub fn with_payload(r#type: impl Into<Box<str>>, payload: Payload) -> Self {
        Self {
            id: MessageId::default(),
            r#type: r#type.into(),
            payload,
            timestamp: None,
            sender: None,
            recipient: None,
            topic: None,
            folder: None,
            key: None,
            priority: PRIORITY_DEFAULT,
            ttl_ms: None,
            deliver_at: None,
            ack: None,
            requires_ack: false,
            correlation_id: None,
            request_id: None,
            reply_to: None,
            headers: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// Fills in the id and the timestamp where they are absent.
    pub fn stamp(&mut self, now: Timestamp, id: impl FnOnce() -> MessageId) {
        if self.id.is_empty() {
            self.id = id();
        }
        self.timestamp.get_or_insert(now);
    }

    /// CRC-32C over id, type and payload, each of the first two behind its length as four bytes,
    /// big-endian, so that no byte can move from one to the next unseen.
    pub fn crc(&self) -> u32 {
        let mut crc = 0;
        for text in [self.id.as_str(), &self.r#type] {
            // Validation bounds both far below 4 GiB; a cut length would still be deterministic.
            crc = crc32c::crc32c_append(crc, &(text.len() as u32).to_be_bytes());
            crc = crc32c::crc32c_append(crc, text.as_bytes());
        }
        crc32c::crc32c_append(crc, self.payload.as_bytes())
    }

    /// What the message counts for in a window and against `message_bytes_max`: the bytes of its
    /// id (36 where none is chosen), type, payload and every other text, and [`SIZE_FIXED`].
    ///
    /// Both ends compute it from the values, so white space and escapes on the wire do not count.
    pub fn size(&self) -> usize {
        let id = if self.id.is_empty() {
            ID_BYTES_CHOSEN
        } else {
            self.id.as_str().len()
        };
        let texts = [
            &self.sender,
            &self.recipient,
            &self.topic,
            &self.folder,
            &self.correlation_id,
            &self.request_id,
            &self.reply_to,
        ];
        let texts: usize = texts
            .iter()
            .filter_map(|text| text.as_deref())
            .map(str::len)
            .sum();
        let key = self.key.as_ref().map_or(0, |key| key.as_str().len());
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        let unknown: usize = self.unknown.iter().map(|(k, v)| k.len() + v.len()).sum();
        SIZE_FIXED + id + self.r#type.len() + self.payload.len() + texts + key + headers + unknown
    }

    /// When it stops being worth processing; `None` without a `ttl_ms` or a timestamp.
    pub fn expires_at(&self) -> Option<Timestamp> {
        Some(
            self.timestamp?
                .saturating_add(Duration::from_millis(self.ttl_ms?)),
        )
    }

    /// Copies payload and unknown members out of the buffer they arrived in.
    ///
    /// A received message shares that buffer with its neighbours and keeps all of it alive, which
    /// is right for messages that leave soon together, not for one that stays.
    pub fn detach(&mut self) {
        self.payload.detach();
        self.unknown.values_mut().for_each(Payload::detach);
    }
}

/// The everyday members, chainable. None of them fails: validation says what is wrong.
impl Message {
    /// Sets the id; an empty one is filled in by [`Message::stamp`].
    #[must_use]
    pub fn id(mut self, id: impl AsRef<str>) -> Self {
        self.id = MessageId::unchecked(id.as_ref());
        self
    }

    /// Sets the ordering key.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<str>) -> Self {
        self.key = Some(Key::unchecked(key.as_ref()));
        self
    }

    /// Sets the topic it is published under.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<Box<str>>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Sets the recipient it is directed to.
    #[must_use]
    pub fn recipient(mut self, recipient: impl Into<Box<str>>) -> Self {
        self.recipient = Some(recipient.into());
        self
    }

    /// Sets who sent it.
    #[must_use]
    pub fn sender(mut self, sender: impl Into<Box<str>>) -> Self {
        self.sender = Some(sender.into());
        self
    }

    /// Sets the directory it came from.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<Box<str>>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Sets the priority: 0 to 100, higher first.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Sets how long it is worth processing, rounded up to whole milliseconds.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        let millis = ttl.as_nanos().div_ceil(1_000_000);
        self.ttl_ms = Some(u64::try_from(millis).unwrap_or(u64::MAX));
        self
    }

    /// Sets the moment before which it is not to be processed.
    #[must_use]
    pub fn deliver_at(mut self, moment: Timestamp) -> Self {
        self.deliver_at = Some(moment);
        self
    }

    /// Sets the outcome to wait for.
    #[must_use]
    pub fn ack(mut self, level: AckLevel) -> Self {
        self.ack = Some(level);
        self
    }

    /// Asks for an answer on a connection that said no hello.
    #[must_use]
    pub fn requires_ack(mut self, requires_ack: bool) -> Self {
        self.requires_ack = requires_ack;
        self
    }

    /// Sets what ties the messages of a conversation together.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets what ties a response to its request.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// Sets where a response should go.
    #[must_use]
    pub fn reply_to(mut self, address: impl Into<Box<str>>) -> Self {
        self.reply_to = Some(address.into());
        self
    }

    /// Adds a header, in place of an earlier one of that name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sets when it was made.
    #[must_use]
    pub fn timestamp(mut self, moment: Timestamp) -> Self {
        self.timestamp = Some(moment);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message::new("task", &"x").unwrap()
    }

    #[test]
    fn a_stamp_fills_in_only_what_is_absent() {
        let mut blank = message();
        blank.stamp(Timestamp(5), || MessageId::new("made").unwrap());
        assert_eq!(
            (blank.id.as_str(), blank.timestamp),
            ("made", Some(Timestamp(5)))
        );

        let mut chosen = message().id("mine").timestamp(Timestamp(3));
        chosen.stamp(Timestamp(5), || unreachable!("an id was chosen"));
        assert_eq!(
            (chosen.id.as_str(), chosen.timestamp),
            ("mine", Some(Timestamp(3)))
        );
    }

    #[test]
    fn the_crc_is_a_fixed_function_of_id_type_and_payload() {
        let crc = |id: &str, r#type: &str, payload: &str| {
            let payload = Payload::from_json(payload.to_owned()).unwrap();
            Message::with_payload(r#type, payload).id(id).crc()
        };
        // Written in queue files: a change here makes every stored row look damaged.
        let bytes = b"\0\0\0\x02id\0\0\0\x04task{\"a\":1}";
        assert_eq!(crc("id", "task", "{\"a\":1}"), crc32c::crc32c(bytes));
        assert_eq!(crc("id", "task", "{\"a\":1}"), 0xe925_567b);
        assert_ne!(crc("ab", "c", "1"), crc("a", "bc", "1"));
        assert_ne!(crc("a", "b1", "2"), crc("a", "b", "12"));
        let other = message().id("i").key("k").priority(3).header("a", "b");
        assert_eq!(other.crc(), message().id("i").crc());
    }

    #[test]
    fn the_size_counts_every_text_once() {
        assert_eq!(message().id("12345").size(), 64 + 5 + 4 + 3);
        assert_eq!(message().size(), 64 + 36 + 4 + 3);
        let mut full = message()
            .id("12345")
            .key("k")
            .topic("to")
            .sender("sen")
            .recipient("reci")
            .folder("folde")
            .correlation_id("correl")
            .request_id("request")
            .reply_to("reply_to")
            .header("h", "v1");
        full.unknown
            .insert("extra".into(), Payload::from_json("[1]").unwrap());
        assert_eq!(
            full.size(),
            64 + 5 + 4 + 3 + 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 3 + 8
        );
        full.detach();
        assert_eq!(full.unknown["extra"].as_str(), "[1]");
    }

    #[test]
    fn it_expires_its_ttl_after_its_timestamp() {
        let made = message().timestamp(Timestamp(1_000));
        assert_eq!(made.expires_at(), None);
        assert_eq!(
            made.clone().ttl(Duration::from_secs(2)).expires_at(),
            Some(Timestamp(3_000))
        );
        assert_eq!(
            made.ttl(Duration::MAX).expires_at(),
            Some(Timestamp(i64::MAX))
        );
        assert_eq!(message().ttl(Duration::from_secs(1)).expires_at(), None);
    }

    #[test]
    fn a_ttl_rounds_up_so_that_a_short_one_is_not_none() {
        assert_eq!(message().ttl(Duration::from_nanos(1)).ttl_ms, Some(1));
        assert_eq!(message().ttl(Duration::from_micros(1_001)).ttl_ms, Some(2));
        assert_eq!(message().ttl(Duration::ZERO).ttl_ms, Some(0));
    }
}
