//! Which settled messages are meant.

use rusqlite::{Connection, Row, ToSql};
use spoolway_proto::{Key, MessageId, Timestamp};

/// Which settled messages are meant; the default is all of them.
///
/// ```
/// use spoolway_queue::Filter;
///
/// let candles = Filter { types: vec!["candle:*".into()], ..Filter::default() };
/// assert!(!candles.is_all());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of these ids; empty: of any.
    pub ids: Vec<MessageId>,
    /// Those of a type like one of these: `*` any text, `?` any character, `[…]` one of these;
    /// empty: of any.
    pub types: Vec<String>,
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
            ids: vec![id],
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
        mut get: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let mut found = Vec::new();
        self.visit(conn, statement, behind, |row| {
            found.push(get(row)?);
            Ok(true)
        })?;
        Ok(found)
    }

    /// The same, row by row, until `visit` says no.
    pub(crate) fn visit(
        &self,
        conn: &Connection,
        statement: &str,
        behind: &[i64],
        mut visit: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let seconds = |moment: Timestamp| moment.0.div_euclid(1_000);
        let ids = array(self.ids.iter().map(MessageId::as_str));
        let types = array(self.types.iter().map(String::as_str));
        let key = self.key.as_ref().map(Key::as_str);
        let (since, until) = (self.since.map(seconds), self.until.map(seconds));
        let mut values: Vec<&dyn ToSql> = vec![&ids, &types, &key, &self.reason, &since, &until];
        values.extend(behind.iter().map(|value| value as &dyn ToSql));
        let mut statement = conn.prepare_cached(statement)?;
        let mut rows = statement.query(&*values)?;
        while let Some(row) = rows.next()? {
            if !visit(row)? {
                break;
            }
        }
        Ok(())
    }
}

/// An array of JSON; `None` for none, which means any.
fn array<'a>(texts: impl Iterator<Item = &'a str>) -> Option<String> {
    let texts: Vec<&str> = texts.collect();
    (!texts.is_empty()).then(|| serde_json::Value::from(texts).to_string())
}
