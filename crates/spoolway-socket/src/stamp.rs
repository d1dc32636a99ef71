//! Id and time of messages that bring none.

use std::time::{SystemTime, UNIX_EPOCH};

use spoolway_proto::{Message, MessageId, Timestamp};

pub(crate) fn is_stamped(message: &Message) -> bool {
    !message.id.is_empty() && message.timestamp.is_some()
}

pub(crate) fn stamp(message: &mut Message) {
    if is_stamped(message) {
        return;
    }
    // Before 1970 the clock is not set; an id of that time is as good as any.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    message.stamp(Timestamp(i64::try_from(millis).unwrap_or(0)), || {
        MessageId::v7(millis, rand::random())
    });
}
