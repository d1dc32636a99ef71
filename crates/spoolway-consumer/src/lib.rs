//! Receives messages from a Unix socket and a queue file, and processes each once, in order per key.
//!
//! ```no_run
//! use spoolway_consumer::Consumer;
//!
//! #[derive(serde::Deserialize)]
//! struct Candle {
//!     close: f64,
//! }
//!
//! async fn insert(candle: Candle) -> std::io::Result<()> {
//!     println!("{}", candle.close);
//!     Ok(())
//! }
//!
//! # async fn example(shutdown_signal: impl Future<Output = ()>) -> Result<(), spoolway_consumer::ConsumerError> {
//! Consumer::builder("/run/app/orders.sock", "/var/lib/app/orders.db")
//!     .on("candle:complete", |candle: Candle| insert(candle))
//!     .run(shutdown_signal)
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! The crate is a pure state machine, [`machine`], which decides what happens to each message, and a thin shell
//! around it that reads sockets, runs handlers and hands writes to the queue file. The shell decides nothing about
//! messages; the machine does no I/O and reads no clock.
//!
//! | bound | where |
//! |---|---|
//! | messages and bytes in memory, handlers at a time, rows claimed | [`MachineConfig`] |
//! | connections, message size, retention, time to shut down | [`ConsumerConfig`] |
//! | what a connection without hello says | whole in [`arrival_max`](ConsumerConfig::arrival_max) |
//! | sizes and times of HTTP requests | [`HttpConfig`] |
//! | answers that a peer does not read | 1 MiB a connection, then its answers end; one that speaks lines is read no further, and has 5 s before they do |

mod builder;
mod config;
mod consumer;
mod error;
mod handler;

pub mod machine;

mod accept;
mod connection;
mod directory;
mod health;
mod http;
mod outbox;
mod reads;
mod seat;
mod shared;
mod shutdown;
mod sink;
mod tasks;

#[doc(hidden)]
pub mod fuzzing;

pub use builder::Builder;
pub use config::ConsumerConfig;
pub use consumer::{Consumer, Summary};
pub use error::ConsumerError;
pub use handler::{Delivery, IntoFinish};
pub use http::HttpConfig;
pub use machine::{Dedup, Finish, MachineConfig, OnDead, Retries, RetryPolicy};
pub use sink::{Sink, SinkError};
pub use spoolway_socket::{Access, ListenError, NameError, SocketName};
