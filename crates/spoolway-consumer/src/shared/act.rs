//! What the machine asks for: said to connections, submitted to the queue file, or left for after the lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use spoolway_proto::{Code, ConsumerHello, ConsumerOp, Message, Outcome, PROTOCOL_VERSION, Reply};
use spoolway_queue::{Durability, QueueError, RowState, Write, Written};

use super::{Caller, Core, Ear, Run, SAVE_FOR_CLEANUP, Shared, Work};
use crate::handler::Delivery;
use crate::machine::{Action, BatchId, Event};
use crate::outbox::Outbox;
use crate::reads::Read;

impl Shared {
    /// One action of the machine; what would take time is left for after the lock.
    pub(super) fn act(self: &Arc<Self>, core: &mut Core, action: Action, work: &mut Work) {
        match action {
            Action::Commit {
                batch,
                generation,
                writes,
            } => self.commit(batch, generation, writes),
            Action::Run {
                ticket,
                message,
                attempt,
                replayed,
            } => {
                let delivery = Delivery {
                    message,
                    attempt,
                    replayed,
                };
                work.runs.push(Run { ticket, delivery });
            }
            Action::Ask { ask, producer } => work.reads.push(Read::Ask { ask, producer }),
            Action::Lookup { key, read } => work.reads.push(Read::Lookup { key, read }),
            Action::Poll { cursor, limit } => work.reads.push(Read::Poll { cursor, limit }),
            Action::PollKey { key, read, limit } => {
                work.reads.push(Read::PollKey { key, read, limit });
            }
            Action::PollSuspects { after, read, limit } => {
                work.reads.push(Read::PollSuspects { after, read, limit });
            }
            Action::Saved { save, saved } if save == SAVE_FOR_CLEANUP => {
                if saved {
                    self.saved.notify_one();
                }
            }
            Action::Greet { conn, .. }
            | Action::Window { conn, .. }
            | Action::Answer { conn, .. }
            | Action::Nack { conn, .. }
            | Action::Reply { conn, .. }
            | Action::Fault { conn, .. }
            | Action::Fence { conn }
            | Action::Saved { save: conn, .. } => {
                match work.told.last() {
                    Some((last, outbox)) if *last == conn => self.say(outbox, action),
                    _ => {
                        // Gone meanwhile: what it would have heard is kept for its next connection.
                        let Some(outbox) = core.ears.get(&conn).and_then(Ear::outbox) else {
                            return work.replies.extend(core.reply(action));
                        };
                        self.say(&outbox, action);
                        work.told.push((conn, outbox));
                    }
                }
            }
        }
    }

    fn say(&self, outbox: &Outbox, action: Action) {
        match action {
            Action::Answer {
                n, outcome, reason, ..
            } => outbox.answer(n, outcome, reason),
            Action::Greet {
                window,
                window_bytes,
                ..
            } => outbox.say(&self.greeting(window, window_bytes)),
            Action::Window {
                window: n,
                window_bytes: bytes,
                ..
            } => {
                outbox.say(&ConsumerOp::Window { n, bytes });
            }
            Action::Nack {
                n,
                code,
                message,
                retry_after,
                ..
            } => {
                let retry_after_ms =
                    retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                outbox.say(&ConsumerOp::Nack {
                    n,
                    code,
                    message,
                    retry_after_ms,
                });
            }
            Action::Reply {
                message,
                outcome,
                reason,
                ..
            } => {
                outbox.reply(reply_to(&message, outcome, reason.as_deref()));
            }
            Action::Fault {
                conn,
                code,
                message,
            } => {
                tracing::warn!(conn, code = code.as_str(), "connection ended: {message}");
                outbox.say_last(&ConsumerOp::Error {
                    code,
                    message,
                    n: None,
                });
            }
            Action::Fence { conn } => {
                tracing::debug!(conn, "a newer connection of its producer stands");
                outbox.end();
            }
            Action::Saved { saved, .. } => outbox.say(&ConsumerOp::Saved { saved }),
            Action::Run { .. }
            | Action::Commit { .. }
            | Action::Ask { .. }
            | Action::Lookup { .. }
            | Action::Poll { .. }
            | Action::PollKey { .. }
            | Action::PollSuspects { .. } => {}
        }
    }

    fn greeting(&self, window: u32, window_bytes: u64) -> ConsumerOp {
        ConsumerOp::Hello(ConsumerHello {
            version: PROTOCOL_VERSION,
            server: concat!("spoolway ", env!("CARGO_PKG_VERSION")).to_owned(),
            instance: self.instance,
            window,
            window_bytes,
            message_bytes_max: self.config.message_bytes_max as u64,
            durability: durability(self.config.durability).to_owned(),
            queue: self.queue.identity(),
        })
    }

    /// Under the lock, so that the order of the actions is the order of the commits. The answer goes through the
    /// inbox, so it does not matter on which thread, or how soon, it comes.
    fn commit(self: &Arc<Self>, batch: BatchId, generation: Option<u64>, writes: Vec<Write>) {
        let (stored, dead) = counts_of(&writes);
        let shared = Arc::clone(self);
        let done = move |result: Result<Vec<Written>, QueueError>| {
            if matches!(result, Err(QueueError::Moved { .. })) {
                shared.moved.notify_one();
            }
            let event = match shared.commits.noted(result) {
                Some(written) => {
                    shared.counts.stored.fetch_add(stored, Ordering::Relaxed);
                    shared.counts.dead.fetch_add(dead, Ordering::Relaxed);
                    Event::Committed { batch, written }
                }
                None => Event::CommitFailed { batch },
            };
            shared.put(event);
        };
        match generation {
            Some(generation) => self.queue.submit_in(generation, writes, done),
            None => self.queue.submit(writes, done),
        }
    }
}

impl Core {
    /// The reply to a caller, who hears nothing else.
    fn reply(&mut self, action: Action) -> Option<(Caller, Reply)> {
        let Action::Reply {
            conn,
            message,
            outcome,
            reason,
        } = action
        else {
            return None;
        };
        let Ear::Caller(caller) = self.ears.remove(&conn)? else {
            return None;
        };
        Some((caller, reply_to(&message, outcome, reason.as_deref())))
    }
}

fn reply_to(message: &Message, outcome: Result<Outcome, Code>, reason: Option<&str>) -> Reply {
    let id = message.id.clone();
    match outcome {
        Ok(Outcome::Dead) => Reply::dead(id, reason.unwrap_or("dead")),
        Ok(outcome) => Reply::taken(id, outcome),
        Err(code) => Reply::refused(id, code, refusal(code)),
    }
}

/// How many messages these writes store, and how many they bury.
fn counts_of(writes: &[Write]) -> (u64, u64) {
    let (mut stored, mut dead) = (0, 0);
    for write in writes {
        match write {
            Write::Insert(row) if matches!(row.state, RowState::Dead { .. }) => dead += 1,
            Write::Insert(_) => stored += 1,
            Write::Dead { .. } => dead += 1,
            Write::SettleById {
                outcome: Outcome::Dead,
                ..
            } => dead += 1,
            _ => {}
        }
    }
    (stored, dead)
}

/// The word for it in hello.
fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Full => "full",
        Durability::Process => "process",
    }
}

fn refusal(code: Code) -> String {
    match code {
        Code::Conflict => format!("the id was sent with other content; {}", code.next_step()),
        code => format!("{code}; {}", code.next_step()),
    }
}
