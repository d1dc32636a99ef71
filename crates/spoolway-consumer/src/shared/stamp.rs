//! What every message gets as it arrives, whatever its dialect.

use std::sync::Arc;

use spoolway_proto::{Message, MessageId, Timestamp};

use super::Shared;

/// With more messages in memory they are staying, and each is copied out of the read buffer, which it would keep.
const SHARING_MAX: usize = 1_000;

impl Shared {
    /// Fills in what its sender left out.
    pub(crate) fn stamp(&self, mut message: Message, now: Timestamp) -> Arc<Message> {
        message.stamp(now, || new_id(now));
        if self.pending() > SHARING_MAX {
            message.detach();
        }
        Arc::new(message)
    }
}

/// A UUIDv7: its last ten bytes are a counter within the millisecond, and chance.
fn new_id(now: Timestamp) -> MessageId {
    let bytes = uuid::Uuid::now_v7().into_bytes();
    let mut random = [0; 10];
    random.copy_from_slice(&bytes[6..]);
    MessageId::v7(u64::try_from(now.0).unwrap_or(0), random)
}
