//! Without a filter: waits until the backlog is delivered.

use std::time::{Duration, Instant};

use serde::Serialize;
use spoolway::SqliteQueue;
use spoolway::queue::Stats;

use super::{Held, LOOK_FIRST, LOOK_MAX, Stop, next_look, not_running, progress};
use crate::args::Replay;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::units::{count, plural};

const TEMPLATE: &str = "{bar:30} {human_pos} of {human_len} delivered, {eta} left {msg}";
/// Time between two looks at what the rest waits for, while nothing is delivered.
const WHY_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Drained {
    delivered: u64,
    pending: u64,
    new_dead: u64,
    dead: u64,
    seconds: f64,
}

pub(super) fn wait(
    queue: &SqliteQueue,
    args: &Replay,
    stop: &Stop,
    quiet: bool,
) -> Result<u8, Failure> {
    let started = Instant::now();
    let before = queue.stats()?;
    let bar = progress(before.pending, TEMPLATE, quiet);
    let mut held = Held::new(queue);
    let (mut pending, mut look) = (before.pending, LOOK_FIRST);
    let mut moved = started;
    while pending > 0 {
        if !held.is_held()? {
            bar.finish_and_clear();
            return Err(not_running(pending, queue.path()));
        }
        if args.timeout.is_some_and(|limit| started.elapsed() >= limit) {
            bar.finish_and_clear();
            return Err(too_long(&queue.stats()?));
        }
        if let Some(code) = stop.rest(look) {
            bar.finish_and_clear();
            tell(format!(
                "{} still pending; the consumer goes on",
                plural(pending, "message")
            ));
            return Ok(code);
        }
        look = next_look(look);
        let last = std::mem::replace(&mut pending, queue.pending()?);
        bar.set_length(before.pending.max(pending));
        bar.set_position(before.pending.saturating_sub(pending));
        if pending != last {
            moved = Instant::now();
            bar.set_message("");
        } else if look == LOOK_MAX && !bar.is_hidden() && moved.elapsed() >= WHY_EVERY {
            moved = Instant::now();
            let delayed = queue.stats()?.delayed;
            if delayed == pending {
                bar.set_message(format!("{} wait for their time", count(delayed)));
            }
        }
    }
    bar.finish_and_clear();
    let now = queue.stats()?;
    let drained = Drained {
        delivered: now.processed.saturating_sub(before.processed),
        pending,
        new_dead: now.dead.saturating_sub(before.dead),
        dead: now.dead,
        seconds: started.elapsed().as_secs_f64(),
    };
    if args.json {
        print_json(&drained)?;
    } else {
        print(sentence(&drained))?;
    }
    Ok(exit::OK)
}

fn sentence(drained: &Drained) -> String {
    let mut text = match drained.delivered {
        0 => "backlog empty".to_owned(),
        delivered => format!("{} delivered, backlog empty", plural(delivered, "message")),
    };
    if drained.new_dead > 0 {
        text += &format!("; {} became dead letters", count(drained.new_dead));
    }
    let earlier = drained.dead.saturating_sub(drained.new_dead);
    if earlier > 0 {
        text += &format!("; {} from before", plural(earlier, "dead letter"));
    }
    text
}

fn too_long(now: &Stats) -> Failure {
    let what = format!("{} still pending", plural(now.pending, "message"));
    Failure::new(exit::TRY_AGAIN, "timeout", what)
        .because(match now.delayed {
            0 => "the consumer needs longer than --timeout".to_owned(),
            delayed => format!("{} of them wait for a retry or their time", count(delayed)),
        })
        .help("run `spoolway replay` again, or see `spoolway queue stats`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_counts_what_happened() {
        let mut drained = Drained {
            delivered: 1,
            pending: 0,
            new_dead: 0,
            dead: 0,
            seconds: 0.1,
        };
        assert_eq!(sentence(&drained), "1 message delivered, backlog empty");
        drained.delivered = 0;
        drained.dead = 3;
        assert_eq!(
            sentence(&drained),
            "backlog empty; 3 dead letters from before"
        );
        drained.delivered = 1_200;
        drained.new_dead = 2;
        assert_eq!(
            sentence(&drained),
            "1,200 messages delivered, backlog empty; 2 became dead letters; 1 dead letter from before"
        );
    }
}
