//! Messages over a Unix socket without a queue behind it, and the socket itself.
//!
//! [`UnixSocketClient`] and [`UnixSocketServer`] speak the frames of `docs/protocol.md`, without hello: what is under
//! way when either end dies is lost, and nobody sends it again. Who wants that done uses a producer and a consumer,
//! which this client and this server can also talk to.
//!
//! ```
//! use spoolway_proto::Message;
//! use spoolway_socket::{UnixSocketClient, UnixSocketServer, UnixSocketServerConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("s.sock");
//! let mut server = UnixSocketServer::new(UnixSocketServerConfig::new(&path));
//! server.set_message_handler(|message: Message| async move {
//!     println!("{}", message.id);
//!     Ok::<(), std::io::Error>(())
//! });
//! server.start().await?;
//!
//! let client = UnixSocketClient::open(&path).await?;
//! client.send(&Message::new("order", "tea")?).await?;
//! let reply = client.send(&Message::new("order", "milk")?.requires_ack(true)).await?;
//! assert!(reply.is_some_and(|reply| reply.success));
//! client.disconnect().await?;
//! server.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! | bound | value |
//! |---|---|
//! | a frame, a message, a batch | those of [`Limits`](spoolway_proto::Limits) |
//! | connections of a server | [`max_connections`](UnixSocketServerConfig::max_connections), default 100 |
//! | of them, of one user that is not the server's own | [`max_connections_per_uid`](UnixSocketServerConfig::max_connections_per_uid), default half |
//! | a call of a client | its timeout, default 5 s |
//! | what a client holds unwritten, before `send` waits | 1 MiB |
//! | answers that a client has not read, before a server stops reading from it | 1 MiB |
//!
//! The rest is what the producer and the consumer have in common with the two: [`SocketFile`], [`Listener`] and [`Gate`]
//! under the consumer, [`dial`] under the producer; and what says where sockets are: [`SocketName`], [`socket_directory`],
//! [`sockets`]. With the feature `watch` a watch of directories is under both.

mod absence;
mod access;
mod error;
mod name;
mod places;

mod dial;
mod file;
mod gate;
mod listen;
mod sockets;
mod stamp;

mod client;
mod server;

#[cfg(feature = "watch")]
mod watch;

pub use absence::{Absence, Denial};
pub use access::{Access, Peer};
pub use client::UnixSocketClient;
pub use dial::dial;
pub use error::{ClientError, ListenError};
pub use file::{SOCKET_PATH_BYTES_MAX, SocketFile};
pub use gate::{Gate, Lack, Pass, Refusal, Room};
pub use listen::Listener;
pub use name::{NameError, PathTooLong, SocketName};
pub use places::{socket_directory, state_directory};
pub use server::{UnixSocketServer, UnixSocketServerConfig};
pub use sockets::{Found, Health, sockets};
#[cfg(feature = "watch")]
pub use watch::{DirectoryNews, DirectoryWatch};
