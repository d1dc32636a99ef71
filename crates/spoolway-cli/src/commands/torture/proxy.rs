//! A socket in front of the consumer's, whose connections can be cut while the consumer lives.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Sizes of a connection's buffers, in powers of two: whatever is cut, is cut between two buffers,
/// so small and odd ones cut frames anywhere.
const BUFFER_POWERS: (f64, f64) = (4.0, 14.0);

/// The proxy. It listens while the consumer does, so that producers see it come and go.
pub(super) struct Proxy {
    runtime: Handle,
    front: PathBuf,
    back: PathBuf,
    lines: Arc<Lines>,
    listening: Option<AbortHandle>,
    openings: u64,
    seed: u64,
}

/// The connections.
#[derive(Default)]
struct Lines {
    alive: Mutex<Vec<AbortHandle>>,
    cut: AtomicU64,
}

impl Proxy {
    /// A proxy that does not listen yet.
    pub(super) fn new(runtime: Handle, front: &Path, back: &Path, seed: u64) -> Self {
        Self {
            runtime,
            front: front.to_path_buf(),
            back: back.to_path_buf(),
            lines: Arc::default(),
            listening: None,
            openings: 0,
            seed,
        }
    }

    /// Connections that were cut.
    pub(super) fn cuts(&self) -> u64 {
        self.lines.cut.load(Ordering::Relaxed)
    }

    /// Listens, if it does not, and if the consumer does.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.listening.is_some() || std::os::unix::net::UnixStream::connect(&self.back).is_err()
        {
            return Ok(());
        }
        match std::fs::remove_file(&self.front) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let _context = self.runtime.enter();
        let listener = UnixListener::bind(&self.front)?;
        self.openings += 1;
        let rng = SmallRng::seed_from_u64(self.seed ^ self.openings);
        let accepting = accept(listener, self.back.clone(), Arc::clone(&self.lines), rng);
        self.listening = Some(self.runtime.spawn(accepting).abort_handle());
        Ok(())
    }

    /// Stops to listen, and leaves the socket file as a killed consumer does.
    pub(super) fn close(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }

    /// Cuts each connection with a chance of one in `one_in`.
    pub(super) fn cut(&self, one_in: u32, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        self.lines.with(|alive| {
            alive.retain(|line| {
                let goes = rng.random_ratio(1, one_in);
                if goes {
                    line.abort();
                    self.lines.cut.fetch_add(1, Ordering::Relaxed);
                }
                !goes
            });
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
        self.lines
            .with(|alive| alive.drain(..).for_each(|line| line.abort()));
    }
}

impl Lines {
    /// Does something with the connections that have not ended.
    fn with(&self, act: impl FnOnce(&mut Vec<AbortHandle>)) {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|line| !line.is_finished());
        act(&mut alive);
    }
}

async fn accept(listener: UnixListener, back: PathBuf, lines: Arc<Lines>, mut rng: SmallRng) {
    let (least, most) = BUFFER_POWERS;
    let mut size = move || 2_f64.powf(rng.random_range(least..most)) as usize;
    // An error of one connection is no reason to refuse the next.
    loop {
        if let Ok((front, _)) = listener.accept().await {
            let line = tokio::spawn(carry(front, back.clone(), size(), size()));
            lines.with(|alive| alive.push(line.abort_handle()));
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Copies until one side ends. When it is aborted both sides see the end wherever they are.
async fn carry(mut front: UnixStream, back: PathBuf, up_bytes: usize, down_bytes: usize) {
    let Ok(mut back) = UnixStream::connect(&back).await else {
        return;
    };
    // Whatever ended it, both ends are closed now, which is all there is to say.
    let _ = copy_bidirectional_with_sizes(&mut front, &mut back, up_bytes, down_bytes).await;
}
