//! The task that waits: for the connection, for dials, for time. All it hears goes to the core.

use std::future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use spoolway_socket::Absence;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::core::Wait;
use crate::dial;
use crate::shared::Shared;
use crate::watch::Watch;

/// The dial under way, with its number.
struct Dial {
    number: u64,
    result: Pin<Box<dyn Future<Output = Result<UnixStream, Absence>> + Send>>,
}

/// Drives the producer until it is over, or until the runtime ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let end = End(shared);
    let shared = &end.0;
    let mut dial = None;
    let mut watch = Watching::default();
    loop {
        if shared.is_forked() {
            // The connection and the timers belong to the parent: touch nothing, for ever.
            std::mem::forget(Arc::clone(shared));
            return future::pending().await;
        }
        let wait = shared.with(|core, now| {
            core.turn(now);
            core.wait()
        });
        if wait.over {
            return;
        }
        // Watched before it is dialled, so that no appearance falls between the two.
        watch.follow(shared, &wait);
        follow(shared, &wait, &mut dial);
        tokio::select! {
            writable = ready(&wait) => {
                if writable {
                    shared.with(|core, _| core.unblock());
                }
            }
            (number, result) = dialed(&mut dial) => {
                dial = None;
                shared.with(|core, now| core.dialed(now, number, result));
            }
            () = shared.wake.notified() => {}
            () = sleep_until(wait.deadline) => {}
        }
    }
}

/// Starts or stops the dial as the core wants.
fn follow(shared: &Shared, wait: &Wait, dial: &mut Option<Dial>) {
    if wait.dialing != dial.as_ref().map(|dial| dial.number) {
        *dial = wait.dialing.map(|number| {
            let (socket, budget) = (
                shared.options.socket.clone(),
                shared.options.connect_timeout,
            );
            let result = Box::pin(dial::dial(socket, budget));
            Dial { number, result }
        });
    }
}

/// The watch for the socket, while there is no connection.
#[derive(Default)]
struct Watching {
    watch: Option<Watch>,
    /// The last turn in which one was wanted.
    turn: u64,
}

impl Watching {
    fn follow(&mut self, shared: &Arc<Shared>, wait: &Wait) {
        if wait.stream.is_some() {
            self.watch = None;
        }
        // The first dial comes without: it mostly finds the consumer.
        let down = wait.stream.is_none() && !wait.given_up;
        let wanted = down && wait.turns > 1 && wait.turns != self.turn;
        if !wanted || self.watch.as_ref().is_some_and(|watch| !watch.is_lost()) {
            return;
        }
        self.turn = wait.turns;
        let weak = Arc::downgrade(shared);
        let socket = &shared.options.socket;
        self.watch = Watch::new(socket, move || {
            if let Some(shared) = weak.upgrade() {
                shared.with(|core, now| core.appeared(now));
            }
        });
        if self.watch.is_some() && wait.dialing.is_none() && socket.exists() {
            // It may have come before the watch did.
            shared.with(|core, now| core.appeared(now));
        }
    }
}

/// Waits until the connection can be read, or written where that is waited for.
async fn ready(wait: &Wait) -> bool {
    let Some(stream) = &wait.stream else {
        return future::pending().await;
    };
    let interest = match wait.blocked {
        true => Interest::READABLE | Interest::WRITABLE,
        false => Interest::READABLE,
    };
    // An error shows in the reading that follows.
    stream
        .ready(interest)
        .await
        .is_ok_and(|ready| ready.is_writable())
}

async fn dialed(dial: &mut Option<Dial>) -> (u64, Result<UnixStream, Absence>) {
    match dial {
        Some(Dial { number, result }) => (*number, result.await),
        None => future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => future::pending().await,
    }
}

/// However the driver ends, what is left goes to the file.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.hand_over();
    }
}
