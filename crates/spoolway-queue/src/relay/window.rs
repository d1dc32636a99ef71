//! What a relay has handed out: how much, of which keys, and what is to be tried again when.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use spoolway_proto::{Key, Message, MessageId};

/// Messages that may be out at once: a tenth of what a producer holds.
const MESSAGES_MAX: usize = 1_000;

/// Bytes of them. A single larger message goes when nothing else is out.
const BYTES_MAX: usize = 8 << 20;

/// The first wait before a message is tried again; each further one is twice as long.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The longest: short, since a receiver that is back should not be waited for.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

/// The messages that left the table for the sender, until their rows are settled.
///
/// Of each key there is at most one, the first that waits: so whatever becomes of it, no other
/// message of the key overtakes it.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: BTreeMap<i64, Entry>,
    keys: HashMap<Key, i64>,
    bytes: usize,
    out: usize,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: MessageId,
    pub(crate) key: Option<Key>,
    bytes: usize,
    failures: u32,
    /// When it is tried again; `None` while the sender has it.
    again_at: Option<Instant>,
}

impl Window {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the sender owes an answer.
    pub(crate) fn is_out(&self) -> bool {
        self.out > 0
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < MESSAGES_MAX && self.bytes < BYTES_MAX
    }

    /// Whether a row is to be passed over: it is in here, or an earlier one of its key is.
    pub(crate) fn holds(&self, seq: i64, key: Option<&Key>) -> bool {
        self.entries.contains_key(&seq) || key.is_some_and(|key| self.keys.contains_key(key))
    }

    /// The sender gets a message that [`holds`](Self::holds) said nothing against; `false`, and
    /// nothing changes, when it has to wait for room.
    pub(crate) fn hand_out(&mut self, seq: i64, message: &Message) -> bool {
        let bytes = message.size();
        if !self.entries.is_empty() && self.bytes + bytes > BYTES_MAX {
            return false;
        }
        if let Some(key) = &message.key {
            self.keys.insert(key.clone(), seq);
        }
        let entry = Entry {
            id: message.id.clone(),
            key: message.key.clone(),
            bytes,
            failures: 0,
            again_at: None,
        };
        self.bytes += bytes;
        self.out += 1;
        self.entries.insert(seq, entry);
        true
    }

    pub(crate) fn get(&self, seq: i64) -> Option<&Entry> {
        self.entries.get(&seq)
    }

    /// The sender could not send it: it keeps its place, and its key.
    pub(crate) fn put_off(&mut self, seq: i64, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&seq)
            && entry.again_at.is_none()
        {
            entry.again_at = Some(now + again_after(entry.failures));
            entry.failures = entry.failures.saturating_add(1);
            self.out -= 1;
        }
    }

    /// What is to be tried again by now, in order; the sender gets it.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<i64> {
        let mut due = Vec::new();
        for (&seq, entry) in &mut self.entries {
            if entry.again_at.is_some_and(|at| at <= now) {
                entry.again_at = None;
                self.out += 1;
                due.push(seq);
            }
        }
        due
    }

    /// When the next one is to be tried again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter_map(|entry| entry.again_at)
            .min()
    }

    /// The row of a message is settled or gone: its place and its key are free.
    pub(crate) fn remove(&mut self, seq: i64) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.bytes -= entry.bytes;
        self.out -= usize::from(entry.again_at.is_none());
        if let Some(key) = &entry.key {
            self.keys.remove(key);
        }
        Some(entry)
    }
}

/// How long to wait after so many failures before this one.
fn again_after(failures: u32) -> Duration {
    AGAIN_AFTER
        .saturating_mul(1 << failures.min(16))
        .min(AGAIN_AFTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: Option<&str>) -> Message {
        let message = Message::new("task", &1).unwrap().id("m");
        match key {
            Some(key) => message.key(key),
            None => message,
        }
    }

    #[test]
    fn of_a_key_one_is_out_until_its_row_is_settled() {
        let now = Instant::now();
        let mut window = Window::default();
        let keyed = message(Some("k"));
        let key = keyed.key.as_ref();
        assert!(!window.holds(1, key) && window.hand_out(1, &keyed));
        assert!(window.holds(1, None), "itself");
        assert!(window.holds(2, key), "behind it");
        assert!(!window.holds(2, None) && window.hand_out(2, &message(None)));
        window.put_off(1, now);
        assert!(window.holds(3, key), "it keeps its key while it waits");
        assert_eq!(window.remove(1).unwrap().key.as_ref(), key);
        assert!(!window.holds(3, key));
        window.remove(2);
        assert!(window.is_empty() && !window.is_out() && window.bytes == 0);
    }

    #[test]
    fn waits_double_and_end_at_their_bound() {
        let millis: Vec<_> = (0..10).map(|n| again_after(n).as_millis()).collect();
        let expected = [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000];
        assert_eq!(millis, expected);
        assert_eq!(again_after(u32::MAX), AGAIN_AFTER_MAX);
    }

    #[test]
    fn what_is_put_off_comes_again_in_order_and_counts_as_out_once() {
        let now = Instant::now();
        let mut window = Window::default();
        for seq in [7, 3, 5] {
            window.hand_out(seq, &message(None));
        }
        for seq in [5, 3, 3] {
            window.put_off(seq, now);
        }
        assert!(window.take_due(now).is_empty());
        assert_eq!(window.next_due(), Some(now + AGAIN_AFTER));
        assert_eq!(window.take_due(now + AGAIN_AFTER), [3, 5]);
        assert_eq!((window.out, window.next_due()), (3, None));
        for seq in [3, 5, 7] {
            window.remove(seq);
        }
        assert!(!window.is_out());
    }

    #[test]
    fn it_is_bounded_in_messages_and_bytes_and_takes_at_least_one() {
        let mut window = Window::default();
        for seq in 0..1_000 {
            assert!(window.has_room() && window.hand_out(seq, &message(None)));
        }
        assert!(!window.has_room());
        let large = Message::new("task", &"x".repeat(BYTES_MAX)).unwrap();
        let mut window = Window::default();
        assert!(window.hand_out(1, &large), "alone");
        assert!(!window.has_room());
        window.remove(1);
        window.hand_out(2, &message(None));
        assert!(!window.hand_out(3, &large) && window.get(3).is_none());
    }
}
