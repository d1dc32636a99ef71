//! What goes over the wire, byte by byte.

use std::time::Instant;

use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::support::{PATIENCE, Rig, Seen, frame, hello, message};

#[tokio::test]
async fn hello_is_answered_and_messages_are_acked() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.peer().await;
    let answer = peer.hello(1, 1, 1).await;
    assert_eq!(answer["version"], 1);
    assert!(answer["window"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(answer["durability"], "full");
    assert_eq!(answer["message_bytes_max"], 10 << 20);
    let file: String = rig
        .sql()
        .query_row(
            "SELECT value FROM meta WHERE name = 'identity'",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(answer["queue"], file.as_str());

    peer.send(message("a")).await;
    assert_eq!(
        peer.recv().await,
        json!({"op": "ack", "processed": [[1, 1]]})
    );
    peer.send(json!([message("b"), message("c"), message("d")]))
        .await;
    assert_eq!(
        peer.recv().await,
        json!({"op": "ack", "processed": [[2, 4]]})
    );
    assert_eq!(seen.ids(), ["a", "b", "c", "d"]);
    let delivery = &seen.all()[0];
    assert_eq!((delivery.attempt, delivery.replayed), (1, false));
    assert_eq!(delivery.payload.as_str(), r#"{"of":"a"}"#);
    peer.send(json!({"op": "ping"})).await;
    assert_eq!(peer.recv().await, json!({"op": "pong"}));
    let summary = running.stop().await;
    assert_eq!((summary.processed, summary.stored, summary.dead), (4, 0, 0));
}

#[tokio::test]
async fn a_producer_hears_of_what_is_below_its_window_again_and_of_nothing_twice() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut first = rig.peer().await;
    first.hello(1, 1, 1).await;
    first.send(message("a")).await;
    assert_eq!(first.outcome(1).await, "processed");
    drop(first);
    let mut again = rig.peer().await;
    again.hello(1, 2, 1).await;
    again.send(message("a")).await;
    assert_eq!(again.outcome(1).await, "processed");
    assert_eq!(seen.ids(), ["a"], "the copy was settled, not run");
    running.stop().await;
}

#[tokio::test]
async fn an_older_connection_is_fenced_by_a_newer_one() {
    let rig = Rig::new();
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut old = rig.peer().await;
    old.hello(1, 1, 1).await;
    let mut new = rig.peer().await;
    new.hello(1, 2, 1).await;
    while let Some(told) = old.next().await {
        assert_eq!(told["op"], "window");
    }
    let mut stale = rig.peer().await;
    stale.send(hello(1, 2, 1)).await;
    assert_eq!(stale.error().await["code"], "stale_epoch");
    running.stop().await;
}

#[tokio::test]
async fn a_message_without_hello_needs_only_type_and_payload_and_hears_nothing() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.peer().await;
    peer.send(json!({"type": "candle:complete", "payload": [1]}))
        .await;
    seen.until_count(1).await;
    let delivery = &seen.all()[0];
    assert_eq!(delivery.id.as_str().len(), 36, "{}", delivery.id);
    assert!(delivery.timestamp.is_some());
    assert_eq!(&*delivery.r#type, "candle:complete");
    peer.send(json!({"type": "t", "payload": 1, "requires_ack": true, "id": "x"}))
        .await;
    let reply = peer.recv().await;
    assert_eq!(
        reply,
        json!({"success": true, "id": "x", "outcome": "processed"})
    );
    running.stop().await;
}

#[tokio::test]
async fn a_reply_reaches_a_client_that_has_closed_its_writing_side() {
    let rig = Rig::new();
    let slow = |_| async { tokio::time::sleep(std::time::Duration::from_millis(20)).await };
    let running = rig.start(rig.builder().default(slow)).await;
    let peer = rig.peer().await;
    let stream = peer.stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    std::io::Write::write_all(
        &mut &stream,
        &frame(r#"{"id":"x","type":"t","payload":1,"requiresAck":true}"#),
    )
    .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let mut peer = crate::support::Peer::from(stream);
    assert_eq!(peer.recv().await["outcome"], "processed");
    assert_eq!(peer.next().await, None);
    running.stop().await;
}

#[tokio::test]
async fn what_was_written_before_the_close_is_processed() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    for peer_n in 0..20 {
        let mut peer = rig.peer().await;
        let mut bytes = Vec::new();
        for n in 0..50 {
            bytes.extend(frame(&message(&format!("{peer_n}-{n}")).to_string()));
        }
        peer.write(&bytes).await;
    }
    seen.until_count(1_000).await;
    assert_eq!(running.stop().await.processed, 1_000);
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_on_ends_and_what_came_before_is_processed() {
    let half = &frame(&message("half").to_string())[..9];
    let mut long = u32::MAX.to_be_bytes().to_vec();
    long.extend_from_slice(b"{}");
    // A length of 4 GiB does not open frames at the start of a stream; later it is one.
    for (name, bytes, code) in [
        ("half a frame", half, "bad_frame"),
        ("half a length", &[0, 0][..], "bad_frame"),
        ("a length of 4 GiB", &long[..], "too_large"),
        ("a length of zero", &[0; 4][..], "bad_frame"),
        ("no JSON", &frame("{\"type\":")[..], "bad_json"),
        ("no UTF-8", &[0, 0, 0, 2, b'"', 0xff][..], "bad_json"),
        ("a number", &frame("7")[..], "bad_frame"),
        (
            "an unknown op",
            &frame(r#"{"op":"dance"}"#)[..],
            "unknown_op",
        ),
    ] {
        for greeted in [false, true] {
            let rig = Rig::new();
            let seen = Seen::default();
            let running = rig.start(rig.builder().default(seen.handler())).await;
            let mut peer = rig.peer().await;
            if greeted {
                peer.hello(1, 1, 5).await;
            }
            let mut stream = frame(&message("before").to_string());
            stream.extend_from_slice(bytes);
            peer.write(&stream).await;
            tokio::io::AsyncWriteExt::shutdown(&mut peer.stream)
                .await
                .unwrap();
            let mut error = peer.recv().await;
            if error["op"] == "ack" {
                error = peer.recv().await;
            }
            assert_eq!(
                (&error["op"], &error["code"]),
                (&json!("error"), &json!(code)),
                "{name}"
            );
            assert_eq!(
                error["n"],
                if greeted { json!(6) } else { json!(null) },
                "{name}: {error}"
            );
            assert_eq!(peer.next().await, None, "{name}");
            seen.until_count(1).await;
            assert_eq!(seen.ids(), ["before"], "{name}");
            running.stop().await;
        }
    }
}

#[tokio::test]
async fn an_invalid_message_takes_its_number_and_the_rest_goes_on() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.peer().await;
    peer.hello(1, 1, 1).await;
    peer.send(json!([{"payload": 1}, message("a"), {"type": "t", "payload": 1, "priority": 101}]))
        .await;
    let mut nacks = 0;
    let mut acked = false;
    while nacks < 2 || !acked {
        let told = peer.recv().await;
        if told["op"] == "nack" {
            nacks += 1;
            assert_eq!(told["code"], "invalid");
            let field = if told["n"] == 1 {
                "`type`"
            } else {
                "`priority`"
            };
            assert!(told["message"].as_str().unwrap().contains(field), "{told}");
        } else {
            assert_eq!(told, json!({"op": "ack", "processed": [[2, 2]]}));
            acked = true;
        }
    }
    // Without hello only who asks is told.
    let mut plain = rig.peer().await;
    plain.send(json!({"payload": 1})).await;
    plain
        .send(json!({"payload": 1, "id": "no", "requires_ack": true}))
        .await;
    let reply = plain.recv().await;
    assert_eq!(
        (&reply["success"], &reply["id"]),
        (&json!(false), &json!("no")),
        "{reply}"
    );
    plain.send(message("b")).await;
    seen.until_count(2).await;
    running.stop().await;
}

#[tokio::test]
async fn no_input_at_all_and_an_op_with_a_type_are_nothing_special() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut empty = rig.peer().await;
    tokio::io::AsyncWriteExt::shutdown(&mut empty.stream)
        .await
        .unwrap();
    assert_eq!(empty.next().await, None);
    let mut peer = rig.peer().await;
    peer.send(json!({"op": "ping", "type": "t", "payload": 1}))
        .await;
    seen.until_count(1).await;
    assert_eq!(seen.all()[0].unknown["op"].as_str(), "\"ping\"");
    running.stop().await;
}

#[tokio::test]
async fn another_version_is_refused() {
    let rig = Rig::new();
    let running = rig.start(rig.builder()).await;
    let mut peer = rig.peer().await;
    let mut hello = hello(1, 1, 1);
    hello["version"] = json!(2);
    peer.send(hello).await;
    let error = peer.error().await;
    assert_eq!(error["code"], "bad_version");
    running.stop().await;
}

#[tokio::test]
async fn a_first_byte_that_opens_no_dialect_is_told_so_in_a_line() {
    let rig = Rig::new();
    let running = rig.start(rig.builder()).await;
    for opening in [&b"\x7f"[..], b"\x01\0\0\x02{}", b"hello", b"\xff\xfe"] {
        let mut peer = rig.peer().await;
        peer.write(opening).await;
        let mut line = String::new();
        // The close may come as a reset, for what was not read.
        let _ = peer.stream.read_to_string(&mut line).await;
        let line: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!(line["code"], "bad_dialect", "{opening:?}");
        let first = format!("0x{:02x}", opening[0]);
        assert!(line["error"].as_str().unwrap().contains(&first), "{line}");
    }
    running.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_and_closed() {
    let mut rig = Rig::new();
    rig.config.connections_max = 2;
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut first = rig.peer().await;
    first.hello(1, 1, 1).await;
    let mut second = rig.peer().await;
    second.hello(2, 1, 1).await;
    assert_eq!(rig.peer().await.error().await["code"], "busy");
    drop(second);
    // Its place is free once its end was noticed.
    let end = Instant::now() + PATIENCE;
    loop {
        let mut next = rig.peer().await;
        next.send(hello(3, 1, 1)).await;
        if next.recv().await["op"] == "hello" {
            break;
        }
        assert!(Instant::now() < end, "its place is never free");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_window_that_is_overrun_ends_the_connection() {
    let mut rig = Rig::new();
    rig.config.machine.window_max = 2;
    let running = rig
        .start(rig.builder().default(|_| std::future::pending::<()>()))
        .await;
    let mut peer = rig.peer().await;
    assert_eq!(peer.hello(1, 1, 1).await["window"], 2);
    peer.send(json!([message("a"), message("b"), message("c")]))
        .await;
    assert_eq!(peer.error().await["code"], "window_overrun");
    running.stop().await;
}

#[tokio::test]
async fn connections_without_hello_wait_while_the_consumer_is_full() {
    let mut rig = Rig::new();
    rig.config.machine.pending_max = 1;
    rig.config.machine.hold_max = std::time::Duration::from_secs(60);
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let seen = Seen::default();
    let (noted, open) = (seen.clone(), gate.clone());
    let handler = move |delivery| {
        noted.note(&delivery);
        let open = open.clone();
        async move { open.acquire().await.unwrap().forget() }
    };
    let running = rig.start(rig.builder().default(handler)).await;
    let mut peer = rig.peer().await;
    peer.send(message("a")).await;
    seen.until_count(1).await;
    peer.send(message("b")).await;
    let mut greeted = rig.peer().await;
    greeted.hello(1, 1, 1).await;
    assert_eq!(
        seen.ids(),
        ["a"],
        "nothing was read from the full one meanwhile"
    );
    gate.add_permits(1);
    seen.until_count(2).await;
    gate.add_permits(1);
    running.stop().await;
}
