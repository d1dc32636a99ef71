//! What is new, from the watch's thread to the taking task.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use spoolway_socket::DirectoryNews;
use tokio::sync::Notify;

/// What changed, until it is looked at. As large as there are directories.
#[derive(Default)]
pub(crate) struct News {
    changed: Mutex<Changed>,
    pub(crate) came: Notify,
}

#[derive(Default)]
pub(crate) struct Changed {
    /// Anything may have.
    pub(crate) all: bool,
    /// Directories that have something new.
    pub(crate) paths: HashSet<PathBuf>,
    /// Directories that are watched no more.
    pub(crate) gone: HashSet<PathBuf>,
}

impl News {
    /// Everything is to be looked at.
    pub(crate) fn note_all(&self) {
        self.change(|changed| changed.all = true);
    }

    /// What the watch of a directory `depth` names deep has noticed.
    pub(crate) fn note(&self, depth: usize, news: DirectoryNews) {
        match news {
            DirectoryNews::Appeared(path) => {
                let Some(parent) = path.parent() else { return };
                self.change(|changed| {
                    if !changed.paths.contains(parent) {
                        changed.paths.insert(parent.into());
                    }
                });
            }
            // Mostly message files that were removed.
            DirectoryNews::Gone(path) if path.components().count() > depth + 2 => return,
            DirectoryNews::Gone(path) => self.change(|changed| changed.gone.extend([path])),
            DirectoryNews::Missed => self.note_all(),
        }
        self.came.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut Changed)) {
        change(&mut self.changed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What changed since the last time; `None` if nothing did.
    pub(crate) fn take(&self) -> Option<Changed> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let none = !changed.all && changed.paths.is_empty() && changed.gone.is_empty();
        (!none).then(|| std::mem::take(&mut *changed))
    }
}
