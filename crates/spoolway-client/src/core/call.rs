//! What the holders of a producer ask of its core.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use spoolway_proto::{Code, Message};
use tokio::sync::oneshot;

use super::{Body, Core, Event, GATHER_FROM, Link, SocketReason};
use crate::batch::Gathering;
use crate::receipt::Waiter;
use crate::route::{Full, Outgoing};
use crate::told::Resend;
use crate::{Closed, Fate, OtherQueueFile, SendCode, SendError, Status};

/// Whether a message waits for room in the window.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    Awaited,
    Now,
}

impl Core {
    /// Takes a stamped and valid message.
    pub(crate) fn enter(
        &mut self,
        now: Instant,
        message: Arc<Message>,
        waiter: Option<Waiter>,
        room: Room,
    ) -> Result<(), SendError> {
        self.gathers = self.route.in_flight() >= GATHER_FROM;
        self.admit(now, message, waiter, room)?;
        self.drain(now);
        Ok(())
    }

    /// Takes stamped and valid messages, and writes as many of them as may be written in few frames.
    pub(crate) fn enter_batch(
        &mut self,
        now: Instant,
        messages: Vec<(usize, Arc<Message>)>,
        gathering: &Arc<Gathering>,
    ) {
        self.gathers = self.route.in_flight() >= GATHER_FROM;
        for (place, message) in messages {
            let waiter = || Some(Waiter::InBatch(Arc::clone(gathering), place));
            if let Err(error) = self.admit(now, message, waiter(), Room::Awaited) {
                self.effects.answers.push((waiter(), Err(error)));
            }
        }
        self.batches = true;
        self.drain(now);
        self.put_batch();
        self.batches = false;
    }

    /// Gives a message its number.
    fn admit(
        &mut self,
        now: Instant,
        message: Arc<Message>,
        waiter: Option<Waiter>,
        room: Room,
    ) -> Result<(), SendError> {
        if let Some(code) = self.shut() {
            return Err(self.not_taken(code, &message));
        }
        let deadline = now + self.options.send_timeout;
        let waiter = match self.told.resend(&message, waiter, deadline) {
            Resend::New(waiter) => waiter,
            Resend::Attached => return Ok(()),
            Resend::Settled(waiter, receipt) => {
                self.effects.answers.push((waiter, Ok(receipt)));
                return Ok(());
            }
            Resend::Conflict => {
                let code = SendCode::Refused(Code::Conflict);
                return Err(self.not_taken(code, &message));
            }
        };
        let outgoing = Outgoing {
            keyed: message.key.is_some(),
            bytes: message.size(),
            deadline,
        };
        let body = Body {
            message: Arc::clone(&message),
            waiter: Cell::new(waiter),
            told: Cell::new(false),
        };
        let taken = match room {
            Room::Awaited => self.route.send(now, body, outgoing),
            Room::Now => self.route.try_send(now, body, outgoing),
        };
        match taken {
            Ok(_) => {
                self.entered += 1;
                Ok(())
            }
            Err(full) => {
                let error = self.not_taken(SendCode::Full, &message);
                let window = full == Full::Window;
                Err(error.by_socket(window.then_some(SocketReason::NoRoom)))
            }
        }
    }

    /// Why nothing can be sent.
    fn shut(&self) -> Option<SendCode> {
        let other = self.other_queue.as_ref().map(|_| SendCode::OtherQueue);
        other.or_else(|| self.closed.then_some(SendCode::Closed))
    }

    fn not_taken(&self, code: SendCode, message: &Message) -> SendError {
        let other = self.other_queue.clone().map(SocketReason::OtherQueue);
        SendError::new(Fate::NotTaken, code, message.clone()).by_socket(other)
    }

    /// Answers when everything sent before is settled.
    pub(crate) fn flush(&mut self) -> oneshot::Receiver<()> {
        let (flushed, answer) = oneshot::channel();
        self.flushes.push((self.route.next_number(), flushed));
        answer
    }

    pub(crate) fn status(&self) -> Status {
        let Status {
            by_socket,
            by_queue,
            returned,
            ..
        } = self.status;
        Status {
            by_socket,
            by_queue,
            returned,
            unsettled: self.entered - by_socket - by_queue - returned,
            connected: self.route.is_up(),
            socket: self.reason.clone(),
        }
    }

    pub(crate) fn other_queue(&self) -> Option<&OtherQueueFile> {
        self.other_queue.as_ref()
    }

    /// What is not settled, in order.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = &Arc<Message>> {
        let numbers = self.route.first_unsettled()..self.route.next_number();
        numbers.filter_map(|n| self.route.body(n).map(|body| &body.message))
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.route.first_unsettled() == self.route.next_number()
    }

    /// Nothing is sent from here on, and what becomes of the rest is written down for `close`.
    pub(crate) fn begin_close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.closing = Some(Closed::default());
        }
    }

    /// What `close` returns.
    pub(crate) fn end_close(&mut self) -> Closed {
        let Some(mut closed) = self.closing.take() else {
            return Closed::default();
        };
        let left = self.unsettled().map(|message| self.unknown(message));
        closed.returned.extend(left);
        if closed.returned.is_empty() {
            self.end();
        }
        closed
    }

    /// Gives the socket up: the rest goes to the file. What can be read of answers counts.
    pub(crate) fn abandon(&mut self, now: Instant) {
        self.receive(now, Link::read_last);
        self.reason.get_or_insert(SocketReason::Closing);
        self.give_up(now);
    }

    pub(super) fn give_up(&mut self, now: Instant) {
        self.given_up = true;
        self.on(now, Event::Abandon);
    }

    /// Somebody waits on the condition from here on.
    pub(crate) fn begin_hand_over(&mut self) {
        self.handing_over = true;
    }

    /// The driver may end.
    pub(crate) fn end(&mut self) {
        self.over = true;
        self.effects.wake = true;
    }
}
