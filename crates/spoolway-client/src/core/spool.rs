//! The way into the queue file.

use std::sync::Arc;
use std::time::Instant;

use spoolway_proto::{Message, Outcome};
use spoolway_queue::{Due, Existing, NewRow, Origin, QueueError, RowState, Write, Written};

use super::{Core, Event, SocketReason, Spool};
use crate::route::Spooled;

impl Core {
    /// The writer answered.
    pub(crate) fn spooled(
        &mut self,
        now: Instant,
        group: u64,
        result: Result<Vec<Written>, QueueError>,
    ) {
        let database = self.options.database.display();
        match result {
            Ok(written) => {
                if self.queue_error.take().is_some() {
                    tracing::info!("queue file {database} is written again");
                }
                let results = written.into_iter().map(spooled).collect();
                self.on(now, Event::Spooled { group, results });
            }
            Err(error) => {
                if self.queue_error.is_none() {
                    tracing::error!(code = error.code(), "spooling failed: {error}");
                }
                let unknown = error.is_unknown();
                self.queue_error = Some(error);
                self.on(now, Event::SpoolFailed { group, unknown });
            }
        }
    }

    pub(super) fn spool(
        &mut self,
        now: Instant,
        group: u64,
        origins: impl Iterator<Item = Origin>,
    ) {
        if self.other_queue.is_some() {
            // A spool that nobody reads is loss.
            let unknown = false;
            self.route.on(now, Event::SpoolFailed { group, unknown });
            return;
        }
        let rows = origins.filter_map(|origin| {
            let message = Arc::clone(&self.route.body(origin.sequence)?.message);
            Some(Write::Insert(row(message, origin)))
        });
        let writes = rows.collect();
        if !self.options.spool_only {
            let reason = self.reason.as_ref().unwrap_or(&SocketReason::NoRoom);
            let note = format!("{reason}: spooling to {}", self.options.database.display());
            self.note(note, |note| tracing::warn!("{note}"));
        }
        self.effects.spool = Some(Spool { group, writes });
    }
}

fn spooled(written: Written) -> Spooled {
    match written {
        Written::Exists { state, .. } => Spooled::Duplicate(match state {
            Existing::Pending => Outcome::Stored,
            Existing::Processed => Outcome::Processed,
            Existing::Dead => Outcome::Dead,
        }),
        Written::Conflict => Spooled::Conflict,
        // An insertion has no other answers.
        _ => Spooled::Stored,
    }
}

fn row(message: Arc<Message>, origin: Origin) -> NewRow {
    let due = message.deliver_at.map_or(Due::Now, Due::At);
    let state = RowState::Pending {
        attempts: 0,
        due,
        error: None,
        suspect: false,
        claimed: false,
    };
    NewRow {
        message,
        origin: Some(origin),
        state,
    }
}
