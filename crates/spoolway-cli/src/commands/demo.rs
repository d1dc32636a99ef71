//! `spoolway demo`: kills a consumer mid-stream and counts what arrives. Real processes, a real
//! SIGKILL, and a report computed from the file that the consumer wrote.

mod report;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use spoolway::queue::QueueOptions;
use spoolway::{MessageId, SqliteQueue};

use crate::args::Demo;
use crate::commands::send::{Line, Summary, read_all};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::program::{DATABASE, Program, Tail};
use crate::signals::Signals;
use crate::units::{count, plural, span};

use report::{Event, Report, ids_of, judge};

/// The events that come with the program; `data/README.md` says where they are from.
const EARTHQUAKES: &str = include_str!("../../data/earthquakes.jsonl");
/// How long the stream takes, unless it is long.
const STREAM: Duration = Duration::from_secs(3);
/// The stream is no faster than this, in messages a second.
const RATE_MAX: f64 = 20_000.0;
/// How long the consumer runs, and then is away, at most: a long stream need not be killed later.
const ACT_MAX: Duration = Duration::from_millis(1_500);
/// Fewer events leave no middle to kill the consumer in.
const EVENTS_MIN: usize = 10;
/// How long any step may take before the demo gives up, and how much longer for each event.
const STEP_MAX: Duration = Duration::from_secs(30);
const STEP_MAX_EACH: Duration = Duration::from_millis(1);
const SOCKET: &str = "demo.sock";

/// Runs the demo on a thread of its own, so that a signal can end it and its processes.
pub(crate) async fn run(args: Demo) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    let mut demo = tokio::task::spawn_blocking(move || perform(&args, &stop));
    let (code, ended) = tokio::select! {
        ended = &mut demo => (None, ended),
        code = signals.next() => {
            stopped.store(true, Ordering::Relaxed);
            (Some(code), demo.await)
        }
    };
    let result = ended.map_err(|error| {
        Failure::new(exit::FAILED, "panicked", "the demo panicked").because(error.to_string())
    })?;
    match code {
        Some(code) => Ok(code),
        None => result,
    }
}

fn perform(args: &Demo, stop: &AtomicBool) -> Result<u8, Failure> {
    let events = load(args.input.as_deref())?;
    let directory = tempfile::Builder::new()
        .prefix("spoolway-demo-")
        .tempdir()
        .map_err(|error| Failure::io("cannot make a temporary directory", &error))?;
    let show = Show {
        directory: directory.path().to_path_buf(),
        patience: STEP_MAX + STEP_MAX_EACH * u32::try_from(events.len()).unwrap_or(u32::MAX),
        started: Instant::now(),
        stop,
    };
    let outcome = show.play(&events, args.input.as_deref());
    let good = matches!(&outcome, Ok(report) if report.ok);
    if !good && !stop.load(Ordering::Relaxed) {
        // Whoever looks for the reason needs the files.
        let kept = directory.keep();
        tell(format_args!(
            "the files of this run are in {}",
            kept.display()
        ));
    }
    let report = outcome?;
    if args.json {
        print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.ok { exit::OK } else { exit::FAILED })
}

/// Reads the events. Each gets an id if it has none, since the report counts ids.
fn load(input: Option<&Path>) -> Result<Vec<Event>, Failure> {
    let name = input.map_or("the shipped events".to_owned(), |path| {
        path.display().to_string()
    });
    let unread = |error| Failure::io(format!("cannot read {name}"), &error);
    let lines = match input {
        None => read_all(EARTHQUAKES.as_bytes()).map_err(unread)?,
        Some(path) => File::open(path).and_then(read_all).map_err(unread)?,
    };
    let bad = |line: u64, what: String| {
        Failure::new(exit::BAD_DATA, "bad_input", format!("{name}, line {line}"))
            .because(what)
            .help("the demo counts ids, so it wants whole messages, each with an id of its own")
    };
    let mut seen = HashSet::new();
    let mut events = Vec::with_capacity(lines.len());
    for Line { number, content } in lines {
        let mut message = content.map_err(|wrong| bad(number, wrong))?;
        if message.id.is_empty() {
            message = message.id(format!("line-{number}"));
        }
        if !seen.insert(message.id.clone()) {
            return Err(bad(number, format!("id {} was used before", message.id)));
        }
        events.push(Event { message });
    }
    if events.len() < EVENTS_MIN {
        let what = format!("{name} has {}", plural(events.len() as u64, "message"));
        return Err(Failure::new(exit::BAD_DATA, "bad_input", what)
            .because("there is no middle of the stream to kill the consumer in")
            .help(format!("give at least {EVENTS_MIN}")));
    }
    Ok(events)
}

/// One run, in its directory.
struct Show<'a> {
    directory: PathBuf,
    patience: Duration,
    started: Instant,
    stop: &'a AtomicBool,
}

impl Show<'_> {
    fn play(&self, events: &[Event], input: Option<&Path>) -> Result<Report, Failure> {
        let total = events.len() as u64;
        let rate = (total as f64 / STREAM.as_secs_f64()).ceil().min(RATE_MAX) as u32;
        let sink = self.path("out.jsonl");
        let failed = |error| Failure::io("cannot write the events", &error);
        report::write_events(&self.path("events.jsonl"), events).map_err(failed)?;
        let what = match input {
            Some(path) => format!("events of {}", path.display()),
            None => "real events (earthquakes of one week, USGS)".to_owned(),
        };

        let mut consumer = self.serve()?;
        self.say(format_args!(
            "a consumer runs (pid {}) and writes each message to a file",
            consumer.pid()
        ));
        let mut producer = self.start(
            "producer",
            &[
                "send",
                "--json",
                "--file",
                "events.jsonl",
                "--rate",
                &rate.to_string(),
            ],
        )?;
        self.say(format_args!(
            "a producer (pid {}) streams {} {what}, {} a second",
            producer.pid(),
            count(total),
            count(rate.into()),
        ));

        let act = Instant::now();
        let mut tail = Tail::new(&sink);
        let (third, kill_at) = (total / 3, total * 2 / 5);
        self.wait(
            "messages to be processed",
            Duration::from_micros(200),
            || {
                producer.check()?;
                consumer.check()?;
                let lines = tail.lines()?;
                Ok(lines >= kill_at || lines > 0 && act.elapsed() > ACT_MAX)
            },
        )?;
        consumer.kill()?;
        let before_kill = ids_of(&sink)?;
        self.say(format_args!(
            "kill -9 {}: the consumer is gone in mid-stream, with {} in its file",
            consumer.pid(),
            plural(before_kill.len() as u64, "message"),
        ));

        let queue = SqliteQueue::open(self.path(DATABASE), QueueOptions::default())?;
        let (act, mut pending) = (Instant::now(), 0);
        self.wait("messages to be spooled", Duration::from_millis(20), || {
            let ended = producer.has_ended()?;
            pending = queue.stats()?.pending;
            Ok(ended || pending >= third || pending > 0 && act.elapsed() > ACT_MAX)
        })?;
        let spooled = Self::spooled(&queue, pending)?;
        self.say(format_args!(
            "the producer goes on: {} spooled to the queue file",
            plural(pending, "message"),
        ));

        let consumer = self.serve()?;
        self.say(format_args!(
            "the consumer is back (pid {})",
            consumer.pid()
        ));
        let summary = self.summary(&mut producer)?;
        self.say(format_args!("the producer is done: {}", summary.sentence()));
        let replayed = self.start("replay", &["replay"])?;
        let replayed = self.finish(replayed)?;
        self.say(format_args!("spoolway replay: {}", replayed.trim()));
        consumer.terminate()?;
        self.finish(consumer)?;
        self.say(format_args!("SIGTERM: the consumer ends in order"));

        let text = std::fs::read(&sink)
            .map_err(|error| Failure::io("cannot read the sink's file", &error))?;
        let copies = spooled.intersection(&before_kill).cloned().collect();
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(judge(events, &text, &summary, &copies, seconds))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn say(&self, what: impl std::fmt::Display) {
        tell(format_args!(
            "{:>6.2} s  {what}",
            self.started.elapsed().as_secs_f64()
        ));
    }

    /// Starts this program with other arguments, on the demo's socket and queue file.
    fn start(&self, name: &'static str, arguments: &[&str]) -> Result<Program, Failure> {
        Program::start(name, &self.directory, &self.path(SOCKET), arguments)
    }

    /// Starts the consumer and waits until it listens.
    fn serve(&self) -> Result<Program, Failure> {
        let mut consumer = self.start("consumer", &["serve", "--sink", "file:out.jsonl"])?;
        let socket = self.path(SOCKET);
        self.wait("the consumer to listen", Duration::from_millis(5), || {
            consumer.check()?;
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok())
        })?;
        Ok(consumer)
    }

    /// The ids of the oldest rows that wait in the queue file, among them what was unanswered.
    fn spooled(queue: &SqliteQueue, pending: u64) -> Result<HashSet<MessageId>, Failure> {
        let rows = queue.peek(usize::try_from(pending).unwrap_or(usize::MAX))?;
        Ok(rows.into_iter().map(|row| row.message.id.clone()).collect())
    }

    fn summary(&self, producer: &mut Program) -> Result<Summary, Failure> {
        self.wait("the producer to end", Duration::from_millis(5), || {
            producer.has_ended()
        })?;
        let text = producer.output()?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::new(exit::FAILED, "no_summary", "the producer gave no summary")
                .because(error.to_string())
        })
    }

    /// Waits for the end of a program that must succeed, and returns what it wrote.
    fn finish(&self, mut program: Program) -> Result<String, Failure> {
        self.wait("a process to end", Duration::from_millis(5), || {
            program.has_ended()
        })?;
        program.succeeded()?;
        program.output()
    }

    fn wait(
        &self,
        what: &str,
        every: Duration,
        mut is_so: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let since = Instant::now();
        while !is_so()? {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::new(exit::FAILED, "interrupted", "interrupted"));
            }
            if since.elapsed() > self.patience {
                let what = format!("waited {} for {what}", span(self.patience));
                return Err(Failure::new(exit::FAILED, "demo_stuck", what));
            }
            std::thread::sleep(every);
        }
        Ok(())
    }
}
