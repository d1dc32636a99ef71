//! Handlers: polled once where their message came in, then in tasks of their own.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;

use super::{Run, Shared};
use crate::handler::{Delivery, no_route};
use crate::machine::{Event, Finish, Ticket};
use crate::sink::SinkJob;

impl Shared {
    /// Starts a handler; `None` if it goes on in a task of its own.
    pub(super) fn run(self: &Arc<Self>, run: Run, inline: bool) -> Option<Finish> {
        let Run { ticket, delivery } = run;
        if !self.handlers.takes(&delivery.message) {
            let Some(sink) = &self.sink else {
                return Some(no_route(&delivery.message.r#type));
            };
            let Delivery {
                message, replayed, ..
            } = delivery;
            sink.hand(SinkJob {
                ticket,
                message,
                replayed,
            });
            return None;
        }
        if !inline {
            let shared = Arc::clone(self);
            self.spawn(ticket, async move { shared.handlers.start(delivery).await });
            return None;
        }
        let mut attempt = self.handlers.start(delivery);
        // Most handlers of a fast path are done at their first poll; the others are polled again by their task.
        match Pin::new(&mut attempt).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(finish) => Some(finish),
            Poll::Pending => {
                self.spawn(ticket, attempt);
                None
            }
        }
    }

    fn spawn(
        self: &Arc<Self>,
        ticket: Ticket,
        attempt: impl Future<Output = Finish> + Send + 'static,
    ) {
        let shared = Arc::clone(self);
        // Held while it starts, so that it cannot end before it is known.
        let mut handling = self.handling();
        let task = tokio::spawn(async move {
            let finish = attempt.await;
            shared.handling().remove(&ticket);
            shared.drive([Event::Finished { ticket, finish }]);
        });
        handling.insert(ticket, task.abort_handle());
    }

    fn handling(&self) -> MutexGuard<'_, HashMap<Ticket, AbortHandle>> {
        self.handling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops every handler that is still running, and says how many there were.
    pub(crate) fn abort_handlers(&self) -> usize {
        let handling = std::mem::take(&mut *self.handling());
        handling.values().for_each(AbortHandle::abort);
        handling.len()
    }
}
