//! A table of ours in the database of the program that uses it: its name, its columns, and what
//! may be asked of the connection.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Error};

use crate::QueueError;
use crate::sql::user;

/// The longest name of a table, in bytes; what is named after it has more.
const NAME_BYTES_MAX: usize = 48;

/// The name of a table, fit to stand in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table(Box<str>);

impl Table {
    /// A name that is known to be fit.
    pub(crate) fn trusted(name: &'static str) -> Self {
        Self(name.into())
    }

    pub(crate) fn new(name: &str) -> Result<Self, QueueError> {
        let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let reserved = name
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
        if starts && name.bytes().all(rest) && name.len() <= NAME_BYTES_MAX && !reserved {
            return Ok(Self(name.into()));
        }
        let what = format!(
            "it is no name for a table: 1 to {NAME_BYTES_MAX} letters, digits and `_`, with no \
             digit first and no `sqlite_`, are"
        );
        Err(QueueError::misuse(Path::new(name), what))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The statement, on this table.
    pub(crate) fn sql(&self, statement: &str) -> String {
        user::on(&self.0, statement)
    }

    /// Makes the table if it is not there, and makes sure that it is ours.
    pub(crate) fn create(
        &self,
        conn: &Connection,
        statements: &str,
        columns: &[&str],
    ) -> Result<(), QueueError> {
        if !self.columns(conn)?.is_empty() {
            self.check(conn, columns)?;
        }
        conn.execute_batch(&self.sql(statements))
            .map_err(|error| QueueError::sql(&path(conn), error))
    }

    /// Refuses a table that is missing or another program's.
    pub(crate) fn check(&self, conn: &Connection, columns: &[&str]) -> Result<(), QueueError> {
        let found = self.columns(conn)?;
        if found.is_empty() {
            return Err(self.missing(conn));
        }
        match columns
            .iter()
            .find(|&&column| !found.iter().any(|name| name == column))
        {
            None => Ok(()),
            Some(column) => {
                let what = format!(
                    "its table {} lacks the column {column}, so it is another program's; choose \
                     another name",
                    self.0
                );
                Err(QueueError::misuse(&path(conn), what))
            }
        }
    }

    /// Refuses a connection that has no transaction open: what is written would be committed by
    /// itself, before or without what belongs to it.
    pub(crate) fn within_transaction(&self, conn: &Connection) -> Result<(), QueueError> {
        if conn.is_autocommit() {
            let what = format!(
                "{} is used outside of a transaction; begin one first",
                self.0
            );
            return Err(QueueError::misuse(&path(conn), what));
        }
        Ok(())
    }

    /// What a statement on this table ran into.
    pub(crate) fn failed(&self, conn: &Connection, error: Error) -> QueueError {
        match QueueError::sql(&path(conn), error) {
            QueueError::Statement { .. }
                if self.columns(conn).is_ok_and(|found| found.is_empty()) =>
            {
                self.missing(conn)
            }
            error => error,
        }
    }

    fn missing(&self, conn: &Connection) -> QueueError {
        let what = format!("it has no table {}; call `create` first", self.0);
        QueueError::misuse(&path(conn), what)
    }

    fn columns(&self, conn: &Connection) -> Result<Vec<String>, QueueError> {
        let columns = || {
            conn.prepare_cached(user::COLUMNS)?
                .query_map([self.name()], |row| row.get(0))?
                .collect::<Result<_, _>>()
        };
        columns().map_err(|error| QueueError::sql(&path(conn), error))
    }
}

/// The database of a connection, as errors name it.
pub(crate) fn path(conn: &Connection) -> PathBuf {
    match conn.path() {
        Some(path) if !path.is_empty() => path.into(),
        _ => ":memory:".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_something_else_are_refused() {
        let longest = "x".repeat(NAME_BYTES_MAX);
        for name in ["inbox", "_", "Orders_2", &longest] {
            assert_eq!(Table::new(name).unwrap().name(), name);
        }
        let too_long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "", "2fast", "a b", "a\"b", "a;b", "main.t", "ä", "SQLite_x", &too_long,
        ] {
            let refused = Table::new(name).unwrap_err();
            assert_eq!(refused.code(), "queue_misuse", "{name}");
        }
    }
}
