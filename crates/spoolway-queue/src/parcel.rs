//! A row on its way from one file to another: its message, its state, its other columns.

use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};
use spoolway_proto::{Limits, Message, ProducerId, validate_queue_message};

use crate::row;

/// The state of a row that travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Pending,
    Processed,
    Dead,
}

impl State {
    /// What the column `processed` holds.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Pending => 0,
            Self::Processed => 1,
            Self::Dead => 2,
        }
    }

    pub(crate) fn of(number: i64) -> Self {
        match number {
            1 => Self::Processed,
            2 => Self::Dead,
            _ => Self::Pending,
        }
    }
}

/// What a row has beside its message. The names are those of the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Columns {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crc: Option<u32>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) attempts: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) delivery: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) suspect: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) due_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) due_boot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) processed_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_attempt_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_attempt_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dead_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) producer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A row on its way from one file to another.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) message: Message,
    pub(crate) state: State,
    pub(crate) columns: Columns,
}

impl Parcel {
    /// What a queue file of ours may not hold is wrong.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), String> {
        validate_queue_message(&self.message, limits).map_err(|invalid| invalid.to_string())?;
        let columns = &self.columns;
        let origin = (&columns.producer, columns.epoch, columns.sequence);
        match origin {
            (None, None, None) => Ok(()),
            (Some(producer), Some(_), Some(_)) => match producer.parse::<ProducerId>() {
                Ok(_) => Ok(()),
                Err(invalid) => Err(format!("producer: {invalid}")),
            },
            _ => Err("of `producer`, `epoch` and `sequence` one is missing".to_owned()),
        }
    }
}

/// What a row of [`upkeep::ROWS`] has beside its message.
pub(crate) fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok(Columns {
        attempts: row.get(8)?,
        delivery: row.get(9)?,
        suspect: row.get(10)?,
        producer: row.get(11)?,
        epoch: row.get(12)?,
        sequence: row.get(13)?,
        crc: row.get(14).unwrap_or(None),
        processed_at: row.get(16)?,
        created_at: row.get(17).unwrap_or(None),
        due_at: row.get(18)?,
        due_boot: row.get(19)?,
        first_attempt_at: row.get(20)?,
        last_attempt_at: row.get(21)?,
        last_error: row.get(22)?,
        dead_reason: row.get(23)?,
    })
}

/// The row of [`upkeep::ROWS`] as it travels, or what is wrong with it.
pub(crate) fn parcel(row: &Row<'_>, limits: &Limits) -> rusqlite::Result<Result<Parcel, String>> {
    let message = match row::whole(row)? {
        Ok(message) => message,
        Err(why) => return Ok(Err(why)),
    };
    let state = State::of(row.get::<_, Option<i64>>(15)?.unwrap_or(0));
    let columns = columns(row)?;
    let parcel = Parcel {
        message,
        state,
        columns,
    };
    Ok(parcel.check(limits).map(|()| parcel))
}

/// The values of [`upkeep::IMPORT`], in its order.
pub(crate) fn insert(
    statement: &mut rusqlite::CachedStatement<'_>,
    parcel: &Parcel,
    now_ms: i64,
) -> rusqlite::Result<usize> {
    let (message, columns) = (&parcel.message, &parcel.columns);
    statement.execute(params![
        message.id.as_str(),
        &*message.r#type,
        message.payload.as_str(),
        message.timestamp.map_or(now_ms, |timestamp| timestamp.0),
        message.encode_attributes(),
        message.key.as_ref().map(|key| key.as_str()),
        message.priority,
        columns.attempts,
        columns.delivery,
        columns.suspect,
        columns.producer,
        columns.epoch,
        columns.sequence,
        message.crc(),
        parcel.state.number(),
        columns.processed_at,
        columns.created_at,
        columns.due_at,
        columns.due_boot,
        columns.first_attempt_at,
        columns.last_attempt_at,
        columns.last_error,
        columns.dead_reason,
        message.expires_at().map(|moment| moment.0),
    ])
}
