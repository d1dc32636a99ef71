//! The whole comparison with few messages: every peer that is installed does the job.

use std::process::Command;

use serde_json::Value;

#[test]
fn every_peer_hands_over_a_thousand_messages_once() {
    let told = Command::new(env!("CARGO_BIN_EXE_spoolway-peers"))
        .args(["--messages", "1000", "--rounds", "1", "--json"])
        .output()
        .expect("the bench");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&told.stdout).expect("one JSON object");
    let peers = report["peers"].as_array().expect("a list");
    assert_eq!(peers.len(), 17);
    for peer in peers {
        let name = peer["name"].as_str().expect("a name");
        if let Some(why) = peer["skipped"].as_str() {
            assert!(said.contains(&format!("SKIPPED {name}: {why}")));
            assert!(!name.starts_with("spoolway"), "{why}");
            continue;
        }
        let figure = |figure: &str| peer[figure].as_f64().expect("a figure");
        assert!(
            figure("rate") > 10.0 && figure("accepted") >= figure("rate"),
            "{peer}"
        );
        assert!(
            figure("p50_us") > 0.0 && figure("p99_us") >= figure("p50_us"),
            "{peer}"
        );
        assert_eq!(figure("twice"), 0.0, "{peer}");
    }
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let told = Command::new(env!("CARGO_BIN_EXE_spoolway-peers"))
        .args(["--only", "kafka"])
        .output()
        .expect("the bench");
    assert!(!told.status.success());
    assert!(String::from_utf8_lossy(&told.stderr).contains("redis-always"));
}
