//! Lines of JSON: what is taken, what each is answered, and programs that speak nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Lines, PATIENCE, Rig, Seen, hello, message, shell};

fn line(id: &str) -> String {
    format!("{}\n", message(id))
}

fn taken(id: &str, outcome: &str) -> Value {
    json!({"success": true, "id": id, "outcome": outcome})
}

/// Waits for the code of a refusal.
async fn refused(peer: &mut Lines) -> String {
    let reply = peer.recv().await;
    assert_eq!(reply["success"], false, "{reply}");
    assert!(!reply["error"].as_str().unwrap().is_empty(), "{reply}");
    reply["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_line_is_answered_with_a_line_however_the_bytes_come() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let stream = format!(
        "\r\n \t\n{}\r\n\n  {}  \n[{},\t{}]\n{}",
        message("a"),
        message("b"),
        message("c"),
        message("d"),
        line("e"),
    );
    for size in [1, 2, 3, 7, 50, stream.len()] {
        let mut peer = rig.lines().await;
        for chunk in stream.as_bytes().chunks(size) {
            peer.stream.write_all(chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        for id in ["a", "b", "c", "d", "e"] {
            assert_eq!(peer.recv().await, taken(id, "processed"), "{size}");
        }
        peer.end().await;
        assert_eq!(peer.next().await, None);
    }
    assert_eq!(seen.ids(), ["a", "b", "c", "d", "e"], "the rest are copies");
    running.stop().await;
}

#[tokio::test]
async fn a_message_needs_only_type_and_payload_and_hears_its_id() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.lines().await;
    peer.write("{\"type\":\"t\",\"payload\":{\"a\": 1.50}}\n")
        .await;
    let reply = peer.recv().await;
    assert_eq!(reply["id"], seen.ids()[0]);
    assert_eq!(seen.all()[0].payload.as_str(), r#"{"a": 1.50}"#);
    running.stop().await;
}

#[tokio::test]
async fn a_line_that_is_wrong_is_answered_and_the_next_ones_are_taken() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.lines().await;
    for (wrong, code) in [
        ("{\"type\":", "bad_json"),
        ("{\"type\":\"t\",\"payload\":1}x", "bad_json"),
        ("7", "bad_frame"),
        ("[]", "bad_frame"),
        ("{}", "invalid"),
        ("{\"type\":\"t\",\"payload\":1,\"priority\":101}", "invalid"),
        ("{\"op\":\"dance\"}", "unknown_op"),
        ("\u{7f}", "bad_json"),
    ] {
        peer.write(&format!(" {wrong}\n")).await;
        assert_eq!(refused(&mut peer).await, code, "{wrong}");
    }
    peer.write(&format!("[{{\"id\":\"no\"}},{}]\n", message("a")))
        .await;
    let mut replies = [peer.recv().await, peer.recv().await];
    replies.sort_by_key(|reply| reply["success"].as_bool());
    assert_eq!(
        (&replies[0]["id"], &replies[0]["code"]),
        (&json!("no"), &json!("invalid"))
    );
    assert_eq!(replies[1], taken("a", "processed"));
    peer.write("{\"op\":\"ping\"}\n").await;
    assert_eq!(peer.recv().await, json!({"op": "pong"}));
    peer.write("{\"op\":\"save\"}\n").await;
    assert_eq!(peer.recv().await, json!({"op": "saved", "saved": true}));
    running.stop().await;
}

#[tokio::test]
async fn a_handler_that_fails_and_one_that_is_not_there_are_told() {
    let rig = Rig::new();
    let running = rig
        .start(
            rig.builder()
                .on("fails", |_: Value| async { Err::<(), _>("no") }),
        )
        .await;
    let mut peer = rig.lines().await;
    peer.write("{\"id\":\"f\",\"type\":\"fails\",\"payload\":1}\n")
        .await;
    assert_eq!(peer.recv().await, taken("f", "stored"));
    peer.write(&line("n")).await;
    assert_eq!(
        peer.recv().await,
        json!({"success": false, "id": "n", "outcome": "dead", "error": "no_route"})
    );
    peer.write("{\"id\":\"n\",\"type\":\"t\",\"payload\":\"other\"}\n")
        .await;
    assert_eq!(refused(&mut peer).await, "conflict");
    running.stop().await;
}

#[tokio::test]
async fn the_last_line_needs_no_end_but_must_be_whole() {
    for (last, code) in [
        (message("b").to_string(), None),
        ("{\"id\":".into(), Some("bad_json")),
    ] {
        let rig = Rig::new();
        let seen = Seen::default();
        let running = rig.start(rig.builder().default(seen.handler())).await;
        let mut peer = rig.lines().await;
        peer.write(&format!("{}{last}", line("a"))).await;
        peer.end().await;
        assert_eq!(peer.recv().await, taken("a", "processed"));
        match code {
            None => assert_eq!(peer.recv().await, taken("b", "processed")),
            Some(code) => assert_eq!(refused(&mut peer).await, code),
        }
        assert_eq!(peer.next().await, None);
        assert_eq!(seen.ids().len(), 1 + usize::from(code.is_none()));
        running.stop().await;
    }
}

#[tokio::test]
async fn who_writes_and_closes_at_once_loses_nothing() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    for peer_n in 0..20 {
        let mut peer = rig.lines().await;
        let text: String = (0..50).map(|n| line(&format!("{peer_n}-{n}"))).collect();
        peer.write(text.trim_end()).await;
    }
    seen.until_count(1_000).await;
    assert_eq!(running.stop().await.processed, 1_000);
}

#[tokio::test]
async fn a_line_that_is_too_long_ends_the_connection_and_what_came_before_is_processed() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.lines().await;
    peer.write(&line("before")).await;
    assert_eq!(peer.recv().await, taken("before", "processed"));
    let long = vec![b'x'; 1 << 20];
    // The consumer may have closed before all of it is written.
    while peer.stream.write_all(&long).await.is_ok() {}
    assert_eq!(refused(&mut peer).await, "too_large");
    assert_eq!(peer.next().await, None);
    assert_eq!(seen.ids(), ["before"]);
    running.stop().await;
}

#[tokio::test]
async fn hello_works_in_lines_and_so_do_windows_and_numbers() {
    let mut rig = Rig::new();
    rig.config.machine.window_max = 2;
    let running = rig
        .start(
            rig.builder()
                .on("t", |_: Value| async {})
                .on("long", |_: Value| std::future::pending::<()>()),
        )
        .await;
    let mut peer = rig.lines().await;
    peer.write(&format!("{}\n", hello(1, 1, 5))).await;
    let answer = peer.recv().await;
    assert_eq!(
        (&answer["op"], &answer["window"]),
        (&json!("hello"), &json!(2))
    );
    peer.write(&line("a")).await;
    assert_eq!(
        peer.recv().await,
        json!({"op": "ack", "processed": [[5, 5]]})
    );
    peer.write("{\"op\":\"at\",\"n\":9}\r\n").await;
    peer.write(&format!("[{}]\n", message("b"))).await;
    assert_eq!(
        peer.recv().await,
        json!({"op": "ack", "processed": [[9, 9]]})
    );
    peer.write("{\"payload\":1}\n").await;
    let nack = peer.recv().await;
    assert_eq!((&nack["op"], &nack["n"]), (&json!("nack"), &json!(10)));
    // A line that cannot be counted ends it here.
    peer.write("{\"type\":\n").await;
    let error = peer.recv().await;
    assert_eq!(
        (&error["op"], &error["code"], &error["n"]),
        (&json!("error"), &json!("bad_json"), &json!(11))
    );
    assert_eq!(peer.next().await, None);

    let mut peer = rig.lines().await;
    peer.write(&format!("{}\n", hello(2, 1, 1))).await;
    peer.recv().await;
    for id in ["x", "y", "z"] {
        peer.write(&format!(
            "{{\"id\":\"{id}\",\"type\":\"long\",\"payload\":1}}\n"
        ))
        .await;
    }
    let error = peer.recv().await;
    assert_eq!(error["code"], "window_overrun", "{error}");
    running.stop().await;
}

#[tokio::test]
async fn commands_reach_the_handler_of_their_name_or_that_of_their_type() {
    let rig = Rig::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = |by: &'static str| {
        let heard = Arc::clone(&heard);
        move |command: Value| {
            let said = format!("{by}: {}", command["command"].as_str().unwrap());
            heard.lock().unwrap().push((said, command));
            std::future::ready(())
        }
    };
    let running = rig
        .start(
            rig.builder()
                .on_command("privmsg", hear("by name"))
                .on_command("join", hear("by name"))
                .on("command", hear("by type")),
        )
        .await;
    let mut peer = rig.lines().await;
    for (command, by) in [
        (r##"{"command":"join","channel":"#ruby"}"##, "by name: join"),
        (
            r##"{"command":"privmsg","target":"#ruby","message":"hi"}"##,
            "by name: privmsg",
        ),
        (r#"{"command":"notice","message":"!"}"#, "by type: notice"),
        (r#"{"command":"nick","nick":"matz"}"#, "by type: nick"),
        (r##"{"command":"part","channel":"#ruby"}"##, "by type: part"),
        (r#"{"command":"quit"}"#, "by type: quit"),
        (r#"{"command":"dance"}"#, "by type: dance"),
    ] {
        peer.write(&format!("{command}\n")).await;
        assert_eq!(peer.recv().await["outcome"], "processed", "{command}");
        let (said, object) = heard.lock().unwrap().pop().unwrap();
        assert_eq!(said, by);
        assert_eq!(object, serde_json::from_str::<Value>(command).unwrap());
    }
    peer.write("{\"command\":7}\n").await;
    assert_eq!(refused(&mut peer).await, "invalid");
    running.stop().await;
}

#[tokio::test]
async fn a_peer_that_reads_late_gets_every_answer() {
    let rig = Rig::new();
    let handled = Arc::new(AtomicUsize::new(0));
    let count_one = Arc::clone(&handled);
    let handler = move |_| {
        count_one.fetch_add(1, Ordering::Relaxed);
        async {}
    };
    let running = rig.start(rig.builder().default(handler)).await;
    let (reader, mut writer) = rig.lines().await.stream.into_inner().into_split();
    // More answers than are kept for a peer that does not read.
    let count = 40_000;
    let writing = tokio::spawn(async move {
        for n in 0..count {
            writer
                .write_all(line(&n.to_string()).as_bytes())
                .await
                .unwrap();
        }
        writer
    });
    // It is read from no more, or it was read to its end.
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = handled.load(Ordering::Relaxed);
        if now > count / 4 && now == before {
            break;
        }
        before = now;
    }
    let mut lines = tokio::io::BufReader::new(reader);
    let mut ids = BTreeSet::new();
    while ids.len() < count {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, lines.read_line(&mut line)).await;
        let read = read.unwrap_or_else(|_| panic!("only {} came", ids.len()));
        assert!(read.unwrap() > 0, "only {} came", ids.len());
        let reply: Value = serde_json::from_str(&line).unwrap();
        ids.insert(reply["id"].as_str().unwrap().to_owned());
    }
    writing.await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_peer_that_never_reads_is_heard_to_its_end_and_can_see_that_its_answers_have_one() {
    let rig = Rig::new();
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut peer = rig.lines().await;
    let text: String = (0..40_000).map(|n| line(&n.to_string())).collect();
    peer.write(&text).await;
    let mut answers = String::new();
    let reading = peer.stream.read_to_string(&mut answers);
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.expect("no end").unwrap();
    let whole = answers.matches('\n').count();
    assert!((1_000..40_000).contains(&whole), "{whole}");
    peer.write(&line("last")).await;
    peer.end().await;
    drop(peer);
    assert_eq!(running.stop().await.processed, 40_001);
}

#[tokio::test]
async fn lines_wait_while_the_consumer_is_full_and_a_hello_does_not() {
    let mut rig = Rig::new();
    rig.config.machine.pending_max = 1;
    rig.config.machine.hold_max = Duration::from_secs(60);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let seen = Seen::default();
    let (noted, open) = (seen.clone(), gate.clone());
    let handler = move |delivery| {
        noted.note(&delivery);
        let open = open.clone();
        async move { open.acquire().await.unwrap().forget() }
    };
    let running = rig.start(rig.builder().default(handler)).await;
    let mut peer = rig.lines().await;
    peer.write(&line("a")).await;
    seen.until_count(1).await;
    peer.write(&line("b")).await;
    let mut late = rig.lines().await;
    late.write(&format!("\n\n{}", line("c"))).await;
    let mut greeted = rig.lines().await;
    greeted.write(&format!("\n{}\n", hello(1, 1, 1))).await;
    assert_eq!(greeted.recv().await["op"], "hello");
    assert_eq!(seen.ids(), ["a"], "nothing was taken meanwhile");
    gate.add_permits(3);
    let mut ids = [peer.recv().await, peer.recv().await].map(|reply| reply["id"].to_string());
    ids.sort();
    assert_eq!(ids, ["\"a\"", "\"b\""]);
    assert_eq!(late.recv().await, taken("c", "processed"));
    running.stop().await;
}

#[tokio::test]
async fn a_shutdown_reads_and_answers_what_has_arrived() {
    let rig = Rig::new();
    let slow = |_| async { tokio::time::sleep(Duration::from_millis(20)).await };
    let running = rig.start(rig.builder().default(slow)).await;
    let mut peer = rig.lines().await;
    let text: String = (0..30).map(|n| line(&n.to_string())).collect();
    peer.write(&text).await;
    let stopping = running.tell_to_stop();
    let replies = peer.rest().await;
    assert_eq!(replies.len(), 30);
    assert!(replies.iter().all(|reply| reply["success"] == true));
    let summary = stopping.await.unwrap().unwrap();
    assert_eq!(summary.processed + summary.stored, 30, "{summary:?}");
}

#[tokio::test]
async fn nc_socat_and_a_shell_can_talk_to_it() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let socket = rig.socket();
    let socket = socket.display();
    let say = |id: &str| format!("printf '%s\\n' '{}'", message(id));
    let mut expected = Vec::new();
    for (program, id, command) in [
        ("nc", "nc", format!("{} | nc -N -U {socket}", say("nc"))),
        (
            "socat",
            "socat",
            format!("{} | socat -t5 - UNIX-CONNECT:{socket}", say("socat")),
        ),
        (
            "python3",
            "python",
            format!(
                "python3 -c 'import socket, sys\ns = socket.socket(socket.AF_UNIX); s.connect(\"{socket}\")\n\
                 s.sendall(sys.stdin.buffer.read()); print(s.makefile().readline(), end=\"\")' < <({})",
                say("python")
            ),
        ),
    ] {
        if let Some(said) = shell(program, &command).await {
            let reply: Value = serde_json::from_str(said.trim_end()).unwrap();
            assert_eq!(reply, taken(id, "processed"), "{program}");
            expected.push(id);
        }
    }
    assert!(!expected.is_empty(), "none of them is installed");
    assert_eq!(seen.ids(), expected);
    running.stop().await;
}
