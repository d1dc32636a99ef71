//! Dead letters beside a running consumer: seen, requeued, purged, capped.

use crate::support::{Place, Serve, eventually, text};

/// Messages of these types that are late when somebody consumes them; their ids.
fn expire(place: &Place, types: &[&str]) -> (Serve, Vec<String>) {
    let ids = types.iter().map(|kind| {
        let sent = place.json(&["send", "--type", kind, "--ttl", "1ms", "1", "--json"]);
        sent["id"].as_str().expect("an id").to_owned()
    });
    let ids = ids.collect();
    let serve = place.serve();
    eventually("all are dead", || dead(place) == types.len() as u64);
    (serve, ids)
}

fn dead(place: &Place) -> u64 {
    let stats = place.json(&["queue", "stats", "--json"]);
    stats["dead"].as_u64().expect("a number")
}

#[test]
fn dead_letters_are_seen_and_requeued_while_the_consumer_runs() {
    let place = Place::new();
    let types = ["candle:open", "candle:close", "order"];
    let (_serve, ids) = expire(&place, &types);
    let stats = place.json(&["queue", "stats", "--json"]);
    assert_eq!(stats["dead_by_reason"]["expired"], 3, "{stats}");

    let listed = place.json(&[
        "dead", "ls", "--type", "candle:*", "--since", "1h", "--json",
    ]);
    assert_eq!(listed["dead"].as_array().map(Vec::len), Some(2), "{listed}");
    let table = text(&place.run(&["dead", "ls"]).stdout);
    assert!(ids.iter().all(|id| table.contains(id)), "{table}");
    let shown = place.json(&["dead", "show", &ids[2], "--json"]);
    assert_eq!(
        (&shown["type"], &shown["payload"]),
        (&"order".into(), &"1".into())
    );
    let shown = text(&place.run(&["dead", "show", &ids[2]]).stdout);
    assert!(shown.contains("expired"), "{shown}");

    let requeued = place.run(&["dead", "requeue", "--type", "candle:*"]);
    assert_eq!(text(&requeued.stdout), "2 dead letters requeued\n");
    eventually("both have run", || place.lines().len() == 2);
    place.drained();
    let requeued = place.json(&["dead", "requeue", &ids[2], "--json"]);
    assert_eq!(requeued["requeued"], 1);
    eventually("it has run", || place.lines().len() == 3);
    place.drained();
    assert_eq!(dead(&place), 0);
    let mut found: Vec<String> = place.found().ids.into_keys().collect();
    let mut sent = ids.clone();
    found.sort();
    sent.sort();
    assert_eq!(found, sent, "under the ids they had");
    let audit = place.run(&["audit"]);
    assert!(audit.status.success(), "{}", text(&audit.stdout));

    let again = place.run(&["dead", "requeue", &ids[2]]);
    assert_eq!(again.status.code(), Some(66), "{}", text(&again.stderr));
    let nothing = place.run(&["dead", "requeue"]);
    assert_eq!(nothing.status.code(), Some(2), "a slip requeues nothing");
}

#[test]
fn a_purge_asks_and_the_audit_balances_after_it() {
    let place = Place::new();
    let (_serve, ids) = expire(&place, &["a", "b", "c"]);
    let unasked = place.run(&["dead", "purge", "--all"]);
    assert_eq!(unasked.status.code(), Some(2), "{}", text(&unasked.stderr));
    assert!(text(&unasked.stderr).contains("not_confirmed"));
    assert_eq!(dead(&place), 3);
    let purged = place.run(&["dead", "purge", &ids[0], "--yes"]);
    assert_eq!(text(&purged.stdout), "1 dead letter purged\n");
    let capped = place.run(&["cleanup", "--dead-max", "1"]);
    assert_eq!(
        text(&capped.stdout),
        "0 processed messages deleted; 1 dead letter dropped (1 expired)\n"
    );
    assert_eq!(dead(&place), 1);
    let audit = place.json(&["audit", "--json"]);
    assert_eq!(
        (&audit["total"]["dead"], &audit["ok"]),
        (&3.into(), &true.into()),
        "{audit}"
    );
}
