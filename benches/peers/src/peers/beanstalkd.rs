//! beanstalkd: its line protocol over a Unix socket, written here because it fits a page.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::{Place, Served, Skipped, socket};
use crate::Result;
use crate::job::{BYTES, Job, Seen};
use crate::process::{self, Server};

/// Reserves that are sent at once.
const RESERVES: usize = 256;

/// Puts that may be unanswered: it reads no more while a reply does not fit into the socket, and some 270 do.
const WINDOW: usize = 256;

pub fn serve_default(place: &Place) -> Result<Served> {
    serve(place, &[])
}

pub fn serve_f0(place: &Place) -> Result<Served> {
    serve(place, &["-f0"])
}

fn serve(place: &Place, options: &[&str]) -> Result<Served> {
    let program = process::find("beanstalkd")
        .ok_or_else(|| Skipped("no beanstalkd; apt-get install beanstalkd".into()))?;
    let version = process::version(&program, "-v")?;
    let mut command = Command::new(program);
    command.args(["-l", "unix:s.sock", "-b", "."]).args(options);
    let is_up = || UnixStream::connect(socket(&place.dir)).is_ok();
    let server = Server::start(&mut command, &place.dir, Signal::TERM, is_up)?;
    Ok(Served {
        server: Some(server),
        version,
    })
}

pub fn produce(dir: &Path, job: &mut Job) -> Result<()> {
    let send = |connection: &mut Connection, batch: &[String]| {
        let mut lines = Vec::new();
        for text in batch {
            write!(lines, "put 0 0 60 {}\r\n{text}\r\n", text.len())?;
        }
        connection.write(&lines)
    };
    let receive = |connection: &mut Connection, count| {
        for _ in 0..count {
            if !connection.line()?.starts_with("INSERTED ") {
                return Err(format!("beanstalkd said {:?}", connection.line).into());
            }
        }
        Ok(())
    };
    job.narrow(WINDOW);
    job.block(&mut Connection::open(dir)?, send, receive)
}

pub fn consume(dir: &Path, mut seen: Seen) -> Result<()> {
    let mut connection = Connection::open(dir)?;
    seen.ready();
    let mut owed = Vec::new();
    let mut is_idle = true;
    // A reserve that waits holds up what is behind it, so only one waits, alone, when nothing is there.
    while !(seen.is_over() && owed.is_empty()) {
        let mut lines = Vec::new();
        for id in &owed {
            write!(lines, "delete {id}\r\n")?;
        }
        let (reserves, wait) = match (seen.is_over(), is_idle) {
            (true, _) => (0, 0),
            (_, true) => (1, 1),
            (_, false) => (RESERVES, 0),
        };
        for _ in 0..reserves {
            write!(lines, "reserve-with-timeout {wait}\r\n")?;
        }
        connection.write(&lines)?;
        for _ in owed.drain(..) {
            if connection.line()? != "DELETED\r\n" {
                return Err(format!("beanstalkd said {:?}", connection.line).into());
            }
        }
        for _ in 0..reserves {
            // RESERVED id bytes, or TIMED_OUT
            if let Some(reserved) = connection.line()?.strip_prefix("RESERVED ") {
                let id = reserved.split(' ').next().unwrap_or_default().to_owned();
                let mut text = [0; BYTES + 2];
                connection.stream.read_exact(&mut text)?;
                seen.take(&text[..BYTES]);
                owed.push(id);
            }
        }
        is_idle = owed.is_empty();
    }
    seen.tell();
    Ok(())
}

struct Connection {
    stream: BufReader<UnixStream>,
    line: String,
}

impl Connection {
    fn open(dir: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket(dir))?;
        Ok(Self {
            stream: BufReader::with_capacity(1 << 16, stream),
            line: String::new(),
        })
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(lines)?)
    }

    fn line(&mut self) -> Result<&str> {
        self.line.clear();
        if self.stream.read_line(&mut self.line)? == 0 {
            return Err("beanstalkd closed the connection".into());
        }
        Ok(&self.line)
    }
}
