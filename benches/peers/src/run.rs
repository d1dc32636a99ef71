//! One run of a peer: its server, the receiving side, the job, and the figures.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use spoolway_benches::WINDOW;

use crate::Result;
use crate::job::Job;
use crate::job::Told;
use crate::peers::{Peer, Place};
use crate::process::Side;

/// How long the receiving side may take for the rest once everything is sent.
const PATIENCE: Duration = Duration::from_secs(120);
/// In the quiet run no two messages come within that: 1,000 a second.
const PACE: Duration = Duration::from_millis(1);

/// What a run at full speed and a quiet run told of a peer.
#[derive(Clone, Default, Serialize)]
pub struct Figures {
    /// Messages of the run at full speed.
    pub messages: usize,
    /// Messages a second, from the first one sent until the last one is answered, received and settled.
    pub rate: f64,
    /// The same until the last one is answered.
    pub accepted: f64,
    /// From sending to receiving, quiet: one at a time, 1,000 a second at most.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
    /// From sending to receiving at full speed, a backlog at the server included.
    pub loaded_p50_us: f64,
    /// The same.
    pub loaded_p99_us: f64,
    /// CPU time a message of sender, receiver and server.
    pub cpu_us: [f64; 3],
    /// Messages that came more than once.
    pub twice: u64,
}

impl Figures {
    /// CPU time a message in all.
    pub fn cpu(&self) -> f64 {
        self.cpu_us.iter().sum()
    }
}

/// At full speed: the window full. Its version, and the figures but the quiet ones.
pub fn fast(peer: &Peer, at: &Where, messages: usize) -> Result<(String, Figures)> {
    let messages = messages.min(peer.most);
    let (version, job, told, cpu) = run(peer, at, messages, WINDOW, Duration::ZERO)?;
    let rate = |ended: u64| messages as f64 / (ended - job.began.0) as f64 * 1e9;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / messages as f64;
    let figures = Figures {
        messages,
        rate: rate(job.acked.max(told.ended)),
        accepted: rate(job.acked),
        loaded_p50_us: told.p50 as f64 / 1e3,
        loaded_p99_us: told.p99 as f64 / 1e3,
        cpu_us: cpu.map(each),
        twice: told.twice,
        ..Default::default()
    };
    Ok((version, figures))
}

/// Quiet: p50 and p99 in microseconds.
pub fn quiet(peer: &Peer, at: &Where, messages: usize) -> Result<(f64, f64)> {
    let messages = (messages / 10).clamp(100, 2_000).min(peer.most / 2);
    let (_, _, told, _) = run(peer, at, messages, 1, PACE)?;
    Ok((told.p50 as f64 / 1e3, told.p99 as f64 / 1e3))
}

/// Where runs take place.
pub struct Where<'a> {
    /// The directory that gets one for each run.
    pub dir: &'a Path,
    /// The `nats-server` to start.
    pub nats_server: &'a Path,
}

fn run(
    peer: &Peer,
    at: &Where,
    messages: usize,
    window: usize,
    every: Duration,
) -> Result<(String, Job, Told, [Duration; 3])> {
    let dir = tempfile::tempdir_in(at.dir)?;
    // PostgreSQL runs as another user if this one is root.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let place = Place {
        dir: dir.path().to_owned(),
        nats_server: at.nats_server.to_owned(),
    };
    let served = (peer.serve)(&place)?;
    let side = Side::start(peer.name, &place.dir, messages)?;
    let mut job = Job::new(messages, window, every, served.server);
    (peer.produce)(&place.dir, &mut job)?;
    let own = crate::process::own_cpu() - job.began.1;
    let told: Told = serde_json::from_str(&side.hear(PATIENCE)?)?;
    let server = job.server_cpu().saturating_sub(job.began.2);
    let cpu = [own, Duration::from_nanos(told.cpu), server];
    drop(side);
    // Before its directory goes.
    job.end_server();
    Ok((served.version, job, told, cpu))
}
