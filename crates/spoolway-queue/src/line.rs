//! A row as a line of JSON.
//!
//! ```json
//! {"state":"dead","message":{"id":"7","type":"order","payload":1,"timestamp":0},"crc":9,"attempts":4,"dead_reason":"attempts"}
//! ```
//!
//!
//! Beside `state` and `message` a line has the columns of its row that are not at their default,
//! under their names. A line that is itself a message, with a `type`, stands for one that is
//! pending.

use std::borrow::Cow;
use std::io::{BufRead, Read as _};

use bytes::{Bytes, BytesMut};
use rusqlite::Row;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use spoolway_proto::{Limits, Message, MessageId, Payload, Timestamp};

use crate::parcel::{Columns, Parcel, State, columns};
use crate::row;

#[derive(Serialize)]
struct Written<'a> {
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a RawValue>,
    /// The payload, where the line cannot have it byte for byte: it holds line breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_text: Option<&'a str>,
    /// Why there is no message but what could be read of the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<[Option<Cow<'a, str>>; 4]>,
    #[serde(flatten)]
    columns: &'a Columns,
}

#[derive(Deserialize)]
struct ReadLine<'a> {
    state: State,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    payload_text: Option<String>,
    damaged: Option<String>,
}

/// Appends the line of a row; whether it has a message.
pub(crate) fn put_line(row: &Row<'_>, out: &mut Vec<u8>) -> rusqlite::Result<bool> {
    let state = State::of(row.get::<_, Option<i64>>(15)?.unwrap_or(0));
    let columns = columns(row)?;
    let mut json = BytesMut::new();
    let message = match row::whole(row)? {
        Ok(message) => message,
        Err(why) => {
            let text = |index| {
                Ok::<_, rusqlite::Error>(match row.get_ref(index)? {
                    rusqlite::types::ValueRef::Text(bytes)
                    | rusqlite::types::ValueRef::Blob(bytes) => {
                        Some(String::from_utf8_lossy(bytes))
                    }
                    _ => None,
                })
            };
            let written = Written {
                state,
                message: None,
                payload_text: None,
                damaged: Some(&why),
                texts: Some([text(1)?, text(2)?, text(3)?, text(5)?]),
                columns: &columns,
            };
            append(&written, out);
            return Ok(false);
        }
    };
    message.encode(&mut json);
    // Outside of strings, where JSON has none, a line break is white space.
    let broken = json.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    if broken {
        for byte in json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
    }
    let raw = std::str::from_utf8(&json)
        .ok()
        .and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let written = Written {
        state,
        message: raw,
        payload_text: broken.then(|| message.payload.as_str()),
        damaged: raw.is_none().then_some("it has no JSON form"),
        texts: None,
        columns: &columns,
    };
    append(&written, out);
    Ok(raw.is_some())
}

fn append(written: &Written<'_>, out: &mut Vec<u8>) {
    // Text, numbers and JSON that was parsed always have a JSON form.
    if serde_json::to_writer(&mut *out, written).is_ok() {
        out.push(b'\n');
    }
}

/// What a line stands for, or what is wrong with it.
pub(crate) fn read_line(
    text: &[u8],
    limits: &Limits,
    now: Timestamp,
    id: impl FnOnce() -> MessageId,
) -> Result<Parcel, String> {
    let (mut message, state, columns) = match serde_json::from_slice::<ReadLine<'_>>(text) {
        Ok(line) => {
            if let Some(why) = line.damaged {
                return Err(format!("damaged when it was exported: {why}"));
            }
            let columns: Columns =
                serde_json::from_slice(text).map_err(|error| error.to_string())?;
            let Some(raw) = line.message else {
                return Err("it has no member `message`".to_owned());
            };
            let json = Bytes::copy_from_slice(raw.get().as_bytes());
            let mut message = Message::decode(&json).map_err(|error| error.to_string())?;
            if let Some(payload) = line.payload_text {
                message.payload = Payload::from_json(payload).map_err(|error| error.to_string())?;
            }
            (message, line.state, columns)
        }
        Err(error) => {
            let json = Bytes::copy_from_slice(text);
            match Message::decode(&json) {
                Ok(message) => {
                    let columns = Columns {
                        due_at: message.deliver_at.map(|moment| moment.0),
                        ..Columns::default()
                    };
                    (message, State::Pending, columns)
                }
                // Which of the two it was meant to be, its members say.
                Err(_) if is_exported(text) => return Err(error.to_string()),
                Err(invalid) => return Err(invalid.to_string()),
            }
        }
    };
    if let Some(crc) = columns.crc
        && crc != message.crc()
    {
        let found = message.crc();
        return Err(format!(
            "its CRC is {crc:08x}, that of its content {found:08x}: the line was changed"
        ));
    }
    message.stamp(now, id);
    let parcel = Parcel {
        message,
        state,
        columns,
    };
    parcel.check(limits).map(|()| parcel)
}

fn is_exported(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Has<'a> {
        #[serde(borrow)]
        state: Option<&'a RawValue>,
        #[serde(borrow)]
        r#type: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Has<'_>>(text)
        .is_ok_and(|has| has.state.is_some() && has.r#type.is_none())
}

/// Lines, numbered; those that are too long are named and skipped, blank ones skipped.
pub(crate) struct Lines<R> {
    input: R,
    bytes_max: usize,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R, limits: &Limits) -> Self {
        // Payload and payload text, escaped.
        let bytes_max = limits.message_bytes_max.saturating_mul(4) + 65_536;
        Self {
            input,
            bytes_max,
            number: 0,
        }
    }

    /// The next line with its number; `None` at the end.
    #[expect(
        clippy::type_complexity,
        reason = "an error of the input, of the line, or neither"
    )]
    pub(crate) fn next(&mut self) -> std::io::Result<Option<(u64, Result<Vec<u8>, String>)>> {
        loop {
            let mut text = Vec::new();
            let limit = self.bytes_max as u64 + 1;
            if self
                .input
                .by_ref()
                .take(limit)
                .read_until(b'\n', &mut text)?
                == 0
            {
                return Ok(None);
            }
            self.number += 1;
            if text.last() != Some(&b'\n') && text.len() > self.bytes_max {
                self.input.skip_until(b'\n')?;
                let found = format!("a line of more than {} bytes", self.bytes_max);
                return Ok(Some((self.number, Err(found))));
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some((self.number, Ok(text))));
            }
        }
    }
}
