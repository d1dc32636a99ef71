//! A directory, a consumer process, producers, and what the sink's file really holds.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use spoolway::{Message, Producer, Receipt, SendError};
use tempfile::TempDir;

/// The binary under test.
pub(crate) const SPOOLWAY: &str = env!("CARGO_BIN_EXE_spoolway");

/// Longer than anything here takes on a loaded machine; reached only by a failure.
const DEADLINE: Duration = Duration::from_secs(120);

/// A place of its own: socket, queue file, sink file.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("s.sock")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path("queue.db")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path("out.jsonl")
    }

    /// A command of the binary on this place.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SPOOLWAY);
        command
            .args(args)
            .env("SPOOLWAY_SOCKET", self.socket())
            .env("SPOOLWAY_DATABASE", self.database())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Starts `serve` with a file sink, and waits until it listens.
    pub(crate) fn serve(&self) -> Serve {
        self.serve_with(&[])
    }

    /// The same with more options.
    pub(crate) fn serve_with(&self, options: &[&str]) -> Serve {
        let serve = self.start("serve.log", options);
        self.listens();
        serve
    }

    /// Starts `serve` with a file sink, and does not wait.
    pub(crate) fn start(&self, log: &str, options: &[&str]) -> Serve {
        let sink = format!("file:{}", self.out().display());
        let child = self
            .command(&["serve", "--sink", &sink])
            .args(options)
            .stderr(std::fs::File::create(self.path(log)).expect("a log file"))
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        Serve { child }
    }

    pub(crate) fn listens(&self) {
        eventually("the consumer listens", || {
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// Runs a command that has to succeed, and reads the one JSON object that it prints.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let run = self.run(args);
        assert!(run.status.success(), "{args:?}: {}", text(&run.stderr));
        serde_json::from_slice(&run.stdout).expect("one JSON object")
    }

    /// What a process has written to this file so far.
    pub(crate) fn said(&self, log: &str) -> String {
        std::fs::read_to_string(self.path(log)).unwrap_or_default()
    }

    /// Starts `serve` unless one listens.
    pub(crate) fn serve_if_down(&self) -> Option<Serve> {
        UnixStream::connect(self.socket())
            .is_err()
            .then(|| self.serve())
    }

    pub(crate) async fn producer(&self) -> Producer {
        Producer::open(self.socket(), self.database())
            .await
            .expect("a producer")
    }

    /// The messages that the sink's file holds, in order; every line is whole.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        let text = match std::fs::read_to_string(self.out()) {
            Ok(text) => text,
            Err(_) => return Vec::new(),
        };
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a whole line"))
            .collect()
    }

    /// How many lines that is; the last may be half written.
    pub(crate) fn lines_so_far(&self) -> usize {
        let bytes = std::fs::read(self.out()).unwrap_or_default();
        bytes.iter().filter(|byte| **byte == b'\n').count()
    }

    pub(crate) fn count(&self, sql: &str) -> i64 {
        let file = rusqlite::Connection::open(self.database()).expect("the queue file");
        file.busy_timeout(Duration::from_secs(10))
            .expect("a timeout");
        file.query_row(sql, (), |row| row.get(0)).expect("a count")
    }

    pub(crate) fn pending(&self) -> i64 {
        self.count("SELECT count(*) FROM message_queue WHERE processed = 0")
    }

    /// Waits until the backlog is empty.
    pub(crate) fn drained(&self) {
        eventually("the backlog is drained", || self.pending() == 0);
    }

    /// How often each id is in the sink's file, and the keys' sequences in the order of the file.
    pub(crate) fn found(&self) -> Found {
        let mut found = Found::default();
        for line in self.lines() {
            let id = line["id"].as_str().expect("an id").to_owned();
            *found.ids.entry(id).or_default() += 1;
            if let Some(key) = line["key"].as_str() {
                let n = line["payload"]["n"].as_u64().expect("a number");
                found.keys.entry(key.to_owned()).or_default().push(n);
            }
        }
        found
    }
}

/// What a sink's file holds.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) ids: HashMap<String, usize>,
    keys: BTreeMap<String, Vec<u64>>,
}

impl Found {
    /// Every one of these is there, none twice, and the keys are in order.
    pub(crate) fn is_exactly(&self, sent: &[String]) {
        let lost: Vec<&String> = sent
            .iter()
            .filter(|id| !self.ids.contains_key(*id))
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {} lost, the first {}",
            lost.len(),
            sent.len(),
            lost[0]
        );
        self.has_no_doubles();
        assert_eq!(self.ids.len(), sent.len(), "there is more than was sent");
        self.is_in_order();
    }

    pub(crate) fn has_no_doubles(&self) {
        let doubled: Vec<_> = self.ids.iter().filter(|(_, count)| **count > 1).collect();
        assert!(
            doubled.is_empty(),
            "{} doubled, one is {:?}",
            doubled.len(),
            doubled[0]
        );
    }

    pub(crate) fn is_in_order(&self) {
        for (key, numbers) in &self.keys {
            assert!(
                numbers.is_sorted(),
                "key {key} is out of order: {numbers:?}"
            );
        }
    }
}

/// A consumer process; killed when dropped.
pub(crate) struct Serve {
    pub(crate) child: Child,
}

impl Serve {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("our own child");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        wait(&mut self.child)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for a process to end.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually("the process ends", || {
        status = child.try_wait().expect("our own child");
        status.is_some()
    });
    status.expect("it ended")
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A message of a key's sequence.
pub(crate) fn message(key: Option<&str>, n: u64) -> Message {
    let message = Message::new("event", &serde_json::json!({ "n": n })).expect("plain JSON");
    match key {
        Some(key) => message.key(key),
        None => message,
    }
}

/// Sends a stream from one producer: some keyless, the rest over a few keys of its own. Returns the ids with `Ok`.
pub(crate) async fn stream(place: &Place, name: usize, count: u64) -> Vec<String> {
    let producer = place.producer().await;
    let mut window = std::collections::VecDeque::new();
    let mut taken = Vec::new();
    for n in 0..count {
        let key = (n % 4 != 0).then(|| format!("p{name}-k{}", n % 3));
        window.push_back(producer.send(message(key.as_deref(), n)));
        if window.len() >= 256 {
            taken.extend(id_of(window.pop_front().expect("not empty").await));
        }
    }
    for sending in window {
        taken.extend(id_of(sending.await));
    }
    let closed = producer.close(Duration::from_secs(20)).await;
    assert!(
        closed.returned.is_empty(),
        "given back: {:?}",
        closed.returned
    );
    taken
}

fn id_of(result: Result<Receipt, SendError>) -> Option<String> {
    let receipt = result.unwrap_or_else(|error| panic!("a send failed: {error}"));
    Some(receipt.id.to_string())
}

/// Runs an ignored test of this binary as a process of its own.
pub(crate) fn child(test: &str, place: &Place) -> (Child, impl Iterator<Item = String>) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--ignored", "--nocapture", "--quiet"])
        .env("SPOOLWAY_TEST_DIR", place.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("this test");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, lines.map_while(Result::ok))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Says loudly that a test cannot run here; where CI requires it, that is a failure.
#[expect(clippy::print_stderr, reason = "a skip must be seen")]
pub(crate) fn skip(why: &str) {
    assert!(
        std::env::var_os("SPOOLWAY_CI").is_none(),
        "CI requires this test, but: {why}"
    );
    eprintln!("SKIPPED: {why}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
