//! The processes of a test: this binary again, each playing a part until it is killed.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use spoolway::{Consumer, Outbox, Producer};

use crate::place::{Place, begin, bill, number, take_order, wait_until};

const PART: &str = "SPOOLWAY_TEST_PART";
const ROOT: &str = "SPOOLWAY_TEST_ROOT";

/// Takes orders, as fast as they are relayed.
pub(crate) const SHOP: &str = "shop";
/// Relays the shop's outbox through a producer.
pub(crate) const RELAY: &str = "relay";
/// Bills what comes.
pub(crate) const OFFICE: &str = "office";

/// So many may wait that the shop goes on for a while without a relay.
const WAITING_MAX: u64 = 100;

pub(crate) struct Process(Child);

pub(crate) fn spawn(part: &str, place: &Place) -> Process {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["parts::part", "--exact", "--ignored", "--nocapture"])
        .env(PART, part)
        .env(ROOT, place.root())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

impl Process {
    pub(crate) fn kill(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "it ended by itself");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
#[ignore = "a part of other tests"]
async fn part() {
    let (Ok(part), Ok(root)) = (std::env::var(PART), std::env::var(ROOT)) else {
        return;
    };
    let place = Place::at(root);
    match part.as_str() {
        SHOP => shop(&place),
        RELAY => relay(&place).await,
        OFFICE => office(&place).await,
        other => panic!("no part {other:?}"),
    }
}

fn shop(place: &Place) {
    let mut shop = place.shop();
    loop {
        let tx = begin(&mut shop);
        let next = number(&tx, "SELECT coalesce(max(number), 0) + 1 FROM orders");
        (next..next + 3).for_each(|number| take_order(&tx, number));
        tx.commit().unwrap();
        wait_until("the relay keeps up", || {
            Outbox::default().waiting(&shop).unwrap() < WAITING_MAX
        });
    }
}

async fn relay(place: &Place) {
    let producer = Producer::open(place.socket(), place.queue()).await.unwrap();
    let _relay = spoolway::relay(place.shop_path(), &Outbox::default(), &producer).unwrap();
    std::future::pending().await
}

async fn office(place: &Place) {
    let office = Arc::new(Mutex::new(place.office()));
    Consumer::builder(place.socket(), place.queue())
        .on_message("order", move |order| {
            let office = Arc::clone(&office);
            async move { bill(&mut office.lock().unwrap(), &order) }
        })
        .run(std::future::pending())
        .await
        .unwrap();
}
