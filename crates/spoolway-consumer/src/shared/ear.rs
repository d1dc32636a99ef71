//! Who hears what the machine says: a connection, or the one who handed a single message in.

use std::sync::Arc;

use spoolway_proto::Reply;

use crate::outbox::Outbox;

/// Hears of one message, once the lock is free; must not block. Dropped unheard when the consumer ends before.
pub(crate) type Caller = Box<dyn FnOnce(Reply) + Send>;

pub(crate) enum Ear {
    /// A connection: everything, until it disconnects.
    Outbox(Arc<Outbox>),
    /// Who handed in one message, with `answer`, and said no hello: its reply, and nothing behind it.
    Caller(Caller),
}

impl Ear {
    pub(crate) fn outbox(&self) -> Option<Arc<Outbox>> {
        match self {
            Self::Outbox(outbox) => Some(Arc::clone(outbox)),
            Self::Caller(_) => None,
        }
    }

    pub(crate) fn is_caller(&self) -> bool {
        matches!(self, Self::Caller(_))
    }
}
