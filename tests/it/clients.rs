//! The Python and Node clients, each against the real consumer.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Place, eventually, skip, text};

/// A program that sends each line of its input, and prints what became of it.
const PYTHON: &str = r#"
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import spoolway
client = spoolway.Client(folder="orders", answer_timeout=float(sys.argv[2]))
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        said = client.send(asked["message"], wait=asked["wait"])._asdict()
    except spoolway.SpoolwayError as error:
        said = {"error": type(error).__name__, "code": error.code, "text": str(error), "id": error.id}
    print(json.dumps(said), flush=True)
"#;

const NODE: &str = r#"
const { Client } = require(process.argv[1] + '/spoolway.js');
const client = new Client({ folder: 'orders', answerTimeout: Number(process.argv[2]) * 1000 });
console.log(JSON.stringify('ready'));
(async () => {
  for await (const line of require('node:readline').createInterface({ input: process.stdin })) {
    const { message, wait } = JSON.parse(line);
    const said = await client.send(message, { wait: wait * 1000 }).catch((error) => (
      { error: error.name, code: error.code, text: error.message, id: error.id }));
    console.log(JSON.stringify(said));
  }
})();
"#;

#[derive(Clone, Copy, Debug)]
enum Language {
    Python,
    Node,
}

impl Language {
    /// Those that can run here.
    fn all() -> Vec<Self> {
        let mut found = Vec::new();
        for (language, program) in [(Self::Python, "python3"), (Self::Node, "node")] {
            match Command::new(program).arg("--version").output() {
                Ok(probe) if probe.status.success() => found.push(language),
                _ => skip(&format!("no {program}")),
            }
        }
        found
    }

    fn command(self) -> Command {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients");
        let (program, option, script, library) = match self {
            Self::Python => ("python3", "-c", PYTHON, "python"),
            Self::Node => ("node", "-e", NODE, "node"),
        };
        let mut command = Command::new(program);
        command.args([option, script]).arg(clients.join(library));
        command
    }
}

/// A process with a client.
struct Sender {
    child: Child,
    asked: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Sender {
    /// On the socket and the spool directory of a place.
    fn start(language: Language, place: &Place, answer_timeout: &str) -> Self {
        let socket = place.socket();
        Self::start_with(language, place, answer_timeout, Some(&socket))
    }

    fn start_with(
        language: Language,
        place: &Place,
        answer_timeout: &str,
        socket: Option<&Path>,
    ) -> Self {
        let mut command = language.command();
        command
            .arg(answer_timeout)
            .env_remove("SPOOLWAY_SOCKET")
            .env("SPOOLWAY_SPOOL_DIR", place.path("spool"));
        if let Some(socket) = socket {
            command.env("SPOOLWAY_SOCKET", socket);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was probed");
        let (asked, said) = (child.stdin.take(), child.stdout.take());
        let mut sender = Self {
            child,
            asked: asked.expect("piped"),
            said: BufReader::new(said.expect("piped")),
        };
        assert_eq!(sender.hear(), "ready");
        sender
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("one JSON value")
    }

    fn ask(&mut self, message: &Value, wait: u32) {
        let asked = json!({"message": message, "wait": wait});
        writeln!(self.asked, "{asked}").expect("it reads");
    }

    fn send(&mut self, message: &Value) -> Value {
        self.ask(message, 0);
        self.hear()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const DIRECTORY: [&str; 2] = ["--spool-dir", "spool"];

fn order(id: &str) -> Value {
    json!({"id": id, "type": "order", "payload": {"of": id, "text": "Tee für 2 ☕"}})
}

fn ids(place: &Place) -> Vec<String> {
    let lines = place.lines();
    let ids = lines.iter().map(|line| line["id"].as_str().expect("an id"));
    ids.map(str::to_owned).collect()
}

fn ack(place: &Place, name: &str) -> Option<Value> {
    let text = std::fs::read(place.path(&format!("spool/orders/acks/{name}.ack"))).ok()?;
    Some(serde_json::from_slice(&text).expect("an ack is whole"))
}

fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("our own child");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses.
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    })
}

#[test]
fn the_lines_of_the_readme_run_as_they_are_written() {
    let readme = include_str!("../../README.md");
    let lines = readme.split("```python\n").nth(1).expect("the lines");
    let lines = lines.split("```").next().expect("their end");
    let place = Place::new();
    let _serve = place.serve_with(&DIRECTORY);
    let script = lines
        .replace("/run/app/orders.sock", &place.socket().to_string_lossy())
        .replace("/var/lib/app/spool", &place.path("spool").to_string_lossy());
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python");
    let Ok(python) = Command::new("python3")
        .args(["-B", "-c", &script])
        .env("PYTHONPATH", library)
        .output()
    else {
        return skip("no python3");
    };
    assert!(python.status.success(), "{}", text(&python.stderr));
    let said = text(&python.stdout);
    assert!(said.trim_end().ends_with(" by socket processed"), "{said}");
    assert_eq!(place.lines()[0]["payload"], json!({"id": 4}));
}

#[test]
fn a_client_sends_by_the_socket_and_hears_what_became_of_it() {
    for language in Language::all() {
        let place = Place::new();
        let _serve = place.serve_with(&DIRECTORY);
        let mut sender = Sender::start(language, &place, "60");
        let receipt = sender.send(&order("m1"));
        assert_eq!(
            (&receipt["id"], &receipt["path"], &receipt["outcome"]),
            (&json!("m1"), &json!("socket"), &json!("processed")),
            "{language:?}: {receipt}"
        );
        let receipt = sender.send(&json!({"type": "order", "payload": null}));
        let id = receipt["id"].as_str().expect("an id was chosen");
        assert_eq!(
            (id.len(), id.as_bytes()[14]),
            (36, b'7'),
            "{language:?}: a UUIDv7"
        );
        assert_eq!(ids(&place), ["m1", id]);
        assert_eq!(place.lines()[0]["payload"], order("m1")["payload"]);
        for (wrong, code) in [
            (json!({"payload": 1, "id": "w"}), "invalid"),
            (
                json!({"id": "m1", "type": "order", "payload": "other"}),
                "conflict",
            ),
        ] {
            let error = sender.send(&wrong);
            assert_eq!(
                (&error["error"], &error["code"]),
                (&json!("Refused"), &json!(code)),
                "{language:?}: {error}"
            );
        }
        assert!(
            !place.path("spool/orders").exists(),
            "nothing went by the directory"
        );
    }
}

#[test]
fn without_a_consumer_a_client_leaves_a_file_that_the_next_one_takes_once() {
    for language in Language::all() {
        let place = Place::new();
        let mut sender = Sender::start(language, &place, "60");
        let error = sender.send(&order("lost"));
        assert_eq!(
            (&error["error"], &error["code"]),
            (&json!("Undelivered"), &json!("not_taken"))
        );
        let text = error["text"].as_str().expect("a text");
        assert!(
            text.contains("consumer not running (socket not found)"),
            "{language:?}: {text}"
        );
        assert!(text.contains("spool directory"), "{text}");

        std::fs::create_dir(place.path("spool")).expect("a directory");
        let mut sent = Vec::new();
        for n in 0..20 {
            let receipt = sender.send(&json!({"type": "order", "payload": n}));
            assert_eq!(
                (&receipt["path"], &receipt["outcome"]),
                (&json!("directory"), &json!("stored")),
                "{language:?}: {receipt}"
            );
            sent.push(receipt["id"].as_str().expect("an id").to_owned());
        }
        // An id that is no file name, and one that would leave the directory.
        for id in ["a/b", ".."] {
            assert_eq!(sender.send(&order(id))["id"], id);
            sent.push(id.to_owned());
        }
        let files = std::fs::read_dir(place.path("spool/orders/messages")).expect("the folder");
        assert_eq!(files.count(), sent.len(), "and nothing half-written");
        let _serve = place.serve_with(&DIRECTORY);
        eventually("every file is taken", || place.lines_so_far() >= sent.len());
        assert_eq!(
            ids(&place),
            sent,
            "{language:?}: each once, in the order of the sends"
        );
        eventually("each has an ack", || ack(&place, &sent[0]).is_some());
        assert_eq!(
            ack(&place, &sent[0]).expect("it is there")["outcome"],
            "processed"
        );
        assert!(
            sender.send(&order("last"))["path"] == "socket",
            "the socket is there again"
        );
    }
}

#[test]
fn a_client_waits_for_the_ack_of_a_file_when_it_is_told_to() {
    for language in Language::all() {
        let place = Place::new();
        let _serve = place.serve_with(&DIRECTORY);
        eventually("the directory is there", || place.path("spool").exists());
        let mut sender = Sender::start_with(language, &place, "60", None);
        sender.ask(&order("m1"), 60);
        let receipt = sender.hear();
        assert_eq!(
            (&receipt["path"], &receipt["outcome"]),
            (&json!("directory"), &json!("processed")),
            "{language:?}: {receipt}"
        );
        sender.ask(&json!({"payload": 1, "id": "w"}), 60);
        let error = sender.hear();
        assert_eq!(
            (&error["error"], &error["code"]),
            (&json!("Refused"), &json!("invalid")),
            "{language:?}: {error}"
        );
        // Corrected, under the same id: the old ack is not taken for the new one.
        sender.ask(&order("w"), 60);
        assert_eq!(sender.hear()["outcome"], "processed");
        assert_eq!(ids(&place), ["m1", "w"]);
    }
}

#[test]
fn a_message_that_goes_both_ways_because_the_consumer_was_stopped_runs_once() {
    for language in Language::all() {
        let place = Place::new();
        let serve = place.serve_with(&DIRECTORY);
        let mut patient = Sender::start(language, &place, "60");
        assert_eq!(patient.send(&order("m1"))["path"], "socket");
        let mut sender = Sender::start(language, &place, "0.3");
        serve.signal(Signal::STOP);
        eventually("every thread has stopped", || is_stopped(serve.child.id()));
        let receipt = sender.send(&order("m2"));
        serve.signal(Signal::CONT);
        assert_eq!(
            (&receipt["path"], &receipt["outcome"]),
            (&json!("directory"), &json!("stored")),
            "{language:?}: {receipt}"
        );
        eventually("the copy in the directory is settled", || {
            ack(&place, "m2").is_some()
        });
        assert_eq!(
            ack(&place, "m2").expect("it is there")["outcome"],
            "processed"
        );
        eventually("it is removed", || {
            !place.path("spool/orders/messages/m2.json").exists()
        });
        assert_eq!(
            patient.send(&order("m1"))["outcome"],
            "processed",
            "a copy is answered with the outcome"
        );
        assert_eq!(ids(&place), ["m1", "m2"], "{language:?}");
    }
}

#[test]
fn a_consumer_killed_between_sends_costs_a_client_no_message() {
    for language in Language::all() {
        let place = Place::new();
        let mut sender = None;
        let mut sent = Vec::new();
        for round in 0..4 {
            let serve = place.serve_with(&DIRECTORY);
            let sender = sender.get_or_insert_with(|| Sender::start(language, &place, "60"));
            let mut ids: Vec<String> = (0..25).map(|n| format!("m{round}-{n:02}")).collect();
            ids.iter().for_each(|id| sender.ask(&order(id), 0));
            // Some are answered, one is on its way, the others are still to be sent.
            for _ in 0..10 {
                assert_eq!(sender.hear()["path"], "socket", "{language:?}");
            }
            serve.kill();
            for _ in 10..25 {
                let receipt = sender.hear();
                assert!(receipt["error"].is_null(), "{language:?}: {receipt}");
            }
            ids.push(format!("m{round}-last"));
            assert_eq!(sender.send(&order(&ids[25]))["path"], "directory");
            sent.append(&mut ids);
        }
        let _serve = place.serve_with(&DIRECTORY);
        eventually("every file is taken", || {
            std::fs::read_dir(place.path("spool/orders/messages"))
                .is_ok_and(|mut files| files.next().is_none())
        });
        place.drained();
        place.found().is_exactly(&sent);
    }
}
