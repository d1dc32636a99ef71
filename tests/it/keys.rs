//! Keys that a dead letter stops, and their release.

use crate::support::{Place, eventually, text};

/// Sends one message of a key and says what became of it.
fn send(place: &Place, key: &str, n: u64, options: &[&str]) -> String {
    let payload = format!("{{\"n\":{n}}}");
    let mut args = vec!["send", "--type", "t", "--key", key, &payload, "--json"];
    args.extend(options);
    let sent = place.json(&args);
    sent["outcome"].as_str().expect("an outcome").to_owned()
}

/// The numbers of a key in the sink's file, in its order.
fn ran(place: &Place, key: &str) -> Vec<u64> {
    let lines = place.lines();
    let of_key = lines.iter().filter(|line| line["key"] == key);
    of_key
        .map(|line| line["payload"]["n"].as_u64().expect("a number"))
        .collect()
}

#[test]
fn a_dead_letter_stops_its_key_until_it_is_released_and_then_all_run_in_order() {
    let place = Place::new();
    // While nobody consumes: one of `a` that is late when somebody does, two behind it, and two of `b`.
    assert_eq!(send(&place, "a", 0, &["--ttl", "1ms"]), "stored");
    for n in 1..3 {
        send(&place, "a", n, &[]);
        send(&place, "b", n, &[]);
    }
    let _serve = place.serve_with(&["--on-dead", "hold"]);
    eventually("the other key goes on", || ran(&place, "b") == [1, 2]);
    let mut keys = serde_json::Value::Null;
    eventually("the key is stopped", || {
        keys = place.json(&["keys", "ls", "--json"]);
        keys["keys"].as_array().is_some_and(|keys| !keys.is_empty())
    });
    let stopped = &keys["keys"][0];
    assert_eq!(
        (&stopped["key"], &stopped["waiting"]),
        (&"a".into(), &2.into()),
        "{keys}"
    );
    assert_eq!(stopped["reason"], "expired");

    assert_eq!(
        send(&place, "a", 3, &[]),
        "stored",
        "it waits behind the others"
    );
    assert_eq!(send(&place, "b", 3, &[]), "processed");
    assert_eq!((ran(&place, "a"), place.pending()), (vec![], 3));
    let table = text(&place.run(&["keys", "ls"]).stdout);
    assert!(
        table.contains("expired") && table.contains("  3  "),
        "{table}"
    );

    let other = place.run(&["keys", "release", "z"]);
    assert_eq!(other.status.code(), Some(66), "{}", text(&other.stderr));
    let released = place.json(&["keys", "release", "a", "--json"]);
    assert_eq!(released["released"], serde_json::json!(["a"]));
    place.drained();
    eventually("all have run", || ran(&place, "a") == [1, 2, 3]);
    assert_eq!(
        place.json(&["keys", "ls", "--json"])["keys"],
        serde_json::json!([])
    );
    assert_eq!(send(&place, "a", 4, &[]), "processed");
}

#[test]
fn a_stopped_key_stays_stopped_over_a_kill_and_all_can_be_released_without_a_consumer() {
    let place = Place::new();
    for key in ["a", "b"] {
        send(&place, key, 0, &["--ttl", "1ms"]);
        send(&place, key, 1, &[]);
    }
    let serve = place.serve_with(&["--on-dead", "hold"]);
    let dead = "SELECT count(*) FROM message_queue WHERE processed = 2";
    eventually("both are dead", || place.count(dead) == 2);
    serve.kill();
    let serve = place.serve_with(&["--on-dead", "hold"]);
    assert_eq!(send(&place, "a", 2, &[]), "stored");
    serve.kill();
    let listed = place.json(&["keys", "ls", "--json"]);
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(
        place.run(&["keys", "release", "--all"]).stdout,
        b"2 keys released\n"
    );
    let _serve = place.serve_with(&["--on-dead", "hold"]);
    place.drained();
    eventually("all have run", || {
        ran(&place, "a") == [1, 2] && ran(&place, "b") == [1]
    });
}

#[test]
fn a_requeued_letter_releases_its_key_beside_the_consumer_that_runs() {
    let place = Place::new();
    send(&place, "a", 0, &["--ttl", "1ms"]);
    send(&place, "a", 1, &[]);
    let _serve = place.serve_with(&["--on-dead", "hold"]);
    let stats = || place.json(&["queue", "stats", "--json"]);
    eventually("the key is stopped", || stats()["held"] == 1);
    assert_eq!(send(&place, "a", 2, &[]), "stored");
    let requeued = place.run(&["dead", "requeue", "--key", "a"]);
    assert!(requeued.status.success(), "{}", text(&requeued.stderr));
    place.drained();
    // The letter runs outside the order of its key, the others in it.
    eventually("all have run", || ran(&place, "a").len() == 3);
    let behind: Vec<u64> = ran(&place, "a").into_iter().filter(|n| *n > 0).collect();
    assert_eq!(behind, [1, 2]);
    assert_eq!(stats()["held"], 0);
    assert_eq!(send(&place, "a", 3, &[]), "processed");
}

#[test]
fn by_default_a_dead_letter_steps_aside() {
    let place = Place::new();
    send(&place, "a", 0, &["--ttl", "1ms"]);
    send(&place, "a", 1, &[]);
    let _serve = place.serve();
    place.drained();
    eventually("the next one runs", || ran(&place, "a") == [1]);
    assert_eq!(
        place.json(&["keys", "ls", "--json"])["keys"],
        serde_json::json!([])
    );
}
