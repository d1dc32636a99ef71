//! Closed sets of words that appear on the wire, in SQL and in logs with one spelling.

use crate::{Code, Invalid};

/// Gives a fieldless enum its one text form: `as_str`, `ALL`, `Display`, `FromStr` and serde.
macro_rules! text_form {
    ($name:ident, $allowed:literal, { $($variant:ident => $text:literal,)+ }) => {
        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The text on the wire, in SQL and in logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err(Invalid::new(Code::Invalid, Invalid::quote(other), $allowed)),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Its handlers succeeded.
    Processed,
    /// Committed to the queue file, to be processed.
    Stored,
    /// Set aside with a reason; it is not tried again by itself.
    Dead,
    /// In the consumer's memory only.
    Received,
}

text_form!(Outcome, "`processed`, `stored`, `dead` or `received`", {
    Processed => "processed",
    Stored => "stored",
    Dead => "dead",
    Received => "received",
});

/// The outcome a `send` waits for; a later one implies the earlier ones, so they are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AckLevel {
    /// In the consumer's memory: a crash of the consumer may lose the message.
    Received,
    /// Committed to the queue file.
    Stored,
    /// Processed, or stored once the consumer has held it for [`HOLD_MAX_MS`](crate::HOLD_MAX_MS).
    #[default]
    Processed,
}

text_form!(AckLevel, "`received`, `stored` or `processed`", {
    Received => "received",
    Stored => "stored",
    Processed => "processed",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_text_and_json() {
        for &word in Outcome::ALL {
            assert_eq!(word.as_str().parse(), Ok(word));
            let json = serde_json::to_string(&word).unwrap();
            assert_eq!(json, format!("\"{word}\""));
            assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), word);
        }
        for &word in AckLevel::ALL {
            assert_eq!(word.as_str().parse(), Ok(word));
        }
    }

    #[test]
    fn an_unknown_word_is_named_with_what_is_allowed() {
        let error = "Processed".parse::<AckLevel>().unwrap_err().to_string();
        assert!(error.contains("\"Processed\""), "{error}");
        assert!(
            error.contains("`received`, `stored` or `processed`"),
            "{error}"
        );
    }

    #[test]
    fn levels_are_ordered_by_what_they_imply() {
        assert!(AckLevel::Received < AckLevel::Stored);
        assert!(AckLevel::Stored < AckLevel::default());
    }
}
