//! What the consumer's audit is told: how numbers ended that it does not see, and what was seen of its answers.

use super::*;

#[test]
fn a_row_that_was_there_already_is_not_counted_and_one_of_other_content_is_an_error() {
    let mut bench = Bench::down();
    (0..4).for_each(|_| drop(bench.send(false)));
    bench.spooled(1, 1);
    let results = vec![
        Spooled::Duplicate(Outcome::Stored),
        Spooled::Conflict,
        Spooled::Stored,
    ];
    bench.on(Event::Spooled { group: 2, results });
    assert_eq!(bench.counts(), (2, 1));
}

#[test]
fn what_is_refused_or_given_back_is_an_error_and_what_is_unknown_is_not() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.send(true);
    bench.on(nacked(1, Code::Forbidden));
    assert_eq!(bench.counts(), (0, 1));
    for _ in 0..9 {
        bench.after(1_000 * MS);
        bench.on(Event::Heard);
    }
    assert_eq!(bench.after(1_000 * MS), ["ping", "unknown 2"]);
    assert_eq!(bench.counts(), (0, 1), "it is unsettled");
    bench.on(Event::Abandon);
    assert_eq!(
        bench.on(spool_failed(1, false)),
        ["settle 2 Unknown"],
        "the producer ends and cannot say"
    );
    assert_eq!(bench.counts(), (0, 1));
}

#[test]
fn what_the_consumer_answered_is_not_counted() {
    let mut bench = Bench::up();
    (0..3).for_each(|_| drop(bench.send(false)));
    bench.on(acked([1, 2]));
    bench.on(Event::Dead {
        n: 3,
        reason: "expired".into(),
    });
    assert_eq!(bench.counts(), (0, 0));
}

#[test]
fn a_commit_that_failed_half_way_leaves_its_messages_unsettled() {
    let mut bench = Bench::down();
    bench.send(true);
    assert_eq!(bench.on(spool_failed(1, true)), ["unknown 1"]);
    assert_eq!(bench.counts(), (0, 0));
    assert_eq!(bench.after(1_001 * MS).last().unwrap(), "spool g2 e1 [1]");
    bench.on(Event::Spooled {
        group: 2,
        results: vec![Spooled::Duplicate(Outcome::Stored)],
    });
    assert_eq!(
        bench.counts(),
        (1, 0),
        "the row is its own: nobody else had it"
    );
}

#[test]
fn a_message_that_may_be_in_the_file_is_never_said_to_be_taken_by_nobody() {
    let mut bench = Bench::full(OnFull::Error, 1);
    bench.on(closed());
    bench.on(Event::Appeared);
    bench.on(Event::Refused);
    bench.send(true);
    bench.spooled(1, 1);
    (0..2).for_each(|_| drop(bench.send(true)));
    bench.on(spool_failed(2, true));
    assert_eq!(bench.counts(), (1, 0));
    bench.on(Event::Appeared);
    bench.on(Event::Connected);
    // The second group had 2, the third 2 and 3: both may be in the file.
    bench.on(spool_failed(3, true));
    assert_eq!(
        bench.on(greeted(1)),
        nothing(),
        "only the file can say what became of them"
    );
    assert_eq!(bench.send(true), nothing(), "it may have their key");
    let mut said = Vec::new();
    for _ in 0..11 {
        bench.on(Event::Heard);
        said.extend(bench.after(1_000 * MS));
    }
    let given_back = |n: u64| said.contains(&format!("settle {n} NotTaken(Window)"));
    assert_eq!([2, 3, 4].map(given_back), [false, false, true], "{said:?}");
    assert!(said.contains(&"spool g4 e4 [2, 3]".to_owned()), "{said:?}");
    assert_eq!(bench.counts(), (1, 1));
    assert_eq!(bench.route.first_unsettled(), 2);
}

#[test]
fn nor_is_one_that_had_no_turn_until_its_time_was_over() {
    let mut bench = Bench::full(OnFull::Wait, 1);
    bench.on(closed());
    (0..3).for_each(|_| drop(bench.send(true)));
    bench.spooled(1, 1);
    let both = bench.on(spool_failed(2, true));
    assert_eq!(both, ["unknown 2", "unknown 3"]);
    bench.on(Event::Appeared);
    bench.on(Event::Connected);
    assert_eq!(bench.on(greeted(1)), nothing());
    bench.send(true);
    let mut said = Vec::new();
    for _ in 0..11 {
        bench.on(Event::Heard);
        said.extend(bench.after(1_000 * MS));
    }
    let given_back = |n: u64| said.contains(&format!("settle {n} NotTaken(Window)"));
    assert_eq!([3, 4].map(given_back), [false, true], "{said:?}");
}

#[test]
fn counts_that_changed_are_told_within_a_second_though_no_message_is_written() {
    let mut bench = Bench::full(OnFull::Error, 1);
    bench.send(false);
    bench.send(false);
    bench.send(false);
    let seen = "seen [] queue 0 err 2".to_owned();
    assert!(bench.after(1_001 * MS).contains(&seen));
    bench.on(Event::Heard);
    assert_eq!(bench.after(900 * MS), nothing(), "once");
}

#[test]
fn counts_that_cover_all_numbers_come_with_the_next_one() {
    let mut bench = Bench::full(OnFull::Spool, 1);
    bench.send(false);
    bench.send(false);
    bench.on(acked([1]));
    assert_eq!(
        bench.spooled(1, 1),
        ["settle 2 Spooled(Stored)"],
        "soon is enough"
    );
    assert_eq!(
        bench.after(1_001 * MS),
        ["at 3", "seen [] queue 1 err 0"],
        "nothing below 3 is unsettled"
    );
    assert_eq!(bench.send(false), ["write 3"]);
}

#[test]
fn a_commit_that_ends_between_hello_and_its_answer_is_told_soon_after() {
    let mut bench = Bench::down();
    bench.send(false);
    bench.on(Event::Appeared);
    bench.on(Event::Connected);
    bench.spooled(1, 1);
    bench.on(greeted(8));
    assert_eq!(bench.after(1_001 * MS), ["at 2", "seen [] queue 1 err 0"]);
}

#[test]
fn an_end_in_order_confirms_everything_first() {
    for end in [Event::Confirm, Event::Abandon] {
        let mut bench = Bench::up();
        bench.send(false);
        bench.send(false);
        bench.on(acked([1]));
        bench.on(nacked(2, Code::Invalid));
        let said = bench.on(end);
        assert_eq!(said[0], "seen [(1, 2)] queue 0 err 1");
        assert_eq!(bench.on(Event::Confirm), nothing(), "once");
    }
}

#[test]
fn another_producer_id_starts_its_own_counts() {
    let mut bench = Bench::full(OnFull::Spool, 1);
    bench.send(false);
    bench.send(false);
    bench.on(acked([1]));
    bench.on(faulted(Code::PairReused, None));
    bench.spooled(1, 1);
    assert_eq!(bench.counts(), (0, 0), "the row names the former id");
    bench.send(false);
    bench.spooled(2, 1);
    assert_eq!(bench.counts(), (1, 0));
}

#[test]
fn ranges_far_beyond_what_was_sent_cost_nothing() {
    let mut bench = Bench::up();
    bench.send(false);
    let mut ranges = Ranges::default();
    ranges.insert_range(0, u64::MAX);
    let outcome = Outcome::Processed;
    let said = bench.on(Event::Acked { outcome, ranges });
    assert_eq!(said, ["settle 1 Answered(Processed)"]);
}

#[test]
fn a_keyless_message_that_may_be_in_the_file_holds_nobody_up() {
    let mut bench = Bench::down();
    bench.send(false);
    bench.on(spool_failed(1, true));
    bench.on(Event::Appeared);
    bench.on(Event::Connected);
    assert_eq!(bench.on(greeted(8)), nothing());
    assert_eq!(bench.send(true), ["at 2", "write 2"]);
    assert_eq!(bench.after(1_001 * MS), ["ping", "spool g2 e2 [1]"]);
}
