//! No room: in the window, by each choice, and in memory.

use super::*;

/// What is asked for by a message that finds the window of one full.
fn second(on_full: OnFull, keyed: bool) -> Vec<String> {
    let mut bench = Bench::full(on_full, 1);
    assert_eq!(bench.send(false), ["write 1"]);
    bench.send(keyed)
}

#[test]
fn a_message_without_room_waits_is_spooled_or_given_back_as_chosen() {
    let given_back = ["settle 2 NotTaken(Window)"];
    for (on_full, keyed, expected) in [
        (OnFull::Wait, false, &[][..]),
        (OnFull::Wait, true, &[]),
        (OnFull::Spool, false, &["spool g1 e1 [2]"]),
        (OnFull::Spool, true, &[]),
        (OnFull::Error, false, &given_back),
        (OnFull::Error, true, &given_back),
    ] {
        assert_eq!(second(on_full, keyed), expected, "{on_full:?}, {keyed}");
    }
}

#[test]
fn a_keyless_message_behind_a_keyed_one_that_waits_finds_no_room_either() {
    let mut bench = Bench::full(OnFull::Spool, 1);
    bench.send(true);
    bench.send(true);
    assert_eq!(bench.send(false), ["spool g1 e1 [3]"]);
    assert_eq!(
        bench.send(false),
        nothing(),
        "one group at a time is under way"
    );
    assert_eq!(
        bench.spooled(1, 1),
        ["settle 3 Spooled(Stored)", "spool g2 e1 [4]"]
    );
    assert_eq!(
        bench.on(acked([1])),
        [
            "settle 1 Answered(Processed)",
            "write 2",
            "seen [(1, 1)] queue 1 err 0"
        ]
    );
}

#[test]
fn with_error_a_number_is_withdrawn_and_a_later_message_of_the_key_is_taken() {
    let mut bench = Bench::full(OnFull::Error, 1);
    bench.send(true);
    assert_eq!(bench.send(true), ["settle 2 NotTaken(Window)"]);
    bench.send(true);
    assert_eq!(
        bench.on(acked([1])),
        [
            "settle 1 Answered(Processed)",
            "at 4",
            "seen [(1, 1)] queue 0 err 2"
        ],
    );
    assert_eq!(bench.send(true), ["write 4"]);
}

#[test]
fn with_error_what_waited_for_the_first_connection_is_given_back_when_the_window_is_smaller() {
    let config = RouteConfig {
        on_full: OnFull::Error,
        ..RouteConfig::default()
    };
    let mut bench = Bench::with(config);
    for _ in 0..3 {
        assert_eq!(
            bench.send(true),
            nothing(),
            "it waits for a connection, not for room"
        );
    }
    bench.on(Event::Connected);
    assert_eq!(
        bench.on(greeted(2)).last().map(String::as_str),
        Some("settle 3 NotTaken(Window)")
    );
}

#[test]
fn with_error_what_may_have_been_taken_waits_for_room() {
    let mut bench = Bench::full(OnFull::Error, 2);
    bench.send(true);
    bench.send(true);
    bench.on(closed());
    assert_eq!(bench.send(true), nothing());
    bench.on(Event::Connected);
    assert_eq!(
        bench.on(greeted(1)),
        ["write 1", "settle 3 NotTaken(Window)"],
        "2 waits: the last consumer may have it"
    );
    assert_eq!(bench.send(true), ["settle 4 NotTaken(Window)"]);
    assert_eq!(bench.on(acked([1]))[1], "write 2");
}

#[test]
fn with_error_what_was_refused_for_now_waits_for_room() {
    let mut bench = Bench::full(OnFull::Error, 1);
    bench.send(false);
    bench.on(nacked(1, Code::Unavailable));
    assert_eq!(bench.send(false), ["write 2"]);
    assert_eq!(bench.after(101 * MS), nothing(), "it was written once");
    assert!(bench.on(acked([2])).ends_with(&[
        "at 1".into(),
        "write 1".into(),
        "seen [(2, 2)]".into()
    ]));
}

#[test]
fn what_waits_for_a_commit_and_not_for_room_is_not_turned_away() {
    let mut bench = Bench::with(RouteConfig {
        on_full: OnFull::Error,
        ..RouteConfig::default()
    });
    bench.on(Event::Refused);
    bench.send(true);
    bench.on(Event::Appeared);
    bench.on(Event::Connected);
    bench.on(greeted(1));
    assert_eq!(bench.send(true), nothing());
    assert_eq!(bench.try_send(true), Err(Full::Window), "2 will need it");
    assert_eq!(bench.send(true), nothing());
    assert_eq!(
        bench.spooled(1, 1),
        [
            "settle 1 Spooled(Stored)",
            "at 2",
            "write 2",
            "settle 3 NotTaken(Window)"
        ]
    );
}

#[test]
fn what_finds_neither_room_nor_a_file_is_given_back_for_the_file() {
    let mut bench = Bench::full(OnFull::Spool, 1);
    bench.send(false);
    bench.send(false);
    assert_eq!(
        bench.on(spool_failed(1, false)),
        ["settle 2 NotTaken(Spool)"]
    );
}

#[test]
fn try_send_takes_what_need_not_wait_for_room_and_no_number_else() {
    let mut bench = Bench::full(OnFull::Wait, 1);
    assert_eq!(bench.try_send(true), Ok(vec!["write 1".to_owned()]));
    for keyed in [false, true] {
        assert_eq!(bench.try_send(keyed), Err(Full::Window));
    }
    assert_eq!(bench.route.next_number(), 2);
    bench.on(acked([1]));
    assert_eq!(bench.try_send(false), Ok(vec!["write 2".to_owned()]));
}

#[test]
fn try_send_takes_what_goes_to_the_file() {
    let mut bench = Bench::full(OnFull::Spool, 1);
    bench.send(false);
    assert_eq!(bench.try_send(true), Err(Full::Window));
    assert_eq!(
        bench.try_send(false),
        Ok(vec!["spool g1 e1 [2]".to_owned()])
    );
    let mut bench = Bench::down();
    assert_eq!(bench.try_send(true), Ok(vec!["spool g1 e1 [1]".to_owned()]));
}

#[test]
fn try_send_takes_what_waits_for_a_connection() {
    let mut bench = Bench::new();
    assert_eq!(bench.try_send(true), Ok(nothing()));
    let mut bench = Bench::full(OnFull::Wait, 1);
    bench.send(true);
    bench.on(Event::Goodbye { hold: 500 * MS });
    assert_eq!(bench.try_send(true), Ok(nothing()));
}

#[test]
fn over_the_bounds_of_memory_no_number_is_taken_whatever_was_chosen() {
    for on_full in [OnFull::Wait, OnFull::Spool, OnFull::Error] {
        let mut bench = Bench::with(RouteConfig {
            messages_max: 2,
            bytes_max: 250,
            on_full,
            ..RouteConfig::default()
        });
        let (now, mut message) = (bench.now, bench.outgoing(false));
        assert_eq!(bench.route.send(now, 1, message), Ok(1));
        message.bytes = 151;
        assert_eq!(bench.route.send(now, 2, message), Err(Full::Memory));
        message.bytes = 150;
        assert_eq!(bench.route.send(now, 2, message), Ok(2));
        message.bytes = 0;
        assert_eq!(bench.route.send(now, 3, message), Err(Full::Memory));
        assert_eq!(bench.route.try_send(now, 3, message), Err(Full::Memory));
        assert_eq!(bench.route.next_number(), 3);
    }
}

#[test]
fn a_window_that_shrinks_below_what_is_in_flight_takes_hold_as_answers_come() {
    let mut bench = Bench::full(OnFull::Wait, 4);
    (0..6).for_each(|_| drop(bench.send(false)));
    let window = |window| Event::Window {
        window,
        window_bytes: 1 << 20,
    };
    assert_eq!(bench.on(window(2)), nothing());
    for n in 1..=2 {
        let said = bench.on(acked([n]));
        assert!(
            !said.iter().any(|said| said.starts_with("write")),
            "{said:?}"
        );
    }
    assert!(bench.on(acked([3])).contains(&"write 5".to_owned()));
    assert_eq!(
        bench.on(window(3)),
        ["write 6"],
        "a larger one is used at once"
    );
}

#[test]
fn a_window_of_zero_lets_one_message_through_at_a_time() {
    for (window, window_bytes) in [(0, 1 << 20), (8, 0)] {
        let mut bench = Bench::new();
        bench.on(Event::Connected);
        bench.on(Event::Greeted {
            instance: InstanceId::from_u128(1),
            window,
            window_bytes,
        });
        assert_eq!(bench.send(false), ["write 1"]);
        assert_eq!(bench.send(false), nothing());
        assert!(bench.on(acked([1])).contains(&"write 2".to_owned()));
    }
}

#[test]
fn with_error_a_window_that_shrinks_turns_away_what_is_new_and_keeps_what_is_written() {
    let mut bench = Bench::full(OnFull::Error, 2);
    bench.send(false);
    bench.send(false);
    let window = Event::Window {
        window: 1,
        window_bytes: 50,
    };
    assert_eq!(bench.on(window), nothing());
    assert_eq!(bench.send(false), ["settle 3 NotTaken(Window)"]);
    bench.on(acked([1]));
    assert_eq!(bench.send(false), ["settle 4 NotTaken(Window)"]);
    bench.on(acked([2]));
    assert_eq!(
        bench.send(false),
        ["write 5"],
        "larger than the window, and alone"
    );
}
