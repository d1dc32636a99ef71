//! What a server takes, answers and refuses.

use std::sync::Arc;

use spoolway_proto::{Code, ConsumerOp};
use spoolway_socket::{ClientError, ListenError, UnixSocketServer, UnixSocketServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::support::{DEADLINE, Rig, asking, eventually, message};

#[tokio::test]
async fn what_has_arrived_before_a_stop_is_handled() {
    let rig = Rig::new();
    let (mut server, heard) = rig.hearing();
    for round in 1..=3 {
        server.start().await.unwrap();
        // It wrote and was gone before it was accepted.
        let mut peer = rig.peer().await;
        for _ in 0..100 {
            peer.write(r#"{"type":"tea","payload":1}"#).await;
        }
        drop(peer);
        server.stop().await;
        assert_eq!(heard.lock().unwrap().len(), round * 100);
        assert!(!rig.path().exists());
    }
}

#[tokio::test]
async fn answers_do_not_wait_for_a_slow_handler_behind_them() {
    let rig = Rig::new();
    let mut server = UnixSocketServer::new(UnixSocketServerConfig::new(rig.path()));
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    server.set_message_handler(move |message| {
        let gate = Arc::clone(&gate);
        async move {
            if &*message.r#type == "slow" {
                gate.notified().await;
            }
            Ok::<(), String>(())
        }
    });
    server.start().await.unwrap();
    let mut peer = rig.peer().await;
    let text =
        |id, kind| format!(r#"{{"id":"{id}","type":"{kind}","payload":1,"requiresAck":true}}"#);
    // One frame, so that both are read at once.
    peer.write(&format!("[{},{}]", text("a", "tea"), text("b", "slow")))
        .await;
    assert_eq!(peer.reply().await.id.as_str(), "a");
    go.notify_one();
    assert_eq!(peer.reply().await.id.as_str(), "b");
    server.stop().await;
}

#[tokio::test]
async fn an_invalid_message_is_refused_and_those_beside_it_are_taken() {
    let rig = Rig::new();
    let (mut server, heard) = rig.hearing();
    server.start().await.unwrap();
    let mut peer = rig.peer().await;
    peer.write(r#"[{"type":"a","payload":1},{"id":"m","type":"b","payload":1,"priority":101,"requires_ack":true},{"type":"c","payload":1}]"#)
        .await;
    let reply = peer.reply().await;
    assert_eq!((reply.success, reply.code), (false, Some(Code::Invalid)));
    assert_eq!(reply.id.as_str(), "m");
    eventually("the others are heard", || heard.lock().unwrap().len() == 2).await;
    assert_eq!(*heard.lock().unwrap(), ["a", "c"]);
    server.stop().await;
}

#[tokio::test]
async fn a_producer_is_refused_and_a_ping_is_answered() {
    let rig = Rig::new();
    let (mut server, _) = rig.hearing();
    server.start().await.unwrap();
    let mut peer = rig.peer().await;
    peer.write(r#"{"op":"ping"}"#).await;
    assert_eq!(peer.op().await, ConsumerOp::Pong);
    peer.write(r#"{"op":"save"}"#).await;
    assert_eq!(peer.op().await, ConsumerOp::Saved { saved: false });
    peer.write(r#"{"op":"hello","version":1,"producer":"0199c5c2-0000-4000-8000-000000000001","epoch":1,"first":1,"fresh":1}"#)
        .await;
    let ConsumerOp::Error { code, message, .. } = peer.op().await else {
        panic!("no error")
    };
    assert_eq!(code, Code::BadOp);
    assert!(message.contains("no consumer"), "{message}");
    assert!(peer.ends().await);
    server.stop().await;
}

#[tokio::test]
async fn another_dialect_gets_one_line() {
    let rig = Rig::new();
    let (mut server, _) = rig.hearing();
    server.start().await.unwrap();
    let mut peer = rig.peer().await;
    peer.stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    peer.stream.read_to_string(&mut text).await.unwrap();
    assert!(
        text.contains("bad_dialect") && text.ends_with('\n'),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let rig = Rig::new();
    let mut server = UnixSocketServer::new(UnixSocketServerConfig {
        max_connections: 1,
        ..UnixSocketServerConfig::new(rig.path())
    });
    server.set_message_handler(|_| async { Ok::<(), String>(()) });
    server.start().await.unwrap();
    let first = rig.client().await;
    first.send(&asking("tea")).await.unwrap();
    let second = rig.client().await;
    let error = second.send(&asking("tea")).await.unwrap_err();
    let ClientError::Said { code, message } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*code, Code::Busy);
    assert!(message.contains("max_connections"), "{message}");
    // The place of one that went is another's.
    first.disconnect().await.unwrap();
    let end = std::time::Instant::now() + DEADLINE;
    while rig.client().await.send(&asking("tea")).await.is_err() {
        assert!(std::time::Instant::now() < end);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_connection_only() {
    let rig = Rig::new();
    let (mut server, _) = rig.hearing();
    server.start().await.unwrap();
    let other = rig.client().await;
    other.send(&asking("tea")).await.unwrap();
    let error = rig.client().await.send(&asking("panic")).await.unwrap_err();
    assert_eq!(error.code(), "closed");
    other.send(&asking("tea")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_no_answers_holds_up_itself_and_no_other() {
    let rig = Rig::new();
    let (mut server, heard) = rig.hearing();
    server.start().await.unwrap();
    let mut peer = rig.peer().await;
    let one = r#"{"id":"m","type":"tea","payload":1,"requires_ack":true}"#;
    let batch = format!("[{}]", vec![one; 1_000].join(","));
    let mut written = 0;
    let (mut reading, mut writing) = {
        let stream = std::mem::replace(&mut peer.stream, tokio::net::UnixStream::pair().unwrap().0);
        stream.into_split()
    };
    let mut frame = bytes::BytesMut::new();
    spoolway_proto::put_frame(&mut frame, |out| out.extend_from_slice(batch.as_bytes()));
    // Until nothing more fits anywhere.
    let patience = std::time::Duration::from_millis(300);
    while tokio::time::timeout(patience, writing.write_all(&frame))
        .await
        .is_ok()
    {
        written += 1;
        assert!(written < 1_000, "what is unread is bounded");
    }
    rig.client().await.send(&asking("tea")).await.unwrap();
    // Once it reads, everything goes on.
    let reader = tokio::spawn(async move {
        let mut all = 0;
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = reading.read(&mut buffer).await {
            all += read;
        }
        all
    });
    eventually("all of it is handled", || {
        heard.lock().unwrap().len() > written * 1_000
    })
    .await;
    drop(writing);
    server.stop().await;
    assert!(reader.await.unwrap() > written * 1_000 * 20);
}

#[tokio::test]
async fn what_makes_no_sense_is_said() {
    let rig = Rig::new();
    let mut server = UnixSocketServer::new(UnixSocketServerConfig::new(rig.path()));
    let error = server.start().await.unwrap_err();
    assert!(error.to_string().contains("set_message_handler"), "{error}");
    server.stop().await;
    server.set_message_handler(|_| async { Ok::<(), String>(()) });
    server.start().await.unwrap();
    let error = server.start().await.unwrap_err();
    assert!(matches!(error, ListenError::Misuse { .. }), "{error:?}");
    drop(server);
    assert!(!rig.path().exists());
    let (mut next, heard) = rig.hearing();
    next.start().await.unwrap();
    rig.client().await.send(&message("tea")).await.unwrap();
    eventually("it is heard", || heard.lock().unwrap().len() == 1).await;
    next.stop().await;
}
