//! What the machine wants to know from the queue file: read on threads that may block.

use std::sync::Arc;

use spoolway_proto::{Key, ProducerId};
use spoolway_queue::{Cursor, QueueError, SqliteQueue};

use crate::health::Guard;
use crate::machine::Event;
use crate::shared::Shared;

/// A question to the queue file.
pub(crate) enum Read {
    Ask {
        ask: u64,
        producer: Option<ProducerId>,
    },
    Lookup {
        key: Key,
        read: u64,
    },
    Poll {
        cursor: Cursor,
        limit: usize,
    },
    PollKey {
        key: Key,
        read: u64,
        limit: usize,
    },
    PollSuspects {
        after: i64,
        read: u64,
        limit: usize,
    },
}

/// Finds the answers, one after the other. The reading begins after this call.
pub(crate) fn start(reads: Vec<Read>, shared: &Arc<Shared>) {
    if reads.is_empty() {
        return;
    }
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        let guard = Guard {
            shared: &shared,
            what: "a read of the queue file",
        };
        for read in reads {
            let event = read.answer(&shared);
            shared.put(event);
        }
        guard.done();
    });
}

impl Read {
    fn answer(self, shared: &Shared) -> Event {
        let queue = &shared.queue;
        match self {
            Self::Ask { ask, producer } => match shared.reads.noted(ask_file(queue, producer)) {
                Some((keyed, producer)) => Event::Asked {
                    ask,
                    keyed: Some(keyed),
                    producer: producer.map(Box::new),
                },
                None => Event::Asked {
                    ask,
                    keyed: None,
                    producer: None,
                },
            },
            Self::Lookup { key, read } => {
                let rows = queue.rows_of_key(&key, shared.lookup_rows_max);
                Event::LookedUp {
                    rows: shared.reads.noted(rows),
                    read,
                    key,
                }
            }
            Self::Poll { cursor, limit } => {
                let page = shared.reads.noted(queue.candidates(cursor, limit));
                Event::Polled(page.map(Box::new))
            }
            Self::PollKey { key, read, limit } => {
                let page = queue.candidates_of_key(&key, limit);
                Event::PolledKey {
                    page: shared.reads.noted(page).map(Box::new),
                    read,
                    key,
                }
            }
            Self::PollSuspects { after, read, limit } => {
                let page = shared.reads.noted(queue.suspects(after, limit));
                let page = page.map(Box::new);
                Event::PolledSuspects { read, page }
            }
        }
    }
}

type Asked = (bool, Option<spoolway_queue::ProducerRecord>);

fn ask_file(queue: &SqliteQueue, producer: Option<ProducerId>) -> Result<Asked, QueueError> {
    let keyed = queue.has_keyed_backlog()?;
    let record = producer.map(|id| queue.producer(id)).transpose()?.flatten();
    Ok((keyed, record))
}
