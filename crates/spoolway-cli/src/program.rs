//! This program running once more as a child, and the files that children write.

use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use crate::failure::{Failure, exit};

/// The queue file of the children, in their directory.
pub(crate) const DATABASE: &str = "queue.db";
/// How much of the file of a child's errors is shown when it fails.
const COMPLAINT_BYTES: usize = 2_000;

/// This program, running once more. It is killed when dropped, so that nothing outlives its parent;
/// its standard input is a pipe, which also ends when the parent is killed.
pub(crate) struct Program {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    output: PathBuf,
    errors: PathBuf,
}

impl Program {
    /// Starts it in `directory`, with the queue file there and this socket.
    pub(crate) fn start(
        name: impl Into<String>,
        directory: &Path,
        socket: &Path,
        arguments: &[&str],
    ) -> Result<Self, Failure> {
        let name = name.into();
        let output = directory.join(format!("{name}.out"));
        let errors = directory.join(format!("{name}.log"));
        let start = || {
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .current_dir(directory)
                .env("SPOOLWAY_SOCKET", socket)
                .env("SPOOLWAY_DATABASE", directory.join(DATABASE))
                // A Ctrl-C is for the parent, which ends them itself.
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(File::create(&output)?)
                .stderr(File::options().create(true).append(true).open(&errors)?)
                .spawn()
        };
        let child =
            start().map_err(|error| Failure::io(format!("cannot start the {name}"), &error))?;
        Ok(Self {
            name,
            child,
            status: None,
            output,
            errors,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is dead.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        self.status = Some(killed.map_err(|error| self.failed("cannot kill", &error))?);
        Ok(())
    }

    pub(crate) fn terminate(&self) -> Result<(), Failure> {
        self.signal(Signal::TERM)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let sent = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| kill_process(pid, signal));
        sent.map_err(|errno| self.failed("cannot signal", &errno.into()))
    }

    /// Writes a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let told = match &mut self.child.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        told.map_err(|error| self.failed("cannot speak to", &error))
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool, Failure> {
        if self.status.is_none() {
            let status = self.child.try_wait();
            self.status = status.map_err(|error| self.failed("cannot watch", &error))?;
        }
        Ok(self.status.is_some())
    }

    /// Fails when it has failed already; one that runs or has succeeded is fine.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        if self.has_ended()? {
            self.succeeded()
        } else {
            Ok(())
        }
    }

    /// Fails with what it said, if it did not end with exit code 0.
    pub(crate) fn succeeded(&self) -> Result<(), Failure> {
        let Some(status) = self.status.filter(|status| !status.success()) else {
            return Ok(());
        };
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".to_owned(),
        };
        let said = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let from = said.floor_char_boundary(said.len().saturating_sub(COMPLAINT_BYTES));
        let what = format!("the {} ended with {how}", self.name);
        Err(Failure::new(exit::FAILED, "process_failed", what).because(said[from..].trim()))
    }

    /// What it wrote to its standard output.
    pub(crate) fn output(&self) -> Result<String, Failure> {
        std::fs::read_to_string(&self.output)
            .map_err(|error| self.failed("cannot read the output of", &error))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Failure {
        Failure::io(format!("{what} the {}", self.name), error)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.status.is_none() {
            // It may have ended just now, which is as good.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What the parent writes to the standard input of such a child, line by line, read on a thread of its own. When the
/// parent is gone this process ends.
pub(crate) fn words_of_parent() -> Result<mpsc::Receiver<String>, Failure> {
    let (sender, words) = mpsc::channel(1);
    let read = move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
        std::process::exit(exit::FAILED.into());
    };
    std::thread::Builder::new()
        .name("words".into())
        .spawn(read)
        .map_err(|error| Failure::io("cannot start a thread", &error))?;
    Ok(words)
}

/// Counts the lines of a growing file.
pub(crate) struct Tail {
    path: PathBuf,
    at: u64,
    lines: u64,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            at: 0,
            lines: 0,
        }
    }

    /// The number of lines by now; none while there is no file.
    pub(crate) fn lines(&mut self) -> Result<u64, Failure> {
        let new = match self.new_bytes() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.lines),
            new => new.map_err(|error| {
                Failure::io(format!("cannot read {}", self.path.display()), &error)
            })?,
        };
        self.at += new.len() as u64;
        self.lines += new.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(self.lines)
    }

    fn new_bytes(&self) -> io::Result<Vec<u8>> {
        let mut new = Vec::new();
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        file.read_to_end(&mut new)?;
        Ok(new)
    }
}
