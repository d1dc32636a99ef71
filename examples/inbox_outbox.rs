//! Orders are taken in one database and billed in another, each once, whatever is killed in
//! between: `cargo run --example inbox_outbox`.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use spoolway::{Consumer, Inbox, Message, Outbox, Producer};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// An order and the message that speaks of it: both are there, or neither is.
fn take_order(shop: &mut Connection, outbox: &Outbox, item: &str) -> Result<(), Error> {
    let tx = shop.transaction()?;
    tx.execute("INSERT INTO orders (item) VALUES (?1)", [item])?;
    outbox.enqueue(&tx, Message::new("order", item)?)?;
    Ok(tx.commit()?)
}

/// The effect of a message and the record that it was had.
fn bill(office: &mut Connection, inbox: &Inbox, message: &Message) -> Result<(), Error> {
    let tx = office.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if inbox.first_time(&tx, message)? {
        tx.execute(
            "INSERT INTO bills (item) VALUES (?1)",
            [message.payload.as_str()],
        )?;
    }
    Ok(tx.commit()?)
}

fn open(path: &Path, table: &str) -> Result<Connection, Error> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS {table} (item TEXT)"
    ))?;
    Ok(conn)
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows its result")]
async fn main() -> Result<(), Error> {
    let place = tempfile::tempdir()?;
    let [shop_path, office_path, socket, queue] =
        ["shop.db", "office.db", "s.sock", "queue.db"].map(|name| place.path().join(name));

    let office = open(&office_path, "bills")?;
    let inbox = Inbox::default();
    inbox.create(&office)?;
    let office = Arc::new(Mutex::new(office));
    let consumer = Consumer::builder(&socket, &queue)
        .on_message("order", move |order| {
            let (office, inbox) = (Arc::clone(&office), inbox.clone());
            async move {
                let billed = tokio::task::spawn_blocking(move || {
                    let mut office = office.lock().expect("no handler panicked");
                    bill(&mut office, &inbox, &order)
                });
                billed.await?
            }
        })
        .build()
        .await?;
    let consumer = tokio::spawn(consumer.run(std::future::pending()));

    let mut shop = open(&shop_path, "orders")?;
    let outbox = Outbox::default();
    outbox.create(&shop)?;
    let producer = Producer::open(&socket, &queue).await?;
    let relay = spoolway::relay(&shop_path, &outbox, &producer)?;
    for item in ["tea", "milk", "sugar"] {
        take_order(&mut shop, &outbox, item)?;
    }

    while outbox.waiting(&shop)? > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let bills: i64 =
        Connection::open(&office_path)?
            .query_row("SELECT count(*) FROM bills", (), |row| row.get(0))?;
    println!("{} orders relayed, {bills} bills", relay.status().sent);
    consumer.abort();
    Ok(())
}
