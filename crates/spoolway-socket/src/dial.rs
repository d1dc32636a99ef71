//! Connecting to a socket whose backlog may be full.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::net::UnixStream;

/// Pauses between attempts while the backlog of connections is full, in milliseconds.
const BUSY_PAUSE_MS: std::ops::RangeInclusive<u64> = 1..=20;

/// Connects. A full backlog (`EAGAIN` on Linux) is tried again within `budget`.
///
/// # Errors
///
/// What the system said; of the kind [`io::ErrorKind::WouldBlock`] when the backlog stayed full.
pub async fn dial(socket: impl AsRef<Path>, budget: Duration) -> io::Result<UnixStream> {
    let end = Instant::now() + budget;
    loop {
        match UnixStream::connect(socket.as_ref()).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                let pause = rand::rng().random_range(BUSY_PAUSE_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            connected => return connected,
        }
    }
}
