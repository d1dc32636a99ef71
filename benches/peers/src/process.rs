//! The processes of a run: servers on private directories, the receiving side, and their CPU time.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// How long a server may take to be there, or to end.
const START_MAX: Duration = Duration::from_secs(20);

/// CPU time of this process.
pub fn own_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The program of this name: a path, or to be found in `PATH` or where Debian keeps servers.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.push("/usr/sbin".into());
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut versions: Vec<PathBuf> = versions.flatten().map(|entry| entry.path()).collect();
    versions.sort();
    places.extend(
        versions
            .into_iter()
            .rev()
            .map(|version| version.join("bin")),
    );
    places
        .iter()
        .map(|place| place.join(name))
        .find(|path| path.is_file())
}

/// What a program says of its version, from the first digit on.
pub fn version(program: &Path, flag: &str) -> Result<String> {
    let told = Command::new(program).arg(flag).output()?.stdout;
    let told = String::from_utf8_lossy(&told);
    let version = told
        .split_whitespace()
        .map(|word| word.trim_start_matches(['v', '=']));
    let version = version.filter(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    Ok(version.take(1).collect())
}

/// A running server. It is ended when dropped.
pub struct Server {
    child: Child,
    /// The signal that ends it in order.
    end: Signal,
}

impl Server {
    /// Starts a server whose output goes to `DIR/server.log`, and waits until `is_up`.
    pub fn start(
        command: &mut Command,
        dir: &Path,
        end: Signal,
        is_up: impl Fn() -> bool,
    ) -> Result<Self> {
        let log = dir.join("server.log");
        let output = std::fs::File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command.current_dir(dir).spawn()?;
        let mut server = Self { child, end };
        let start = Instant::now();
        while !is_up() {
            if server.child.try_wait()?.is_some() || start.elapsed() > START_MAX {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let said: Vec<&str> = said.lines().rev().take(3).collect();
                return Err(format!("the server did not start: {}", said.join(" | ")).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    /// CPU time of it and its children.
    pub fn cpu(&self) -> Duration {
        let own = self.child.id().to_string();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ticks: u64 = processes
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
            .filter_map(|stat| {
                // After the name, which may hold anything: state, parent, …, and four times from the twelfth on.
                let (pid, rest) = (stat.split(' ').next()?, stat.rsplit_once(") ")?.1);
                let fields: Vec<&str> = rest.split(' ').collect();
                let is_ours = pid == own || fields[1] == own;
                let ticks = fields[11..15]
                    .iter()
                    .filter_map(|ticks| ticks.parse::<u64>().ok());
                is_ours.then(|| ticks.sum::<u64>())
            })
            .sum();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        let _ = kill_process(pid, self.end);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > START_MAX {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The receiving side: this program again. It is killed when dropped.
pub struct Side {
    child: Child,
    lines: Receiver<String>,
}

impl Side {
    /// Starts it for so many messages of this peer, and waits until it is ready.
    pub fn start(peer: &str, dir: &Path, messages: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--messages", &messages.to_string(), "--side", peer, "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let side = Self { child, lines };
        side.hear(START_MAX)?;
        Ok(side)
    }

    /// Its next line.
    pub fn hear(&self, wait: Duration) -> Result<String> {
        Ok(match self.lines.recv_timeout(wait) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("the receiving side was silent for {wait:?}").into());
            }
            Err(RecvTimeoutError::Disconnected) => return Err("the receiving side ended".into()),
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends this process when the one that started it is gone.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
}
