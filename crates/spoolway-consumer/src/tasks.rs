//! The tasks of a consumer beside its connections: the inbox, the clock, the cleanup, and a file that is replaced.

use std::sync::Arc;
use std::time::Duration;

use spoolway_queue::ConsumerLock;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ConsumerError;
use crate::consumer::unblocked;
use crate::machine::Event;
use crate::shared::{SAVE_FOR_CLEANUP, Shared};

/// Time between two cleanups of the queue file.
const CLEANUP_EVERY: Duration = Duration::from_secs(60);
/// How long the records of producers may take to be saved.
const SAVE_MAX: Duration = Duration::from_secs(10);
/// How long the record of a producer stays after it was last heard of: the audit covers at least this.
const PRODUCER_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The clock's task sleeps at least this long, whatever the deadline: a tick may leave it in the past.
const TICK_MIN: Duration = Duration::from_millis(1);
/// Events taken from the inbox at a time.
const INBOX_MAX: usize = 256;
/// Between two tries to take over a file that has come to the path of the queue.
const TAKE_OVER_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn empty_inbox(shared: Arc<Shared>, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut some = Vec::new();
    while events.recv_many(&mut some, INBOX_MAX).await > 0 {
        shared.drive(some.drain(..));
    }
}

pub(crate) async fn keep_time(shared: Arc<Shared>) {
    let mut ticked = Instant::now();
    loop {
        let deadline = shared
            .arm()
            .map(|at| Instant::from_std(at).max(ticked + TICK_MIN));
        tokio::select! {
            () = shared.timer.notified() => {}
            () = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => {
                ticked = Instant::now();
                shared.drive([Event::Tick]);
            }
        }
    }
}

pub(crate) async fn clean_up(shared: Arc<Shared>) {
    loop {
        let cleaner = Arc::clone(&shared);
        let cleaned = unblocked(move || cleaner.queue.cleanup(cleaner.config.retention)).await;
        match cleaned {
            Ok(result) => drop(shared.cleanups.noted(result)),
            Err(error) => return shared.fail(error),
        }
        if let Err(error) = clean_up_producers(&shared).await {
            return shared.fail(error);
        }
        sleep(CLEANUP_EVERY).await;
    }
}

/// Those in memory are saved before, so that none of them looks forgotten.
async fn clean_up_producers(shared: &Arc<Shared>) -> Result<(), ConsumerError> {
    shared.drive([Event::Save {
        save: SAVE_FOR_CLEANUP,
    }]);
    if timeout(SAVE_MAX, shared.saved.notified()).await.is_err() {
        return Ok(());
    }
    let cleaner = Arc::clone(shared);
    let retention = PRODUCER_RETENTION.max(shared.config.retention);
    let cleaned = unblocked(move || cleaner.queue.cleanup_producers(retention)).await?;
    shared.cleanups.noted(cleaned);
    Ok(())
}

/// Takes over what the path of the queue file names now, whenever that is another file.
pub(crate) async fn follow_file(shared: Arc<Shared>, lock: Arc<ConsumerLock>) {
    loop {
        shared.moved.notified().await;
        let (owner, lock) = (Arc::clone(&shared), Arc::clone(&lock));
        let taken = unblocked(move || {
            let taken = owner.queue.take_over(owner.instance, &lock);
            taken.map(|_| owner.queue.generation())
        });
        match taken.await {
            Ok(taken) => match shared.take_overs.noted(taken) {
                Some(generation) => shared.replaced(generation),
                None => {
                    sleep(TAKE_OVER_EVERY).await;
                    shared.moved.notify_one();
                }
            },
            Err(error) => return shared.fail(error),
        }
    }
}
