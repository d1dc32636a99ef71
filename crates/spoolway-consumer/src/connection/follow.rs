//! What one frame or line holds, told to the machine.

use std::sync::Arc;

use bytes::Bytes;
use spoolway_proto::{
    ConsumerOp, Incoming, Invalid, Message, ProducerOp, Reply, Timestamp, decode_for_consumer,
};

use super::{Broken, Connection};
use crate::machine::Event;
use crate::shared::Turn;

impl Connection {
    /// Reads one frame or line.
    pub(super) fn follow(
        &mut self,
        body: &Bytes,
        now: Timestamp,
        turn: &mut Turn<'_>,
    ) -> Result<(), Broken> {
        match decode_for_consumer(body, &self.shared.limits) {
            Ok(Incoming::Message(message)) => self.arrived(message, now, turn),
            Ok(Incoming::Batch(batch)) => {
                batch
                    .into_iter()
                    .for_each(|message| self.arrived(message, now, turn));
            }
            Ok(Incoming::Op(op)) => self.op(op, turn),
            // The next line can be read whatever this one is.
            Err(invalid) if self.is_lines_only() => self.refuse(&invalid),
            Err(invalid) => return Err(self.broken(invalid)),
        }
        Ok(())
    }

    fn arrived(&mut self, message: Result<Message, Invalid>, now: Timestamp, turn: &mut Turn<'_>) {
        self.next = self.next.wrapping_add(1);
        self.plain |= !self.greeted;
        let conn = self.id;
        let message = match message {
            Ok(message) => Ok(self.shared.stamp(message, now)),
            Err(invalid) if !self.greeted => return self.refuse(&invalid),
            Err(invalid) => Err(Box::new(invalid)),
        };
        let asks = |message: &Arc<Message>| message.requires_ack || self.is_lines_only();
        let answer = !self.greeted && message.as_ref().is_ok_and(asks);
        if answer {
            self.outbox.owe(1);
        }
        turn.tell(Event::Arrived {
            conn,
            message,
            answer,
        });
    }

    /// An invalid message of a connection without hello, which hears of it only if it asked for an answer, or speaks
    /// lines.
    fn refuse(&mut self, invalid: &Invalid) {
        if invalid.requires_ack || self.is_lines_only() {
            self.outbox.owe(1);
            self.outbox.reply(Reply::from(invalid));
            self.said = true;
        }
        if !self.logged {
            self.logged = true;
            tracing::warn!(
                conn = self.id,
                "message refused, the first of its connection: {invalid}"
            );
        }
    }

    fn op(&mut self, op: ProducerOp, turn: &mut Turn<'_>) {
        let conn = self.id;
        match op {
            ProducerOp::Hello(hello) => {
                self.greeted = true;
                self.seat.leave_alone();
                self.unread = None;
                self.next = hello.first;
                tracing::debug!(conn, producer = %hello.producer, client = hello.client, "hello");
                let hello = Box::new(hello);
                turn.tell(Event::Hello { conn, hello });
            }
            ProducerOp::At { n } => {
                self.next = n;
                turn.tell(Event::At { conn, n });
            }
            ProducerOp::Seen { ranges, queue, err } => {
                turn.tell(Event::Seen {
                    conn,
                    ranges,
                    queue,
                    err,
                });
            }
            ProducerOp::Ping => {
                self.outbox.say(&ConsumerOp::Pong);
                self.said = true;
            }
            ProducerOp::Pong => {}
            ProducerOp::Save => turn.tell(Event::Save { save: conn }),
        }
    }
}
