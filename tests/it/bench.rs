//! Every kind of work of `spoolway bench`, small: that it measures what it says, not how fast.

use serde_json::Value;

use crate::support::{Place, text};

#[test]
fn every_work_is_measured_against_its_ceiling() {
    let place = Place::new();
    let dir = place.dir.path().to_str().expect("UTF-8");
    let run = place.run(&[
        "bench",
        "--messages=1280",
        "--json",
        "--quiet",
        "--dir",
        dir,
    ]);
    let said = format!("{}{}", text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(0), "{said}");
    let reports: Vec<Value> = text(&run.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("one object a line"))
        .collect();
    let works: Vec<&str> = reports
        .iter()
        .filter_map(|report| report["work"].as_str())
        .collect();
    let all = [
        "rtt", "stream", "batch", "keyed", "stored", "spool", "drain",
    ];
    assert_eq!(works, all);
    for report in &reports {
        let number = |name: &str| {
            report[name]
                .as_f64()
                .unwrap_or_else(|| panic!("{name}: {report}"))
        };
        assert_eq!(
            (number("messages"), number("bytes")),
            (1_280.0, 200.0),
            "{report}"
        );
        let ratio = match report["work"].as_str() {
            Some("rtt") => number("p50_us") / number("ceiling_p50_us"),
            _ => number("rate") / number("ceiling"),
        };
        assert!(
            ratio > 0.0 && (ratio / number("ratio") - 1.0).abs() < 1e-6,
            "{report}"
        );
        if report["work"] != "drain" {
            assert!(number("producer_cpu_us") > 0.0, "{report}");
            assert!(number("p50_us") <= number("p99_us"), "{report}");
            assert!(number("p99_us") <= number("p999_us"), "{report}");
        }
        if report["work"] != "spool" {
            assert!(number("consumer_cpu_us") > 0.0, "{report}");
        }
    }
    assert_eq!(
        std::fs::read_dir(dir).expect("the directory").count(),
        0,
        "files are left"
    );
}

#[test]
fn several_producers_share_the_messages() {
    let place = Place::new();
    let line = [
        "bench",
        "stream",
        "--producers=3",
        "--messages=999",
        "--bytes=5000",
        "--json",
        "--quiet",
    ];
    let run = place.run(&line);
    let said = format!("{}{}", text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(0), "{said}");
    let report: Value = serde_json::from_slice(&run.stdout).expect("one object");
    assert_eq!(
        (&report["messages"], &report["producers"]),
        (&999.into(), &3.into())
    );
}
