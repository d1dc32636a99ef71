//! `spoolway keys`: the keys that a dead letter has stopped.

use serde::Serialize;
use spoolway::proto::Key;
use spoolway::queue::{HeldKey, QueueError, QueueOptions, Write};
use spoolway::{MessageId, SqliteQueue, Timestamp};

use crate::args::{KeysLs, KeysRelease};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::{count, plural};

/// Messages behind a key that are counted; with more, the table says so with a `+`.
const WAITING_MAX: usize = 10_000;

#[derive(Debug, Serialize)]
struct Stopped {
    key: Key,
    since: Timestamp,
    message_id: MessageId,
    reason: String,
    /// At most [`WAITING_MAX`].
    waiting: u64,
}

pub(crate) fn list(places: &Places, args: &KeysLs) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let held = queue.held_keys()?;
    let stopped: Result<Vec<Stopped>, QueueError> =
        held.into_iter().map(|held| behind(&queue, held)).collect();
    let stopped = stopped?;
    if args.json {
        print_json(&serde_json::json!({ "keys": stopped }))?;
    } else if stopped.is_empty() {
        print("no key is stopped")?;
    } else {
        print(table(&stopped))?;
    }
    Ok(exit::OK)
}

/// The consumer hears of it by a datagram, and at its next poll at the latest.
pub(crate) fn release(places: &Places, args: &KeysRelease) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let mut held = queue.held_keys()?;
    if let Some(key) = &args.key {
        held.retain(|held| held.key == *key);
        if held.is_empty() {
            let what = format!("the key {key} is not stopped");
            return Err(Failure::new(exit::NOT_FOUND, "key_not_held", what)
                .help("`spoolway keys ls` lists those that are"));
        }
    }
    let free = |held: &HeldKey| Write::FreeKey(held.key.clone());
    queue.write(held.iter().map(free).collect())?;
    if args.json {
        let keys: Vec<&Key> = held.iter().map(|held| &held.key).collect();
        print_json(&serde_json::json!({ "released": keys }))?;
    } else {
        print(format!("{} released", plural(held.len() as u64, "key")))?;
    }
    Ok(exit::OK)
}

fn behind(queue: &SqliteQueue, held: HeldKey) -> Result<Stopped, QueueError> {
    let waiting = queue.rows_of_key(&held.key, WAITING_MAX)?.rows.len() as u64;
    let HeldKey {
        key,
        since,
        message_id,
        reason,
    } = held;
    Ok(Stopped {
        key,
        since,
        message_id,
        reason,
        waiting,
    })
}

fn table(stopped: &[Stopped]) -> String {
    let longest = stopped.iter().map(|one| one.key.as_str().chars().count());
    let width = longest.max().unwrap_or(0).max("key".len());
    let mut lines = vec![format!(
        "{:<width$}  {:>8}  {:<24}  stopped by",
        "key", "waiting", "since"
    )];
    for one in stopped {
        let more = if one.waiting == WAITING_MAX as u64 {
            "+"
        } else {
            ""
        };
        lines.push(format!(
            "{:<width$}  {:>8}  {:<24}  {} ({})",
            one.key.as_str(),
            count(one.waiting) + more,
            one.since.to_rfc3339(),
            one.message_id,
            one.reason,
        ));
    }
    lines.join("\n")
}
