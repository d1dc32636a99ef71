//! Behaviours that a row of the table does not show.

use super::*;

#[test]
fn messages_are_written_in_order_as_far_as_the_window_goes() {
    let mut bench = Bench::new();
    bench.on(Event::Connected);
    bench.on(greeted(2));
    assert_eq!(bench.send(false), ["write 1"]);
    assert_eq!(bench.send(false), ["write 2"]);
    assert_eq!(bench.send(false), nothing());
    let settled = ["settle 2 Answered(Processed)", "write 3", "seen [(2, 2)]"];
    assert_eq!(bench.on(acked([2])), settled);
}

#[test]
fn a_message_larger_than_the_window_goes_alone() {
    let mut bench = Bench::new();
    bench.on(Event::Connected);
    bench.on(Event::Greeted {
        instance: InstanceId::from_u128(1),
        window: 8,
        window_bytes: 150,
    });
    assert_eq!(bench.send(false), ["write 1"]);
    assert_eq!(bench.send(false), nothing());
    assert_eq!(
        bench.on(acked([1])),
        ["settle 1 Answered(Processed)", "write 2"]
    );
}

#[test]
fn unanswered_messages_are_resent_in_order_when_the_consumer_is_back_in_time() {
    let mut bench = Bench::up();
    (0..3).for_each(|_| drop(bench.send(true)));
    bench.on(acked([2]));
    assert_eq!(bench.on(closed()), ["dial"]);
    assert_eq!(bench.on(Event::Connected), ["hello e2 first 1 fresh 4"]);
    assert_eq!(bench.on(greeted(8)), ["write 1", "at 3", "write 3"]);
}

#[test]
fn unanswered_messages_are_stored_oldest_first_when_the_grace_ends() {
    let mut bench = Bench::up();
    (0..3).for_each(|_| drop(bench.send(true)));
    bench.on(acked([2]));
    bench.on(closed());
    bench.on(Event::Refused);
    assert_eq!(bench.send(true), nothing(), "newer ones wait with them");
    assert_eq!(
        bench.after(251 * MS),
        ["spool g1 e2 [1, 3, 4]"],
        "under a new epoch"
    );
}

#[test]
fn a_message_that_never_left_the_process_does_not_wait_for_a_resume() {
    let mut bench = Bench::up();
    bench.send(true);
    let actions = bench.on(Event::Closed { unsent: vec![1] });
    assert_eq!(actions, ["spool g1 e2 [1]"]);
    let given_back = bench.on(spool_failed(1, false));
    assert_eq!(
        given_back,
        ["settle 1 NotTaken(Spool)"],
        "nobody can have it"
    );
}

#[test]
fn without_a_consumer_a_message_is_spooled_at_once_and_one_group_is_under_way() {
    let mut bench = Bench::down();
    assert_eq!(bench.send(false), ["spool g1 e1 [1]"]);
    assert_eq!(bench.send(true), nothing());
    assert_eq!(bench.send(false), nothing());
    assert_eq!(
        bench.spooled(1, 1),
        ["settle 1 Spooled(Stored)", "spool g2 e1 [2, 3]"]
    );
}

#[test]
fn nothing_is_written_past_a_number_that_is_on_its_way_to_the_file() {
    let mut bench = Bench::down();
    bench.send(true);
    bench.on(Event::Appeared);
    assert_eq!(bench.on(Event::Connected), ["hello e2 first 1 fresh 1"]);
    bench.on(greeted(8));
    assert_eq!(bench.send(true), nothing(), "1 is not committed");
    assert_eq!(
        bench.spooled(1, 1),
        ["settle 1 Spooled(Stored)", "at 2", "write 2"]
    );
}

#[test]
fn hello_waits_for_the_commit_of_what_was_sent_before() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.on(closed());
    bench.on(Event::Refused);
    assert_eq!(bench.after(251 * MS), ["spool g1 e2 [1]"]);
    assert_eq!(bench.on(Event::Appeared), ["dial"]);
    assert_eq!(bench.on(Event::Connected), nothing());
    let hello = ["settle 1 Spooled(Stored)", "hello e3 first 2 fresh 2"];
    assert_eq!(bench.spooled(1, 1), hello);
}

#[test]
fn a_hello_that_is_not_answered_in_time_is_abandoned_and_the_epoch_rises() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.on(closed());
    assert_eq!(bench.on(Event::Connected), ["hello e2 first 1 fresh 2"]);
    assert_eq!(bench.after(251 * MS), ["hang up", "spool g1 e3 [1]"]);
}

#[test]
fn a_keyed_message_is_never_spooled_while_connected() {
    let mut bench = Bench::new();
    bench.on(Event::Connected);
    bench.on(greeted(1));
    bench.send(false);
    bench.send(true);
    bench.send(false);
    assert_eq!(
        bench.after(1_001 * MS),
        ["ping", "spool g1 e1 [3]"],
        "the keyless one steps aside"
    );
    let mut said = Vec::new();
    for _ in 0..9 {
        bench.on(Event::Heard);
        said.extend(bench.after(1_000 * MS));
    }
    assert!(
        said.contains(&"settle 2 NotTaken(Window)".to_owned()),
        "{said:?}"
    );
}

#[test]
fn five_seconds_of_silence_end_a_connection_that_owes_answers() {
    let mut bench = Bench::up();
    assert_eq!(bench.after(60_000 * MS), nothing(), "nothing is owed");
    bench.send(false);
    for _ in 0..4 {
        assert_eq!(bench.after(1_000 * MS), ["ping"]);
    }
    assert_eq!(bench.after(1_000 * MS), ["hang up", "dial"]);
}

#[test]
fn after_a_goodbye_messages_wait_and_are_resumed_without_the_file() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.on(Event::Goodbye { hold: 2_000 * MS });
    assert_eq!(bench.send(false), nothing());
    bench.on(acked([1]));
    assert_eq!(bench.on(closed()), ["dial"]);
    bench.on(Event::Refused);
    assert_eq!(bench.after(1_500 * MS), ["dial"]);
    assert_eq!(bench.on(Event::Connected), ["hello e2 first 2 fresh 2"]);
    assert_eq!(bench.on(greeted(8)), ["write 2"]);
}

#[test]
fn a_refused_message_rests_and_is_sent_again_before_newer_ones() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.send(false);
    let retry_after = Some(50 * MS);
    let (code, message) = (Code::Unavailable, String::new());
    bench.on(Event::Nacked {
        n: 1,
        code,
        message,
        retry_after,
    });
    assert_eq!(bench.after(51 * MS), ["at 1", "write 1"]);
    assert_eq!(bench.send(false), ["at 3", "write 3"]);
}

#[test]
fn a_failed_commit_gives_back_what_nobody_can_have_and_keeps_the_rest() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.on(closed());
    bench.on(Event::Refused);
    bench.after(251 * MS);
    bench.send(false);
    assert_eq!(
        bench.on(spool_failed(1, false)),
        ["unknown 1", "spool g2 e2 [1, 2]"]
    );
    assert_eq!(
        bench.on(spool_failed(2, false)),
        ["settle 2 NotTaken(Spool)"]
    );
    assert_eq!(
        bench.after(1_001 * MS).last().map(String::as_str),
        Some("spool g3 e2 [1]")
    );
}

#[test]
fn a_late_answer_settles_what_its_caller_was_told_is_unknown() {
    let mut bench = Bench::up();
    bench.send(false);
    for _ in 0..9 {
        bench.after(1_000 * MS);
        bench.on(Event::Heard);
    }
    assert_eq!(bench.after(1_000 * MS), ["ping", "unknown 1"]);
    assert_eq!(bench.on(acked([1])), ["settle 1 Answered(Processed)"]);
}

#[test]
fn a_reused_number_makes_the_producer_take_another_id() {
    let mut bench = Bench::up();
    let before = bench.route.producer();
    bench.send(false);
    let (code, message) = (Code::PairReused, String::new());
    let actions = bench.on(Event::Faulted {
        code,
        message,
        n: None,
    });
    assert_eq!(actions, ["hang up", "spool g1 e1 [1]"]);
    assert_ne!(bench.route.producer(), before);
}

#[test]
fn a_full_route_takes_no_number() {
    let now = Instant::now();
    let config = RouteConfig {
        messages_max: 1,
        ..RouteConfig::default()
    };
    let mut route = Route::new(now, config, 1);
    let message = Outgoing {
        keyed: false,
        bytes: 1,
        deadline: now,
    };
    assert_eq!(route.send(now, 1, message), Ok(1));
    assert_eq!(route.send(now, 2, message), Err(Full::Memory));
    assert_eq!(route.next_number(), 2);
}

#[test]
fn answers_are_confirmed_at_half_a_window_or_after_a_second() {
    let mut bench = Bench::up();
    (0..4).for_each(|_| drop(bench.send(false)));
    assert_eq!(bench.on(acked([1, 2, 3])).len(), 3);
    assert_eq!(
        bench.on(acked([4])).last().map(String::as_str),
        Some("seen [(1, 4)]")
    );
    bench.send(false);
    bench.on(acked([5]));
    assert_eq!(bench.after(1_001 * MS), ["seen [(5, 5)]"]);
}
