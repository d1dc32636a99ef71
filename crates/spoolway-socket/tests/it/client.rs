//! What a client sends, and what it is told.

use std::time::Duration;

use spoolway_proto::{Code, Outcome};
use spoolway_socket::{ClientError, UnixSocketClient};
use tokio::net::UnixListener;

use crate::support::{Rig, asking, message};

#[tokio::test]
async fn what_is_sent_without_an_answer_arrives_in_order() {
    let rig = Rig::new();
    let (mut server, heard) = rig.hearing();
    server.start().await.unwrap();
    let client = rig.client().await;
    for n in 0..10_000 {
        let sent = client.send(&message(&n.to_string())).await.unwrap();
        assert_eq!(sent, None);
    }
    client.disconnect().await.unwrap();
    let expected: Vec<_> = (0..10_000).map(|n: u32| n.to_string()).collect();
    assert_eq!(*heard.lock().unwrap(), expected);
    server.stop().await;
}

#[tokio::test]
async fn dropping_the_last_handle_sends_what_is_unwritten() {
    let rig = Rig::new();
    let (mut server, heard) = rig.hearing();
    server.start().await.unwrap();
    let client = rig.client().await;
    let other = client.clone();
    for _ in 0..1_000 {
        client.send(&message("task")).await.unwrap();
    }
    drop(client);
    other.send(&message("last")).await.unwrap();
    drop(other);
    let all = || heard.lock().unwrap().len() == 1_001;
    crate::support::eventually("all arrived", all).await;
    server.stop().await;
}

#[tokio::test]
async fn an_answer_is_waited_for_where_it_is_required() {
    let rig = Rig::new();
    let (mut server, _) = rig.hearing();
    server.start().await.unwrap();
    let client = rig.client().await;
    let reply = client.send(&asking("tea").id("m1")).await.unwrap().unwrap();
    assert_eq!(
        (reply.success, reply.id.as_str(), reply.outcome),
        (true, "m1", Some(Outcome::Processed))
    );
    let error = client.send(&asking("bad")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "refused by the server: out of tea",
        "{error:?}"
    );
    assert_eq!(error.code(), "unavailable");
    // The connection goes on.
    client.send(&asking("tea")).await.unwrap();
    client.disconnect().await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_at_once_gets_its_own_answer() {
    let rig = Rig::new();
    let (mut server, _) = rig.hearing();
    server.start().await.unwrap();
    let client = rig.client().await;
    let mut sending = tokio::task::JoinSet::new();
    for n in 0..500 {
        let client = client.clone();
        sending.spawn(async move {
            // Some of one id, and some that fail.
            let kind = if n % 10 == 0 { "bad" } else { "tea" };
            let id = if n < 4 {
                "same".to_owned()
            } else {
                n.to_string()
            };
            (n, id.clone(), client.send(&asking(kind).id(id)).await)
        });
    }
    for (n, id, answer) in sending.join_all().await {
        match answer {
            Ok(reply) => assert_eq!(reply.unwrap().id.as_str(), id),
            Err(ClientError::Refused(reply)) => {
                assert!(n < 4 || n % 10 == 0);
                assert_eq!(reply.id.as_str(), id);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    client.disconnect().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_not_sent() {
    let rig = Rig::new();
    let (mut server, heard) = rig.hearing();
    server.start().await.unwrap();
    let client = rig.client().await;
    let error = client.send(&message("")).await.unwrap_err();
    assert!(matches!(error, ClientError::Invalid(_)), "{error:?}");
    assert_eq!(error.code(), "invalid");
    client.disconnect().await.unwrap();
    assert!(heard.lock().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn nobody_there_is_said() {
    let rig = Rig::new();
    let connect = || UnixSocketClient::connect(rig.path(), Duration::from_secs(5));
    let error = connect().await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("s.sock: consumer not running (socket not found)"),
        "{said}"
    );
    assert_eq!(error.code(), "socket_not_found");
    drop(UnixListener::bind(rig.path()).unwrap());
    let error = connect().await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("consumer not running (connection refused)"),
        "{said}"
    );
    assert_eq!(error.code(), "connection_refused");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_no_longer_than_asked() {
    let rig = Rig::new();
    let listener = UnixListener::bind(rig.path()).unwrap();
    let short = Duration::from_millis(50);
    let client = UnixSocketClient::connect(rig.path(), short).await.unwrap();
    let _deaf = listener.accept().await.unwrap();
    let error = client.send(&asking("tea")).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(after) if after == short));
    let said = error.to_string();
    assert!(said.starts_with("not responding (timeout)"), "{said}");
    assert_eq!(error.code(), "timeout");
    // It takes what the socket and the client hold, and no more.
    let large = message("large").header("h", "x".repeat(8_000));
    let mut sent = 0;
    let error = loop {
        match client.send(&large).await {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 10_000, "memory is bounded");
    };
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
    let error = client.disconnect().await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error:?}");
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_to_who_waits_and_who_sends() {
    let rig = Rig::new();
    let listener = UnixListener::bind(rig.path()).unwrap();
    let client = rig.client().await;
    let (stream, _) = listener.accept().await.unwrap();
    let message = asking("tea");
    let (answer, ()) = tokio::join!(client.send(&message), async {
        stream.readable().await.unwrap();
        drop(stream);
    });
    assert!(matches!(answer, Err(ClientError::Closed)), "{answer:?}");
    let error = client.send(&message).await.unwrap_err();
    assert_eq!(error.code(), "closed");
    client.disconnect().await.unwrap_err();
}

#[tokio::test]
async fn why_a_server_ended_the_connection_is_told() {
    let rig = Rig::new();
    let (mut server, _) = rig.hearing();
    server.start().await.unwrap();
    let mut peer = rig.peer().await;
    peer.write("[]").await;
    let spoolway_proto::ConsumerOp::Error { code, .. } = peer.op().await else {
        panic!("no error")
    };
    assert_eq!(code, Code::BadFrame);
    assert!(peer.ends().await);
    // Others are not concerned.
    rig.client().await.send(&asking("tea")).await.unwrap();
    server.stop().await;
}
