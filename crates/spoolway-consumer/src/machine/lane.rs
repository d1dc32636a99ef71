//! Lanes: the messages of one key that are in memory, in order; one runs at a time.
//!
//! ```text
//!  head                                                   tail
//!   │ Running or Ready │ Waiting … │ Leaving … │ Asking … │
//! ```
//!
//! `Leaving` messages are on their way to the file together with everything that was behind them; what arrives
//! meanwhile is `Asking`, and is looked up once they are there. Rows from the file go before the `Asking` ones.

use std::collections::VecDeque;

use hashbrown::hash_map::EntryRef;
use spoolway_proto::Key;
use spoolway_queue::{Due, KeyRows, RowState, Write};

use super::commit::Doing;
use super::{Action, LANE_ROWS_MAX, Machine, Step, Ticket};

/// The messages of a key in memory. Nearly always it is one, which costs no allocation of its own.
#[derive(Debug)]
pub(super) struct Lane {
    head: Ticket,
    behind: VecDeque<Ticket>,
    lookup: Option<Lookup>,
}

#[derive(Debug)]
struct Lookup {
    /// The newest message that had arrived when it began.
    upto: Ticket,
    read: u64,
    /// Something of this key went to the file since: the answer may not show it.
    tainted: bool,
}

impl Lane {
    fn of(head: Ticket) -> Self {
        Self {
            head,
            behind: VecDeque::new(),
            lookup: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        1 + self.behind.len()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Ticket> {
        std::iter::once(self.head).chain(self.behind.iter().copied())
    }

    fn last(&self) -> Ticket {
        self.behind.back().copied().unwrap_or(self.head)
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.iter().position(|other| other == ticket)
    }

    fn insert(&mut self, place: usize, ticket: Ticket) {
        match place.checked_sub(1) {
            Some(place) => self.behind.insert(place, ticket),
            None => {
                let head = std::mem::replace(&mut self.head, ticket);
                self.behind.push_front(head);
            }
        }
    }

    /// Takes a message out of a lane that has others, and says whether it was there.
    fn remove(&mut self, ticket: Ticket) -> bool {
        if self.head == ticket {
            if let Some(next) = self.behind.pop_front() {
                self.head = next;
            }
            return true;
        }
        let place = self.behind.iter().position(|other| *other == ticket);
        place.is_some_and(|place| self.behind.remove(place).is_some())
    }

    /// Whether this message is all there is.
    fn is_only(&self, ticket: Ticket) -> bool {
        self.head == ticket && self.behind.is_empty()
    }
}

impl Machine {
    /// A message from the socket goes to the end of its lane, and asks first if the file may hold rows before it.
    pub(super) fn enter_lane(&mut self, ticket: Ticket) {
        let entry = self.entries.get(&ticket);
        let Some(key) = entry.and_then(|entry| entry.lane_key()) else {
            return;
        };
        let asks = match self.lanes.entry_ref(key) {
            EntryRef::Vacant(place) => {
                place.insert(Lane::of(ticket));
                if !self.backlog.maybe {
                    // Alone: its turn.
                    return self.set_ready(ticket);
                }
                true
            }
            EntryRef::Occupied(mut lane) => {
                let lane = lane.get_mut();
                let last = self.entries.get(&lane.last());
                lane.behind.push_back(ticket);
                last.is_some_and(|last| matches!(last.step, Step::Asking | Step::Leaving))
            }
        };
        if !asks && !self.backlog.maybe {
            return self.set_step(ticket, Step::Waiting);
        }
        self.set_step(ticket, Step::Asking);
        if let Some(key) = self.key_of(ticket) {
            self.look_up(&key);
        }
    }

    /// A row goes before the messages that still ask: what they ask for is rows like this one.
    pub(super) fn enter_lane_by_row(&mut self, ticket: Ticket) {
        let Some(key) = self.key_of(ticket) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(&key) else {
            self.lanes.insert(key, Lane::of(ticket));
            return;
        };
        if lane.is_only(ticket) {
            return;
        }
        // It is there already if it came over the socket too: whatever came between them there, the rows are in order.
        lane.remove(ticket);
        let asks = |other: &Ticket| {
            self.entries
                .get(other)
                .is_some_and(|e| e.step == Step::Asking && e.row.is_none())
        };
        let asking = lane.iter().rev().take_while(asks).count();
        lane.insert(lane.len() - asking, ticket);
    }

    pub(super) fn key_of(&self, ticket: Ticket) -> Option<Key> {
        let entry = self.entries.get(&ticket)?;
        entry.lane_key().cloned()
    }

    /// Whether everything before this message in its lane is done.
    pub(super) fn is_head(&self, ticket: Ticket) -> bool {
        let entry = self.entries.get(&ticket);
        match entry.and_then(|entry| entry.lane_key()) {
            Some(key) => self.lanes.get(key).is_some_and(|lane| lane.head == ticket),
            None => true,
        }
    }

    /// Gives the head its turn.
    pub(super) fn advance(&mut self, key: &Key) {
        let Some(head) = self.lanes.get(key).map(|lane| lane.head) else {
            return;
        };
        if self.step(head) == Some(Step::Waiting) {
            self.set_ready(head);
        }
    }

    /// Takes a message out of its lane; the next one has its turn.
    pub(super) fn leave_lane(&mut self, key: &Key, ticket: Ticket) {
        let EntryRef::Occupied(mut lane) = self.lanes.entry_ref(key) else {
            return;
        };
        if lane.get().is_only(ticket) {
            let lookup = lane.remove().lookup;
            self.end_lookup(lookup);
            return self.refill(key);
        }
        let lane = lane.get_mut();
        if !lane.remove(ticket) {
            return;
        }
        let left = lane.len();
        self.advance(key);
        self.look_up(key);
        if left <= LANE_ROWS_MAX / 2 {
            self.refill(key);
        }
    }

    /// Nobody waits for its answer any more.
    fn end_lookup(&mut self, lookup: Option<Lookup>) {
        if let Some(lookup) = lookup {
            self.reads.end(lookup.read);
        }
    }

    // ---- lookups

    /// Asks the file for the rows of a key, if messages wait to know and nothing is on its way there.
    pub(super) fn look_up(&mut self, key: &Key) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.lookup.is_some() {
            return;
        }
        let step = |ticket: Ticket| self.entries.get(&ticket).map(|entry| entry.step);
        if step(lane.head) == Some(Step::Burying) {
            // Nothing of it can go on, or to the file, before that is written.
            return;
        }
        if lane
            .iter()
            .any(|ticket| step(ticket) == Some(Step::Leaving))
        {
            return;
        }
        let asking = lane
            .iter()
            .filter(|ticket| step(*ticket) == Some(Step::Asking));
        let Some(upto) = asking.max() else { return };
        let read = self.reads.begin();
        lane.lookup = Some(Lookup {
            upto,
            read,
            tainted: false,
        });
        self.actions.push_back(Action::Lookup {
            key: key.clone(),
            read,
        });
    }

    pub(super) fn looked_up(&mut self, key: &Key, read: u64, rows: Option<KeyRows>) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        // The lane that asked may be gone, and this one have asked anew.
        let Some(lookup) = lane.lookup.take_if(|lookup| lookup.read == read) else {
            return;
        };
        self.use_lookup(key, &lookup, rows);
        self.reads.end(lookup.read);
        self.look_up(key);
    }

    fn use_lookup(&mut self, key: &Key, lookup: &Lookup, rows: Option<KeyRows>) {
        let Some(lane) = self.lanes.get(key) else {
            return;
        };
        let Some(KeyRows { rows, generation }) = rows else {
            // The file cannot be read now: the next poll tries again.
            self.unread.push(key.clone());
            return;
        };
        let asked: Vec<Ticket> = lane
            .iter()
            .filter(|ticket| *ticket <= lookup.upto)
            .collect();
        let held = self.held.contains(key);
        let useless =
            lookup.tainted || generation != self.generation || self.reads.is_void(lookup.read);
        for ticket in asked {
            if self.step(ticket) != Some(Step::Asking) {
                continue;
            }
            let by_file = self
                .entries
                .get(&ticket)
                .is_some_and(|e| e.by_file && e.row.is_none());
            if by_file || held || useless || !self.rows_are_ahead(key, ticket, lookup.read, &rows) {
                self.leave(ticket);
                break;
            }
            self.set_step(ticket, Step::Waiting);
            self.advance(key);
        }
    }

    /// Asks again where the file could not be read.
    pub(super) fn relook(&mut self) {
        for key in std::mem::take(&mut self.unread) {
            self.look_up(&key);
        }
    }

    /// Whether each of these rows is in the lane ahead of this message, or done and being settled.
    fn rows_are_ahead(&self, key: &Key, ticket: Ticket, read: u64, rows: &[i64]) -> bool {
        let Some(lane) = self.lanes.get(key) else {
            return false;
        };
        let Some(place) = lane.place(ticket) else {
            return false;
        };
        rows.iter().all(|row| {
            let Some(other) = self.by_row.get(row) else {
                return self.reads.is_settled(read, *row);
            };
            if *other == ticket {
                return true;
            }
            match lane.place(*other) {
                Some(at) => at < place && self.step(*other) != Some(Step::Leaving),
                None => self.step(*other) == Some(Step::Settling),
            }
        })
    }

    // ---- to the file

    /// Stores a message that cannot run now: it leaves memory, and with it everything of its lane that has not
    /// begun, in one commit and in lane order. What has begun gets its row in the same commit, before them.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        let mut writes = Vec::new();
        match self.key_of(ticket) {
            Some(key) => {
                if self.is_leaving(&key) {
                    return;
                }
                if self.is_burying(&key) {
                    // Not before its head is dead in the file: after a kill it would be behind them there.
                    if self.step(ticket) == Some(Step::Waiting) {
                        self.set_step(ticket, Step::Asking);
                    }
                    return;
                }
                self.empty_lane(&key, None, &mut writes);
            }
            None => self.leave_one(ticket, &mut writes),
        }
        self.commit(writes);
    }

    /// Whether messages of this key are on their way to the file.
    pub(super) fn is_leaving(&self, key: &Key) -> bool {
        let leaving = |ticket| self.step(ticket) == Some(Step::Leaving);
        self.lanes
            .get(key)
            .is_some_and(|lane| lane.iter().any(leaving))
    }

    /// Whether the head of this lane has no row yet, and is about to be a dead letter.
    fn is_burying(&self, key: &Key) -> bool {
        let head = self.lanes.get(key).map(|lane| lane.head);
        head.and_then(|head| self.entries.get(&head))
            .is_some_and(|head| head.step == Step::Burying && head.row.is_none())
    }

    /// The writes that take the lane's messages out of memory, except what has begun and `but`.
    pub(super) fn empty_lane(
        &mut self,
        key: &Key,
        but: Option<Ticket>,
        writes: &mut Vec<(Write, Doing)>,
    ) {
        self.mark_backlog();
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        if let Some(lookup) = &mut lane.lookup {
            lookup.tainted = true;
        }
        let tickets: Vec<Ticket> = lane.iter().filter(|ticket| Some(*ticket) != but).collect();
        let mut is_behind = false;
        for ticket in tickets {
            let Some(entry) = self.entries.get(&ticket) else {
                continue;
            };
            is_behind |= entry.step == Step::Leaving;
            if is_behind
                && entry.row.is_none()
                && matches!(entry.step, Step::Waiting | Step::Asking)
            {
                // What is on its way may fail, and this must not be in the file before it.
                self.set_step(ticket, Step::Asking);
            } else {
                self.leave_one(ticket, writes);
            }
        }
    }

    fn leave_one(&mut self, ticket: Ticket, writes: &mut Vec<(Write, Doing)>) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        match (entry.step, entry.row) {
            (Step::Leaving | Step::Settling | Step::Burying, _) => {}
            (Step::Running | Step::Beginning, Some(_)) => {}
            (Step::Running | Step::Beginning, None) => {
                if !entry.storing {
                    entry.storing = true;
                    writes.push((
                        self.row_of(ticket, Due::Now, None, true),
                        Doing::Stay(ticket),
                    ));
                }
            }
            (
                Step::Asking | Step::Claiming | Step::Waiting | Step::Ready | Step::Delayed(_),
                Some(row),
            ) => {
                writes.push((Write::Release(vec![row]), Doing::Nothing));
                // The row is on disk: that is the answer to copies that joined it.
                self.answer(ticket, spoolway_proto::Outcome::Stored, None);
                // Quietly: the lane is emptied as a whole.
                self.drop_entry(ticket);
                self.want_poll();
            }
            (
                Step::Asking | Step::Claiming | Step::Waiting | Step::Ready | Step::Delayed(_),
                None,
            ) => {
                entry.step = Step::Leaving;
                let due = match entry.message.deliver_at {
                    Some(at) if at > self.now.wall => Due::At(at),
                    _ => Due::Now,
                };
                writes.push((self.row_of(ticket, due, None, false), Doing::Leave(ticket)));
            }
        }
    }

    /// Takes a message out of memory and its lane without giving the next one its turn.
    fn drop_entry(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.remove(&ticket) else {
            return;
        };
        self.ids.leave(&entry.message.id, ticket);
        if let Some(row) = entry.row {
            self.by_row.remove(&row);
            self.reads.left(row, false);
        }
        let Some(key) = entry.lane_key() else { return };
        if let EntryRef::Occupied(mut lane) = self.lanes.entry_ref(key) {
            if lane.get().is_only(ticket) {
                let lookup = lane.remove().lookup;
                self.end_lookup(lookup);
            } else {
                lane.get_mut().remove(ticket);
            }
        }
    }

    /// The insert that stores a message.
    pub(super) fn row_of(
        &self,
        ticket: Ticket,
        due: Due,
        error: Option<String>,
        claimed: bool,
    ) -> Write {
        let entry = &self.entries[&ticket];
        let attempts = entry.attempts;
        let state = RowState::Pending {
            attempts,
            due,
            error,
            suspect: entry.suspect,
            claimed,
        };
        self.new_row(ticket, state)
    }
}
