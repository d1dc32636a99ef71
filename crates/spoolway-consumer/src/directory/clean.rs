//! Removes old acks and errors.

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::ack::TEMPORARY;
use super::failed;
use crate::ConsumerError;
use crate::consumer::unblocked;
use crate::health::Health;
use crate::shared::Shared;

/// Errors hold what was refused: somebody must have the time to see them, whatever the retention of the queue file.
const RETENTION_MIN: Duration = Duration::from_secs(60 * 60);
/// Between two cleanups: each looks at every ack there is.
const EVERY_MAX: Duration = Duration::from_secs(60 * 60);
/// How much older than the retention files get, as a part of it.
const LATE: u32 = 24;

pub(crate) async fn run(shared: Arc<Shared>, root: PathBuf, ended: Arc<AtomicBool>) {
    let health = Health::new("cleaning the spool directory up");
    let retention = shared.config.retention.max(RETENTION_MIN);
    while !ended.load(Ordering::Relaxed) {
        let (root, ended) = (root.clone(), Arc::clone(&ended));
        match unblocked(move || clean(&root, retention, &ended)).await {
            Ok(cleaned) => drop(health.noted(cleaned)),
            Err(error) => return shared.fail(error),
        }
        sleep((retention / LATE).min(EVERY_MAX)).await;
    }
}

/// Looks at every folder, and goes on behind what cannot be read or removed. Blocks.
fn clean(root: &Path, retention: Duration, ended: &AtomicBool) -> Result<(), ConsumerError> {
    let mut result = Ok(());
    for folder in fs::read_dir(root).map_err(failed("read", root))? {
        let Ok(folder) = folder else { continue };
        if !folder.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for place in ["acks", "errors"] {
            let place = folder.path().join(place);
            if let Err(error) = clean_place(&place, retention, ended) {
                result = Err(failed("clean", &place)(error));
            }
        }
    }
    result
}

fn clean_place(place: &Path, retention: Duration, ended: &AtomicBool) -> io::Result<()> {
    let entries = match fs::read_dir(place) {
        // Not a folder of ours, or a new one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        if ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        let entry = entry?;
        if is_ours(&entry.file_name()) && is_older(&entry, retention) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let ends = [&b".ack"[..], b".json", b".original"];
    name.starts_with(TEMPORARY.as_bytes()) || ends.iter().any(|end| name.ends_with(end))
}

fn is_older(entry: &DirEntry, retention: Duration) -> bool {
    let metadata = entry.metadata().ok().filter(fs::Metadata::is_file);
    let modified = metadata.and_then(|metadata| metadata.modified().ok());
    let age = modified.and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age > retention)
}
