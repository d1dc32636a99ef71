//! `spoolway queue backup` and `queue compact`.

use indicatif::{ProgressBar, ProgressStyle};
use spoolway::SqliteQueue;
use spoolway::queue::QueueOptions;

use crate::args::{Backup, Compact};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::paths::Places;
use crate::units::{bytes, plural};

/// What a page of the file holds.
const PAGE_BYTES: u64 = 4_096;

pub(crate) fn run(places: &Places, args: &Backup, quiet: bool) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let bar = progress(quiet);
    let made = queue.backup(&args.path, |done, total| {
        bar.set_length(total * PAGE_BYTES);
        bar.set_position(done * PAGE_BYTES);
    });
    bar.finish_and_clear();
    let made = made?;
    if args.json {
        print_json(&made)?;
    } else {
        print(format!(
            "{} in {} ({}), checked",
            plural(made.messages, "message"),
            made.path.display(),
            bytes(made.bytes)
        ))?;
    }
    Ok(exit::OK)
}

pub(crate) fn compact(places: &Places, args: &Compact) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let done = queue.compact()?;
    if args.json {
        print_json(&done)?;
    } else {
        print(format!(
            "file {} → {}, log {} → {}",
            bytes(done.file_bytes_before),
            bytes(done.file_bytes),
            bytes(done.wal_bytes_before),
            bytes(done.wal_bytes)
        ))?;
    }
    if done.held_up {
        tell("a reader kept the log from being emptied; the next checkpoint goes on with it");
    }
    Ok(exit::OK)
}

fn progress(quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    // The template is fixed text: if it were wrong, the default look would do.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    bar
}
