//! What a killed consumer costs whoever sends.
//!
//! `cargo bench -p spoolway-benches --bench kill` prints how long the send after a kill takes, with and without unanswered
//! messages, and how long the way back to the fast path. Nothing here passes or fails. What the paths cost when nothing
//! goes wrong is measured by `spoolway bench`.

use std::time::Instant;

use spoolway_benches::{Side, begin, consume, histogram, message, nanos, place, producer, show};

const KILLS: u64 = 100;

fn main() {
    let (runtime, role) = begin();
    match role {
        Some((_, dir)) => runtime.block_on(consume(&dir, |_| {})),
        None => runtime.block_on(kill()),
    }
}

async fn kill() {
    let (_dir, dir) = place();
    let (mut with, mut without, mut back) = (histogram(), histogram(), histogram());
    for round in 0..KILLS {
        let side = Side::start("consumer", &dir);
        let producer = producer(&dir).await;
        while producer.send(message()).await.expect("taken").path != spoolway::Path::Socket {}
        let resume = round % 2 == 0;
        // Unanswered at the kill: what is sent to a stopped consumer.
        let pending = resume.then(|| {
            side.stop();
            producer.send(message())
        });
        side.kill();
        let start = Instant::now();
        let receipt = producer.send(message()).await.expect("stored");
        assert_eq!(receipt.path, spoolway::Path::Queue);
        if resume { &mut with } else { &mut without }.saturating_record(nanos(start.elapsed()));
        if let Some(pending) = pending {
            pending.await.expect("stored");
        }
        let _side = Side::start("consumer", &dir);
        let start = Instant::now();
        while producer.send(message()).await.expect("taken").path != spoolway::Path::Socket {}
        back.saturating_record(nanos(start.elapsed()));
    }
    show("killed, with resume", &with);
    show("killed, nothing owed", &without);
    show("back on the fast path", &back);
}
