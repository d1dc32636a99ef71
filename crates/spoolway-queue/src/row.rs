//! Rows of the file to values: checked, so that a damaged one harms no other.

use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::ValueRef;
use spoolway_proto::{
    Epoch, Key, Limits, Message, MessageId, Payload, ProducerId, Timestamp, validate_queue_message,
};

use crate::read::{Before, Candidate, Damaged};
use crate::shared::Shared;
use crate::write::Origin;

/// A row that can run, or what is wrong with it. What waits before it, and what is kept of it, is for the caller to fill in.
pub(crate) fn candidate(
    shared: &Shared,
    row: &Row<'_>,
) -> rusqlite::Result<Result<Candidate, Damaged>> {
    let seq = row.get(0)?;
    let message = match message(row, &shared.options.limits)? {
        Ok(message) => message,
        Err((reason, error)) => return Ok(Err(Damaged { seq, reason, error })),
    };
    let (message, crc) = message;
    let origin = origin(row)?;
    Ok(Ok(Candidate {
        seq,
        attempts: count(row, 8)?,
        delivery: count(row, 9)?,
        suspect: count(row, 10)? != 0,
        origin,
        crc,
        kept: None,
        before: Before::None,
        message: Arc::new(message),
    }))
}

type Wrong = (&'static str, String);

const CORRUPT: &str = "corrupt";
const INVALID: &str = "invalid";

/// The message of a row and its CRC, or what is wrong with it.
fn message(row: &Row<'_>, limits: &Limits) -> rusqlite::Result<Result<(Message, u32), Wrong>> {
    // A foreign writer leaves no CRC, and nothing is known of its rows.
    let crc: Option<u32> = match row.get_ref(14)? {
        ValueRef::Null => None,
        ValueRef::Integer(crc) => match u32::try_from(crc) {
            Ok(crc) => Some(crc),
            Err(_) => return Ok(Err((CORRUPT, format!("its CRC is {crc}")))),
        },
        other => return Ok(Err((CORRUPT, format!("its CRC is {}", other.data_type())))),
    };
    let reason = if crc.is_some() { CORRUPT } else { INVALID };
    let message = match assemble(row, crc.is_some())? {
        Ok(message) => message,
        Err(error) => return Ok(Err((reason, error))),
    };
    let found = message.crc();
    if let Some(crc) = crc {
        if crc != found {
            return Ok(Err((CORRUPT, other_crc(crc, found))));
        }
        if let Err(invalid) = validate_queue_message(&message, limits) {
            return Ok(Err((INVALID, invalid.to_string())));
        }
    }
    Ok(Ok((message, found)))
}

/// The message of a row whose columns come in this order, checked for damage and for nothing else.
pub(crate) fn whole(row: &Row<'_>) -> rusqlite::Result<Result<Message, String>> {
    let crc: Option<u32> = match row.get_ref(14)? {
        ValueRef::Null => None,
        _ => match row.get(14) {
            Ok(crc) => Some(crc),
            Err(error) => return Ok(Err(format!("its CRC: {error}"))),
        },
    };
    let message = assemble(row, false)?;
    Ok(message.and_then(|message| match crc {
        Some(crc) if crc != message.crc() => Err(other_crc(crc, message.crc())),
        _ => Ok(message),
    }))
}

fn other_crc(stored: u32, found: u32) -> String {
    format!("its CRC is {stored:08x}, that of its content {found:08x}")
}

/// The message of a row, as far as it can be made one.
pub(crate) fn assemble(row: &Row<'_>, trusted: bool) -> rusqlite::Result<Result<Message, String>> {
    let attributes = row.get_ref(5)?;
    let made = || -> Result<Message, String> {
        let id = MessageId::new(text(column(row, 1)?)?).map_err(|error| error.to_string())?;
        let payload = text(column(row, 3)?)?.to_owned();
        let payload = if trusted {
            Payload::from_trusted_json(payload)
        } else {
            Payload::from_json(payload).map_err(|error| error.to_string())?
        };
        let attributes = match attributes {
            ValueRef::Null => None,
            other => Some(text(other)?),
        };
        let r#type = text(column(row, 2)?)?;
        let timestamp = moment(column(row, 4)?)?;
        let mut message = Message::from_row(id, r#type, payload, timestamp, attributes)
            .map_err(|error| error.to_string())?;
        // The columns decide: they are what the order goes by, and what an operator would change.
        message.key = match column(row, 6)? {
            ValueRef::Null => None,
            other => Some(Key::new(text(other)?).map_err(|error| error.to_string())?),
        };
        if let ValueRef::Integer(priority) = column(row, 7)? {
            message.priority = u8::try_from(priority.clamp(0, 100)).unwrap_or(message.priority);
        }
        Ok(message)
    };
    Ok(made())
}

/// A count that another program may have set to anything: the message is none the worse for it.
fn count(row: &Row<'_>, index: usize) -> rusqlite::Result<u32> {
    Ok(match row.get_ref(index)? {
        ValueRef::Integer(count) => u32::try_from(count.max(0)).unwrap_or(u32::MAX),
        _ => 0,
    })
}

fn column<'a>(row: &'a Row<'_>, index: usize) -> Result<ValueRef<'a>, String> {
    row.get_ref(index).map_err(|error| error.to_string())
}

fn text(value: ValueRef<'_>) -> Result<&str, String> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            std::str::from_utf8(bytes).map_err(|error| error.to_string())
        }
        other => Err(format!("{} where text belongs", other.data_type())),
    }
}

/// Other writers may store a moment as any kind of number, or as RFC 3339 text.
fn moment(value: ValueRef<'_>) -> Result<Timestamp, String> {
    match value {
        ValueRef::Integer(millis) => Ok(Timestamp(millis)),
        // `as` saturates, and a fraction of a millisecond is of no use.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturating is what is wanted"
        )]
        ValueRef::Real(millis) => Ok(Timestamp(millis as i64)),
        other => text(other)?
            .parse()
            .map_err(|error| format!("timestamp: {error}")),
    }
}

fn origin(row: &Row<'_>) -> rusqlite::Result<Option<Origin>> {
    let ValueRef::Text(producer) = row.get_ref(11)? else {
        return Ok(None);
    };
    let (ValueRef::Integer(epoch), ValueRef::Integer(sequence)) =
        (row.get_ref(12)?, row.get_ref(13)?)
    else {
        return Ok(None);
    };
    Ok(uuid::Uuid::try_parse_ascii(producer)
        .ok()
        .map(|producer| Origin {
            producer: ProducerId::from_u128(producer.as_u128()),
            epoch: Epoch(epoch.cast_unsigned()),
            sequence: sequence.cast_unsigned(),
        }))
}

/// Text for people, of what may be damaged: as far as it can be read.
pub(crate) fn lossy(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(index)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Null => None,
    })
}

/// Text in the form of `T`.
pub(crate) fn parse<T>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(index)?.as_str()?.parse().map_err(|error| {
        let text = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(index, text, Box::new(error))
    })
}
