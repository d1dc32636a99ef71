//! `spoolway cleanup`: deletes what was processed long enough ago.

use spoolway::SqliteQueue;
use spoolway::queue::QueueOptions;

use crate::args::Cleanup;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::plural;

pub(crate) fn run(places: &Places, args: &Cleanup) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let deleted = queue.cleanup(args.retention)?;
    if args.json {
        print_json(&serde_json::json!({ "deleted": deleted }))?;
    } else {
        print(format!("{} deleted", plural(deleted, "processed message")))?;
    }
    Ok(exit::OK)
}
