//! `spoolway bench`: what the ways of a message cost on this machine, each against its own ceiling in the same run.
//!
//! ```text
//! producers ──► consumer          the real ones, with a handler that does nothing
//! bare clients ──► bare server    the ceiling of a socket: the same bytes, the envelope parsed, the answers gathered
//! plain statements ──► file       the ceiling of a queue file: what a program would write by hand, as durable
//! ```
//!
//! All of them are processes of their own, so that their processor time and their memory can be told apart.

mod bare;
mod load;
mod plain;
mod report;
pub(crate) mod side;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use spoolway::SqliteQueue;

use crate::args::{Bench, Work};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::program::{DATABASE, Program};
use crate::progress::Progress;
use crate::signals::stoppable;

use report::{Figures, Report};
use side::{Part, Told};

/// Time between two looks at a process.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// How long a process may take to get ready, and to end.
const STARTS_MAX: Duration = Duration::from_secs(20);

pub(crate) async fn run(args: Bench, quiet: bool) -> Result<u8, Failure> {
    stoppable("bench", move |stop| perform(&args, quiet, stop)).await
}

fn perform(args: &Bench, quiet: bool, stop: &AtomicBool) -> Result<u8, Failure> {
    let above = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    if !args.json {
        print(report::heading())?;
    }
    for work in args.works() {
        let directory = tempfile::Builder::new()
            .prefix("spoolway-bench-")
            .tempdir_in(&above)
            .map_err(|error| {
                let what = format!("cannot make a directory in {}", above.display());
                Failure::io(what, &error).help("name another with --dir")
            })?;
        let mut run = Run {
            args,
            work,
            messages: args.messages_of(work),
            directory: directory.path(),
            stop,
            progress: Progress::new(quiet),
        };
        let report = run.measure()?;
        drop(run);
        if args.json {
            print_json(&report)?;
        } else {
            print(&report)?;
        }
    }
    Ok(exit::OK)
}

/// One kind of work on its way to a report.
struct Run<'a> {
    args: &'a Bench,
    work: Work,
    messages: u64,
    directory: &'a Path,
    stop: &'a AtomicBool,
    progress: Progress,
}

impl Run<'_> {
    /// The ceiling is measured before and after, and the better of the two counts: machines wake up slowly.
    fn measure(&mut self) -> Result<Report, Failure> {
        let mut ceiling = match self.work {
            Work::Stored | Work::Spool | Work::Drain => None,
            Work::Rtt | Work::Stream | Work::Batch | Work::Keyed => Some(self.bare("before")?),
        };
        let ours = match self.work {
            Work::Spool => self.spool()?,
            Work::Drain => self.drain()?,
            _ => self.by_socket()?,
        };
        let ceiling = match &mut ceiling {
            Some(before) => {
                let after = self.bare("after")?;
                if after.is_better(before, self.work) {
                    after
                } else {
                    ceiling.take().unwrap_or(after)
                }
            }
            None => self.plain(ours.group)?,
        };
        Ok(Report::new(self.args, self.work, &ours, &ceiling))
    }

    // ---- the parts

    fn by_socket(&mut self) -> Result<Figures, Failure> {
        let mut consumer = self.start(Part::Consumer, 0, "consumer")?;
        let told = self.clients(Part::Producer, "producer")?;
        let served = self.end(&mut consumer)?;
        Ok(Figures::new(&told, Some(&served)))
    }

    fn bare(&mut self, when: &str) -> Result<Figures, Failure> {
        let mut server = self.start(Part::BareServer, 0, &format!("server-{when}"))?;
        let told = self.clients(Part::BareClient, &format!("client-{when}"))?;
        let served = self.end(&mut server)?;
        Ok(Figures::new(&told, Some(&served)))
    }

    fn spool(&mut self) -> Result<Figures, Failure> {
        let told = self.clients(Part::Producer, "producer")?;
        Ok(Figures::new(&told, None))
    }

    /// From the first row to the last settled one, of a consumer that starts with all of them.
    fn drain(&mut self) -> Result<Figures, Failure> {
        self.clients(Part::Producer, "producer")?;
        let queue = SqliteQueue::open(self.directory.join(DATABASE), Default::default())?;
        let mut consumer = self.start(Part::Consumer, 0, "consumer")?;
        let messages = self.messages;
        // Counting reads all that is pending, which would be measured too: only the end is counted.
        while !queue.peek(1)?.is_empty() || queue.stats()?.pending > 0 {
            self.look(&mut consumer)?;
            self.progress.show(|| match queue.stats() {
                Ok(stats) => format!("drain: {} of {messages} to go", stats.pending),
                Err(error) => format!("drain: {error}"),
            });
            std::thread::sleep(20 * LOOK_EVERY);
        }
        let ended = side::monotonic();
        let mut served = self.end(&mut consumer)?;
        served.end = ended;
        Ok(Figures::new(&[], Some(&served)))
    }

    fn plain(&mut self, group: Option<u64>) -> Result<Figures, Failure> {
        self.progress.show(|| "plain statements".to_owned());
        plain::measure(
            self.directory,
            self.work,
            self.args.bytes,
            self.messages,
            group,
        )
    }

    // ---- processes

    /// Starts the clients, lets them go together, and waits for what they have to tell.
    fn clients(&mut self, part: Part, name: &str) -> Result<Vec<Told>, Failure> {
        let mut clients = Vec::new();
        for number in 0..self.args.producers {
            clients.push(self.start(part, number, &format!("{name}-{number}"))?);
        }
        for client in &mut clients {
            client.tell(side::GO)?;
        }
        let work = self.work;
        let mut told = Vec::new();
        for client in &mut clients {
            while !client.has_ended()? {
                self.look(client)?;
                self.progress.show(|| format!("{work}: {name}"));
                std::thread::sleep(LOOK_EVERY);
            }
            client.succeeded()?;
            told.push(Told::of(client)?);
        }
        Ok(told)
    }

    /// Starts a process and waits until it is ready.
    fn start(&mut self, part: Part, number: u32, name: &str) -> Result<Program, Failure> {
        let share = self.messages / u64::from(self.args.producers);
        let line = [
            ("--part", part.to_string()),
            ("--work", self.work.to_string()),
            ("--messages", share.to_string()),
            ("--bytes", self.args.bytes.to_string()),
            ("--window", self.args.window_of(self.work).to_string()),
            ("--number", number.to_string()),
        ];
        let line: Vec<&str> = std::iter::once("bench-side")
            .chain(line.iter().flat_map(|(name, value)| [*name, value]))
            .collect();
        let socket = PathBuf::from(side::SOCKET);
        let mut program = Program::start(name, self.directory, &socket, &line)?;
        let until = Instant::now() + STARTS_MAX;
        while !program.output()?.starts_with(side::READY) {
            self.look(&mut program)?;
            if Instant::now() > until {
                let what = format!("the {name} was not ready in {} s", STARTS_MAX.as_secs());
                return Err(Failure::new(exit::FAILED, "not_ready", what));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(program)
    }

    /// Ends a server, which tells then.
    fn end(&mut self, server: &mut Program) -> Result<Told, Failure> {
        server.tell(side::END)?;
        while !server.has_ended()? {
            self.look(server)?;
            std::thread::sleep(LOOK_EVERY);
        }
        server.succeeded()?;
        Told::of(server)
    }

    fn look(&self, program: &mut Program) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new(exit::FAILED, "stopped", "stopped by a signal"));
        }
        program.check()
    }
}
