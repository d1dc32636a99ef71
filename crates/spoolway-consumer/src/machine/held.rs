//! Keys stopped by a dead letter: what comes for them is stored behind it, until they are released in the file.

use hashbrown::HashMap;
use spoolway_proto::Key;
use spoolway_queue::{HeldKey, Write};

use super::commit::Doing;
use super::{Machine, OnDead, Ticket};

/// The stopped keys, as far as this process knows.
#[derive(Debug)]
pub(super) struct Held {
    /// The first read that must show it; `None` until it is committed.
    keys: HashMap<Key, Option<u64>>,
}

impl Held {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        let keys = keys.into_iter().map(|key| (key, Some(0))).collect();
        Self { keys }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        !self.keys.is_empty() && self.keys.contains_key(key)
    }
}

impl Machine {
    /// Stops the key of a message that dies, if that is what is wanted: what is behind it goes to the file with it.
    pub(super) fn hold_key(
        &mut self,
        ticket: Ticket,
        reason: &str,
        writes: &mut Vec<(Write, Doing)>,
    ) {
        if self.config.on_dead == OnDead::Continue {
            return;
        }
        let Some(key) = self.key_of(ticket) else {
            return;
        };
        if self.held.keys.len() >= self.config.held_max {
            tracing::error!(%key, "a dead letter steps aside: {} keys are stopped", self.config.held_max);
            return;
        }
        let held = HeldKey {
            key: key.clone(),
            since: self.now.wall,
            message_id: self.entries[&ticket].message.id.clone(),
            reason: reason.to_owned(),
        };
        tracing::error!(%key, id = %held.message_id, reason, "the key is stopped by a dead letter");
        writes.push((Write::HoldKey(held), Doing::Hold(key.clone())));
        self.held.keys.insert(key.clone(), None);
        self.empty_lane(&key, Some(ticket), writes);
    }

    /// It is in the file: reads that begin now show it until someone releases it there.
    pub(super) fn key_is_held(&mut self, key: &Key) {
        let next = self.reads.next();
        if let Some(since) = self.held.keys.get_mut(key) {
            *since = Some(next);
        }
    }

    /// What a read says of stopped keys.
    pub(super) fn keys_are_held(&mut self, read: u64, stopped: &[Key]) {
        for key in stopped {
            self.held.keys.entry(key.clone()).or_insert(Some(read));
        }
        let released = |(key, since): (&Key, &Option<u64>)| {
            let shown = since.is_some_and(|since| since <= read);
            (shown && !stopped.contains(key)).then(|| key.clone())
        };
        let released: Vec<Key> = self.held.keys.iter().filter_map(released).collect();
        for key in released {
            tracing::info!(%key, "the key is released");
            self.held.keys.remove(&key);
            self.want_poll();
        }
    }
}
