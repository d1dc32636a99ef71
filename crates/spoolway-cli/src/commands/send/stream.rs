//! Sends line after line without waiting for each answer; answers are taken in order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use spoolway::client::Sending;
use spoolway::{Producer, Receipt, SendError};

use super::lines::{self, Line};
use super::{CLOSE_MAX, Summary};
use crate::args::Send;
use crate::failure::{Failure, reasons};
use crate::output::{print, print_json, tell};
use crate::signals::Signals;

/// Messages without an answer at a time: about the window a consumer grants.
const OUTSTANDING_MAX: usize = 1_000;
/// Bytes of them, well below what a producer holds.
const OUTSTANDING_BYTES_MAX: usize = 16 << 20;

/// What ends the stream.
enum End {
    Input,
    Broken(io::Error),
    Signal(u8),
}

/// Sends everything that `input` holds and sums up.
pub(super) async fn run(
    producer: &Producer,
    input: Box<dyn io::Read + std::marker::Send>,
    args: &Send,
    quiet: bool,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let started = Instant::now();
    let mut stream = Stream::new(progress(quiet || args.json));
    let mut lines = lines::start(input, args.rate)?;
    let mut end = loop {
        tokio::select! {
            biased;
            code = signals.next() => break End::Signal(code),
            answer = stream.answer() => stream.take(answer),
            line = lines.recv(), if stream.has_room() => match line {
                None => break End::Input,
                Some(Err(error)) => break End::Broken(error),
                Some(Ok(line)) => stream.send(producer, line),
            },
        }
    };
    if matches!(end, End::Input) {
        while !stream.outstanding.is_empty() {
            tokio::select! {
                answer = stream.answer() => stream.take(answer),
                // What is unanswered is spooled below.
                code = signals.next() => {
                    end = End::Signal(code);
                    break;
                }
            }
        }
    }
    producer.close(CLOSE_MAX).await;
    while !stream.outstanding.is_empty() {
        let answer = stream.answer().await;
        stream.take(answer);
    }
    stream.bar.finish_and_clear();

    let mut summary = stream.summary;
    summary.seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_json(&summary)?;
    } else if !quiet {
        print(summary.sentence())?;
    }
    match end {
        End::Input => Ok(summary.exit()),
        End::Signal(code) => Ok(code),
        End::Broken(error) => Err(Failure::io("cannot read the input to its end", &error)),
    }
}

/// Messages on their way, oldest first, and what became of the others.
struct Stream {
    outstanding: VecDeque<Outstanding>,
    bytes: usize,
    summary: Summary,
    bar: ProgressBar,
}

struct Outstanding {
    line: u64,
    bytes: usize,
    sending: Sending,
}

impl Stream {
    fn new(bar: ProgressBar) -> Self {
        Self {
            outstanding: VecDeque::new(),
            bytes: 0,
            summary: Summary::default(),
            bar,
        }
    }

    fn has_room(&self) -> bool {
        self.outstanding.len() < OUTSTANDING_MAX && self.bytes < OUTSTANDING_BYTES_MAX
    }

    fn send(&mut self, producer: &Producer, line: Line) {
        let Line { number, content } = line;
        match content {
            Ok(message) => {
                let bytes = message.size();
                self.bytes += bytes;
                self.outstanding.push_back(Outstanding {
                    line: number,
                    bytes,
                    sending: producer.send(message),
                });
            }
            Err(wrong) => {
                self.summary.bad += 1;
                self.complain(number, &wrong);
            }
        }
    }

    /// The answer of the oldest; never, when there is none.
    async fn answer(&mut self) -> Result<Receipt, SendError> {
        poll_fn(|context| match self.outstanding.front_mut() {
            Some(oldest) => Pin::new(&mut oldest.sending).poll(context),
            None => Poll::Pending,
        })
        .await
    }

    /// Counts the answer of the oldest.
    fn take(&mut self, answer: Result<Receipt, SendError>) {
        let Some(oldest) = self.outstanding.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes;
        self.bar.inc(1);
        self.summary.add(&answer);
        if let Err(error) = answer {
            let text = match reasons(&error) {
                Some(reasons) => format!("{}: {reasons}", error.fate),
                None => error.to_string(),
            };
            self.complain(oldest.line, &text);
        }
    }

    fn complain(&self, line: u64, what: &str) {
        self.bar
            .suspend(|| tell(format_args!("line {line}: {what}")));
    }
}

/// A line of progress on a terminal, nothing elsewhere.
fn progress(hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    // The template is fixed text: if it were wrong, the default look would do.
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {human_pos} sent, {per_sec}, {elapsed}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
