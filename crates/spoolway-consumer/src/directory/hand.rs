//! Which files are in hand: read, and not settled yet.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Enough to keep every handler slot busy and each sync shared by many; few enough to lose no memory to them.
const FILES_MAX: usize = 256;
/// Messages share the bytes of their files, so this is what they take of memory.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Default)]
pub(crate) struct Hand {
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Default)]
struct Held {
    files: HashSet<PathBuf>,
    bytes: u64,
}

impl Hand {
    fn held(&self) -> MutexGuard<'_, Held> {
        // No state is left half-changed that matters: bytes only bound.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self, path: PathBuf, bytes: u64) {
        let mut held = self.held();
        held.files.insert(path);
        held.bytes += bytes;
    }

    pub(crate) fn release(&self, path: &Path, bytes: u64) {
        let mut held = self.held();
        held.files.remove(path);
        held.bytes = held.bytes.saturating_sub(bytes);
        drop(held);
        self.freed.notify_one();
    }

    pub(crate) fn has(&self, path: &Path) -> bool {
        self.held().files.contains(path)
    }

    /// How many more files may be taken now.
    fn room(&self) -> usize {
        let held = self.held();
        if held.bytes >= BYTES_MAX {
            return 0;
        }
        FILES_MAX.saturating_sub(held.files.len())
    }

    /// Waits until there is room, and says for how many files. For one task.
    pub(crate) async fn has_room(&self) -> usize {
        loop {
            match self.room() {
                0 => self.freed.notified().await,
                room => return room,
            }
        }
    }
}
