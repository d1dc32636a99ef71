//! `spoolway cleanup`: deletes what was processed long enough ago, and dead letters above a cap.

use spoolway::SqliteQueue;
use spoolway::queue::QueueOptions;

use crate::args::Cleanup;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::{count, plural};

pub(crate) fn run(places: &Places, args: &Cleanup) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let deleted = queue.cleanup(args.retention)?;
    let dropped = match args.dead_max {
        Some(max) => Some(queue.cap_dead(max)?),
        None => None,
    };
    if args.json {
        print_json(&serde_json::json!({ "deleted": deleted, "dead_dropped": dropped }))?;
        return Ok(exit::OK);
    }
    let mut text = format!("{} deleted", plural(deleted, "processed message"));
    if let Some(dropped) = dropped {
        let reasons = dropped.iter();
        let reasons: Vec<String> = reasons
            .map(|(reason, letters)| format!("{} {reason}", count(*letters)))
            .collect();
        text += &format!(
            "; {} dropped",
            plural(dropped.values().sum(), "dead letter")
        );
        if !reasons.is_empty() {
            text += &format!(" ({})", reasons.join(", "));
        }
    }
    print(text)?;
    Ok(exit::OK)
}
