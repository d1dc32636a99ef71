//! `spoolway audit`: every message is accounted for, and what is missing is noticed.

use rustix::process::Signal;

use crate::support::{Place, eventually, message, text};

const SENT: u64 = 20;

async fn send_some(place: &Place) -> spoolway::Producer {
    let producer = place.producer().await;
    for n in 0..SENT {
        producer.send(message(None, n)).await.expect("taken");
    }
    producer
}

#[tokio::test]
async fn without_a_consumer_it_counts_what_the_file_holds() {
    let place = Place::new();
    let _producer = send_some(&place).await;
    let audit = place.json(&["audit", "--json"]);
    assert_eq!(audit["consumer"], "not_running");
    assert_eq!(audit["ok"], true);
    let one = &audit["producers"][0];
    for (name, number) in [
        ("sent", SENT),
        ("by_queue", SENT),
        ("stored", SENT),
        ("processed", 0),
        ("missing", 0),
    ] {
        assert_eq!(
            (&one[name], &audit["total"][name]),
            (&number.into(), &number.into()),
            "{name}"
        );
    }
    let table = text(&place.run(&["audit"]).stdout);
    assert!(
        table.contains("consumer: not running") && table.contains("ok: nothing is missing"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_consumer_is_asked_for_what_only_it_knows() {
    let place = Place::new();
    let _serve = place.serve();
    let _producer = send_some(&place).await;
    eventually("the producer has confirmed every answer", || {
        let audit = place.json(&["audit", "--json"]);
        assert_eq!(audit["consumer"], "saved", "{audit}");
        let total = &audit["total"];
        assert_eq!(
            (&total["sent"], &total["missing"]),
            (&SENT.into(), &0.into()),
            "{audit}"
        );
        (&total["by_socket"], &total["processed"], &total["open"])
            == (&SENT.into(), &SENT.into(), &0.into())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_consumer_had_answered_is_known_by_the_word_of_the_producer() {
    const MANY: u64 = 300;
    let place = Place::new();
    let serve = place.serve();
    let producer = place.producer().await;
    for n in 0..MANY {
        producer.send(message(None, n)).await.expect("taken");
    }
    serve.kill();
    let _serve = place.serve();
    eventually("the producer has said hello to the next one", || {
        let audit = place.json(&["audit", "--json"]);
        let total = &audit["total"];
        assert_eq!(total["missing"], 0, "{audit}");
        let by_word = total["by_word"].as_u64().expect("a number");
        (&total["sent"], &total["by_socket"]) == (&MANY.into(), &MANY.into()) && by_word > 0
    });
    let audit = place.json(&["audit", "--json"]);
    assert_eq!(audit["total"]["processed"], MANY, "{audit}");
}

#[test]
fn a_consumer_that_does_not_answer_is_said_so_and_the_file_is_read_all_the_same() {
    let place = Place::new();
    let serve = place.serve();
    serve.signal(Signal::STOP);
    let run = place.run(&["audit", "--json"]);
    serve.signal(Signal::CONT);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let audit: serde_json::Value = serde_json::from_slice(&run.stdout).expect("one object");
    assert_eq!(audit["consumer"], "not_saved");
    assert!(
        text(&run.stderr).contains("no answer within 2.0 s"),
        "{}",
        text(&run.stderr)
    );
}

#[tokio::test]
async fn a_row_that_vanished_is_missing_and_everyone_is_told() {
    let place = Place::new();
    let producer = send_some(&place).await;
    producer.close(std::time::Duration::from_secs(20)).await;
    let file = rusqlite::Connection::open(place.database()).expect("the queue file");
    let deleted = file.execute("DELETE FROM message_queue WHERE seq <= 3", ());
    assert_eq!(deleted.expect("a writer"), 3);
    drop(file);

    let run = place.run(&["audit"]);
    assert_eq!(run.status.code(), Some(70));
    assert!(
        text(&run.stdout).contains("MISSING: 3 messages"),
        "{}",
        text(&run.stdout)
    );
    let said = text(&run.stderr);
    assert!(
        said.contains("error[missing]: 3 messages are missing") && said.contains("help:"),
        "{said}"
    );

    let run = place.run(&["audit", "--prometheus"]);
    assert_eq!(run.status.code(), Some(70));
    let metrics = metrics(&text(&run.stdout));
    assert_eq!(metrics["spoolway_messages_missing"], 3);
    assert_eq!(metrics["spoolway_messages_sent_total"], SENT);
    assert_eq!(metrics["spoolway_audit_complete"], 1);

    // The consumer that ends says it too.
    let serve = place.serve();
    place.drained();
    assert!(serve.terminate().success());
    assert!(
        place.said("serve.log").contains("3 MISSING"),
        "{}",
        place.said("serve.log")
    );
}

/// Reads Prometheus' text format strictly; with labels, there is one producer.
fn metrics(text: &str) -> std::collections::HashMap<String, u64> {
    let mut found = std::collections::HashMap::new();
    let mut typed = String::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            typed = name.to_owned();
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let name = series.split_once('{').map_or(series, |(name, labels)| {
                assert!(
                    labels.starts_with("producer=\"") && labels.ends_with("\"}"),
                    "{line}"
                );
                name
            });
            assert_eq!(name, typed, "{line}");
            let value = value.parse().expect("a number");
            assert_eq!(found.insert(name.to_owned(), value), None, "{line}");
        }
    }
    found
}
