//! The processes of the torture, from their start to the files they leave.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use spoolway::client::SOCKET_PATH_BYTES_MAX;
use tokio::runtime::Handle;

use super::content::Content;
use super::evidence::{self, SINK, journal, queue};
use super::plan::{Act, plan};

use super::proxy::Proxy;
use super::report::{Done, Report, Times};
use crate::args::{Fault, Torture};
use crate::failure::{Failure, exit};
use crate::program::{Program, Tail};
use crate::progress::Progress;
use crate::units::{count, span};

const SOCKET: &str = "t.sock";
/// What producers connect to with `flap`.
const PROXY: &str = "p.sock";

/// All producers together send no more than this in a second, and in all: a message takes about
/// 0.5 KiB of disk, so the most is well below 1 GiB.
const RATE_MAX: u64 = 20_000;
const MESSAGES_MAX: u64 = 1_200_000;
/// Messages with an `Ok` that are not in the sink's file: above, the producers are
/// slow until it is a tenth of that.
const BACKLOG_MAX: u64 = 10_000;
/// Time between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Time between two looks at how far they are.
const COUNT_EVERY: Duration = Duration::from_millis(50);
/// How long nothing may move before the torture gives up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// A producer that runs, and its journal.
struct Producer {
    program: Program,
    told: Tail,
}

pub(super) struct Rig<'a> {
    args: &'a Torture,
    seed: u64,
    directory: &'a Path,
    stop: &'a AtomicBool,
    consumer: Option<Program>,
    proxy: Option<Proxy>,
    producers: Vec<Option<Producer>>,
    runs: usize,
    /// Lines in the journals of runs that are over.
    told_before: u64,
    sink: Tail,
    done: Done,
    slow: bool,
    broken: Vec<String>,
    progress: Progress,
    started: Instant,
    sending: Duration,
    draining: Duration,
}

impl<'a> Rig<'a> {
    pub(super) fn new(
        args: &'a Torture,
        seed: u64,
        quiet: bool,
        runtime: Handle,
        directory: &'a Path,
        stop: &'a AtomicBool,
    ) -> Result<Self, Failure> {
        let (front, back) = (directory.join(PROXY), directory.join(SOCKET));
        let length = back.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            let what = format!(
                "the path of a socket would be {length} bytes long: {}",
                back.display()
            );
            return Err(Failure::new(exit::CONFIG, "socket_path", what)
                .because(format!("at most {SOCKET_PATH_BYTES_MAX} are possible"))
                .help("choose a shorter directory with --dir"));
        }
        let flaps = args.faults.contains(&Fault::Flap);
        Ok(Self {
            args,
            seed,
            directory,
            stop,
            consumer: None,
            proxy: flaps.then(|| Proxy::new(runtime, &front, &back, seed)),
            producers: (0..args.producers).map(|_| None).collect(),
            runs: 0,
            told_before: 0,
            sink: Tail::new(&directory.join(SINK)),
            done: Done::default(),
            slow: false,
            broken: Vec::new(),
            progress: Progress::new(quiet),
            started: Instant::now(),
            sending: Duration::ZERO,
            draining: Duration::ZERO,
        })
    }

    /// The consumer first, then the producers.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        self.start_consumer()?;
        let socket = self.path(SOCKET);
        self.wait("the consumer to listen", |rig| {
            rig.look()?;
            Ok((std::os::unix::net::UnixStream::connect(&socket).is_ok(), 0))
        })?;
        for slot in 0..self.producers.len() {
            self.start_producer(slot)?;
        }
        Ok(())
    }

    /// Does what is planned, while the producers send.
    pub(super) fn disturb(&mut self) -> Result<(), Failure> {
        let length = Duration::from_secs(self.args.seconds.into());
        let mut planned = plan(self.seed, &self.args.faults, self.producers.len(), length)
            .into_iter()
            .peekable();
        let started = Instant::now();
        let mut counted = started;
        while started.elapsed() < length {
            while let Some(next) = planned.next_if(|next| next.at <= started.elapsed()) {
                self.act(next.act)?;
            }
            self.look()?;
            if counted.elapsed() > COUNT_EVERY {
                counted = Instant::now();
                self.hold_back()?;
                self.show("")?;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // On a machine that fell behind: the last of it starts and continues everyone.
        for late in planned {
            self.act(late.act)?;
        }
        self.sending = started.elapsed();
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), Failure> {
        match act {
            Act::KillConsumer => {
                if let Some(mut consumer) = self.consumer.take() {
                    consumer.kill()?;
                    self.done.kills += 1;
                }
                if let Some(proxy) = &mut self.proxy {
                    proxy.close();
                }
            }
            Act::StartConsumer => self.start_consumer()?,
            Act::StopConsumer => {
                self.done.stops += 1;
                self.signal_consumer(Signal::STOP)?;
            }
            Act::ContinueConsumer => self.signal_consumer(Signal::CONT)?,
            Act::KillProducer(slot) => {
                if let Some(mut producer) = self.producers[slot].take() {
                    producer.program.kill()?;
                    self.told_before += producer.told.lines()?;
                    self.done.producer_kills += 1;
                }
            }
            Act::StartProducer(slot) => self.start_producer(slot)?,
            Act::Cut { one_in, seed } => {
                if let Some(proxy) = &self.proxy {
                    proxy.cut(one_in, seed);
                }
            }
        }
        Ok(())
    }

    /// The producers send what they have, the consumer processes what waits.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        for producer in self.producers.iter_mut().flatten() {
            producer.program.tell("end")?;
        }
        self.wait("the producers to end", |rig| {
            rig.look()?;
            rig.show(", producers end")?;
            let mut ended = true;
            for producer in rig.producers.iter_mut().flatten() {
                ended &= producer.program.has_ended()?;
            }
            Ok((ended, rig.told()? + rig.sink.lines()?))
        })?;
        let file = queue(self.directory)?;
        let drained = self.wait("the backlog to drain", |rig| {
            rig.look()?;
            rig.show(", backlog drains")?;
            let stats = file.stats()?;
            Ok((stats.pending == 0, rig.sink.lines()? + stats.dead))
        });
        // A backlog that does not drain is a finding: the report says what it holds.
        if let Err(failure) = drained {
            if self.stop.load(Ordering::Relaxed) {
                return Err(failure);
            }
            self.broken.push("the backlog does not drain".to_owned());
        }
        self.draining = started.elapsed();
        Ok(())
    }

    /// SIGTERM to the consumer, which has to end in order.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        let Some(mut consumer) = self.consumer.take() else {
            return Ok(());
        };
        consumer.terminate()?;
        let ended = self.wait("the consumer to end", |_| Ok((consumer.has_ended()?, 0)));
        match ended {
            Ok(()) => consumer.succeeded(),
            Err(failure) if self.stop.load(Ordering::Relaxed) => Err(failure),
            Err(_) => {
                self.broken
                    .push("the consumer does not end after SIGTERM".to_owned());
                Ok(())
            }
        }
    }

    /// What everyone has left, compared and summed up.
    pub(super) fn report(mut self) -> Result<Report, Failure> {
        let content = Content {
            seed: self.seed,
            keys: self.args.keys,
        };
        let found = evidence::compare(self.directory, content, self.runs)?;
        self.broken.extend(evidence::panics(self.directory)?);
        self.done.cuts = self.proxy.as_ref().map_or(0, Proxy::cuts);
        let times = Times {
            sending: self.sending,
            draining: self.draining,
            all: self.started.elapsed(),
        };
        let runs = u32::try_from(self.runs).unwrap_or(u32::MAX);
        let done = (self.done, runs);
        Ok(Report::new(
            self.args,
            self.seed,
            done,
            found,
            std::mem::take(&mut self.broken),
            &times,
        ))
    }

    fn start_consumer(&mut self) -> Result<(), Failure> {
        let sink = format!("file:{SINK}");
        let arguments = ["serve", "--quiet", "--tied", "--sink", &sink];
        self.consumer = Some(self.start_program("consumer".into(), SOCKET, &arguments)?);
        Ok(())
    }

    /// A producer is a new run whenever it starts: its numbers begin again.
    fn start_producer(&mut self, slot: usize) -> Result<(), Failure> {
        let run = self.runs;
        self.runs += 1;
        let of_all = RATE_MAX.min(MESSAGES_MAX / u64::from(self.args.seconds));
        let rate = (of_all / u64::from(self.args.producers)).max(1);
        let socket = if self.proxy.is_some() { PROXY } else { SOCKET };
        let numbers = [run as u64, self.seed, self.args.keys.into(), rate].map(|n| n.to_string());
        let [run_text, seed, keys, rate] = numbers.each_ref().map(String::as_str);
        let journal = journal(run);
        let mut program = self.start_program(
            format!("producer-{run}"),
            socket,
            &[
                "torture-producer",
                "--run",
                run_text,
                "--seed",
                seed,
                "--keys",
                keys,
                "--rate",
                rate,
                "--journal",
                &journal,
            ],
        )?;
        if self.slow {
            program.tell("slow")?;
        }
        let told = Tail::new(&self.path(&journal));
        self.producers[slot] = Some(Producer { program, told });
        Ok(())
    }

    fn start_program(
        &self,
        name: String,
        socket: &str,
        arguments: &[&str],
    ) -> Result<Program, Failure> {
        Program::start(name, self.directory, &self.path(socket), arguments)
    }

    fn signal_consumer(&self, signal: Signal) -> Result<(), Failure> {
        match &self.consumer {
            Some(consumer) => consumer.signal(signal),
            None => Ok(()),
        }
    }

    /// Nobody ends by himself; and the proxy listens when the consumer does.
    fn look(&mut self) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new(exit::FAILED, "interrupted", "interrupted"));
        }
        let producers = self.producers.iter_mut().flatten();
        let programs = producers.map(|producer| &mut producer.program);
        for program in programs.chain(&mut self.consumer) {
            program.check()?;
        }
        match &mut self.proxy {
            Some(proxy) if self.consumer.is_some() => proxy
                .open()
                .map_err(|error| Failure::io("cannot listen before the consumer", &error)),
            _ => Ok(()),
        }
    }

    /// Keeps the backlog within what can be drained soon.
    fn hold_back(&mut self) -> Result<(), Failure> {
        let backlog = self.told()?.saturating_sub(self.sink.lines()?);
        let slow = match self.slow {
            false => backlog > BACKLOG_MAX,
            true => backlog > BACKLOG_MAX / 10,
        };
        if slow != self.slow {
            self.slow = slow;
            self.done.brakes += u64::from(slow);
            for producer in self.producers.iter_mut().flatten() {
                producer.program.tell(if slow { "slow" } else { "go" })?;
            }
        }
        Ok(())
    }

    /// Answers that were written down, give or take the lines that are none.
    fn told(&mut self) -> Result<u64, Failure> {
        let producers = self.producers.iter_mut().flatten();
        let lines: Result<u64, Failure> = producers.map(|one| one.told.lines()).sum();
        Ok(self.told_before + lines?)
    }

    fn show(&mut self, doing: &str) -> Result<(), Failure> {
        let (told, processed) = (self.told()?, self.sink.lines()?);
        let Done {
            kills,
            stops,
            producer_kills,
            ..
        } = self.done;
        let cuts = self.proxy.as_ref().map_or(0, Proxy::cuts);
        self.progress.show(|| {
            format!(
                "{} sent, {} processed, {} kills, {} stops, {} cuts{doing}",
                count(told),
                count(processed),
                count(kills + producer_kills),
                count(stops),
                count(cuts),
            )
        });
        Ok(())
    }

    /// Waits until it is so. What `is_so` returns beside has to move.
    fn wait(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&mut Self) -> Result<(bool, u64), Failure>,
    ) -> Result<(), Failure> {
        let (mut moved, mut last) = (Instant::now(), 0);
        loop {
            let (so, at) = is_so(self)?;
            if so {
                return Ok(());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::new(exit::FAILED, "interrupted", "interrupted"));
            }
            if at != last {
                (moved, last) = (Instant::now(), at);
            }
            if moved.elapsed() > STALL_MAX {
                let what = format!("waited {} for {what}", span(STALL_MAX));
                return Err(Failure::new(exit::BROKEN, "stuck", what));
            }
            std::thread::sleep(LOOK_EVERY * 10);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}
