//! The bench on which a route is driven, and its words. What is asked of it: the table, and behaviours.

mod behaviours;
mod counts;
mod full;
mod table;

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
        Self::with(RouteConfig::default())
    }

    fn with(config: RouteConfig) -> Self {
        let now = Instant::now();
        let route = Route::new(now, config, 1);
        let mut bench = Self { now, route };
        assert_eq!(bench.drain(), ["dial"]);
        bench
    }

    fn up() -> Self {
        let mut bench = Self::new();
        bench.connect();
        bench
    }

    /// Up, with room for `window` messages.
    fn full(on_full: OnFull, window: u32) -> Self {
        let mut bench = Self::with(RouteConfig {
            on_full,
            ..RouteConfig::default()
        });
        bench.on(Event::Connected);
        bench.on(greeted(window));
        bench
    }

    fn down() -> Self {
        let mut bench = Self::new();
        bench.on(Event::Refused);
        bench
    }

    fn connect(&mut self) -> Vec<String> {
        let mut said = self.on(Event::Connected);
        said.extend(self.on(greeted(8)));
        said
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
        let n = self.route.next_number();
        assert_eq!(self.route.send(self.now, n, self.outgoing(keyed)), Ok(n));
        self.drain()
    }

    fn try_send(&mut self, keyed: bool) -> Result<Vec<String>, Full> {
        let n = self.route.next_number();
        self.route.try_send(self.now, n, self.outgoing(keyed))?;
        Ok(self.drain())
    }

    /// A message of 100 bytes whose caller waits 10 s.
    fn outgoing(&self, keyed: bool) -> Outgoing {
        let deadline = self.now + Duration::from_secs(10);
        Outgoing {
            keyed,
            bytes: 100,
            deadline,
        }
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

    fn counts(&self) -> (u64, u64) {
        (self.route.counts.queue, self.route.counts.err)
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

fn nacked(n: u64, code: Code) -> Event {
    Event::Nacked {
        n,
        code,
        message: "no".into(),
        retry_after: None,
    }
}

fn faulted(code: Code, n: Option<u64>) -> Event {
    let message = "bad".into();
    Event::Faulted { code, message, n }
}

fn closed() -> Event {
    Event::Closed { unsent: vec![] }
}

fn spool_failed(group: u64, unknown: bool) -> Event {
    Event::SpoolFailed { group, unknown }
}

fn nothing() -> Vec<String> {
    Vec::new()
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
        Action::Seen { ranges, queue, err } => {
            let counts = match (queue, err) {
                (0, 0) => String::new(),
                _ => format!(" queue {queue} err {err}"),
            };
            format!("seen {:?}{counts}", ranges.iter().collect::<Vec<_>>())
        }
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
