//! Whether a consumer lives, by the lock files that it holds.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::failure::Failure;

/// Whether someone holds this lock. Ask now and then only: for a moment the question itself holds it, if nobody
/// does.
pub(crate) fn is_locked(path: &Path) -> Result<bool, Failure> {
    let failed = |error| Failure::io(format!("cannot look at {}", path.display()), &error);
    match File::open(path) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}
