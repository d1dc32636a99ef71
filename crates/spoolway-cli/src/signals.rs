//! The signals that end a command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, exit};

/// Waits for SIGINT and SIGTERM. From its making on they no longer kill the process.
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::io("cannot listen for signals", &error);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// The next one, as the exit code that a shell expects of it.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// Runs work that blocks on a thread of its own. A signal sets what the work looks at, so that it ends itself and its
/// processes, and is the exit code then.
pub(crate) async fn stoppable(
    name: &'static str,
    work: impl FnOnce(&AtomicBool) -> Result<u8, Failure> + Send + 'static,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    let mut work = tokio::task::spawn_blocking(move || work(&stop));
    let (code, ended) = tokio::select! {
        ended = &mut work => (None, ended),
        code = signals.next() => {
            stopped.store(true, Ordering::Relaxed);
            (Some(code), work.await)
        }
    };
    let result = ended.map_err(|error| {
        Failure::new(exit::FAILED, "panicked", format!("the {name} panicked"))
            .because(error.to_string())
    })?;
    code.map_or(result, Ok)
}
