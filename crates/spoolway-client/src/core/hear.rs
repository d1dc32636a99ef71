//! What the consumer says, and the ends of connections.

use std::time::{Duration, Instant};

use spoolway_proto::{Ack, Code, ConsumerHello, ConsumerOp, Outcome, PROTOCOL_VERSION};
use spoolway_socket::Absence;

use super::{Core, Event, Link, Read, SocketReason};
use crate::{OtherQueue, OtherQueueFile};

impl Core {
    /// Reads what is there, to the end if the connection ended.
    pub(super) fn receive(&mut self, now: Instant, read: impl Fn(&mut Link) -> Read) {
        while let Some(link) = &mut self.link {
            match read(link) {
                Read::Again => {}
                Read::Bytes => {
                    self.on(now, Event::Heard);
                    self.frames(now);
                }
                Read::Nothing => return,
                Read::End => {
                    let unsent = self.unsent();
                    self.link = None;
                    self.turns += 1;
                    self.forget_out();
                    self.reason.get_or_insert(Absence::Closed.into());
                    self.on(now, Event::Closed { unsent });
                    self.opened();
                }
            }
        }
    }

    /// An op may end the link; what the same read brought behind it is not heard then.
    fn frames(&mut self, now: Instant) {
        while let Some(link) = &mut self.link {
            match link.next_op() {
                Ok(Some(op)) => self.hear(now, op),
                Ok(None) => return,
                Err(invalid) => {
                    let message = invalid.to_string();
                    tracing::warn!("the consumer is not understood: {message}");
                    self.reason = Some(SocketReason::Garbled(message.clone()));
                    self.fault(now, Code::BadFrame, message, None);
                }
            }
        }
    }

    fn hear(&mut self, now: Instant, op: ConsumerOp) {
        match op {
            ConsumerOp::Hello(hello) => self.greeted(now, hello),
            ConsumerOp::Ack(ack) => self.acked(now, ack),
            ConsumerOp::Nack {
                n,
                code,
                message,
                retry_after_ms,
            } => {
                let retry_after = retry_after_ms.map(Duration::from_millis);
                self.on(
                    now,
                    Event::Nacked {
                        n,
                        code,
                        message,
                        retry_after,
                    },
                );
            }
            ConsumerOp::Window { n, bytes } => {
                self.on(
                    now,
                    Event::Window {
                        window: n,
                        window_bytes: bytes,
                    },
                );
            }
            ConsumerOp::Ping => self.on(now, Event::Pinged),
            ConsumerOp::Pong | ConsumerOp::Saved { .. } => {}
            ConsumerOp::Goodbye { ms } => {
                self.reason = Some(SocketReason::Leaving);
                self.on(
                    now,
                    Event::Goodbye {
                        hold: Duration::from_millis(ms),
                    },
                );
            }
            ConsumerOp::Error { code, message, n } => {
                tracing::warn!(%code, "the consumer ended the connection: {message}");
                let said = message.clone();
                self.reason = Some(SocketReason::Said {
                    code,
                    message: said,
                });
                self.fault(now, code, message, n);
            }
        }
    }

    fn greeted(&mut self, now: Instant, hello: ConsumerHello) {
        if hello.version != PROTOCOL_VERSION {
            let version = hello.version;
            let message = format!("it speaks version {version}, we {PROTOCOL_VERSION}");
            tracing::warn!("the consumer is not understood: {message}");
            self.reason = Some(SocketReason::Garbled(message.clone()));
            return self.fault(now, Code::BadVersion, message, None);
        }
        let ours = self.queue.identity();
        if hello.queue != ours && self.options.other_queue == OtherQueue::Refuse {
            let other = OtherQueueFile {
                socket: self.options.socket.clone(),
                database: self.options.database.clone(),
                ours,
                theirs: hello.queue,
            };
            tracing::error!(code = "other_queue", "{other}");
            self.reason = Some(SocketReason::OtherQueue(other.clone()));
            self.other_queue = Some(other);
            self.give_up(now);
            return self.opened();
        }
        self.options.limit_messages(hello.message_bytes_max);
        self.on(
            now,
            Event::Greeted {
                instance: hello.instance,
                window: hello.window,
                window_bytes: hello.window_bytes,
            },
        );
        self.opened();
        let note = format!("connected to {}", self.options.socket.display());
        let (server, instance) = (hello.server, hello.instance);
        self.note(note, |note| tracing::info!(server, %instance, "{note}"));
    }

    fn acked(&mut self, now: Instant, ack: Ack) {
        for (outcome, ranges) in [
            (Outcome::Processed, ack.processed),
            (Outcome::Stored, ack.stored),
            (Outcome::Received, ack.received),
        ] {
            if !ranges.is_empty() {
                self.on(now, Event::Acked { outcome, ranges });
            }
        }
        for (n, reason) in ack.dead {
            self.on(now, Event::Dead { n, reason });
        }
    }

    fn fault(&mut self, now: Instant, code: Code, message: String, n: Option<u64>) {
        self.on(now, Event::Faulted { code, message, n });
        self.opened();
    }

    /// Drops the connection or the dial.
    pub(super) fn hang_up(&mut self) {
        self.turns += 1;
        if let Some(mut link) = self.link.take() {
            if self.given_up {
                // The last confirmation; what the kernel does not take now stays unconfirmed.
                link.write(&mut self.out);
            }
            self.reason.get_or_insert(Absence::Silent.into());
        } else if self.dialing.take().is_some() && !self.options.spool_only {
            self.reason = Some(Absence::Busy.into());
        }
        self.forget_out();
        self.effects.wake = true;
        self.opened();
    }

    /// The first dial came to something.
    pub(super) fn opened(&mut self) {
        if let Some(opening) = self.opening.take() {
            self.effects.flushed.push(opening);
        }
    }

    /// Logs the way that messages go, when it changes.
    pub(super) fn note(&mut self, note: String, log: impl FnOnce(&str)) {
        if self.noted.as_ref() != Some(&note) {
            log(&note);
            self.noted = Some(note);
        }
    }
}
