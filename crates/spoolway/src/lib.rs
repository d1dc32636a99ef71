//! A persistent local message queue: over a Unix socket straight to the consumer, and through a
//! SQLite file when that is not possible.
//!
//! A producer calls `send` and need not know which way the message goes. `Ok` means that it is
//! processed, or on disk.
//!
#![cfg_attr(
    feature = "client",
    doc = r#"
```no_run
use spoolway::{Message, Producer};

# #[derive(serde::Serialize)]
# struct Candle { close: f64 }
# async fn example(candle: Candle) -> Result<(), Box<dyn std::error::Error>> {
let producer = Producer::open("/run/app/orders.sock", "/var/lib/app/orders.db").await?;
let receipt = producer.send(Message::new("candle:complete", &candle)?.key("BTCUSDT")).await?;
println!("{} by {}", receipt.id, receipt.path); // 0199… by socket
# Ok(())
# }
```
"#
)]
#![cfg_attr(
    feature = "consumer",
    doc = r#"
```no_run
use spoolway::Consumer;

# #[derive(serde::Deserialize)]
# struct Candle { close: f64 }
# async fn insert(_: Candle) -> std::io::Result<()> { Ok(()) }
# async fn shutdown_signal() {}
# async fn example() -> Result<(), spoolway::ConsumerError> {
Consumer::builder("/run/app/orders.sock", "/var/lib/app/orders.db")
    .on("candle:complete", |candle: Candle| async move { insert(candle).await })
    .run(shutdown_signal())
    .await?;
# Ok(())
# }
```
"#
)]
//!
//! Here is what a program names every day; the rest is in the crates behind it.
//!
//! | feature | default | gives |
//! |---|---|---|
//! | `client` | yes | `Producer`, `blocking::Producer`, `relay` and the crate as `client` |
//! | `consumer` | yes | `Consumer`, `Sink` and the crate as `consumer` |
//! | `sqlite-queue` | by both | `SqliteQueue`, `Inbox`, `Outbox` and the crate as `queue`: the file alone, without a socket |
//! | `unix-socket` | by both | `UnixSocketClient` and `UnixSocketServer`, which have no queue, and the crate as `socket`; the frames and control objects as `wire`, without I/O |
//!
//! Each builds alone: `unix-socket` brings no SQLite, `sqlite-queue` no runtime.

pub use spoolway_proto::{
    self as proto, AckLevel, Message, MessageId, Outcome, Payload, Timestamp,
};

#[cfg(feature = "client")]
pub use spoolway_client::{self as client, Path, Producer, Receipt, SendError};

#[cfg(feature = "consumer")]
pub use spoolway_consumer::{self as consumer, Consumer, ConsumerError, Delivery, Sink};

#[cfg(feature = "sqlite-queue")]
pub use spoolway_queue::{self as queue, Durability, Inbox, Outbox, Relay, SqliteQueue};

#[cfg(feature = "unix-socket")]
pub use spoolway_socket::{
    self as socket, SocketName, UnixSocketClient, UnixSocketServer, UnixSocketServerConfig,
};

#[cfg(feature = "client")]
pub mod blocking;

#[cfg(feature = "client")]
mod relay;
#[cfg(feature = "client")]
pub use relay::relay;

/// What travels on the socket: frames, control objects, and what they decode to.
#[cfg(feature = "unix-socket")]
pub mod wire {
    pub use spoolway_proto::{
        Ack, Code, ConsumerHello, ConsumerOp, Dialect, FrameDecoder, FrameError, Incoming, Invalid,
        Limits, PROTOCOL_VERSION, ProducerHello, ProducerOp, Ranges, Reply, decode_for_consumer,
        decode_for_producer, put_frame, validate_queue_message,
    };
}
