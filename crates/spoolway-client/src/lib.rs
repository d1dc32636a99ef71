//! Sends messages over a Unix socket, or into the queue file when that is not possible.
//!
//! The caller never has to know which: `Ok` means that the message is processed, or on disk, and
//! the [`Receipt`] says by which way it went. On `Err` the message is given back, with the reasons
//! of both paths and whether somebody may have it all the same ([`Fate`]).
//!
//! ```no_run
//! use spoolway_client::Producer;
//! use spoolway_proto::Message;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = Producer::open("/run/app/orders.sock", "/var/lib/app/orders.db").await?;
//! let receipt = producer.send(Message::new("candle:complete", &[1.5, 2.5])?.key("BTCUSDT")).await?;
//! println!("{} by {}", receipt.id, receipt.path); // 0199… by socket
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   send ──► Core ── frames ──► socket          Core: one lock, held for moments
//!             │  ▲                ▲
//!             │  └─── Driver ─────┘             Driver: one task; reads, dials, keeps time
//!             ▼
//!           Route                               Route: decides; no I/O, no clock
//!             │
//!             └── groups ──► queue's writer     an OS thread, so it works without a runtime
//! ```

mod batch;
mod error;
mod receipt;

mod builder;
mod producer;

mod core;
mod driver;
mod shared;

mod dial;
mod link;
mod told;
mod watch;

pub mod route;

pub use batch::SendingBatch;
pub use builder::{OtherQueue, ProducerBuilder};
pub use error::{Fate, OpenError, OtherQueueFile, QueueReason, SendCode, SendError, SocketReason};
pub use producer::Producer;
pub use receipt::{Closed, Path, Receipt, Sending, Status};
pub use route::OnFull;
pub use spoolway_queue::Durability;
pub use spoolway_socket::{Absence, NameError, PathTooLong, SOCKET_PATH_BYTES_MAX, SocketName};
