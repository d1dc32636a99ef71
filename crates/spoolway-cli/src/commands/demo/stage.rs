//! The processes of the demo, and the file that the consumer writes.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use spoolway::MessageId;

use super::COMPLAINT_BYTES;
use super::report::ids;
use crate::failure::{Failure, exit};

pub(super) const SOCKET: &str = "demo.sock";
const DATABASE: &str = "queue.db";

/// This program, running once more. It is killed when dropped, so that nothing outlives the demo.
pub(super) struct Program {
    name: &'static str,
    child: Child,
    status: Option<ExitStatus>,
    output: PathBuf,
    errors: PathBuf,
}

impl Program {
    pub(super) fn start(
        name: &'static str,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<Self, Failure> {
        let output = directory.join(format!("{name}.out"));
        let errors = directory.join(format!("{name}.log"));
        let start = || {
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .current_dir(directory)
                .env("SPOOLWAY_SOCKET", directory.join(SOCKET))
                .env("SPOOLWAY_DATABASE", directory.join(DATABASE))
                // A Ctrl-C is for the demo, which ends them itself.
                .process_group(0)
                .stdin(Stdio::null())
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

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is dead.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        self.status = Some(killed.map_err(|error| self.failed("cannot kill", &error))?);
        Ok(())
    }

    /// SIGTERM.
    pub(super) fn terminate(&self) -> Result<(), Failure> {
        let sent = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| kill_process(pid, Signal::TERM));
        sent.map_err(|errno| self.failed("cannot end", &errno.into()))
    }

    pub(super) fn has_ended(&mut self) -> Result<bool, Failure> {
        if self.status.is_none() {
            let status = self.child.try_wait();
            self.status = status.map_err(|error| self.failed("cannot watch", &error))?;
        }
        Ok(self.status.is_some())
    }

    /// Fails when it has failed already; one that runs or has succeeded is fine.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        if self.has_ended()? {
            self.succeeded()
        } else {
            Ok(())
        }
    }

    /// Fails with what it said, if it did not end with exit code 0.
    pub(super) fn succeeded(&self) -> Result<(), Failure> {
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
    pub(super) fn output(&self) -> Result<String, Failure> {
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

/// Counts the lines of a growing file.
pub(super) struct Tail {
    path: PathBuf,
    at: u64,
    lines: u64,
}

impl Tail {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            at: 0,
            lines: 0,
        }
    }

    /// The number of lines by now.
    pub(super) fn lines(&mut self) -> Result<u64, Failure> {
        let new = self.new_bytes().map_err(unread)?;
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

/// The ids of the whole lines of the sink's file.
pub(super) fn ids_of(path: &Path) -> Result<HashSet<MessageId>, Failure> {
    let text = std::fs::read(path).map_err(unread)?;
    Ok(ids(&text).flatten().collect())
}

fn unread(error: io::Error) -> Failure {
    Failure::io("cannot read the sink's file", &error)
}
