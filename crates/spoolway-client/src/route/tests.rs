//! Every state against every event, and the behaviours that a row of a table does not show.

use spoolway_proto::{Code, InstanceId, Outcome};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A route, the clock, and the words to drive it.
struct Bench {
    now: Instant,
    route: Route<u64>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let mut bench = Self {
            now,
            route: Route::new(now, RouteConfig::default(), 1),
        };
        assert_eq!(bench.drain(), ["dial"]);
        bench
    }

    fn up() -> Self {
        let mut bench = Self::new();
        bench.connect();
        bench
    }

    fn down() -> Self {
        let mut bench = Self::new();
        bench.on(Event::Refused);
        bench
    }

    fn connect(&mut self) {
        self.on(Event::Connected);
        self.on(greeted(8));
    }

    fn on(&mut self, event: Event) -> Vec<String> {
        self.route.on(self.now, event);
        self.drain()
    }

    fn after(&mut self, wait: Duration) -> Vec<String> {
        self.now += wait;
        self.on(Event::Tick)
    }

    fn send(&mut self, keyed: bool) -> Vec<String> {
        let deadline = self.now + Duration::from_secs(10);
        let n = self.route.next_number();
        let message = Outgoing {
            keyed,
            bytes: 100,
            deadline,
        };
        assert_eq!(self.route.send(self.now, n, message), Ok(n));
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.route.next_action())
            .map(|action| word(&action))
            .collect()
    }

    fn spooled(&mut self, group: u64, count: usize) -> Vec<String> {
        self.on(Event::Spooled {
            group,
            results: vec![Spooled::Stored; count],
        })
    }

    fn state(&self) -> &'static str {
        match &self.route.link {
            Link::Down { .. } => "down",
            Link::Holding { .. } => "holding",
            Link::Dialing {
                hold_until: Some(_),
                ..
            } => "dialing, held",
            Link::Dialing {
                hold_until: None, ..
            } => "dialing",
            Link::Greeting {
                hold_until: Some(_),
                ..
            } => "greeting, held",
            Link::Greeting {
                hold_until: None, ..
            } => "greeting",
            Link::Up(_) => "up",
            Link::Abandoned => "abandoned",
        }
    }
}

fn greeted(window: u32) -> Event {
    Event::Greeted {
        instance: InstanceId::from_u128(1),
        window,
        window_bytes: 1 << 20,
    }
}

fn acked(numbers: impl IntoIterator<Item = u64>) -> Event {
    Event::Acked {
        outcome: Outcome::Processed,
        ranges: numbers.into_iter().collect(),
    }
}

fn word(action: &Action<u64>) -> String {
    match action {
        Action::Dial => "dial".into(),
        Action::HangUp => "hang up".into(),
        Action::Hello {
            epoch,
            first,
            fresh,
            ..
        } => {
            format!("hello e{} first {first} fresh {fresh}", epoch.0)
        }
        Action::At { n } => format!("at {n}"),
        Action::Write { n } => format!("write {n}"),
        Action::Seen { ranges, .. } => format!("seen {:?}", ranges.iter().collect::<Vec<_>>()),
        Action::Ping => "ping".into(),
        Action::Pong => "pong".into(),
        Action::Spool {
            group,
            epoch,
            numbers,
            ..
        } => {
            format!("spool g{group} e{} {numbers:?}", epoch.0)
        }
        Action::Settle { n, verdict, .. } => format!("settle {n} {verdict:?}"),
        Action::Unknown { n } => format!("unknown {n}"),
    }
}

// ---- the table

/// The states, each reached the way it is reached in life, with one message (number 1) unsettled where it can be.
#[expect(clippy::type_complexity, reason = "a table")]
fn states() -> Vec<(&'static str, fn() -> Bench)> {
    vec![
        ("dialing, held", || {
            let mut bench = Bench::new();
            bench.send(false);
            bench
        }),
        ("greeting, held", || {
            let mut bench = Bench::new();
            bench.send(false);
            bench.on(Event::Connected);
            bench
        }),
        ("up", || {
            let mut bench = Bench::up();
            bench.send(false);
            bench
        }),
        ("holding", || {
            let mut bench = Bench::up();
            bench.send(false);
            bench.on(Event::Closed { unsent: vec![] });
            bench.on(Event::Refused);
            bench
        }),
        ("down", || {
            let mut bench = Bench::down();
            bench.send(false);
            bench
        }),
        ("dialing", || {
            let mut bench = Bench::down();
            bench.send(false);
            bench.on(Event::Appeared);
            bench
        }),
        ("greeting", || {
            let mut bench = Bench::down();
            bench.send(false);
            bench.on(Event::Appeared);
            bench.on(Event::Connected);
            bench
        }),
        ("abandoned", || {
            let mut bench = Bench::down();
            bench.send(false);
            bench.on(Event::Abandon);
            bench
        }),
    ]
}

#[expect(clippy::type_complexity, reason = "a table")]
fn events() -> Vec<(&'static str, fn() -> Event)> {
    vec![
        ("connected", || Event::Connected),
        ("refused", || Event::Refused),
        ("greeted", || greeted(8)),
        ("acked", || acked([1])),
        ("dead", || Event::Dead {
            n: 1,
            reason: "expired".into(),
        }),
        ("nacked", || Event::Nacked {
            n: 1,
            code: Code::Invalid,
            message: "no".into(),
            retry_after: None,
        }),
        ("unavailable", || Event::Nacked {
            n: 1,
            code: Code::Unavailable,
            message: "no".into(),
            retry_after: None,
        }),
        ("window", || Event::Window {
            window: 1,
            window_bytes: 1,
        }),
        ("heard", || Event::Heard),
        ("pinged", || Event::Pinged),
        ("goodbye", || Event::Goodbye { hold: 500 * MS }),
        ("faulted", || Event::Faulted {
            code: Code::BadFrame,
            message: "bad".into(),
            n: Some(1),
        }),
        ("closed", || Event::Closed { unsent: vec![] }),
        ("appeared", || Event::Appeared),
        ("spooled", || Event::Spooled {
            group: 1,
            results: vec![Spooled::Stored],
        }),
        ("spool failed", || Event::SpoolFailed { group: 1 }),
        ("abandon", || Event::Abandon),
        ("tick", || Event::Tick),
    ]
}

/// `state | event | state after | actions`, for every pair; a pair that changes nothing and asks for nothing is not
/// listed, and the test fails if it does.
const TABLE: &str = include_str!("table.txt");

#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    let mut found = String::new();
    for (state, reach) in states() {
        for (event, make) in events() {
            let mut bench = reach();
            assert_eq!(bench.state(), state, "the bench does not reach it");
            let actions = bench.on(make());
            if bench.state() != state || !actions.is_empty() {
                let line = format!(
                    "{state} | {event} | {} | {}\n",
                    bench.state(),
                    actions.join("; ")
                );
                found.push_str(&line);
            }
        }
    }
    for (number, (found, told)) in found.lines().zip(TABLE.lines()).enumerate() {
        assert_eq!(found.trim_end(), told, "line {}", number + 1);
    }
    assert_eq!(
        found.lines().count(),
        TABLE.lines().count(),
        "all of it:\n{found}"
    );
}

// ---- behaviours

#[test]
fn messages_are_written_in_order_as_far_as_the_window_goes() {
    let mut bench = Bench::new();
    bench.on(Event::Connected);
    bench.on(greeted(2));
    assert_eq!(bench.send(false), ["write 1"]);
    assert_eq!(bench.send(false), ["write 2"]);
    assert_eq!(bench.send(false), Vec::<String>::new());
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
    assert_eq!(bench.send(false), Vec::<String>::new());
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
    assert_eq!(bench.on(Event::Closed { unsent: vec![] }), ["dial"]);
    assert_eq!(bench.on(Event::Connected), ["hello e2 first 1 fresh 4"]);
    assert_eq!(bench.on(greeted(8)), ["write 1", "at 3", "write 3"]);
}

#[test]
fn unanswered_messages_are_stored_oldest_first_when_the_grace_ends() {
    let mut bench = Bench::up();
    (0..3).for_each(|_| drop(bench.send(true)));
    bench.on(acked([2]));
    bench.on(Event::Closed { unsent: vec![] });
    bench.on(Event::Refused);
    assert_eq!(
        bench.send(true),
        Vec::<String>::new(),
        "newer ones wait with them"
    );
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
    let given_back = bench.on(Event::SpoolFailed { group: 1 });
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
    assert_eq!(bench.send(true), Vec::<String>::new());
    assert_eq!(bench.send(false), Vec::<String>::new());
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
    assert_eq!(bench.send(true), Vec::<String>::new(), "1 is not committed");
    assert_eq!(
        bench.spooled(1, 1),
        ["settle 1 Spooled(Stored)", "at 2", "write 2"]
    );
}

#[test]
fn hello_waits_for_the_commit_of_what_was_sent_before() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.on(Event::Closed { unsent: vec![] });
    bench.on(Event::Refused);
    assert_eq!(bench.after(251 * MS), ["spool g1 e2 [1]"]);
    assert_eq!(bench.on(Event::Appeared), ["dial"]);
    assert_eq!(bench.on(Event::Connected), Vec::<String>::new());
    let hello = ["settle 1 Spooled(Stored)", "hello e3 first 2 fresh 2"];
    assert_eq!(bench.spooled(1, 1), hello);
}

#[test]
fn a_hello_that_is_not_answered_in_time_is_abandoned_and_the_epoch_rises() {
    let mut bench = Bench::up();
    bench.send(false);
    bench.on(Event::Closed { unsent: vec![] });
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
    assert_eq!(
        bench.after(60_000 * MS),
        Vec::<String>::new(),
        "nothing is owed"
    );
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
    assert_eq!(bench.send(false), Vec::<String>::new());
    bench.on(acked([1]));
    assert_eq!(bench.on(Event::Closed { unsent: vec![] }), ["dial"]);
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
    bench.on(Event::Closed { unsent: vec![] });
    bench.on(Event::Refused);
    bench.after(251 * MS);
    bench.send(false);
    assert_eq!(
        bench.on(Event::SpoolFailed { group: 1 }),
        ["unknown 1", "spool g2 e2 [1, 2]"]
    );
    assert_eq!(
        bench.on(Event::SpoolFailed { group: 2 }),
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
    assert_eq!(route.send(now, 2, message), Err(Full));
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
