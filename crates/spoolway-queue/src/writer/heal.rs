//! What the writer does when its file turns out to be damaged.

use std::time::{Duration, Instant};

use super::Writer;
use crate::QueueError;
use crate::file::{OPEN_WAIT_MAX, OpenFile};
use crate::lock::Guard;
use crate::quarantine;
use crate::queue::Role;
use crate::salvage::Salvage;

/// When a salvage that failed is tried again, however busy the writer is.
const SALVAGE_AGAIN: Duration = Duration::from_secs(1);

/// How long a batch of saved rows waits for the write lock.
const SALVAGE_WAIT_MAX: Duration = Duration::from_secs(30);

impl Writer {
    /// Whether it is worth trying again after this error: the file was damaged, and another is at its path now.
    pub(super) fn heal(&mut self, error: &QueueError) -> Result<bool, QueueError> {
        if !matches!(error, QueueError::Corrupt { .. }) || self.file.is_none() {
            return Ok(false);
        }
        if quarantine::may(&self.shared.path, &self.shared.options) {
            self.set_aside(error)?;
            return Ok(true);
        }
        let moved = self.file.as_ref().is_some_and(OpenFile::has_moved);
        if moved {
            self.lose_file();
        } else {
            // Opened anew next time: by then its consumer may have replaced it.
            self.file = None;
            quarantine::report(&self.shared.path);
        }
        Ok(moved)
    }

    /// Sets the file aside. To this handle the one in its place is the same: it has its identity, and rows keep their
    /// numbers.
    pub(super) fn set_aside(&mut self, error: &QueueError) -> Result<(), QueueError> {
        let path = &self.shared.path;
        let moved = self.file.as_ref().is_some_and(OpenFile::has_moved);
        if moved {
            self.lose_file();
            return Ok(());
        }
        let guard = Guard::take(path, OPEN_WAIT_MAX)?;
        let done = quarantine::start(&guard, path, Some(self.shared.identity()), error);
        if done.is_ok() || quarantine::begun(path).is_some() {
            // Closed only now: what has moved is not changed by closing it.
            self.file = None;
            self.unsettled = false;
        }
        done
    }

    /// Saves what waits of a file that was set aside. Where that fails the queue goes on without it, and it is tried
    /// again later.
    pub(super) fn salvage(&mut self) {
        let shared = &self.shared;
        if self.salvage_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.salvage_at = None;
        if !quarantine::may(&shared.path, &shared.options) {
            return;
        }
        let (Some(salvage), Some(file)) = (Salvage::waiting(&shared.path), &self.file) else {
            return;
        };
        let waiting = file.conn.busy_timeout(SALVAGE_WAIT_MAX);
        let done = waiting
            .map_err(|error| QueueError::sql(&shared.path, error))
            .and_then(|()| salvage.run(&file.conn, &shared.path));
        if let Err(error) = done {
            tracing::error!(queue = %shared.path.display(), %error, "saving rows of the damaged file stopped; it goes on later");
            self.salvage_at = Some(Instant::now() + SALVAGE_AGAIN);
        }
        if file.conn.busy_timeout(Duration::ZERO).is_err() {
            self.file = None;
        }
    }

    /// Looks for itself when a producer has said that the file is damaged.
    pub(super) fn examine_if_told(&mut self) -> Result<(), QueueError> {
        let shared = &self.shared;
        if shared.options.role != Role::Consumer
            || !quarantine::may(&shared.path, &shared.options)
            || !quarantine::reported(&shared.path)
        {
            return Ok(());
        }
        match quarantine::examine(&shared.path) {
            Err(error @ QueueError::Corrupt { .. }) => self.set_aside(&error),
            Err(error) => Err(error),
            Ok(()) => {
                tracing::info!(queue = %shared.path.display(), "a producer found the queue file damaged, but it is not");
                Ok(())
            }
        }
    }
}
