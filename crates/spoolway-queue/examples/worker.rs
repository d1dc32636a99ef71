//! A queue and its worker, and nothing else: no socket, no daemon.
//!
//! ```text
//! cargo run -p spoolway-queue --example worker -- add "buy milk"     any number of these, at any time
//! cargo run -p spoolway-queue --example worker                       does them, until Ctrl-D
//! ```
#![allow(clippy::print_stdout, reason = "an example")]

use std::error::Error;
use std::io::Read;

use spoolway_proto::Message;
use spoolway_queue::{Claimed, PollerOptions, QueueOptions, SqliteQueue, SqliteQueuePoller};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join("spoolway-worker.db");
    let queue = SqliteQueue::open(path, QueueOptions::default())?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [add, task] = arguments.as_slice()
        && add == "add"
    {
        // On disk when this returns.
        queue.enqueue(&Message::new("task", task)?)?;
        return Ok(());
    }
    let poller = SqliteQueuePoller::start(&queue, PollerOptions::default(), work)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // Waits for the batch in hand.
    Ok(poller.stop()?)
}

/// An error is tried again after 5 s, 10 s and 20 s; then the message is a dead letter.
fn work(claimed: &Claimed) -> Result<(), Box<dyn Error>> {
    let task: String = claimed.message.payload.decode()?;
    println!("doing {task:?}, attempt {}", claimed.attempts + 1);
    Ok(())
}
