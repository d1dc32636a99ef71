//! Connecting to the consumer, and why it failed.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use crate::SocketReason;

/// One dial, which tries a full backlog again within `budget`.
pub(crate) async fn dial(socket: PathBuf, budget: Duration) -> Result<UnixStream, SocketReason> {
    let dialed = spoolway_socket::dial(&socket, budget).await;
    dialed.map_err(|error| reason(&socket, &error))
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
        io::ErrorKind::WouldBlock => SocketReason::Busy,
        _ => SocketReason::Io(error.to_string()),
    }
}
