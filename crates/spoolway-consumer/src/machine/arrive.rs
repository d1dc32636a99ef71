//! What comes over a connection: hello, numbers, messages.

use std::sync::Arc;

use spoolway_proto::ProducerId;
use spoolway_proto::{AckLevel, Code, Invalid, Message, Outcome, PROTOCOL_VERSION, ProducerHello};
use spoolway_queue::{ProducerRecord, RowCounts};

use super::event::wanted;
use super::kept::{Kept, Number};
use super::{
    Action, Asking, Conn, ConnId, Entry, Greeted, Machine, Pair, Pairs, Step, Ticket, Verdict,
};

/// Who waits for the outcome of a message: somebody.
struct Waiting {
    message: Arc<Message>,
    crc: u32,
    pairs: Pairs,
    plain: Vec<ConnId>,
    unnumbered: bool,
    has_row: bool,
}

/// What the consumer already knows of a message that arrives.
enum Copy {
    /// Nothing.
    None,
    /// It is in memory.
    Joins(Ticket),
    /// Its outcome is kept.
    Settled(Kept),
    /// Its id belongs to a message with other content.
    Conflict,
    /// Its number belongs to a message with another id.
    Reused,
}

impl Machine {
    pub(super) fn hello(&mut self, conn: ConnId, hello: ProducerHello) {
        if self
            .conns
            .get(&conn)
            .is_some_and(|known| known.greeting || known.over)
        {
            return self.fault(
                conn,
                Code::BadFrame,
                "hello is said once a connection".into(),
            );
        }
        if hello.version != PROTOCOL_VERSION {
            let text = format!(
                "version {} (this consumer speaks {PROTOCOL_VERSION})",
                hello.version
            );
            return self.fault(conn, Code::BadVersion, text);
        }
        if hello.first == 0 || hello.fresh < hello.first {
            return self.fault(conn, Code::BadFrame, "hello: 1 <= first <= fresh".into());
        }
        // Older connections are fenced before the file is asked: from here on nothing more is taken from them.
        if let Some(producer) = self.producers.get_mut(&hello.producer) {
            if producer.conn.is_some() && producer.is_stale(hello.epoch) {
                return self.fault(conn, Code::StaleEpoch, "a newer connection stands".into());
            }
            self.fence(hello.producer);
        }
        self.conns.insert(
            conn,
            Conn {
                hello: None,
                greeting: true,
                over: false,
            },
        );
        self.mark_backlog();
        let producer = Some(hello.producer);
        self.ask(producer, Some((conn, hello)));
    }

    pub(super) fn ask(
        &mut self,
        producer: Option<ProducerId>,
        hello: Option<(ConnId, ProducerHello)>,
    ) {
        let ask = self.next_ask;
        self.next_ask += 1;
        self.asks.insert(
            ask,
            Asking {
                hello,
                version: self.backlog.version,
            },
        );
        self.actions.push_back(Action::Ask { ask, producer });
    }

    pub(super) fn asked(&mut self, ask: u64, keyed: Option<bool>, record: Option<ProducerRecord>) {
        let Some(asking) = self.asks.remove(&ask) else {
            return;
        };
        if keyed == Some(false) && asking.version == self.backlog.version {
            self.backlog.maybe = false;
        }
        let rows = record.as_ref().map(|record| record.counts.rows);
        if let Some(record) = record
            && !self
                .producers
                .get(&record.producer)
                .is_some_and(|known| known.met)
        {
            self.remember(record);
        }
        if let Some((conn, hello)) = asking.hello {
            // Where the file could not be read, the next hello is held against it.
            let rows = keyed.map(|_| rows.unwrap_or_default());
            self.greet(conn, &hello, rows);
        }
    }

    fn greet(&mut self, conn: ConnId, hello: &ProducerHello, rows: Option<RowCounts>) {
        if self.conns.get(&conn).is_none_or(|known| known.over) {
            return;
        }
        let id = hello.producer;
        let producer = self.producers.entry(id).or_default();
        if producer.is_stale(hello.epoch) {
            return self.fault(
                conn,
                Code::StaleEpoch,
                "a newer connection or row stands".into(),
            );
        }
        self.fence(id);
        let producer = self.producers.entry(id).or_default();
        // The bound of the first hello to this run stays: what was sent since was sent to this very process.
        if !producer.met {
            producer.met = true;
            producer.suspect_below = hello.fresh;
        }
        producer.epoch = hello.epoch;
        producer.greeted = hello.epoch;
        producer.conn = Some(conn);
        producer.gone_at = None;
        producer.first = producer.first.max(hello.first);
        if let Some(rows) = rows {
            self.balance(hello, &rows);
        }
        if let Some(known) = self.conns.get_mut(&conn) {
            known.hello = Some(Greeted {
                producer: id,
                ack: hello.ack,
                next: hello.first,
                window: 0,
                came: 0,
                answered: 0,
                may_come: 0,
                bytes: 0,
            });
        }
        self.share_windows(Some(conn));
        self.settle_below(id, hello.first);
    }

    /// Divides `pending_max` among the connections; the one named hears of its part with its greeting.
    fn share_windows(&mut self, greeted: Option<ConnId>) {
        let count = self
            .conns
            .values()
            .filter(|conn| conn.hello.is_some())
            .count()
            .max(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let share = (self.config.pending_max / count).clamp(1, self.config.window_max);
        let window_bytes = self.config.window_bytes;
        for (conn, state) in &mut self.conns {
            let Some(hello) = &mut state.hello else {
                continue;
            };
            if hello.window == share {
                continue;
            }
            // What is under way was sent when no more was answered than now.
            hello.may_come = hello.may_come();
            hello.window = share;
            let (conn, window) = (*conn, share);
            self.actions.push_back(if greeted == Some(conn) {
                Action::Greet {
                    conn,
                    window,
                    window_bytes,
                }
            } else {
                Action::Window {
                    conn,
                    window,
                    window_bytes,
                }
            });
        }
    }

    pub(super) fn at(&mut self, conn: ConnId, n: u64) {
        let Some(hello) = self.conns.get_mut(&conn).and_then(Conn::greeted) else {
            return;
        };
        hello.next = n;
        let forward = n.saturating_sub(1);
        let producer = hello.producer;
        if let Some(producer) = self.producers.get_mut(&producer) {
            producer.counts.sent = producer.counts.sent.max(forward);
        }
        // What was skipped is committed: a keyed message after it may have to wait for it.
        self.mark_backlog();
        self.ask(None, None);
    }

    pub(super) fn closed(&mut self, conn: ConnId) {
        let Some(state) = self.conns.remove(&conn) else {
            return;
        };
        if let Some(hello) = state.hello {
            let now = self.now.mono;
            if let Some(producer) = self.producers.get_mut(&hello.producer)
                && producer.conn == Some(conn)
            {
                producer.conn = None;
                producer.gone_at = Some(now);
                producer.numbers.shrink_to_fit();
                self.gone.push_back((now, hello.producer));
            }
            if self.gone.len() > self.config.gone_max {
                self.forget();
            }
            self.share_windows(None);
        }
    }

    pub(super) fn producer_of(&mut self, conn: ConnId) -> Option<ProducerId> {
        self.conns
            .get_mut(&conn)
            .and_then(Conn::greeted)
            .map(|hello| hello.producer)
    }

    pub(super) fn fault(&mut self, conn: ConnId, code: Code, message: String) {
        let state = self.conns.entry(conn).or_insert(Conn {
            hello: None,
            greeting: true,
            over: false,
        });
        if !state.over {
            state.over = true;
            self.actions.push_back(Action::Fault {
                conn,
                code,
                message,
            });
        }
    }

    // ---- messages

    pub(super) fn arrived(
        &mut self,
        conn: ConnId,
        message: Result<Arc<Message>, Box<Invalid>>,
        answer: bool,
    ) {
        let Some(state) = self.conns.get_mut(&conn) else {
            return self.arrived_plain(conn, message, answer);
        };
        if state.over {
            return;
        }
        let Some(hello) = &mut state.hello else {
            return self.fault(
                conn,
                Code::BadFrame,
                "messages follow the answer to hello".into(),
            );
        };
        let (id, n, ack) = (hello.producer, hello.next, hello.ack);
        hello.next += 1;
        let bytes = message.as_ref().map_or(0, |message| message.size() as u64);
        let room = hello.came < hello.may_come() && hello.bytes + bytes <= self.config.window_bytes;
        if !room && hello.came > hello.answered {
            return self.fault(
                conn,
                Code::WindowOverrun,
                format!("message {n} is over the window"),
            );
        }
        hello.came += 1;
        hello.bytes += bytes;
        let producer = self.producers.entry(id).or_default();
        let suspect = n < producer.suspect_below;
        producer.counts.sent = producer.counts.sent.max(n);
        let pair = Pair {
            producer: id,
            n,
            conn,
            bytes,
            answered: false,
            counted: false,
        };
        match message {
            Err(invalid) => self.nack(pair, invalid.code, invalid.to_string(), None),
            Ok(message) => self.take(pair, message, ack, suspect),
        }
    }

    fn take(&mut self, pair: Pair, message: Arc<Message>, ack: AckLevel, suspect: bool) {
        let crc = message.crc();
        let level = wanted(&message, ack);
        match self.copy_of(pair, &message, crc) {
            Copy::Settled(kept) => self.answer_kept(pair, kept),
            Copy::Conflict => {
                let text = format!("id {} was sent with other content", message.id);
                self.nack(pair, Code::Conflict, text, None);
            }
            Copy::Reused => {
                let text = format!("number {} was sent with another id", pair.n);
                self.fault(pair.conn, Code::PairReused, text);
            }
            Copy::Joins(ticket) => {
                self.join(ticket, pair);
                self.receive(ticket, level);
            }
            Copy::None => {
                let ticket = self.insert(Entry::new(message, crc));
                self.join(ticket, pair);
                self.receive(ticket, level);
                if let Some(entry) = self.entries.get_mut(&ticket) {
                    entry.suspect = suspect;
                }
                self.place(ticket, level);
            }
        }
    }

    fn copy_of(&self, pair: Pair, message: &Message, crc: u32) -> Copy {
        let producer = self.producers.get(&pair.producer);
        let number = producer.and_then(|producer| producer.numbers.get(&pair.n));
        let (id, copy) = match number {
            Some(Number::Kept(kept)) => (&kept.id, Copy::Settled(kept.clone())),
            Some(Number::Pending(ticket)) => {
                (&self.entries[ticket].message.id, Copy::Joins(*ticket))
            }
            None => return self.copy_by_id(message, crc),
        };
        if *id == message.id {
            copy
        } else {
            Copy::Reused
        }
    }

    fn copy_by_id(&self, message: &Message, crc: u32) -> Copy {
        let Some(known) = self.ids.get(&message.id) else {
            return Copy::None;
        };
        match (known.ticket, &known.kept) {
            (Some(ticket), _) if self.entries[&ticket].crc == crc => Copy::Joins(ticket),
            (None, Some((known, (outcome, reason)))) if *known == crc => Copy::Settled(Kept {
                id: message.id.clone(),
                crc,
                outcome: *outcome,
                reason: reason.clone(),
                counted: false,
            }),
            (Some(_), _) | (None, Some(_)) => Copy::Conflict,
            (None, None) => Copy::None,
        }
    }

    /// The number is settled with this message, and answered within `hold_max`.
    fn join(&mut self, ticket: Ticket, pair: Pair) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        match entry
            .pairs
            .iter_mut()
            .find(|known| (known.producer, known.n) == (pair.producer, pair.n))
        {
            Some(known) => {
                let counted = known.counted;
                *known = Pair { counted, ..pair };
            }
            None => entry.pairs.push(pair),
        }
        self.producers
            .entry(pair.producer)
            .or_default()
            .numbers
            .insert(pair.n, Number::Pending(ticket));
        self.holds
            .push_back((self.now.mono + self.config.hold_max, ticket));
    }

    /// A sender that waits for `received` only is answered at once.
    fn receive(&mut self, ticket: Ticket, level: AckLevel) {
        if level != AckLevel::Received {
            return;
        }
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        let mut answers = Vec::new();
        for pair in entry.pairs.iter_mut().filter(|pair| !pair.answered) {
            answers.push(*pair);
            pair.answered = true;
            pair.counted = true;
        }
        for pair in answers {
            if !pair.counted {
                self.count_answer(pair.producer);
            }
            self.send_answer(pair, Outcome::Received, None);
        }
    }

    /// Finds the place of a new message: the file, its lane, or a slot.
    fn place(&mut self, ticket: Ticket, level: AckLevel) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        let keyed = entry.lane_key().is_some();
        let later = entry
            .message
            .deliver_at
            .is_some_and(|at| at > self.now.wall);
        let held = entry.lane_key().is_some_and(|key| self.held.contains(key));
        entry.by_file = entry.suspect || later || held || level == AckLevel::Stored;
        let by_file = entry.by_file;
        if entry.is_late(self.now.wall) && !keyed {
            return self.bury(ticket, "expired", None);
        }
        if keyed {
            self.enter_lane(ticket);
        } else {
            self.set_ready(ticket);
        }
        if by_file {
            self.leave(ticket);
        }
    }

    fn arrived_plain(
        &mut self,
        conn: ConnId,
        message: Result<Arc<Message>, Box<Invalid>>,
        answer: bool,
    ) {
        let message = match message {
            Ok(message) => message,
            // The shell answers these: it knows the frame and its dialect.
            Err(_) => return,
        };
        let crc = message.crc();
        let ticket = match self.copy_by_id(&message, crc) {
            Copy::Settled(kept) => {
                if answer {
                    let outcome = Ok(kept.outcome);
                    self.actions.push_back(Action::Reply {
                        conn,
                        message,
                        outcome,
                        reason: kept.reason,
                    });
                }
                return;
            }
            Copy::Conflict | Copy::Reused => {
                if answer {
                    let outcome = Err(Code::Conflict);
                    self.actions.push_back(Action::Reply {
                        conn,
                        message,
                        outcome,
                        reason: None,
                    });
                }
                return;
            }
            Copy::Joins(ticket) => ticket,
            Copy::None => {
                let level = wanted(&message, AckLevel::Processed);
                let ticket = self.insert(Entry::new(message, crc));
                self.holds
                    .push_back((self.now.mono + self.config.hold_max, ticket));
                self.place(ticket, level);
                ticket
            }
        };
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.unnumbered = true;
            if answer {
                entry.plain.push(conn);
            }
        }
    }

    // ---- answers

    /// Answers everything that waits for this message, and keeps the outcome for its numbers.
    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Outcome, reason: Option<Arc<str>>) {
        let entry = self.entries.get_mut(&ticket);
        let Some(waiting) = entry.and_then(|entry| entry.take_waiting()) else {
            return;
        };
        let verdict = (outcome, reason);
        self.ids
            .keep(&waiting.message.id, waiting.crc, verdict.clone());
        self.answer_all(waiting, verdict);
    }

    /// The same, and the message leaves memory.
    pub(super) fn settle(&mut self, ticket: Ticket, outcome: Outcome, reason: Option<Arc<str>>) {
        let Some(mut entry) = self.take_out(ticket) else {
            return;
        };
        let Some(waiting) = entry.take_waiting() else {
            return self.ids.leave(&entry.message.id, ticket);
        };
        let verdict = (outcome, reason);
        self.ids
            .settle(&waiting.message.id, ticket, waiting.crc, verdict.clone());
        self.answer_all(waiting, verdict);
    }

    fn answer_all(&mut self, waiting: Waiting, (outcome, reason): Verdict) {
        let Waiting { message, crc, .. } = waiting;
        let settles = matches!(outcome, Outcome::Processed | Outcome::Dead) && !waiting.has_row;
        for (nth, pair) in waiting.pairs.into_iter().enumerate() {
            if nth > 0 {
                // With the number before it may have been dropped.
                self.ids.keep(&message.id, crc, (outcome, reason.clone()));
            }
            let kept = Kept {
                id: message.id.clone(),
                crc,
                outcome,
                reason: reason.clone(),
                counted: true,
            };
            let producer = self.producers.entry(pair.producer).or_default();
            producer.numbers.insert(pair.n, Number::Kept(kept));
            producer.counts.answered += u64::from(!pair.counted);
            if !pair.answered {
                self.send_answer(pair, outcome, reason.clone());
            }
            self.settle_late(pair.producer, pair.n, settles);
        }
        if waiting.unnumbered {
            self.ids
                .keep_plain(&message.id, crc, (outcome, reason.clone()));
        }
        for conn in waiting.plain {
            let message = Arc::clone(&message);
            self.actions.push_back(Action::Reply {
                conn,
                message,
                outcome: Ok(outcome),
                reason: reason.clone(),
            });
        }
    }

    fn answer_kept(&mut self, pair: Pair, mut kept: Kept) {
        let verdict = kept.verdict();
        if !std::mem::replace(&mut kept.counted, true) {
            self.count_answer(pair.producer);
        }
        self.ids.keep(&kept.id, kept.crc, verdict.clone());
        let producer = self.producers.entry(pair.producer).or_default();
        producer.numbers.insert(pair.n, Number::Kept(kept));
        self.send_answer(pair, verdict.0, verdict.1);
    }

    fn send_answer(&mut self, pair: Pair, outcome: Outcome, reason: Option<Arc<str>>) {
        if self.free_window(pair) {
            let Pair { conn, n, .. } = pair;
            self.actions.push_back(Action::Answer {
                conn,
                n,
                outcome,
                reason,
            });
        }
    }

    /// Refuses a number: it is forgotten here, and its producer may send it again.
    pub(super) fn nack(
        &mut self,
        pair: Pair,
        code: Code,
        message: String,
        retry_after: Option<std::time::Duration>,
    ) {
        if let Some(producer) = self.producers.get_mut(&pair.producer)
            && producer.pending(pair.n).is_some()
        {
            producer.numbers.remove(&pair.n);
        }
        if self.free_window(pair) {
            let Pair { conn, n, .. } = pair;
            self.actions.push_back(Action::Nack {
                conn,
                n,
                code,
                message,
                retry_after,
            });
        }
    }

    /// Whether the connection still stands to hear of it; its window has room for one more.
    fn free_window(&mut self, pair: Pair) -> bool {
        let Some(state) = self.conns.get_mut(&pair.conn) else {
            return false;
        };
        let over = state.over;
        if let Some(hello) = &mut state.hello {
            hello.answered += 1;
            hello.bytes -= pair.bytes;
        }
        !over
    }
}

impl Conn {
    fn greeted(&mut self) -> Option<&mut Greeted> {
        self.hello.as_mut().filter(|_| !self.over)
    }
}

impl Greeted {
    /// How many messages may have come by now. A smaller window takes hold as answers go out.
    fn may_come(&self) -> u64 {
        self.may_come.max(self.answered + u64::from(self.window))
    }
}

impl Entry {
    /// Takes out everything that waits for its outcome; `None` if nothing does.
    fn take_waiting(&mut self) -> Option<Waiting> {
        (!self.pairs.is_empty() || self.unnumbered).then(|| Waiting {
            message: Arc::clone(&self.message),
            crc: self.crc,
            pairs: std::mem::take(&mut self.pairs),
            plain: std::mem::take(&mut self.plain),
            unnumbered: std::mem::take(&mut self.unnumbered),
            has_row: self.row.is_some(),
        })
    }

    pub(super) fn new(message: Arc<Message>, crc: u32) -> Box<Self> {
        Box::new(Self {
            message,
            crc,
            pairs: Pairs::new(),
            plain: Vec::new(),
            unnumbered: false,
            row: None,
            by_file: false,
            suspect: false,
            attempts: 0,
            delivery: 0,
            step: Step::Waiting,
            as_row: false,
            storing: false,
            finish: None,
        })
    }
}
