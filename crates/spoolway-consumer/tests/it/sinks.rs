//! The file sink: one line a message, also across kills.

use std::fs;

use serde_json::{Value, json};
use spoolway_consumer::Sink;

use crate::support::{Rig, Seen, message, until};

fn lines(rig: &Rig) -> Vec<Value> {
    let text = fs::read_to_string(rig.path("out.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ids(rig: &Rig) -> Vec<String> {
    lines(rig)
        .iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_message_is_a_line_before_it_is_processed() {
    let rig = Rig::new();
    let other = Seen::default();
    let builder = rig
        .builder()
        .on_message("own", other.handler())
        .sink(Sink::file(rig.path("out.jsonl")));
    let running = rig.start(builder).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(json!([message("a"), message("b"), {"type": "own", "payload": 1}]))
        .await;
    peer.send(json!({"id": "c", "type": "t", "payload": [1], "key": "k", "timestamp": 5}))
        .await;
    for n in 1..=4 {
        assert_eq!(peer.outcome(n).await, "processed");
    }
    assert_eq!(
        lines(&rig)[2],
        json!({"id": "c", "type": "t", "payload": [1], "key": "k", "timestamp": 5})
    );
    assert_eq!(other.all().len(), 1);
    assert_eq!(running.stop().await.processed, 4);
    assert!(rig.path("out.jsonl.mark").exists());
}

#[tokio::test]
async fn a_kill_between_the_line_and_its_outcome_writes_no_line_twice() {
    let rig = Rig::new();
    let builder = || rig.builder().sink(Sink::file(rig.path("out.jsonl")));
    let running = rig.start(builder()).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(json!([message("by_row"), message("by_socket")]))
        .await;
    until("both are lines", || lines(&rig).len() == 2).await;
    running.kill().await;
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(rig.path("out.jsonl"))
        .unwrap();
    std::io::Write::write_all(&mut file, b"{\"id\":\"torn\",\"ty").unwrap();
    // One was spooled by its producer, who had no answer; the other comes again over the socket.
    let payload = message("by_row")["payload"].to_string();
    rig.sql()
        .execute(
            "INSERT INTO message_queue (message_id, type, payload, timestamp) VALUES ('by_row', 't', ?1, 1)",
            [payload],
        )
        .unwrap();
    let running = rig.start(builder()).await;
    assert_eq!(
        rig.row("by_row").unwrap().processed,
        1,
        "settled before the consumer listens"
    );
    let mut peer = rig.peer().await;
    peer.hello(2, 1, 1).await;
    peer.send(json!([message("by_socket"), message("new")]))
        .await;
    until("the new one is a line", || lines(&rig).len() >= 3).await;
    running.stop().await;
    assert_eq!(ids(&rig), ["by_row", "by_socket", "new"]);
}

#[tokio::test]
async fn a_sink_that_cannot_be_opened_keeps_the_consumer_from_starting() {
    let rig = Rig::new();
    let error = rig
        .builder()
        .sink(Sink::file(rig.path("no/such/dir")))
        .build()
        .await
        .err()
        .unwrap();
    assert_eq!(error.code(), "sink");
    assert!(!rig.socket().exists());
    rig.start(rig.builder()).await.stop().await;
}
