//! The content of a message: JSON text that the plumbing carries and never re-parses.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{Code, Invalid};

/// Valid JSON text, carried byte for byte. A clone shares the bytes.
///
/// Equality is of bytes: `{"a":1}` and `{ "a": 1 }` differ.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Payload(Bytes);

impl Payload {
    /// The JSON of `value`.
    ///
    /// # Errors
    ///
    /// [`Code::Invalid`] when `value` has no JSON form, such as a map whose keys are not strings.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, Invalid> {
        match serde_json::to_vec(value) {
            Ok(json) => Ok(Self(json.into())),
            Err(error) => Err(
                Invalid::new(Code::Invalid, error.to_string(), "a JSON value").in_field("payload"),
            ),
        }
    }

    /// JSON text as it is, without white space around it; the bytes are shared, not copied.
    ///
    /// # Errors
    ///
    /// [`Code::BadJson`] when the bytes are not one JSON value in UTF-8.
    pub fn from_json(json: impl Into<Bytes>) -> Result<Self, Invalid> {
        let json = json.into();
        let text = utf8(&json).map_err(|invalid| invalid.in_field("payload"))?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
            Invalid::new(Code::BadJson, error.to_string(), "one JSON value").in_field("payload")
        })?;
        Ok(Self::slice(&json, raw))
    }

    /// JSON text that was checked when it was stored, such as a row whose CRC agrees.
    ///
    /// Nothing is parsed: text that is not JSON would make every frame it is put in unreadable.
    pub fn from_trusted_json(json: String) -> Self {
        Self(json.into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        // Every constructor starts from a `str`, and the bytes cannot change after.
        std::str::from_utf8(&self.0).expect("a payload is UTF-8")
    }

    /// The JSON text as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The JSON text as shared bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The length of the JSON text in bytes; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "JSON text is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value the JSON stands for.
    ///
    /// # Errors
    ///
    /// When the JSON does not have the shape of `T`, or nests deeper than `serde_json` follows.
    pub fn decode<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.0)
    }

    /// Copies the text out of the buffer it arrived in, which is then free to go.
    pub fn detach(&mut self) {
        self.0 = Bytes::copy_from_slice(&self.0);
    }

    /// The part of `source` that `raw`, which was parsed from it, covers.
    pub(crate) fn slice(source: &Bytes, raw: &RawValue) -> Self {
        Self(source.slice_ref(raw.get().as_bytes()))
    }

    /// All of `source`, which was read as one JSON value.
    pub(crate) fn whole(source: &Bytes) -> Self {
        Self(source.slice_ref(source.trim_ascii()))
    }

    pub(crate) const NULL: Self = Self(Bytes::from_static(b"null"));
}

/// The text of `bytes`.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Invalid> {
    std::str::from_utf8(bytes).map_err(|error| {
        let found = format!("a byte that is not UTF-8 at offset {}", error.valid_up_to());
        Invalid::new(Code::BadJson, found, "JSON in UTF-8")
    })
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({})", self.as_str())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue =
            serde_json::from_str(self.as_str()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shared_and_kept_byte_for_byte() {
        let source = Bytes::from_static(b"  {\"b\" : 1.50,\"a\":\"\\u00e9\"}\n");
        let payload = Payload::from_json(source.clone()).unwrap();
        assert_eq!(payload.as_str(), "{\"b\" : 1.50,\"a\":\"\\u00e9\"}");
        assert_eq!(payload.as_bytes().as_ptr(), source[2..].as_ptr());
        assert_eq!(serde_json::to_string(&payload).unwrap(), payload.as_str());
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for bad in ["", " ", "{", "1 2", "{'a':1}", "nul", "\"\n\"", "[1,]"] {
            let error = Payload::from_json(bad.to_owned()).unwrap_err();
            assert_eq!(error.code, Code::BadJson, "{bad:?}");
        }
        let error = Payload::from_json(&b"\"\xff\""[..]).unwrap_err();
        assert!(error.to_string().contains("offset 1"), "{error}");
    }

    #[test]
    fn deep_nesting_is_carried_and_refused_only_by_whoever_decodes_it() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let payload = Payload::from_json(deep).unwrap();
        assert_eq!(payload.len(), 400_000);
        assert!(payload.decode::<serde_json::Value>().is_err());
    }

    #[test]
    fn a_value_without_json_is_refused() {
        let map = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(Payload::from_value(&map).unwrap_err().code, Code::Invalid);
        assert_eq!(Payload::from_value(&[1, 2]).unwrap().as_str(), "[1,2]");
    }

    #[test]
    fn detaching_copies_the_bytes() {
        let source = Bytes::from_static(b"[1]");
        let mut payload = Payload::from_json(source.clone()).unwrap();
        payload.detach();
        assert_eq!(payload.bytes(), &source);
        assert_ne!(payload.as_bytes().as_ptr(), source.as_ptr());
    }
}
