//! Whatever is killed, and whenever: one bill for each order.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rusqlite::Connection;
use spoolway::Outbox;

use crate::parts::{OFFICE, RELAY, SHOP, spawn};
use crate::place::{Place, number, wait_until};

/// How long processes are killed.
const KILLING: Duration = Duration::from_secs(8);

const ORDERS: &str = "SELECT count(*) FROM orders";
const BILLS: &str = "SELECT count(*) FROM bills";

#[test]
fn orders_and_bills_are_the_same_whatever_is_killed_when() {
    let seed = match std::env::var("SPOOLWAY_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("SPOOLWAY_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let place = Place::new();
    let (shop, office) = (place.shop(), place.office());

    let parts = [SHOP, RELAY, OFFICE];
    let mut running = parts.map(|part| Some(spawn(part, &place)));
    let started = Instant::now();
    let mut kills = 0;
    while started.elapsed() < KILLING {
        // The moment is that of some bill: while orders are taken, sent, deleted, billed and acked.
        let until = number(&office, BILLS) + rng.random_range(1..60);
        wait_until("they go on", || number(&office, BILLS) >= until);
        let part = rng.random_range(0..parts.len());
        running[part].take().unwrap().kill();
        running[part] = Some(spawn(parts[part], &place));
        kills += 1;
    }

    running[0].take().unwrap().kill();
    let taken = number(&shop, ORDERS);
    println!("{kills} kills, {taken} orders");
    wait_until("every order is billed", || {
        Outbox::default().waiting(&shop).unwrap() == 0 && number(&office, BILLS) >= taken
    });
    drop(running);

    let (orders, bills) = (numbers(&shop, "orders"), numbers(&office, "bills"));
    let mut sorted = bills.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, orders, "each once");
    for digit in 0..10 {
        let of_key = bills.iter().filter(|number| *number % 10 == digit);
        assert!(of_key.is_sorted(), "key {digit} is out of order");
    }
    assert!(Outbox::default().failed(&shop, 1).unwrap().is_empty());
}

/// The numbers of a table, in the order they were written.
fn numbers(conn: &Connection, table: &str) -> Vec<i64> {
    conn.prepare(&format!("SELECT number FROM {table} ORDER BY at"))
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}
