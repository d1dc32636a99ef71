//! A moment on the wire: milliseconds since the Unix epoch.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Code, Invalid};

/// Milliseconds since the Unix epoch. Read from an integer or an RFC 3339 string, written as an
/// integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment that an RFC 3339 text names, cut to milliseconds.
    ///
    /// # Errors
    ///
    /// [`Code::Invalid`] when the text is not RFC 3339; a zone or offset is required.
    pub fn from_rfc3339(text: &str) -> Result<Self, Invalid> {
        match text.parse::<jiff::Timestamp>() {
            Ok(moment) => Ok(Self(moment.as_millisecond())),
            Err(_) => Err(Invalid::new(
                Code::Invalid,
                Invalid::quote(text),
                Self::ALLOWED,
            )),
        }
    }

    /// The RFC 3339 text in UTC, or the number where no calendar date can express it.
    pub fn to_rfc3339(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => moment.to_string(),
            Err(_) => self.0.to_string(),
        }
    }

    /// This moment plus `duration`, at most the last moment that can be expressed.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    pub(crate) const ALLOWED: &str =
        "milliseconds since the Unix epoch, or RFC 3339 text such as 2026-01-31T12:00:00Z";
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).or_else(|_| Self::from_rfc3339(text))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Moment)
    }
}

struct Moment;

impl de::Visitor<'_> for Moment {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Timestamp::ALLOWED)
    }

    fn visit_i64<E: de::Error>(self, millis: i64) -> Result<Timestamp, E> {
        Ok(Timestamp(millis))
    }

    fn visit_u64<E: de::Error>(self, millis: u64) -> Result<Timestamp, E> {
        i64::try_from(millis)
            .map(Timestamp)
            .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(millis), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        Timestamp::from_rfc3339(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_rfc_3339_are_read_and_numbers_written() {
        for (json, millis) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("-1", -1),
            ("\"1970-01-01T00:00:00Z\"", 0),
            ("\"1970-01-01T00:00:00.0019Z\"", 1),
            ("\"2023-11-14T22:13:20.123Z\"", 1_700_000_000_123),
            ("\"2023-11-14T23:13:20.123+01:00\"", 1_700_000_000_123),
            ("\"2023-11-14t22:13:20.123456z\"", 1_700_000_000_123),
            ("\"1969-12-31T23:59:59.999Z\"", -1),
        ] {
            let read: Timestamp = serde_json::from_str(json).unwrap();
            assert_eq!(read, Timestamp(millis), "{json}");
            assert_eq!(serde_json::to_string(&read).unwrap(), millis.to_string());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for json in [
            "\"2023-11-14T22:13:20\"",
            "\"yesterday\"",
            "\"1700000000123\"",
            "1.5",
            "18446744073709551615",
            "null",
            "true",
            "[]",
        ] {
            assert!(serde_json::from_str::<Timestamp>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn text_round_trips() {
        let moment = Timestamp(1_700_000_000_123);
        assert_eq!(moment.to_string().parse(), Ok(moment));
        assert_eq!(moment.to_rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(moment.to_rfc3339().parse(), Ok(moment));
        assert_eq!(Timestamp(i64::MAX).to_rfc3339(), i64::MAX.to_string());
    }

    #[test]
    fn addition_saturates() {
        assert_eq!(
            Timestamp(5).saturating_add(Duration::from_millis(7)),
            Timestamp(12)
        );
        assert_eq!(
            Timestamp(5).saturating_add(Duration::MAX),
            Timestamp(i64::MAX)
        );
    }
}
