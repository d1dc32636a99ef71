//! What is known of messages by their id: which are in memory, and what became of others.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use spoolway_proto::MessageId;

use super::{Ticket, Verdict};

/// One map for both, because a message goes from one to the other.
#[derive(Debug)]
pub(super) struct Ids {
    known: HashMap<MessageId, Known>,
    /// Those that came without hello, oldest first.
    plain: VecDeque<MessageId>,
    plain_max: usize,
}

/// What is known of one id; at least one of the two.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// It is in memory.
    pub(super) ticket: Option<Ticket>,
    /// Its CRC and what became of it, until its producer has seen that; or it is one of the last without hello.
    pub(super) kept: Option<(u32, Verdict)>,
}

impl Ids {
    pub(super) fn new(plain_max: usize) -> Self {
        Self {
            known: HashMap::new(),
            plain: VecDeque::new(),
            plain_max,
        }
    }

    pub(super) fn get(&self, id: &MessageId) -> Option<&Known> {
        self.known.get(id)
    }

    pub(super) fn ticket(&self, id: &MessageId) -> Option<Ticket> {
        self.known.get(id)?.ticket
    }

    /// The message is in memory.
    pub(super) fn enter(&mut self, id: &MessageId, ticket: Ticket) {
        self.known.entry_ref(id).or_default().ticket = Some(ticket);
    }

    /// It is no longer.
    pub(super) fn leave(&mut self, id: &MessageId, ticket: Ticket) {
        self.forget(id, |known| {
            known.ticket = known.ticket.filter(|other| *other != ticket)
        });
    }

    /// It is no longer, and this became of it.
    pub(super) fn settle(&mut self, id: &MessageId, ticket: Ticket, crc: u32, verdict: Verdict) {
        let known = self.known.entry_ref(id).or_default();
        known.ticket = known.ticket.filter(|other| *other != ticket);
        known.kept = Some((crc, verdict));
    }

    pub(super) fn keep(&mut self, id: &MessageId, crc: u32, verdict: Verdict) {
        self.known.entry_ref(id).or_default().kept = Some((crc, verdict));
    }

    pub(super) fn drop_kept(&mut self, id: &MessageId) {
        self.forget(id, |known| known.kept = None);
    }

    /// Its sender will never say what it has seen: kept until enough others came.
    pub(super) fn keep_plain(&mut self, id: &MessageId, crc: u32, verdict: Verdict) {
        self.keep(id, crc, verdict);
        self.plain.push_back(id.clone());
        if self.plain.len() > self.plain_max
            && let Some(oldest) = self.plain.pop_front()
        {
            self.drop_kept(&oldest);
        }
    }

    fn forget(&mut self, id: &MessageId, change: impl FnOnce(&mut Known)) {
        if let EntryRef::Occupied(mut known) = self.known.entry_ref(id) {
            change(known.get_mut());
            if known.get().ticket.is_none() && known.get().kept.is_none() {
                known.remove();
            }
        }
    }
}
