//! The words of Spoolway: messages, validation, frames and control objects.
//!
//! Everything a second implementation would need, and nothing that waits, writes or looks at a
//! clock: no sockets, no SQL, no time but what is passed in. `docs/protocol.md` is the
//! specification in prose; a test in this crate decodes its worked session.
//!
//! ```
//! use bytes::BytesMut;
//! use spoolway_proto::{FrameDecoder, Incoming, Limits, Message, decode_for_consumer, put_frame};
//!
//! let limits = Limits::default();
//! let message = Message::new("candle:complete", &[1.5, 2.5])?.key("BTCUSDT");
//!
//! let mut wire = BytesMut::new();
//! put_frame(&mut wire, |out| message.encode(out));
//!
//! let frame = FrameDecoder::new(limits.frame_bytes_max).next(&mut wire)?.expect("one frame");
//! let Incoming::Message(Ok(received)) = decode_for_consumer(&frame, &limits)? else { panic!() };
//! assert_eq!(received, message);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod invalid;
mod words;

mod ids;
mod ranges;
mod time;

mod message;
mod payload;

mod decode;
mod encode;
mod validate;

mod frame;
mod incoming;
mod line;
mod op;
mod reply;

pub use frame::{Dialect, FRAME_BYTES_CEILING, FrameDecoder, FrameError, put_frame};
pub use ids::{Epoch, InstanceId, Key, MessageId, ProducerId, QueueId};
pub use incoming::{Incoming, decode_for_consumer, decode_for_producer};
pub use invalid::{Code, Invalid};
pub use line::{LineDecoder, LineError};
pub use message::{COMMAND, Message, PRIORITY_DEFAULT, SIZE_FIXED};
pub use op::{
    Ack, ConsumerHello, ConsumerOp, HOLD_MAX_MS, NUMBER_MAX, PING_EVERY_MS, PROTOCOL_VERSION,
    ProducerHello, ProducerOp, RESUME_GRACE_MS, SILENCE_MAX_MS,
};
pub use payload::Payload;
pub use ranges::{RANGES_MAX, Ranges};
pub use reply::Reply;
pub use time::Timestamp;
pub use validate::{
    ADDRESS_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, ID_BYTES_MAX,
    KEY_BYTES_MAX, Limits, PRIORITY_MAX, TIMESTAMP_MAX, TYPE_BYTES_MAX, UNKNOWN_MAX,
    UNKNOWN_NAME_BYTES_MAX, validate_queue_message,
};
pub use words::{AckLevel, Outcome};
