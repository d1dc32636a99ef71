//! What the senders are told.

use std::sync::Arc;

use spoolway_proto::{Code, Message, Outcome};

use super::{Body, Core};
use crate::receipt::Answer;
use crate::route::{Lack, Spooled, Verdict};
use crate::{Fate, Path, QueueReason, Receipt, SendCode, SendError, SocketReason};

impl Core {
    /// A message is settled: whoever waits for it is told; a failure that nobody waits for is logged.
    pub(super) fn settle(&mut self, body: Body, verdict: Verdict) {
        let answer = self.answer(&body.message, verdict);
        match &answer {
            Ok(Receipt {
                path: Path::Socket, ..
            }) => self.status.by_socket += 1,
            Ok(Receipt {
                path: Path::Queue, ..
            }) => self.status.by_queue += 1,
            Err(_) => self.status.returned += 1,
        }
        if let Some(closed) = &mut self.closing {
            match &answer {
                Ok(receipt) if receipt.path == Path::Queue => {
                    closed.spooled.push(receipt.id.clone());
                }
                Ok(_) => {}
                Err(error) => closed.returned.push(error.clone()),
            }
        }
        let answers = &mut self.effects.answers;
        if body.told.get() {
            for waiter in self.told.settle(&body.message, &answer) {
                let duplicate = answer.clone().map(|receipt| Receipt {
                    duplicate: true,
                    ..receipt
                });
                answers.push((Some(waiter), duplicate));
            }
        }
        match body.waiter.into_inner() {
            None if answer.is_ok() => {}
            waiter => answers.push((waiter, answer)),
        }
    }

    /// The caller of `n` stops waiting; the message stays.
    pub(super) fn tell(&mut self, n: u64) {
        let Some(body) = self.route.body(n) else {
            return;
        };
        body.told.set(true);
        self.told.remember(&body.message);
        let answer = Err(self.unknown(&body.message));
        self.effects.answers.push((body.waiter.take(), answer));
    }

    /// The error of a message that may have been taken.
    pub(super) fn unknown(&self, message: &Arc<Message>) -> SendError {
        let late = || SocketReason::Unanswered(self.options.send_timeout);
        let socket = self.reason.clone().unwrap_or_else(late);
        SendError::new(Fate::Unknown, SendCode::Unanswered, Message::clone(message))
            .by_socket(Some(socket))
            .by_queue(self.queue_reason())
    }

    fn queue_reason(&self) -> Option<QueueReason> {
        self.queue_error.clone().map(QueueReason::Failed)
    }

    fn answer(&self, message: &Arc<Message>, verdict: Verdict) -> Answer {
        let receipt = |path, outcome| Receipt {
            id: message.id.clone(),
            path,
            outcome,
            duplicate: false,
            reason: None,
        };
        let error = |fate, code| SendError::new(fate, code, Message::clone(message));
        let room = || Some(self.reason.clone().unwrap_or(SocketReason::NoRoom));
        match verdict {
            Verdict::Answered(outcome) => Ok(receipt(Path::Socket, outcome)),
            Verdict::Dead(reason) => Ok(Receipt {
                reason: Some(reason),
                ..receipt(Path::Socket, Outcome::Dead)
            }),
            Verdict::Spooled(Spooled::Stored) => Ok(receipt(Path::Queue, Outcome::Stored)),
            Verdict::Spooled(Spooled::Duplicate(outcome)) => Ok(Receipt {
                duplicate: true,
                ..receipt(Path::Queue, outcome)
            }),
            Verdict::Spooled(Spooled::Conflict) => {
                Err(error(Fate::NotTaken, SendCode::Refused(Code::Conflict))
                    .by_queue(Some(QueueReason::Conflict)))
            }
            Verdict::Refused(code, message) => Err(error(Fate::NotTaken, SendCode::Refused(code))
                .by_socket(Some(SocketReason::Said { code, message }))),
            Verdict::NotTaken(Lack::Window) => {
                Err(error(Fate::NotTaken, SendCode::NoRoom).by_socket(room()))
            }
            Verdict::NotTaken(Lack::Spool) => {
                let code = match self.other_queue {
                    Some(_) => SendCode::OtherQueue,
                    None => SendCode::Unavailable,
                };
                Err(error(Fate::NotTaken, code)
                    .by_socket(room())
                    .by_queue(self.queue_reason()))
            }
            Verdict::Unknown => Err(self.unknown(message)),
        }
    }
}
