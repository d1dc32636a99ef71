//! Connecting to the socket, and why it failed.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::net::UnixStream;

use crate::SocketReason;

/// Pauses between attempts while the consumer's backlog of connections is full, in milliseconds.
const BUSY_PAUSE_MS: std::ops::RangeInclusive<u64> = 1..=20;

/// One dial. A full backlog (`EAGAIN` on Linux) is tried again within `budget`.
pub(crate) async fn dial(socket: PathBuf, budget: Duration) -> Result<UnixStream, SocketReason> {
    let end = Instant::now() + budget;
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= end {
                    return Err(SocketReason::Busy);
                }
                let pause = rand::rng().random_range(BUSY_PAUSE_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Err(error) => return Err(reason(&socket, &error)),
        }
    }
}

fn reason(socket: &Path, error: &io::Error) -> SocketReason {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SocketReason::NotFound,
        io::ErrorKind::ConnectionRefused => SocketReason::Refused,
        io::ErrorKind::PermissionDenied => SocketReason::Denied {
            found: std::fs::metadata(socket)
                .ok()
                .map(|found| (found.mode() & 0o7777, found.uid())),
            uid: rustix::process::geteuid().as_raw(),
        },
        _ => SocketReason::Io(error.to_string()),
    }
}
