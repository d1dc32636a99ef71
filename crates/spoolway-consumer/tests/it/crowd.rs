//! More connections than there is room for, and those that say nothing.

use std::time::Duration;

use serde_json::json;

use crate::support::{PATIENCE, Peer, Rig, Seen, frame, hello, message, until};

const SHORT: Duration = Duration::from_millis(50);

async fn answered(peer: &mut Peer) {
    peer.send(json!({"op": "ping"})).await;
    assert_eq!(peer.recv().await, json!({"op": "pong"}));
}

#[tokio::test]
async fn who_says_nothing_or_nothing_whole_is_gone_at_the_deadline() {
    let mut rig = Rig::new();
    rig.config.arrival_max = SHORT;
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut silent = rig.peer().await;
    let mut half = rig.peer().await;
    half.write(&frame("{}")[..3]).await;
    let mut stuck = rig.peer().await;
    answered(&mut stuck).await;
    stuck.write(&frame(&message("a").to_string())[..9]).await;
    let mut idle = rig.peer().await;
    answered(&mut idle).await;
    let mut producer = rig.peer().await;
    producer.hello(1, 1, 1).await;
    producer.write(&frame(&message("b").to_string())[..9]).await;
    for peer in [&mut silent, &mut half, &mut stuck] {
        let error = peer.error().await;
        assert_eq!(error["code"], "busy");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("more than 50ms to arrive"), "{said}");
    }
    // Neither who has said what it had to say, nor who said hello.
    answered(&mut idle).await;
    producer.write(&frame(&message("b").to_string())[9..]).await;
    assert_eq!(producer.outcome(1).await, "processed");
    running.stop().await;
}

#[tokio::test]
async fn a_message_that_keeps_coming_is_not_cut_by_those_before_it() {
    let mut rig = Rig::new();
    rig.config.arrival_max = Duration::from_millis(200);
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut peer = rig.peer().await;
    let all: Vec<u8> = (0..40)
        .flat_map(|n| frame(&message(&n.to_string()).to_string()))
        .collect();
    let whole = all.len() / 40;
    // Each write ends amid a message, for twice as long as one may take.
    let mut at = 0;
    while at < all.len() {
        let end = (at + whole).min(all.len());
        peer.write(&all[at..end]).await;
        at = end;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    seen.until_count(40).await;
    running.stop().await;
}

#[tokio::test]
async fn when_there_is_no_room_the_oldest_silent_connection_gives_way() {
    let mut rig = Rig::new();
    rig.config.connections_max = 3;
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut said = rig.peer().await;
    answered(&mut said).await;
    let mut first = rig.peer().await;
    let mut second = rig.peer().await;
    let mut third = rig.peer().await;
    answered(&mut third).await;
    let error = first.error().await;
    let text = error["message"].as_str().unwrap();
    assert!(
        text.contains("no room for a connection that says nothing"),
        "{error}"
    );
    let mut fourth = rig.peer().await;
    answered(&mut fourth).await;
    assert_eq!(second.error().await["code"], "busy");
    // All that are left have said something.
    assert_eq!(rig.peer().await.error().await["code"], "busy");
    for peer in [&mut said, &mut third, &mut fourth] {
        answered(peer).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn an_idle_connection_without_hello_gives_way_and_loses_nothing() {
    let mut rig = Rig::new();
    rig.config.connections_max = 2;
    rig.config.idle_max = SHORT;
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut idle = rig.peer().await;
    idle.send(message("a")).await;
    let mut producer = rig.peer().await;
    producer.hello(1, 1, 1).await;
    seen.until_count(1).await;
    tokio::time::sleep(2 * SHORT).await;
    // With room it would have stayed; a producer stays in any case.
    let mut next = rig.peer().await;
    next.send(hello(2, 1, 1)).await;
    assert_eq!(next.recv().await["op"], "hello");
    assert_eq!(idle.error().await["code"], "busy");
    assert_eq!(rig.peer().await.error().await["code"], "busy");
    producer.send(message("b")).await;
    assert_eq!(producer.outcome(1).await, "processed");
    running.stop().await;
}

#[tokio::test]
async fn a_message_in_progress_is_answered_by_a_connection_that_is_dismissed() {
    let mut rig = Rig::new();
    rig.config.arrival_max = SHORT;
    let slow = |_| async { tokio::time::sleep(3 * SHORT).await };
    let running = rig.start(rig.builder().default(slow)).await;
    let mut peer = rig.peer().await;
    let asks = json!({"type": "t", "payload": 1, "requires_ack": true, "id": "x"});
    peer.send(asks).await;
    peer.write(&frame("{}")[..3]).await;
    assert_eq!(peer.recv().await["id"], "x");
    assert_eq!(peer.next().await, None);
    running.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_full_consumer_is_not_late() {
    let mut rig = Rig::new();
    rig.config.arrival_max = SHORT;
    rig.config.machine.pending_max = 1;
    rig.config.machine.hold_max = PATIENCE;
    let (release, released) = tokio::sync::watch::channel(false);
    let seen = Seen::default();
    let noted = seen.clone();
    let builder = rig.builder().default(move |delivery| {
        let (noted, mut released) = (noted.clone(), released.clone());
        async move {
            noted.note(&delivery);
            let _ = released.wait_for(|free| *free).await;
        }
    });
    let running = rig.start(builder).await;
    let mut first = rig.peer().await;
    first.send(message("a")).await;
    seen.until_count(1).await;
    let mut second = rig.peer().await;
    second.send(message("b")).await;
    tokio::time::sleep(3 * SHORT).await;
    release.send(true).unwrap();
    until("both were handled", || seen.ids() == ["a", "b"]).await;
    answered(&mut second).await;
    running.stop().await;
}

#[tokio::test]
async fn hundreds_of_silent_connections_do_not_keep_a_producer_out() {
    let rig = Rig::new();
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut silent = Vec::new();
    for n in 0..400_u32 {
        silent.push(rig.peer().await);
        if n % 50 == 0 {
            let mut producer = rig.peer().await;
            producer.hello(u128::from(n) + 1, 1, 1).await;
            producer.send(message(&n.to_string())).await;
            assert_eq!(producer.outcome(1).await, "processed");
        }
    }
    running.stop().await;
}
