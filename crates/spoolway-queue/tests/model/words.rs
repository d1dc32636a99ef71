//! The words of a step in the types of the queue.

use std::time::Duration;

use spoolway_proto::{Key, Message, MessageId, Timestamp};
use spoolway_queue::{Filter, Settlement};

use crate::steps::{Draft, End, Time, Which};

/// When every message was made: long ago.
pub(crate) const MADE: Timestamp = Timestamp(1_700_000_000_000);
/// Later than anything here runs: the year 8000.
pub(crate) const FAR: Timestamp = Timestamp(190_000_000_000_000);
/// Longer than any run.
pub(crate) const LONG: Duration = Duration::from_secs(3_600);

pub(crate) fn kind(content: u8) -> &'static str {
    ["task", "note"][usize::from(content)]
}

impl Draft {
    pub(crate) fn message(&self) -> Message {
        let message = Message::new(kind(self.content), &self.content).unwrap();
        let mut message = message
            .id(self.id.as_str())
            .timestamp(MADE)
            .priority(self.priority);
        if let Some(key) = self.key {
            message = message.key(key);
        }
        if let Some(time) = self.deliver {
            message = message.deliver_at(match time {
                Time::Past => MADE,
                Time::Future => FAR,
            });
        }
        message.ttl_ms = self.ttl.map(|time| match time {
            Time::Past => 1,
            Time::Future => 1 << 50,
        });
        message
    }
}

impl End {
    pub(crate) fn settlement(&self) -> Settlement {
        match self {
            Self::Processed => Settlement::Processed,
            Self::Retry { later } => Settlement::Retry {
                after: if *later { LONG } else { Duration::ZERO },
                error: "again".into(),
            },
            Self::Dead { reason, error } => Settlement::Dead {
                reason: (*reason).into(),
                error: error.then(|| "dead".into()),
            },
            Self::Release => Settlement::Release,
        }
    }
}

impl Which {
    pub(crate) fn filter(&self) -> Filter {
        let all = Filter::default();
        match self {
            Self::All => all,
            Self::Id(id) => Filter::one(MessageId::new(id).unwrap()),
            Self::Content(content) => Filter {
                types: vec![format!("{}*", &kind(*content)[..1])],
                ..all
            },
            Self::Key(key) => Filter {
                key: Some(Key::new(*key).unwrap()),
                ..all
            },
            Self::Reason(reason) => Filter {
                reason: Some((*reason).into()),
                ..all
            },
        }
    }
}
