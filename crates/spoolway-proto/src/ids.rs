//! Names of messages, keys, producers, consumers and queue files.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::validate::{ID_BYTES_MAX, KEY_BYTES_MAX};
use crate::{Code, Invalid};

/// The identity of a message and the deduplication key on both paths: 1 to 128 bytes without
/// control characters. The default is empty and means "not chosen yet".
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Arc<str>);

impl MessageId {
    /// The id with that text.
    ///
    /// # Errors
    ///
    /// [`Code::Invalid`] when the text is empty, longer than 128 bytes or has control characters.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Invalid> {
        let text = text.as_ref();
        if text.is_empty() || !Self::fits(text) {
            return Err(
                Invalid::new(Code::Invalid, Invalid::quote(text), Self::ALLOWED).in_field("id"),
            );
        }
        Ok(Self(text.into()))
    }

    /// A UUIDv7: ids made later sort later, which keeps the queue file's index append-only.
    pub fn v7(millis: u64, random: [u8; 10]) -> Self {
        let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(&*uuid.hyphenated().encode_lower(&mut text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the id is still to be chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether validation will let it pass; an empty one does, as it is still to be chosen.
    pub(crate) fn fits(text: &str) -> bool {
        text.len() <= ID_BYTES_MAX && !has_control(text)
    }

    /// Stores any text; validation says later what is wrong with it.
    pub(crate) fn unchecked(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) const ALLOWED: &str = "1 to 128 bytes without control characters";
}

/// An ordering key: messages of one key run one at a time, in order. 1 to 255 bytes without
/// control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The key with that text.
    ///
    /// # Errors
    ///
    /// [`Code::Invalid`] when the text is empty, longer than 255 bytes or has control characters.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Invalid> {
        let text = text.as_ref();
        if !Self::fits(text) {
            return Err(
                Invalid::new(Code::Invalid, Invalid::quote(text), Self::ALLOWED).in_field("key"),
            );
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn fits(text: &str) -> bool {
        (1..=KEY_BYTES_MAX).contains(&text.len()) && !has_control(text)
    }

    /// Stores any text; validation says later what is wrong with it.
    pub(crate) fn unchecked(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) const ALLOWED: &str = "1 to 255 bytes without control characters";
}

/// Control characters would break log lines, file names and terminals that print an id.
pub(crate) fn has_control(text: &str) -> bool {
    // No early exit, so that the loop is vectorised; nearly every text ends here.
    let odd = text
        .bytes()
        .fold(false, |odd, byte| odd | !(0x20..0x7f).contains(&byte));
    odd && text.chars().any(char::is_control)
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(Cow::<'de, str>::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

text_id!(MessageId);
text_id!(Key);

macro_rules! uuid_id {
    ($(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// The id with these 128 bits; random ones are for the caller to draw.
            pub const fn from_u128(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits.
            pub const fn as_u128(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(Uuid::from_u128(self.0).hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                match Uuid::parse_str(text) {
                    Ok(uuid) => Ok(Self(uuid.as_u128())),
                    Err(_) => Err(Invalid::new(Code::Invalid, Invalid::quote(text), "a UUID")),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

uuid_id! {
    /// Who sends: random, one for each producer value, the same over all its connections.
    ProducerId
}

uuid_id! {
    /// One run of a consumer: a new one means that what was only in memory is gone.
    InstanceId
}

uuid_id! {
    /// The identity of a queue file, so that nobody spools where nobody reads.
    QueueId
}

/// Which connection of a producer: rises with each one, and when one is given up.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        // Saturates in theory only: at a million connections a second it takes 584,000 years.
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Epoch {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(number) => Ok(Self(number)),
            Err(_) => Err(Invalid::new(
                Code::Invalid,
                Invalid::quote(text),
                "a whole number",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_at_the_edge_and_one_past_it() {
        for (text, fits) in [
            ("", false),
            ("x", true),
            (&"x".repeat(128), true),
            (&"x".repeat(129), false),
            (&"é".repeat(64), true),
            (&"é".repeat(65), false),
            ("a\u{7f}", false),
            ("a\u{85}", false),
            ("a\nb", false),
            ("order 7 / ü", true),
        ] {
            assert_eq!(MessageId::new(text).is_ok(), fits, "{text:?}");
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(
                serde_json::from_str::<MessageId>(&json).is_ok(),
                fits,
                "{text:?}"
            );
        }
        assert!(Key::new("x".repeat(255)).is_ok());
        assert!(Key::new("x".repeat(256)).is_err());
        assert!(Key::new("").is_err());
    }

    #[test]
    fn the_default_id_is_not_chosen_yet() {
        assert!(MessageId::default().is_empty());
        assert_eq!(MessageId::default().as_str(), "");
    }

    #[test]
    fn v7_ids_are_uuids_that_sort_by_time() {
        let earlier = MessageId::v7(1_700_000_000_000, [0xff; 10]);
        let later = MessageId::v7(1_700_000_000_001, [0; 10]);
        assert_eq!(earlier.as_str(), "018bcfe5-6800-7fff-bfff-ffffffffffff");
        assert!(earlier < later);
        let uuid = Uuid::parse_str(later.as_str()).unwrap();
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(MessageId::new(later.as_str()), Ok(later));
    }

    #[test]
    fn binary_ids_survive_text_and_json() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = ProducerId::from_u128(bits);
            assert_eq!(id.to_string().len(), 36);
            assert_eq!(id.to_string().parse(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(
                serde_json::from_str::<ProducerId>(&json).unwrap().as_u128(),
                bits
            );
        }
        assert!("not-a-uuid".parse::<QueueId>().is_err());
        assert_eq!(
            format!("{:?}", InstanceId::from_u128(1)),
            "InstanceId(00000000-0000-0000-0000-000000000001)"
        );
    }

    #[test]
    fn epochs_rise_and_are_numbers_on_the_wire() {
        assert_eq!(Epoch::default().next(), Epoch(1));
        assert_eq!(Epoch(u64::MAX).next(), Epoch(u64::MAX));
        assert_eq!(serde_json::to_string(&Epoch(7)).unwrap(), "7");
        assert_eq!("7".parse(), Ok(Epoch(7)));
        assert!("-1".parse::<Epoch>().is_err());
    }
}
