//! The end of a consumer: what has arrived is read, what runs may end, the rest is stored.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::ConsumerError;
use crate::consumer::unblocked;
use crate::machine::Event;
use crate::shared::{Life, Shared};

/// How long the last commits may take. A queue file that cannot be written by then will not be.
const COMMIT_MAX: Duration = Duration::from_secs(10);

/// Goes through the parts of a shutdown, up to the point where nothing more is heard.
pub(crate) async fn leave(
    shared: &Arc<Shared>,
    stop_accepting: oneshot::Sender<()>,
    mut unread: mpsc::Receiver<()>,
) {
    let deadline = Instant::now() + shared.config.shutdown_max;
    tracing::info!("shutting down");
    shared.enter(Life::Draining);
    // An acceptor that is gone accepts nothing.
    let _ = stop_accepting.send(());
    // Ends once nobody holds the other end: every connection without hello was read to its end.
    if timeout_at(deadline, unread.recv()).await.is_err() {
        tracing::warn!("connections could not be read to their end in time");
    }
    shared.drive([Event::Drain]);
    wait(shared, deadline, Shared::is_idle).await;
    shared.enter(Life::Halted);
    shared.drive([Event::Halt]);
    wait(
        shared,
        Instant::now() + COMMIT_MAX,
        Shared::close_if_committed,
    )
    .await;
    shared.enter(Life::Over);
}

/// Waits until it holds, which may change whenever the machine is told something.
async fn wait(shared: &Shared, deadline: Instant, holds: fn(&Shared) -> bool) {
    while !holds(shared) {
        if timeout_at(deadline, shared.settled.notified())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Leaves everything behind as the next consumer wants to find it.
pub(crate) async fn finish(shared: &Arc<Shared>) -> Result<(), ConsumerError> {
    let settled = shared.is_idle();
    let shared = Arc::clone(shared);
    unblocked(move || {
        let records = shared.records();
        let left = shared.queue.shutdown_clean(records);
        if let Some(sink) = shared.sink() {
            sink.close(settled && left.is_ok());
        }
        // Whoever opens the file next finds it whole, without a log beside it.
        shared.queue.close();
        Ok(left?)
    })
    .await?
}
