//! The audit in Prometheus' text format.

use std::fmt::Write as _;

use spoolway::queue::Audit;

use super::save::Consumer;

/// Name, type, help and value of each metric that there is for each producer.
///
/// `processed` and `open` can fall for a moment, so they are no counters: the consumer may hear that a message was
/// answered after it has stored another.
const METRICS: [Metric; 10] = [
    (
        "sent_total",
        "counter",
        "Messages the producer numbered.",
        |one| one.sent,
    ),
    (
        "by_socket_total",
        "counter",
        "Answered over the socket.",
        |one| one.by_socket,
    ),
    (
        "by_word_total",
        "counter",
        "Of those, by the producer's word only: the consumer that answered was killed.",
        |one| one.by_word,
    ),
    (
        "by_queue_total",
        "counter",
        "Went by the queue file.",
        |one| one.by_queue,
    ),
    (
        "processed",
        "gauge",
        "Processed, or copies of what was.",
        |one| one.processed,
    ),
    (
        "stored",
        "gauge",
        "In the queue file, to be processed.",
        |one| one.stored,
    ),
    (
        "dead_total",
        "counter",
        "Dead letters, those purged since included.",
        |one| one.dead,
    ),
    (
        "err_total",
        "counter",
        "Returned as an error, and left nowhere.",
        |one| one.err,
    ),
    (
        "open",
        "gauge",
        "On their way, or not confirmed yet.",
        |one| one.open,
    ),
    (
        "missing",
        "gauge",
        "Nobody knows what became of them: alert above 0.",
        |one| one.missing,
    ),
];

type Metric = (&'static str, &'static str, &'static str, fn(&Audit) -> u64);

/// Without the end of the last line.
pub(super) fn text(consumer: &Consumer, producers: &[Audit]) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in METRICS {
        let name = format!("spoolway_messages_{name}");
        head(&mut text, &name, kind, help);
        for one in producers {
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "{name}{{producer=\"{}\"}} {}",
                one.producer,
                value(one)
            );
        }
    }
    let name = "spoolway_audit_complete";
    head(
        &mut text,
        name,
        "gauge",
        "0: a consumer runs that did not save its newest counts.",
    );
    let complete = !matches!(consumer, Consumer::NotSaved(_));
    text + &format!("{name} {}", u8::from(complete))
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
