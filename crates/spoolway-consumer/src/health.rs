//! What is noticed about the things a consumer depends on.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::ConsumerError;
use crate::shared::Shared;

/// Ends the consumer if the thread panics before [`Guard::done`].
pub(crate) struct Guard<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) what: &'static str,
}

impl Guard<'_> {
    pub(crate) fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.shared
            .fail(ConsumerError::Panicked(self.what.to_owned()));
    }
}

/// Whether something works, logged when that changes.
pub(crate) struct Health {
    what: &'static str,
    failing: AtomicBool,
}

impl Health {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self {
            what,
            failing: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    pub(crate) fn noted<T, E: std::error::Error>(&self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                if self.failing.load(Ordering::Relaxed)
                    && self.failing.swap(false, Ordering::Relaxed)
                {
                    tracing::info!("{} works again", self.what);
                }
                Some(value)
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let source = error
                        .source()
                        .map(|source| format!(": {source}"))
                        .unwrap_or_default();
                    tracing::error!("{} fails: {error}{source}", self.what);
                }
                None
            }
        }
    }
}
