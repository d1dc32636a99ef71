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
use std::collections::vec_deque::Iter;

use spoolway_proto::Key;
use spoolway_queue::{Due, RowState, Write};

use super::commit::Doing;
use super::{Action, Entry, LANE_ROWS_MAX, Machine, Step, Ticket};

/// The messages of a key in memory.
#[derive(Debug, Default)]
pub(super) struct Lane {
    queue: VecDeque<Ticket>,
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
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Ticket> {
        Iter::copied(self.queue.iter())
    }

    fn head(&self) -> Option<Ticket> {
        self.queue.front().copied()
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        if self.head() == Some(ticket) {
            return Some(0);
        }
        self.queue.iter().position(|other| *other == ticket)
    }
}

impl Machine {
    /// A message from the socket goes to the end of its lane, and asks first if the file may hold rows before it.
    pub(super) fn enter_lane(&mut self, ticket: Ticket) {
        let Some(key) = self.key_of(ticket) else {
            return;
        };
        let lane = self.lanes.entry(key.clone()).or_default();
        let last = lane.queue.back().and_then(|last| self.entries.get(last));
        let asks = last.is_some_and(|last| matches!(last.step, Step::Asking | Step::Leaving));
        lane.queue.push_back(ticket);
        if asks || self.backlog.maybe {
            self.set_step(ticket, Step::Asking);
            self.look_up(&key);
        } else {
            self.set_step(ticket, Step::Waiting);
            self.advance(&key);
        }
    }

    /// A row goes before the messages that still ask: what they ask for is rows like this one.
    pub(super) fn enter_lane_by_row(&mut self, ticket: Ticket) {
        let Some(key) = self.key_of(ticket) else {
            return;
        };
        let lane = self.lanes.entry(key).or_default();
        let asks = |other: &&Ticket| {
            self.entries
                .get(other)
                .is_some_and(|e| e.step == Step::Asking && e.row.is_none())
        };
        let asking = lane.queue.iter().rev().take_while(asks).count();
        lane.queue.insert(lane.queue.len() - asking, ticket);
    }

    pub(super) fn key_of(&self, ticket: Ticket) -> Option<Key> {
        self.entries.get(&ticket).and_then(Entry::lane_key).cloned()
    }

    /// Whether everything before this message in its lane is done.
    pub(super) fn is_head(&self, ticket: Ticket) -> bool {
        match self.entries.get(&ticket).and_then(Entry::lane_key) {
            Some(key) => self
                .lanes
                .get(key)
                .is_some_and(|lane| lane.head() == Some(ticket)),
            None => true,
        }
    }

    /// Gives the head its turn.
    pub(super) fn advance(&mut self, key: &Key) {
        let Some(head) = self.lanes.get(key).and_then(Lane::head) else {
            return;
        };
        if self.step(head) == Some(Step::Waiting) {
            self.set_ready(head);
        }
    }

    /// Takes a message out of its lane; the next one has its turn.
    pub(super) fn leave_lane(&mut self, entry: &Entry, ticket: Ticket) {
        let Some(key) = entry.lane_key() else { return };
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let Some(place) = lane.place(ticket) else {
            return;
        };
        lane.queue.remove(place);
        let left = lane.queue.len();
        let key = key.clone();
        if left == 0 {
            self.end_lane(&key);
        } else {
            self.advance(&key);
            self.look_up(&key);
        }
        if left <= LANE_ROWS_MAX / 2 {
            self.refill(&key);
        }
    }

    fn end_lane(&mut self, key: &Key) {
        if let Some(lookup) = self.lanes.remove(key).and_then(|lane| lane.lookup) {
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
        let step = |ticket: &Ticket| self.entries.get(ticket).map(|entry| entry.step);
        if lane
            .queue
            .iter()
            .any(|ticket| step(ticket) == Some(Step::Leaving))
        {
            return;
        }
        let asking = lane
            .queue
            .iter()
            .filter(|ticket| step(ticket) == Some(Step::Asking));
        let Some(upto) = asking.max() else { return };
        let read = self.reads.begin();
        lane.lookup = Some(Lookup {
            upto: *upto,
            read,
            tainted: false,
        });
        self.actions.push_back(Action::Lookup {
            key: key.clone(),
            read,
        });
    }

    pub(super) fn looked_up(&mut self, key: &Key, read: u64, rows: Option<Vec<i64>>) {
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

    fn use_lookup(&mut self, key: &Key, lookup: &Lookup, rows: Option<Vec<i64>>) {
        let Some(lane) = self.lanes.get(key) else {
            return;
        };
        let Some(rows) = rows else {
            // The file cannot be read now: the next poll tries again.
            self.unread.push(key.clone());
            return;
        };
        let asked: Vec<Ticket> = lane
            .iter()
            .filter(|ticket| *ticket <= lookup.upto)
            .collect();
        for ticket in asked {
            if self.step(ticket) != Some(Step::Asking) {
                continue;
            }
            let by_file = self
                .entries
                .get(&ticket)
                .is_some_and(|e| e.by_file && e.row.is_none());
            if by_file || lookup.tainted || !self.rows_are_ahead(key, ticket, lookup.read, &rows) {
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
        for ticket in tickets {
            self.leave_one(ticket, writes);
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
        if self.by_id.get(&entry.message.id) == Some(&ticket) {
            self.by_id.remove(&entry.message.id);
        }
        if let Some(row) = entry.row {
            self.by_row.remove(&row);
            self.reads.left(row, false);
        }
        let Some(key) = entry.lane_key() else { return };
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.queue.retain(|other| *other != ticket);
            if lane.queue.is_empty() {
                let key = key.clone();
                self.end_lane(&key);
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
