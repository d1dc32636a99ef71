//! `replay` with filters, beside a consumer that runs: counted, paced, stopped, killed, resumed.

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use spoolway::Consumer;
use spoolway::consumer::Delivery;

use crate::support::{Place, Serve, eventually, text};

/// Messages in the queue file, of two types by turns.
fn spool(place: &Place, messages: usize) {
    let lines = (0..messages).map(|n| {
        let kind = ["candle:open", "order"][n % 2];
        json!({ "id": format!("m{n}"), "type": kind, "key": format!("k{}", n % 3), "payload": { "n": n } })
            .to_string()
    });
    let lines: Vec<String> = lines.collect();
    std::fs::write(place.path("messages.jsonl"), lines.join("\n")).expect("a file");
    let sent = place.run(&["send", "--file", "messages.jsonl"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
}

/// A consumer that has processed so many messages from the file.
fn serve_after(place: &Place, messages: usize) -> Serve {
    spool(place, messages);
    let serve = place.serve();
    place.drained();
    eventually("all are in the sink", || place.lines_so_far() == messages);
    serve
}

/// How often each id is in the sink's file, fewest first.
fn times(place: &Place) -> Vec<usize> {
    let mut times: Vec<usize> = place.found().ids.into_values().collect();
    times.sort_unstable();
    times
}

fn replayed(place: &Place) -> i64 {
    place.count("SELECT count(*) FROM message_queue WHERE delivery > 0")
}

/// Neither half replayed nor counted wrong.
fn is_whole(place: &Place) {
    let half = "SELECT count(*) FROM message_queue WHERE NOT (delivery = 0 AND processed = 1) \
        AND NOT (delivery > 0 AND (processed = 1 OR processed_at IS NULL))";
    assert_eq!(place.count(half), 0);
    let checked = place.run(&["queue", "check", "--full"]);
    assert!(checked.status.success(), "{}", text(&checked.stdout));
    let audit = place.run(&["audit"]);
    assert!(audit.status.success(), "{}", text(&audit.stdout));
}

fn start(place: &Place, args: &[&str]) -> Child {
    let mut command = place.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary runs")
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("our own child");
}

#[test]
fn what_a_filter_means_is_counted_and_delivered_again_by_the_consumer_that_runs() {
    let place = Place::new();
    let _serve = serve_after(&place, 20);
    let dry = [
        "replay",
        "--since",
        "1h",
        "--type",
        "candle:*",
        "--rate",
        "500",
        "--dry-run",
    ];
    let said = text(&place.run(&dry).stdout);
    assert_eq!(
        said,
        "10 messages would be replayed\n  candle:open         10\n"
    );
    let counted = place.json(&["replay", "--all", "--dry-run", "--json"]);
    assert_eq!(counted["messages"], 20);
    assert_eq!(
        counted["by_type"],
        json!({ "candle:open": 10, "order": 10 })
    );
    assert_eq!((replayed(&place), place.lines().len()), (0, 20), "changed");

    let run = place.run(&[
        "replay", "--since", "1h", "--type", "candle:*", "--rate", "500",
    ]);
    assert_eq!(
        text(&run.stdout),
        "10 messages replayed: 10 delivered\n",
        "{}",
        text(&run.stderr)
    );
    assert_eq!(times(&place), [[1; 10], [2; 10]].concat());
    let again: BTreeSet<String> = place.lines()[20..]
        .iter()
        .map(|line| line["type"].as_str().expect("a type").to_owned())
        .collect();
    assert_eq!(again, BTreeSet::from(["candle:open".to_owned()]));

    let two = place.json(&["replay", "--id", "m1", "--id", "m3", "--json"]);
    assert_eq!(
        (&two["replayed"], &two["delivered"]),
        (&2.into(), &2.into())
    );
    let of_key = place.json(&["replay", "--key", "k0", "--type", "order", "--json"]);
    assert_eq!(of_key["delivered"], 3);
    is_whole(&place);
}

#[test]
fn what_cannot_be_replayed_is_refused_before_anything_is_changed() {
    let place = Place::new();
    let _serve = serve_after(&place, 4);
    for (args, exit) in [
        (&["--id", "m1", "--id", "nobody"][..], 66),
        (&["--id", "m1", "--state", "dead"], 66),
        (&["--dry-run"], 2),
        (&["--rate", "5"], 2),
        (&["--no-wait"], 2),
        (&["--all", "--since", "1h"], 2),
        (&["--all", "--rate", "0"], 2),
        (&["--since", "yesterday"], 2),
    ] {
        let run = place.command(&["replay"]).args(args).output();
        let run = run.expect("the binary runs");
        assert_eq!(
            run.status.code(),
            Some(exit),
            "{args:?} {}",
            text(&run.stderr)
        );
    }
    let nothing = place.run(&["replay", "--until", "1h"]);
    assert_eq!(text(&nothing.stdout), "nothing to replay\n");
    assert!(text(&nothing.stderr).contains("--retention"));
    assert_eq!(replayed(&place), 0);
}

#[test]
fn without_a_consumer_nothing_is_changed_unless_nobody_waits() {
    let place = Place::new();
    assert!(serve_after(&place, 6).terminate().success());
    let run = place.run(&["replay", "--all"]);
    assert_eq!(run.status.code(), Some(69), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("--no-wait"));
    assert_eq!((replayed(&place), place.pending()), (0, 0));

    let run = place.run(&["replay", "--all", "--no-wait"]);
    assert_eq!(text(&run.stdout), "6 messages replayed: 6 pending\n");
    assert!(text(&run.stderr).contains("no consumer runs"));
    assert_eq!(place.pending(), 6);
    let again = place.json(&["replay", "--all", "--no-wait", "--json"]);
    assert_eq!(again["replayed"], 0, "they are pending: {again}");
    let _serve = place.serve();
    eventually("all have run twice", || place.lines_so_far() == 12);
    place.drained();
    assert_eq!(times(&place), [2; 6]);
}

#[test]
fn dead_letters_are_replayed_and_those_that_die_again_are_counted() {
    let place = Place::new();
    for n in 0..3 {
        place.json(&[
            "send",
            "--type",
            "late",
            "--ttl",
            "1ms",
            &n.to_string(),
            "--json",
        ]);
    }
    let _serve = place.serve();
    eventually("all are dead", || {
        place.count("SELECT count(*) FROM message_queue WHERE processed = 2") == 3
    });
    let run = place.run(&["replay", "--state", "dead"]);
    assert_eq!(text(&run.stdout), "3 messages replayed: 3 delivered\n");
    assert_eq!(place.lines().len(), 3);
}

#[test]
fn a_stopped_replay_kept_its_pace_and_says_how_to_go_on() {
    const RATE: u32 = 10;
    const MESSAGES: usize = 200;
    let place = Place::new();
    let _serve = serve_after(&place, MESSAGES);
    let started = Instant::now();
    let pace = RATE.to_string();
    let args = [
        "replay",
        "--since",
        "1h",
        "--type",
        "*",
        "--rate",
        &pace,
        "--json",
        "--database",
        "queue.db",
    ];
    let mut command = place.command(&args);
    command.env_remove("SPOOLWAY_DATABASE");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    eventually("some have run again", || {
        place.lines_so_far() >= MESSAGES + 3
    });
    signal(&child, Signal::INT);
    let ended = crate::support::wait(&mut child);
    let passed = started.elapsed().as_secs_f64();
    assert_eq!(ended.code(), Some(130));
    let Output { stdout, stderr, .. } = child.wait_with_output().expect("our own child");
    let said: Value = serde_json::from_slice(&stdout).expect("one JSON object");

    let gone = replayed(&place);
    assert_eq!(said["replayed"], gone, "{said}");
    let most = passed * f64::from(RATE) + 1.0;
    assert!(gone >= 3 && (gone as f64) <= most, "{gone} in {passed} s");

    // What it says is a command, and that command replays the rest and nothing twice, wherever it is given.
    let resume = said["resume"].as_str().expect("a command");
    assert!(text(&stderr).contains(resume), "{}", text(&stderr));
    assert!(
        resume.contains(&format!("--after {}", said["after"])),
        "{resume}"
    );
    let faster = resume.replace(&format!("--rate {RATE}"), "--rate 100000");
    let binaries = std::path::Path::new(crate::support::SPOOLWAY).parent();
    let path = binaries.expect("a directory").display().to_string();
    let path = format!("{path}:{}", std::env::var("PATH").expect("a PATH"));
    let rest = Command::new("sh")
        .args(["-c", &faster])
        .env("PATH", path)
        .env_remove("SPOOLWAY_SOCKET")
        .env_remove("SPOOLWAY_DATABASE")
        .current_dir("/")
        .output()
        .expect("a shell runs");
    assert!(rest.status.success(), "{}", text(&rest.stderr));
    place.drained();
    assert_eq!(times(&place), [2; MESSAGES]);
    is_whole(&place);
}

#[test]
fn a_replay_that_is_killed_leaves_each_message_replayed_or_not() {
    const MESSAGES: usize = 100;
    let place = Place::new();
    let _serve = serve_after(&place, MESSAGES);
    let mut child = start(&place, &["replay", "--all", "--rate", "20"]);
    eventually("some have run again", || place.lines_so_far() > MESSAGES);
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    place.drained();
    let gone = replayed(&place);
    assert!((1..100).contains(&gone), "{gone}");
    eventually("those run", || {
        place.lines_so_far() == MESSAGES + gone.unsigned_abs() as usize
    });
    is_whole(&place);

    // Without a word of how far it came all are replayed: each at least once again.
    let all = place.json(&["replay", "--all", "--json"]);
    assert_eq!(
        (&all["delivered"], &all["pending"]),
        (&100.into(), &0.into())
    );
    let times = times(&place);
    assert!(times[0] == 2 && times[99] == 3, "{times:?}");
    is_whole(&place);
}

#[test]
fn a_consumer_killed_during_a_replay_leaves_it_to_the_next_one() {
    let place = Place::new();
    let serve = serve_after(&place, 300);
    let mut child = start(&place, &["replay", "--all", "--rate", "300", "--json"]);
    eventually("some have run again", || place.lines_so_far() > 310);
    serve.kill();
    let _next = place.serve();
    let ended = crate::support::wait(&mut child);
    let output = child.wait_with_output().expect("our own child");
    assert!(ended.success(), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(
        (&said["delivered"], &said["dead"]),
        (&300.into(), &0.into())
    );
    place.drained();
    assert!(times(&place)[0] >= 2);
    is_whole(&place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_told_that_a_message_is_replayed() {
    let place = Place::new();
    spool(&place, 4);
    let seen: Arc<Mutex<Vec<(String, bool, u32)>>> = Arc::default();
    let (shut_down, shutdown) = tokio::sync::oneshot::channel::<()>();
    let told = Arc::clone(&seen);
    let consumer = Consumer::builder(place.socket(), place.database())
        .default(move |delivery: Delivery| {
            let one = (delivery.id.to_string(), delivery.replayed, delivery.attempt);
            told.lock().expect("no panic").push(one);
            async {}
        })
        .run(async { drop(shutdown.await) });
    let consumer = tokio::spawn(consumer);
    let replay = tokio::task::block_in_place(|| {
        place.drained();
        place.run(&["replay", "--type", "order", "--timeout", "60s"])
    });
    assert_eq!(
        text(&replay.stdout),
        "2 messages replayed: 2 delivered\n",
        "{}",
        text(&replay.stderr)
    );
    shut_down.send(()).expect("it runs");
    let ended = tokio::time::timeout(Duration::from_secs(60), consumer).await;
    ended
        .expect("in time")
        .expect("no panic")
        .expect("in order");
    let seen = seen.lock().expect("no panic").clone();
    let (first, again): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(_, replayed, _)| !replayed);
    assert_eq!((first.len(), again.len()), (4, 2));
    let again: BTreeSet<(String, bool, u32)> = again.into_iter().collect();
    let expected = ["m1", "m3"].map(|id| (id.to_owned(), true, 1));
    assert_eq!(again, BTreeSet::from(expected));
}
