//! Which settled messages are meant.

use rusqlite::{Connection, Row, ToSql};
use spoolway_proto::{Key, MessageId, Timestamp};

/// Which settled messages are meant; the default is all of them.
///
/// ```
/// use spoolway_queue::Filter;
///
/// let candles = Filter { r#type: Some("candle:*".into()), ..Filter::default() };
/// assert!(!candles.is_all());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The one of this id.
    pub id: Option<MessageId>,
    /// Those of a type like this: `*` any text, `?` any character, `[…]` one of these.
    pub r#type: Option<String>,
    /// Those of this key.
    pub key: Option<Key>,
    /// Those that died of this.
    pub reason: Option<String>,
    /// Settled at that moment or later, to the second.
    pub since: Option<Timestamp>,
    /// Settled at that moment or before, to the second.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// The one of this id.
    pub fn one(id: MessageId) -> Self {
        Self {
            id: Some(id),
            ..Self::default()
        }
    }

    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// The parameters 1 to 6, and those of the statement behind them.
    pub(crate) fn query<T>(
        &self,
        conn: &Connection,
        statement: &str,
        behind: &[i64],
        get: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let seconds = |moment: Timestamp| moment.0.div_euclid(1_000);
        let id = self.id.as_ref().map(MessageId::as_str);
        let key = self.key.as_ref().map(Key::as_str);
        let (since, until) = (self.since.map(seconds), self.until.map(seconds));
        let mut values: Vec<&dyn ToSql> =
            vec![&id, &self.r#type, &key, &self.reason, &since, &until];
        values.extend(behind.iter().map(|value| value as &dyn ToSql));
        conn.prepare_cached(statement)?
            .query_map(&*values, get)?
            .collect()
    }
}
