//! `spoolway serve`: the consumer with a sink.

use std::os::unix::net::UnixListener;
use std::{io, thread};

use spoolway::consumer::{ConsumerConfig, MachineConfig};
use spoolway::queue::{ConsumerLock, side_file};
use spoolway::{Consumer, Durability, SqliteQueue};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::args::{Allowed, KeyDoes, Remembers, Serve, retries};
use crate::failure::{Failure, exit};
use crate::output::tell;
use crate::paths::Places;
use crate::signals::Signals;
use crate::supervisor;
use crate::units::{count, plural};

/// Consumes until SIGINT or SIGTERM, then finishes what has arrived. A second signal ends it at once, and so does
/// the first while it stands by. It listens with the socket that it was given, else with one that it makes.
pub(crate) async fn run(
    places: Places,
    args: Serve,
    listener: Option<UnixListener>,
    quiet: bool,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    if args.tied {
        tie()?;
    }
    places.make_database_directory()?;
    if listener.is_none() {
        places.make_socket_directory()?;
    }
    let config = ConsumerConfig {
        machine: MachineConfig {
            dedup: args.dedup.into(),
            on_dead: args.on_dead.into(),
            retries: retries(&args.attempts, &args.retry),
            ..MachineConfig::default()
        },
        durability: args.durability.into(),
        retention: args.retention,
        queue_bytes_max: args.room.queue_bytes_max,
        queue_messages_max: args.room.queue_messages_max,
        disk_bytes_kept: args.room.disk_bytes_kept,
        wal_bytes_alarm: args.room.wal_bytes_alarm,
        access: args.allowed.clone().into(),
        ..ConsumerConfig::default()
    };
    let before = if args.standby {
        predecessor(&places)?
    } else {
        None
    };
    if let Some(before) = before {
        supervisor::waiting(&before);
        if !quiet {
            tell(before);
        }
    }
    let mut builder = Consumer::builder(&places.socket, &places.database)
        .sink(args.sink.clone())
        .config(config)
        .standby(args.standby);
    if let Some(listener) = listener {
        builder = builder.listener(listener);
    }
    if let Some(directory) = &args.spool_dir {
        builder = builder.spool_directory(directory);
    }
    let building = builder.build();
    let consumer = tokio::select! {
        built = building => built?,
        _ = signals.next() => {
            if !quiet {
                tell("stopped before it listened");
            }
            // A thread may wait for the lock, and nothing else ends that.
            std::process::exit(exit::OK.into());
        }
    };
    let queue = consumer.queue().clone();
    if !quiet {
        let queue = queue.clone();
        // The banner is no reason to fail: whether the file can be read will show soon.
        let stats = spawn_blocking(move || queue.stats()).await;
        let waiting = stats.map_or(0, |stats| stats.map_or(0, |stats| stats.pending));
        tell(banner(&consumer, &args, waiting));
    }

    supervisor::ready(&format!(
        "listening on {}",
        consumer.socket_path().display()
    ));
    supervisor::watch();
    let (shut_down, shutdown) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        supervisor::stopping();
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
            (missing(queue).await, "MISSING, see `spoolway audit`"),
        ] {
            if number > 0 {
                line += &format!(", {} {what}", count(number));
            }
        }
        tell(line);
    }
    Ok(exit::OK)
}

/// For whom this one stands by: a lock of theirs is held.
fn predecessor(places: &Places) -> Result<Option<String>, Failure> {
    for path in [&places.socket, &places.database] {
        let lock = side_file(path, ".lock");
        if ConsumerLock::is_held(&lock)? {
            let pid =
                ConsumerLock::owner(&lock).map_or(String::new(), |pid| format!(" (pid {pid})"));
            return Ok(Some(format!(
                "standing by for the consumer{pid} that holds {}",
                lock.display()
            )));
        }
    }
    Ok(None)
}

/// What the audit misses; where it cannot be read there is nothing to say.
async fn missing(queue: SqliteQueue) -> u64 {
    let audit = spawn_blocking(move || queue.audit()).await;
    let producers = audit.ok().and_then(Result::ok).unwrap_or_default();
    producers.iter().map(|producer| producer.missing).sum()
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
    let directory = match &args.spool_dir {
        Some(directory) => format!("\n  spool dir   {}", directory.display()),
        None => String::new(),
    };
    let dedup = match args.dedup {
        Remembers::Memory => "",
        Remembers::Durable => {
            "\n  dedup       durable (outcomes are committed before they are answered)"
        }
    };
    let on_dead = match args.on_dead {
        KeyDoes::Continue => "",
        KeyDoes::Hold => "\n  on dead     hold (a dead letter stops its key: see `spoolway keys`)",
    };
    let Allowed {
        allow_uid,
        allow_gid,
    } = &args.allowed;
    let uids = allow_uid.iter().map(|uid| format!("uid {uid}"));
    let others: Vec<String> = uids
        .chain(allow_gid.iter().map(|gid| format!("gid {gid}")))
        .collect();
    let allowed = match others.is_empty() {
        true => String::new(),
        false => format!("\n  access      {} may send too", others.join(", ")),
    };
    format!(
        "spoolway {} is listening\n  socket      {}\n  database    {}{backlog}{directory}\n  \
         durability  {durability}\n  sink        {}{dedup}{on_dead}{allowed}",
        env!("CARGO_PKG_VERSION"),
        consumer.socket_path().display(),
        consumer.queue().path().display(),
        args.sink,
    )
}
