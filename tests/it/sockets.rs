//! Consumers by name, who may connect to them, and what becomes of those who only take up room.

use std::fs::{Permissions, set_permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Place, SPOOLWAY, Serve, eventually, is_root, skip, text};

const NOBODY: u32 = 65_534;

/// A command of the binary that finds its files by the environment alone.
fn named(place: &Place, binary: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command
        .args(args)
        .env_remove("SPOOLWAY_SOCKET")
        .env_remove("SPOOLWAY_DATABASE")
        .env("SPOOLWAY_SOCKET_DIR", place.path("run"))
        .env("XDG_STATE_HOME", place.path("state"))
        .stdin(Stdio::null());
    command
}

fn serve(place: &Place, instance: &str, options: &[&str]) -> Serve {
    let log = place.path(&format!("{instance}.log"));
    let args = ["serve", "--channel", "market-data", "--instance", instance];
    let child = named(place, SPOOLWAY, &args)
        .args(options)
        .stdout(std::fs::File::create(place.path(&format!("{instance}.out"))).expect("a file"))
        .stderr(std::fs::File::create(log).expect("a log file"))
        .spawn()
        .expect("the binary runs");
    let socket = socket(place, instance);
    eventually("it listens", || UnixStream::connect(&socket).is_ok());
    Serve { child }
}

fn socket(place: &Place, instance: &str) -> PathBuf {
    place.path(&format!("run/market-data-{instance}.sock"))
}

fn send(place: &Place, binary: &str, instance: &str) -> Command {
    let mut send = named(place, binary, &["send", "--type", "t", "--json", "1"]);
    send.args(["--channel", "market-data", "--instance", instance]);
    send
}

/// What `sockets --json` says of each.
fn listed(place: &Place, binary: &str, as_nobody: bool) -> Vec<Value> {
    let mut list = named(place, binary, &["sockets", "--json", "--timeout", "500ms"]);
    if as_nobody {
        list.uid(NOBODY).gid(NOBODY);
    }
    let run = list.output().expect("the binary runs");
    assert!(run.status.success(), "{}", text(&run.stderr));
    let report: Value = serde_json::from_slice(&run.stdout).expect("one JSON object");
    report["sockets"].as_array().expect("a list").clone()
}

#[test]
fn a_channel_names_a_socket_and_a_queue_file_for_both_ends() {
    let place = Place::new();
    let one = serve(&place, "1", &[]);
    let two = serve(&place, "2", &[]);
    for instance in ["1", "2"] {
        // A path in the environment gives way to a name on the command line.
        let sent = send(&place, SPOOLWAY, instance)
            .env("SPOOLWAY_SOCKET", place.path("nowhere.sock"))
            .output();
        let receipt: Value = serde_json::from_slice(&sent.expect("it runs").stdout).expect("JSON");
        assert_eq!(receipt["path"], "socket", "{receipt}");
        assert!(
            place
                .path(&format!("state/spoolway/market-data-{instance}.db"))
                .exists()
        );
    }
    assert!(one.terminate().success() && two.terminate().success());

    let wrong = [
        (&["--channel", "../x"][..], "no channel can be called"),
        (
            &["--channel", "a", "--instance", "1-2"],
            "no instance can be called",
        ),
        (&["--instance", "1"], "needs its --channel"),
        (
            &["--channel", "a", "--socket", "s"],
            "a --channel or a --socket",
        ),
    ];
    for (options, said) in wrong {
        let run = named(&place, SPOOLWAY, &["send", "--type", "t", "1"])
            .args(options)
            .output();
        let run = run.expect("the binary runs");
        let found = text(&run.stderr);
        assert!(
            run.status.code() == Some(2) && found.contains(said),
            "{found}"
        );
    }
    let long = place.path(&"d".repeat(100));
    let run = send(&place, SPOOLWAY, "1")
        .env("SPOOLWAY_SOCKET_DIR", long)
        .output();
    let found = text(&run.expect("the binary runs").stderr);
    assert!(
        found.contains("error[socket_path]") && found.contains("at most 107"),
        "{found}"
    );
}

#[test]
fn a_consumer_that_is_stopped_or_killed_is_told_from_one_that_lives() {
    let place = Place::new();
    let live = serve(&place, "live", &[]);
    let stopped = serve(&place, "stopped", &[]);
    serve(&place, "killed", &[]).kill();
    stopped.signal(Signal::STOP);
    let began = Instant::now();
    let found = listed(&place, SPOOLWAY, false);
    assert!(began.elapsed() < Duration::from_secs(20), "it hung");
    stopped.signal(Signal::CONT);
    let of = |n: usize| {
        let one = &found[n];
        assert_eq!(one["channel"], "market-data");
        let reason = one["reason"].as_str().unwrap_or("");
        let word = |name: &str| one[name].as_str().expect("text").to_owned();
        (word("instance"), word("state"), reason.to_owned())
    };
    let row = |instance: &str, state: &str, reason: &str| {
        (instance.to_owned(), state.to_owned(), reason.to_owned())
    };
    assert_eq!(
        of(0),
        row(
            "killed",
            "stale",
            "consumer not running (connection refused)"
        )
    );
    assert_eq!(of(1), row("live", "live", ""));
    assert_eq!(
        of(2),
        row("stopped", "not_answering", "not responding (timeout)")
    );
    assert_eq!(found[1]["pid"], live.child.id());
    assert_eq!(found[2]["pid"], stopped.child.id());
    assert!(
        found[1]["answer_ms"].as_f64().is_some_and(|ms| ms < 500.0),
        "{}",
        found[1]
    );
    assert!(socket(&place, "killed").exists(), "nothing is removed");

    let table = named(&place, SPOOLWAY, &["sockets"])
        .output()
        .expect("the binary runs");
    let table = text(&table.stdout);
    assert!(
        table.starts_with("name") && table.lines().count() == 4,
        "{table}"
    );
}

#[test]
fn a_send_says_why_the_consumer_cannot_be_reached() {
    let place = Place::new();
    let said = || {
        let mut send = named(&place, SPOOLWAY, &["send", "--type", "t", "1"]);
        send.args(["--channel", "market-data", "--instance", "1"]);
        text(&send.output().expect("the binary runs").stdout)
    };
    let none = said();
    assert!(
        none.ends_with(": consumer not running (socket not found)\n"),
        "{none}"
    );
    serve(&place, "1", &[]).kill();
    let dead = said();
    assert!(
        dead.ends_with(": consumer not running (connection refused)\n"),
        "{dead}"
    );
}

#[test]
fn a_user_who_is_allowed_may_send_and_another_is_told_why_not() {
    if !is_root() {
        return skip("only root can become another user");
    }
    let place = Place::new();
    let world = |path: PathBuf, mode| set_permissions(path, Permissions::from_mode(mode));
    world(place.dir.path().into(), 0o777).expect("our own directory");
    let binary = place.path("spoolway");
    std::fs::copy(SPOOLWAY, &binary).expect("a copy that anybody may run");
    let binary = binary.to_str().expect("a plain path");
    let allowing = serve(&place, "open", &["--allow-uid", &NOBODY.to_string()]);
    let private = serve(&place, "private", &[]);
    let as_nobody = |instance: &str| {
        let mut send = send(&place, binary, instance);
        let queue = place.path(&format!("nobody-{instance}.db"));
        send.uid(NOBODY)
            .gid(NOBODY)
            .args(["--database".as_ref(), queue.as_os_str()]);
        send
    };

    let found = listed(&place, binary, true);
    assert_eq!(found[0]["state"], "live", "{}", found[0]);
    assert_eq!(found[1]["state"], "not_permitted", "{}", found[1]);
    let denied = format!("permission denied (socket mode 0600, owner uid 0, you are uid {NOBODY})");
    assert_eq!(found[1]["reason"], denied.as_str());
    assert_eq!(found[1]["code"], "permission_denied");

    let sent = as_nobody("private").output().expect("the binary runs");
    let receipt: Value = serde_json::from_slice(&sent.stdout).expect("JSON");
    assert_eq!(receipt["reason"], denied.as_str());
    // It reaches the other one, whose queue file is another: only a user who was let in learns that.
    let sent = as_nobody("open").output().expect("the binary runs");
    let said = text(&sent.stderr);
    assert!(said.contains("other_queue"), "{said}");

    // Let through by the file, and not on the list.
    world(socket(&place, "private"), 0o666).expect("our own socket");
    let sent = as_nobody("private").output().expect("the binary runs");
    let receipt: Value = serde_json::from_slice(&sent.stdout).expect("JSON");
    let refused =
        format!("permission denied (socket mode 0666, owner uid 0, you are uid {NOBODY})");
    assert!(
        receipt["reason"]
            .as_str()
            .is_some_and(|said| said.contains(&refused)),
        "{receipt}"
    );
    assert!(allowing.terminate().success() && private.terminate().success());
    let log = place.said("private.log");
    assert!(
        log.contains(&refused) && log.contains(&format!("uid={NOBODY}")),
        "{log}"
    );
}

#[test]
fn a_consumer_that_has_no_more_files_goes_on_and_accepts_again_later() {
    let place = Place::new();
    // Not enough for as many connections as it would take.
    let args = ["--nofile=60:60", SPOOLWAY, "serve"];
    let child = Command::new("prlimit")
        .args(args)
        .env("SPOOLWAY_SOCKET", place.socket())
        .env("SPOOLWAY_DATABASE", place.database())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(place.path("serve.log")).expect("a log file"))
        .spawn();
    let Ok(child) = child else {
        return skip("there is no `prlimit`");
    };
    let serve = Serve { child };
    place.listens();
    let mut crowd: Vec<UnixStream> = (0..90)
        .map(|_| UnixStream::connect(place.socket()).expect("its backlog has room"))
        .collect();
    eventually("it is out of files", || {
        place
            .said("serve.log")
            .contains("cannot accept connections")
    });
    // It still has what it needs for the ends of connections, and those bring room.
    drop(crowd.split_off(1));
    let sent = place.json(&["send", "--type", "t", "1", "--json"]);
    assert_eq!(sent["path"], "socket", "{sent}");
    drop(crowd);
    assert!(serve.terminate().success());
}

#[test]
fn silent_connections_are_ended_at_the_deadline() {
    let place = Place::new();
    let serve = place.serve();
    let began = Instant::now();
    let mut silent = UnixStream::connect(place.socket()).expect("it listens");
    let mut said = Vec::new();
    silent.read_to_end(&mut said).expect("the end");
    let took = began.elapsed();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(60)).contains(&took),
        "{took:?}"
    );
    assert!(text(&said).contains("busy"), "{}", text(&said));
    assert!(serve.terminate().success());
}
