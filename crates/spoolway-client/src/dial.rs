//! Connecting to the consumer, and why it failed.

use std::path::PathBuf;
use std::time::Duration;

use spoolway_socket::Absence;
use tokio::net::UnixStream;

/// One dial, which tries a full backlog again within `budget`.
pub(crate) async fn dial(socket: PathBuf, budget: Duration) -> Result<UnixStream, Absence> {
    let dialed = spoolway_socket::dial(&socket, budget).await;
    dialed.map_err(|error| Absence::of(&socket, &error))
}
