//! The binary `spoolway`: arguments, tracing, one command, an exit code.

mod activation;
mod args;
mod commands;
mod failure;
mod output;
mod paths;
mod people;
mod program;
mod progress;
mod signals;
mod supervisor;
mod units;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command, DeadCommand, KeysCommand, MigrateCommand, QueueCommand};
use crate::failure::Failure;
use crate::paths::Places;

fn main() -> ExitCode {
    let args = Args::parse();
    trace(&args);
    let code = match run(args) {
        Ok(code) => code,
        Err(failure) => {
            output::tell(&failure);
            failure.exit
        }
    };
    ExitCode::from(code)
}

/// Runs the command; the number is the exit code.
fn run(args: Args) -> Result<u8, Failure> {
    let quiet = args.quiet;
    let places = || Places::find(args.named.clone());
    match args.command {
        Command::Serve(serve) => {
            let listener = activation::inherited()?;
            asynchronous(commands::serve::run(places()?, serve, listener, quiet))
        }
        Command::Send(send) => asynchronous(commands::send::run(places()?, *send, quiet)),
        Command::Replay(replay) => asynchronous(commands::replay::run(places()?, *replay, quiet)),
        Command::Queue(command) => on_queue(&places()?, &command, quiet),
        Command::Dead(DeadCommand::Ls(ls)) => commands::dead::list(&places()?, &ls),
        Command::Dead(DeadCommand::Show(show)) => commands::dead::show(&places()?, &show),
        Command::Dead(DeadCommand::Requeue(requeue)) => {
            commands::dead::requeue(&places()?, &requeue)
        }
        Command::Dead(DeadCommand::Purge(purge)) => commands::dead::purge(&places()?, &purge),
        Command::Cleanup(cleanup) => commands::cleanup::run(&places()?, &cleanup),
        Command::Audit(audit) => commands::audit::run(&places()?, &audit),
        Command::Keys(KeysCommand::Ls(ls)) => commands::keys::list(&places()?, &ls),
        Command::Keys(KeysCommand::Release(release)) => {
            commands::keys::release(&places()?, &release)
        }
        Command::Sockets(sockets) => asynchronous(commands::sockets::run(args.named, sockets)),
        Command::Demo(demo) => asynchronous(commands::demo::run(demo)),
        Command::Torture(torture) => asynchronous(commands::torture::run(torture, quiet)),
        Command::Bench(bench) => asynchronous(commands::bench::run(bench, quiet)),
        Command::BenchSide(side) => commands::bench::side::run(&places()?, &side),
        Command::TortureProducer(producer) => {
            asynchronous(commands::torture::producer::run(places()?, producer))
        }
    }
}

fn on_queue(places: &Places, command: &QueueCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        QueueCommand::Stats(stats) => commands::stats::run(places, stats),
        QueueCommand::Check(check) => commands::check::run(places, check, quiet),
        QueueCommand::Backup(backup) => commands::backup::run(places, backup, quiet),
        QueueCommand::Compact(compact) => commands::backup::compact(places, compact),
        QueueCommand::Export(export) => commands::transfer::export(places, export, quiet),
        QueueCommand::Import(import) => commands::transfer::import(places, import, quiet),
        QueueCommand::Migrate(MigrateCommand::Status(status)) => {
            commands::check::migrations(places, status)
        }
    }
}

fn asynchronous(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the runtime", &error))?;
    runtime.block_on(command)
}

/// Logs go to the standard error stream. `RUST_LOG` wins over `-v` and `-q`.
fn trace(args: &Args) {
    // `send` says itself what became of each message; the client's log would say it again.
    let default = match (args.quiet, args.verbose, &args.command) {
        (true, ..) => "error",
        (_, 0, Command::Send(_)) => "off",
        (_, 0, _) => "warn",
        (_, 1, _) => "info",
        (_, 2, _) => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .init();
}
