//! What a supervisor is told (systemd's `Type=notify` and watchdog). Without one every call is nothing.

use std::time::Duration;

use sd_notify::NotifyState::{Ready, Status, Stopping, Watchdog};
use sd_notify::{NotifyState, watchdog_enabled};

/// It listens: whoever is started after it may connect.
pub(crate) fn ready(status: &str) {
    tell(&[Ready, Status(status)]);
}

/// It is not there yet, and this is why.
pub(crate) fn waiting(status: &str) {
    tell(&[Status(status)]);
}

/// It is going away.
pub(crate) fn stopping() {
    tell(&[Stopping, Status("finishing what has arrived")]);
}

/// Says every half of the time that the supervisor allows that this runtime still gets round to its tasks.
pub(crate) fn watch() {
    if let Some(allowed) = watchdog_enabled() {
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(half(allowed));
            loop {
                tick.tick().await;
                tell(&[Watchdog]);
            }
        });
    }
}

/// Not zero, which no interval may be.
fn half(allowed: Duration) -> Duration {
    (allowed / 2).max(Duration::from_millis(1))
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the supervisor is not told: {error}");
    }
}
