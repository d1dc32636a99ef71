//! Every link state, with a message at every step that it can be at, against every event.

use super::*;

/// `place | event | place after | actions`, for every pair. A place is a link state and the steps of the messages. Events
/// that change nothing and ask for nothing are in one line of the place, those that never come there in another.
const TABLE: &str = include_str!("../table.txt");

/// The places, each reached the way it is reached in life, and the number of the message that the events are about.
#[expect(clippy::type_complexity, reason = "a table")]
fn places() -> Vec<(&'static str, u64, fn() -> Bench)> {
    vec![
        ("dialing, held: waiting", 1, || {
            let mut bench = Bench::new();
            bench.send(false);
            bench
        }),
        ("dialing, held: waiting, sent before", 1, resuming),
        (
            "greeting, hello not said, held: waiting and spooling",
            1,
            || {
                let mut bench = spooling();
                bench.send(true);
                bench.on(closed());
                bench.on(Event::Connected);
                bench
            },
        ),
        ("greeting, held: waiting", 1, || {
            let mut bench = Bench::new();
            bench.send(false);
            bench.on(Event::Connected);
            bench
        }),
        ("greeting, held: waiting, sent before", 1, || {
            let mut bench = resuming();
            bench.on(Event::Connected);
            bench
        }),
        ("up: none", 1, Bench::up),
        ("up: written", 1, written),
        ("up: waiting and written", 2, || {
            let mut bench = Bench::full(OnFull::Wait, 1);
            bench.send(true);
            bench.send(true);
            bench
        }),
        ("up: resting", 1, || {
            let mut bench = written();
            bench.on(nacked(1, Code::Unavailable));
            bench
        }),
        ("up: spooling", 1, spooling),
        ("up, leaving: none", 1, || {
            let mut bench = Bench::up();
            bench.on(Event::Goodbye { hold: 500 * MS });
            bench
        }),
        ("up, leaving: written", 1, || {
            let mut bench = written();
            bench.on(Event::Goodbye { hold: 500 * MS });
            bench
        }),
        ("up, leaving: waiting", 1, || {
            let mut bench = Bench::up();
            bench.on(Event::Goodbye { hold: 500 * MS });
            bench.send(false);
            bench
        }),
        ("holding: waiting", 1, || {
            let mut bench = resuming();
            bench.on(Event::Refused);
            bench
        }),
        ("down: none", 1, Bench::down),
        ("down: spooling", 1, || {
            let mut bench = Bench::down();
            bench.send(false);
            bench
        }),
        ("down: waiting", 1, || {
            let mut bench = resuming();
            bench.on(Event::Refused);
            bench.after(251 * MS);
            bench.on(spool_failed(1, false));
            bench
        }),
        ("dialing: spooling", 1, || {
            let mut bench = Bench::down();
            bench.send(false);
            bench.on(Event::Appeared);
            bench
        }),
        ("greeting, hello not said: spooling", 1, || {
            let mut bench = resuming();
            bench.on(Event::Refused);
            bench.after(251 * MS);
            bench.on(Event::Appeared);
            bench.on(Event::Connected);
            bench
        }),
        ("greeting: spooling", 1, || {
            let mut bench = Bench::down();
            bench.send(false);
            bench.on(Event::Appeared);
            bench.on(Event::Connected);
            bench
        }),
        ("greeting: waiting", 1, || {
            let mut bench = resuming();
            bench.on(Event::Refused);
            bench.after(251 * MS);
            bench.on(Event::Appeared);
            bench.on(Event::Connected);
            bench.on(spool_failed(1, false));
            bench
        }),
        ("abandoned: spooling", 1, || {
            let mut bench = Bench::down();
            bench.send(false);
            bench.on(Event::Abandon);
            bench
        }),
    ]
}

fn written() -> Bench {
    let mut bench = Bench::up();
    bench.send(false);
    bench
}

/// Its connection ended with message 1 unanswered, and the next dial is under way.
fn resuming() -> Bench {
    let mut bench = written();
    bench.on(closed());
    bench
}

/// A message that was sent on an earlier connection, and refused on this one until its time was over.
fn spooling() -> Bench {
    let mut bench = resuming();
    bench.connect();
    let retry_after = Some(60_000 * MS);
    let (n, code, message) = (1, Code::Unavailable, String::new());
    bench.on(Event::Nacked {
        n,
        code,
        message,
        retry_after,
    });
    assert_eq!(bench.after(10_000 * MS), ["spool g1 e2 [1]"]);
    bench
}

/// One of each event, about message `n`; `tick` comes when the route wants it, as often as it takes for something to happen.
fn events(n: u64) -> Vec<Event> {
    vec![
        Event::Connected,
        Event::Refused,
        greeted(8),
        acked([n]),
        Event::Dead {
            n,
            reason: "expired".into(),
        },
        nacked(n, Code::Invalid),
        nacked(n, Code::Unavailable),
        Event::Window {
            window: 2,
            window_bytes: 1 << 20,
        },
        Event::Heard,
        Event::Pinged,
        Event::Goodbye { hold: 500 * MS },
        faulted(Code::BadFrame, Some(n)),
        closed(),
        Event::Appeared,
        Event::Spooled {
            group: 1,
            results: vec![Spooled::Stored],
        },
        spool_failed(1, false),
        spool_failed(1, true),
        Event::Confirm,
        Event::Abandon,
        Event::Tick,
    ]
}

/// Whether the shell, or a consumer that keeps to the protocol, never brings this about: there is no dial, no
/// connection, no hello or no group that it could come from.
fn never(state: &str, step: &str, event: &str) -> bool {
    let (dialing, up) = (state.starts_with("dialing"), state.starts_with("up"));
    let greeting = state.starts_with("greeting");
    let said = up || greeting && !state.contains("not said");
    match event {
        "connected" | "refused" => !dialing,
        "greeted" => !greeting || !said,
        "acked" | "dead" | "nacked" | "nacked for now" => !up || step != "written",
        "window" | "goodbye" => !up,
        "pinged" => !said,
        "heard" | "faulted" | "closed" => !up && !greeting,
        "spooled" | "spool failed" | "spool unknown" => !step.ends_with("spooling"),
        _ => false,
    }
}

/// The link state, and the steps of its messages.
fn place(bench: &Bench) -> String {
    let steps: Vec<_> = bench.route.steps().collect();
    match steps.as_slice() {
        [] => format!("{}: none", bench.route.link_state()),
        steps => format!("{}: {}", bench.route.link_state(), steps.join(" and ")),
    }
}

/// Ticks when the route wants it, as long as nothing comes of it.
fn until_something_happens(bench: &mut Bench) -> Vec<String> {
    let state = bench.route.link_state();
    while let Some(at) = bench.route.next_deadline() {
        bench.now = at;
        let actions = bench.on(Event::Tick);
        if !actions.is_empty() || bench.route.link_state() != state {
            return actions;
        }
    }
    nothing()
}

#[test]
fn every_event_in_every_place_does_what_the_table_says() {
    let mut found = String::new();
    for (row, n, reach) in places() {
        let (state, step) = row.split_once(": ").unwrap();
        let reached = place(&reach());
        assert!(row.starts_with(&reached), "{row} is {reached}");
        let (mut idle, mut impossible) = (Vec::new(), Vec::new());
        for event in events(n) {
            let mut bench = reach();
            let (before, name) = (place(&bench), event.name());
            let actions = match event {
                Event::Tick => until_something_happens(&mut bench),
                event => bench.on(event),
            };
            let after = place(&bench);
            let same = after == before && actions.is_empty();
            if never(state, step, name) {
                assert!(same, "{row} | {name} | {after} | {actions:?}");
                impossible.push(name);
            } else if same {
                idle.push(name);
            } else {
                found += &format!("{row} | {name} | {after} | {}\n", actions.join("; "));
            }
        }
        found += &format!("{row} | nothing | {}\n", idle.join("; "));
        found += &format!("{row} | never | {}\n", impossible.join("; "));
    }
    for (number, (found, told)) in found.lines().zip(TABLE.lines()).enumerate() {
        assert_eq!(found.trim_end(), told, "line {}, of\n{found}", number + 1);
    }
    let lines = |table: &str| table.lines().count();
    assert_eq!(lines(&found), lines(TABLE), "all of it:\n{found}");
}

#[test]
fn the_table_has_every_state_step_and_event() {
    let places = places();
    let parts = || places.iter().filter_map(|(row, ..)| row.split_once(": "));
    let state = |name: &&str| !parts().any(|(state, _)| state == *name);
    assert_eq!(LINK_STATES.into_iter().find(state), None);
    let step = |name: &&str| !parts().any(|(_, steps)| steps == *name);
    assert_eq!(STEPS.into_iter().find(step), None);
    let events: Vec<_> = events(1).iter().map(Event::name).collect();
    assert_eq!(events, EVENTS);
}
