//! `spoolway serve`: the consumer with a sink.

use std::{io, thread};

use spoolway::consumer::ConsumerConfig;
use spoolway::{Consumer, Durability};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::args::Serve;
use crate::failure::{Failure, exit};
use crate::output::tell;
use crate::paths::Places;
use crate::signals::Signals;
use crate::units::{count, plural};

/// Consumes until SIGINT or SIGTERM, then finishes what has arrived. A second signal ends it at once.
pub(crate) async fn run(places: Places, args: Serve, quiet: bool) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    if args.tied {
        tie()?;
    }
    places.make_database_directory()?;
    places.make_socket_directory()?;
    let config = ConsumerConfig {
        durability: args.durability.into(),
        retention: args.retention,
        ..ConsumerConfig::default()
    };
    let consumer = Consumer::builder(&places.socket, &places.database)
        .sink(args.sink.clone())
        .config(config)
        .build()
        .await?;
    if !quiet {
        let queue = consumer.queue().clone();
        // The banner is no reason to fail: whether the file can be read will show soon.
        let stats = spawn_blocking(move || queue.stats()).await;
        let waiting = stats.map_or(0, |stats| stats.map_or(0, |stats| stats.pending));
        tell(banner(&consumer, &args, waiting));
    }

    let (shut_down, shutdown) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        if !quiet {
            tell("shutting down (a second signal ends it at once)");
        }
        // It only fails when the consumer has ended by itself.
        let _ = shut_down.send(());
        std::process::exit(signals.next().await.into());
    });
    let summary = consumer.run(async { drop(shutdown.await) }).await?;
    if !quiet {
        let mut line = format!("stopped: {} processed", count(summary.processed));
        for (number, what) in [
            (summary.stored, "stored for later"),
            (summary.dead, "dead"),
            (summary.failed, "attempts failed"),
            (summary.aborted, "aborted and stored"),
        ] {
            if number > 0 {
                line += &format!(", {} {what}", count(number));
            }
        }
        tell(line);
    }
    Ok(exit::OK)
}

/// Ends the process when its standard input is closed: whoever started it is gone.
fn tie() -> Result<(), Failure> {
    let wait = || {
        // Nobody writes, and an error is an end too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(exit::FAILED.into());
    };
    thread::Builder::new()
        .name("tied".into())
        .spawn(wait)
        .map_err(|error| Failure::io("cannot start a thread", &error))?;
    Ok(())
}

fn banner(consumer: &Consumer, args: &Serve, waiting: u64) -> String {
    let backlog = match waiting {
        0 => String::new(),
        waiting => format!(" ({} waiting)", plural(waiting, "message")),
    };
    let durability = match args.durability.into() {
        Durability::Full => "full (what is stored survives power loss)",
        Durability::Process => "process (what is stored survives kill -9, not power loss)",
    };
    format!(
        "spoolway {} is listening\n  socket      {}\n  database    {}{backlog}\n  \
         durability  {durability}\n  sink        {}",
        env!("CARGO_PKG_VERSION"),
        consumer.socket_path().display(),
        consumer.queue().path().display(),
        args.sink,
    )
}
