//! A consumer in a directory of its own, a peer that writes raw frames, and a look into the queue file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spoolway_consumer::{
    Builder, Consumer, ConsumerConfig, ConsumerError, Delivery, MachineConfig, RetryPolicy, Summary,
};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Long enough for a loaded machine; nothing waits for it unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) config: ConsumerConfig,
}

impl Rig {
    /// Short times, so that tests need not wait for long ones.
    pub(crate) fn new() -> Self {
        let machine = MachineConfig {
            hold_max: Duration::from_millis(100),
            retries: RetryPolicy::fixed(Duration::from_millis(20)).into(),
            ..MachineConfig::default()
        };
        let config = ConsumerConfig {
            machine,
            shutdown_max: Duration::from_millis(300),
            ..ConsumerConfig::default()
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            config,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("s.sock")
    }

    pub(crate) fn queue(&self) -> PathBuf {
        self.path("q.db")
    }

    pub(crate) fn builder(&self) -> Builder {
        Consumer::builder(self.socket(), self.queue()).config(self.config.clone())
    }

    pub(crate) async fn start(&self, builder: Builder) -> Running {
        let consumer = builder.build().await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(consumer.run(async {
            let _ = stopped.await;
        }));
        Running { stop, task }
    }

    pub(crate) async fn peer(&self) -> Peer {
        UnixStream::connect(self.socket()).await.unwrap().into()
    }

    pub(crate) async fn lines(&self) -> Lines {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        Lines {
            stream: BufReader::new(stream),
        }
    }

    pub(crate) fn sql(&self) -> rusqlite::Connection {
        let sql = rusqlite::Connection::open(self.queue()).unwrap();
        sql.busy_timeout(PATIENCE).unwrap();
        sql
    }

    /// State, attempts and reason of a message's row; `None` without one.
    pub(crate) fn row(&self, id: &str) -> Option<Row> {
        let found = self.sql().query_row(
            "SELECT processed, attempts, dead_reason, last_error FROM message_queue WHERE message_id = ?1",
            [id],
            |row| {
                Ok(Row {
                    processed: row.get(0)?,
                    attempts: row.get(1)?,
                    reason: row.get(2)?,
                    error: row.get(3)?,
                })
            },
        );
        found.ok()
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) processed: i64,
    pub(crate) attempts: i64,
    pub(crate) reason: Option<String>,
    pub(crate) error: Option<String>,
}

pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Summary, ConsumerError>>,
}

impl Running {
    pub(crate) async fn stop(self) -> Summary {
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn tell_to_stop(self) -> JoinHandle<Result<Summary, ConsumerError>> {
        let _ = self.stop.send(());
        self.task
    }

    /// Ends it in the middle, as a kill does as far as one process can show.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    outcomes: HashMap<u64, String>,
}

impl From<UnixStream> for Peer {
    fn from(stream: UnixStream) -> Self {
        Self {
            stream,
            outcomes: HashMap::new(),
        }
    }
}

pub(crate) fn frame(body: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

pub(crate) fn message(id: &str) -> Value {
    json!({"id": id, "type": "t", "payload": {"of": id}})
}

impl Peer {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send(&mut self, body: Value) {
        self.write(&frame(&body.to_string())).await;
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, async {
            let length = self.stream.read_u32().await.ok()?;
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await.unwrap();
            Some(serde_json::from_slice(&body).unwrap())
        })
        .await
        .expect("nothing came")
    }

    pub(crate) async fn recv(&mut self) -> Value {
        self.next().await.expect("the connection was closed")
    }

    /// The error that ends the connection.
    pub(crate) async fn error(&mut self) -> Value {
        let error = self.recv().await;
        assert_eq!(error["op"], "error", "{error}");
        assert_eq!(self.next().await, None, "closed behind the error");
        error
    }

    /// Says hello as a producer whose next number is `first`, none of which was sent before.
    pub(crate) async fn hello(&mut self, producer: u128, epoch: u64, first: u64) -> Value {
        self.send(hello(producer, epoch, first)).await;
        let answer = self.recv().await;
        assert_eq!(answer["op"], "hello", "{answer}");
        answer
    }

    /// Waits for the outcome of a number.
    pub(crate) async fn outcome(&mut self, n: u64) -> String {
        loop {
            if let Some(outcome) = self.outcomes.remove(&n) {
                return outcome;
            }
            let told = self.recv().await;
            assert_ne!(told["op"], "error", "{told}");
            self.note(&told);
        }
    }

    fn note(&mut self, told: &Value) {
        let all = |name: &str| told[name].as_array().cloned().unwrap_or_default();
        for outcome in ["processed", "stored", "received"] {
            for range in all(outcome) {
                for n in range[0].as_u64().unwrap()..=range[1].as_u64().unwrap() {
                    self.outcomes.insert(n, outcome.to_owned());
                }
            }
        }
        for dead in all("dead") {
            let text = format!("dead: {}", dead[1].as_str().unwrap());
            self.outcomes.insert(dead[0].as_u64().unwrap(), text);
        }
        if told["op"] == "nack" {
            let text = format!("nack: {}", told["code"].as_str().unwrap());
            self.outcomes.insert(told["n"].as_u64().unwrap(), text);
        }
    }
}

pub(crate) fn hello(producer: u128, epoch: u64, first: u64) -> Value {
    let producer = spoolway_proto::ProducerId::from_u128(producer).to_string();
    json!({
        "op": "hello", "version": 1, "producer": producer, "epoch": epoch, "client": "test",
        "ack": "processed", "first": first, "fresh": first,
    })
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What handlers got, in order.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Delivery>>>);

impl Seen {
    pub(crate) fn note(&self, delivery: &Delivery) {
        self.0.lock().unwrap().push(delivery.clone());
    }

    pub(crate) fn all(&self) -> Vec<Delivery> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.all()
            .iter()
            .map(|delivery| delivery.id.to_string())
            .collect()
    }

    /// A handler that notes everything and succeeds.
    pub(crate) fn handler(
        &self,
    ) -> impl Fn(Delivery) -> std::future::Ready<()> + Send + Sync + 'static + use<> {
        let seen = self.clone();
        move |delivery| {
            seen.note(&delivery);
            std::future::ready(())
        }
    }

    pub(crate) async fn until_count(&self, count: usize) {
        until(&format!("{count} messages were handled"), || {
            self.all().len() >= count
        })
        .await;
    }
}

/// A peer that writes and reads lines of JSON.
pub(crate) struct Lines {
    pub(crate) stream: BufReader<UnixStream>,
}

impl Lines {
    pub(crate) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// No more lines come from here.
    pub(crate) async fn end(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next line; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line));
        match read.await.expect("nothing came") {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a line of JSON")),
        }
    }

    pub(crate) async fn recv(&mut self) -> Value {
        self.next().await.expect("the connection was closed")
    }

    pub(crate) async fn rest(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(line) = self.next().await {
            all.push(line);
        }
        all
    }
}

/// Runs a shell command that needs `program`; `None`, loudly, where it is not installed, which the gate does not accept.
pub(crate) async fn shell(program: &str, command: &str) -> Option<String> {
    let mut bash = std::process::Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", command]);
    let program = program.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let probe = ["-c", &format!("command -v {program}")].map(str::to_owned);
        let probe = std::process::Command::new("bash").args(probe).output();
        if !probe.unwrap().status.success() {
            let missing = format!("SKIPPED: {program} is not installed\n");
            assert!(std::env::var_os("SPOOLWAY_CI").is_none(), "{missing}");
            // Past the test's own capture.
            std::io::Write::write_all(&mut std::io::stderr(), missing.as_bytes()).unwrap();
            return None;
        }
        Some(bash.output().unwrap())
    });
    let run = run.await.unwrap()?;
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{command}: {said}");
    Some(String::from_utf8(run.stdout).unwrap())
}
