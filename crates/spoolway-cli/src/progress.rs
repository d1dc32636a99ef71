//! What is said while long work runs: one line that changes on a terminal, else one every 10 s.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::tell;

const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    started: Instant,
    last: Instant,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            // The template is fixed text: if it were wrong, the default look would do.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
                bar.set_style(style);
            }
        }
        let now = Instant::now();
        Self {
            bar,
            quiet,
            started: now,
            last: now,
        }
    }

    /// Says it, if it is time.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        let every = match &self.bar {
            Some(_) => BAR_EVERY,
            None => LINE_EVERY,
        };
        if self.quiet || self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        match &self.bar {
            Some(bar) => {
                bar.set_message(text());
                bar.tick();
            }
            None => tell(format_args!(
                "{:>4} s  {}",
                self.started.elapsed().as_secs(),
                text()
            )),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
