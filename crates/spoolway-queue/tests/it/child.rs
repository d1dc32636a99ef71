//! Parts that a test plays in a process of its own, to be killed: this binary again, as a child.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use spoolway_queue::{QueueOptions, SqliteQueue};

use crate::support::{Database, consumer, message, row};
use crate::{inbox, outbox, poller, replay, transfer};

const PART: &str = "SPOOLWAY_TEST_PART";
const FILE: &str = "SPOOLWAY_TEST_FILE";

pub(crate) struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

pub(crate) fn spawn(part: &str, path: &Path) -> Process {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "child::part",
            "--exact",
            "--ignored",
            "--nocapture",
            "--quiet",
        ])
        .env(PART, part)
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    Process { child, lines }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that the part says; empty at its end.
    pub(crate) fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return line;
            }
            if let Some(said) = line.trim_end().strip_prefix("> ") {
                return said.to_owned();
            }
        }
    }

    /// Lets the part go on.
    pub(crate) fn go(&mut self) {
        self.child.stdin.take();
    }

    /// Lets the part do its next step.
    pub(crate) fn step(&mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
        stdin.flush().unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {line}").unwrap();
    out.flush().unwrap();
}

pub(crate) fn wait_for_go() {
    std::io::stdin().lines().for_each(drop);
}

#[test]
#[ignore = "a part of other tests"]
fn part() {
    let (Ok(part), Ok(path)) = (std::env::var(PART), std::env::var(FILE)) else {
        return;
    };
    match part.as_str() {
        "dequeue" => {
            let queue = SqliteQueue::open(path, consumer()).unwrap();
            let claimed = queue.dequeue(3).unwrap();
            say(format!("claimed {}", claimed.len()));
            wait_for_go();
        }
        "create" => {
            say("ready");
            wait_for_go();
            let queue = SqliteQueue::open(path, QueueOptions::default()).unwrap();
            let id = format!("by-{}", std::process::id());
            queue.write(vec![row(message(&id))]).unwrap();
            say(queue.identity());
        }
        "lock" => {
            let conn = rusqlite::Connection::open(path).unwrap();
            conn.busy_timeout(std::time::Duration::ZERO).unwrap();
            let locked = conn.execute_batch("BEGIN IMMEDIATE").is_err();
            say(if locked { "locked" } else { "free" });
        }
        "insert" => insert_until_killed(Path::new(&path)),
        "poll" => poller::poll_until_empty(Path::new(&path)),
        "inbox-recorded" => inbox::handle_until("recorded", &Database::at(&path)),
        "inbox-handled" => inbox::handle_until("handled", &Database::at(&path)),
        "outbox-enqueued" => outbox::enqueue_until("enqueued", &Database::at(&path)),
        "outbox-committed" => outbox::enqueue_until("committed", &Database::at(&path)),
        "outbox-relay" => outbox::relay_until_killed(&Database::at(&path)),
        "replay" => replay::replay_step_by_step(Path::new(&path)),
        "move" => transfer::move_step_by_step(Path::new(&path)),
        other => panic!("no part {other:?}"),
    }
}

/// Says each id as soon as it is acknowledged, with many on the way at once.
fn insert_until_killed(path: &Path) {
    let queue = SqliteQueue::open(path, QueueOptions::default()).unwrap();
    let (sender, acknowledged) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for n in 0_u64.. {
            let sender = sender.clone();
            let id = format!("{}-{n}", std::process::id());
            queue.submit(vec![row(message(&id))], move |written| {
                written.unwrap();
                sender.send(id).ok();
            });
            if n % 32 == 0 {
                queue.write(Vec::new()).unwrap();
            }
        }
    });
    acknowledged.iter().for_each(say);
}
