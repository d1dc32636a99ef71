//! The requests of one transaction: each can fail alone, and a second attempt tells them the same.

use rusqlite::{Connection, ErrorCode};

use crate::apply::{Fault, Tx};
use crate::tray::{Answer, Job};
use crate::write::{Write, Written};
use crate::{QueueError, sql};

/// Applies one request so that it can fail alone, unless it is `alone` anyway: then the transaction fails with it,
/// and no page is copied for a savepoint. `Err` is an error of the whole transaction.
pub(crate) fn apply_one(tx: &mut Tx<'_>, job: &mut Job, alone: bool) -> Result<Answer, QueueError> {
    let (mark, owner) = (tx.book.mark(), *tx.owner);
    let before = std::mem::take(&mut tx.tally);
    let savepoint = !alone && needs_savepoint(job);
    let error = match run(tx, job, savepoint) {
        Ok(written) => {
            let done = std::mem::replace(&mut tx.tally, before);
            tx.tally.append(done);
            return Ok(Ok(written));
        }
        Err(Fault::Refused(error)) if alone => return Err(error),
        Err(Fault::Refused(error)) => error,
        Err(Fault::Sql(error)) => {
            let whole = alone || is_of_transaction(&error) || tx.conn.is_autocommit();
            let error = QueueError::sql(tx.path, error);
            if whole {
                return Err(error);
            }
            error
        }
    };
    if savepoint {
        for statement in [sql::ROLLBACK_TO, sql::RELEASE] {
            execute(tx.conn, statement).map_err(|error| QueueError::sql(tx.path, error))?;
        }
    }
    tx.book.undo_to(mark);
    tx.room.forget();
    *tx.owner = owner;
    tx.tally = before;
    Ok(Err(error))
}

fn run(tx: &mut Tx<'_>, job: &mut Job, savepoint: bool) -> Result<Vec<Written>, Fault> {
    if savepoint {
        execute(tx.conn, sql::SAVEPOINT)?;
    }
    let written: Vec<Written> = match job {
        Job::Run(run) | Job::RunUnsynced(run) => run(tx).map(|()| Vec::new()),
        Job::Writes(writes, generation) => {
            if let Some(known) = *generation {
                tx.of_generation(known)?;
            }
            writes.iter().map(|write| tx.apply(write)).collect()
        }
    }?;
    if savepoint {
        execute(tx.conn, sql::RELEASE)?;
    }
    Ok(written)
}

pub(crate) fn execute(conn: &Connection, statement: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(statement)?.execute(()).map(drop)
}

/// Where only the first statement can fail by itself, SQLite undoes it alone: what may follow it
/// changes claims by their primary key.
fn needs_savepoint(job: &Job) -> bool {
    match job {
        Job::Run(_) | Job::RunUnsynced(_) => true,
        Job::Writes(writes, _) => match writes.as_slice() {
            [] => false,
            [Write::Insert(row)] => row.state.is_claimed(),
            [write] => matches!(write, Write::Claim(_) | Write::Release(_)),
            _ => true,
        },
    }
}

/// Errors after which the rest of the transaction cannot be trusted, or would fail likewise.
fn is_of_transaction(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
        )
    )
}

/// The answers after a second attempt: what the first one wrote, whose commit failed and may have
/// taken effect all the same, is not news to the second.
pub(crate) fn merge(first: Option<Vec<Answer>>, second: Vec<Answer>) -> Vec<Answer> {
    let Some(first) = first else { return second };
    let mut first = first.into_iter();
    second
        .into_iter()
        .map(|again| match (first.next(), again) {
            (Some(Ok(before)), Ok(mut again)) => {
                for (again, before) in again.iter_mut().zip(before) {
                    match (before, &again) {
                        (Written::Inserted { .. }, Written::Exists { seq, .. }) => {
                            *again = Written::Inserted { seq: *seq };
                        }
                        (Written::Settled { seq: Some(_) }, Written::Settled { seq: None }) => {
                            *again = before;
                        }
                        _ => {}
                    }
                }
                Ok(again)
            }
            (_, again) => again,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::Existing;

    #[test]
    fn what_a_failed_commit_had_written_is_reported_as_written() {
        let state = Existing::Pending;
        let merged = merge(
            Some(vec![
                Ok(vec![
                    Written::Inserted { seq: 7 },
                    Written::Settled { seq: Some(3) },
                ]),
                Ok(vec![Written::Exists { seq: 2, state }]),
            ]),
            vec![
                Ok(vec![
                    Written::Exists { seq: 7, state },
                    Written::Settled { seq: None },
                ]),
                Ok(vec![Written::Exists { seq: 2, state }]),
                Ok(vec![Written::Inserted { seq: 8 }]),
            ],
        );
        let merged: Vec<_> = merged.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            merged,
            [
                vec![
                    Written::Inserted { seq: 7 },
                    Written::Settled { seq: Some(3) }
                ],
                vec![Written::Exists { seq: 2, state }],
                vec![Written::Inserted { seq: 8 }],
            ]
        );
    }
}
