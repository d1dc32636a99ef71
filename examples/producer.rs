//! Sends one candle: `cargo run --example producer`, with or without the consumer running.

use spoolway::{Message, Producer};

#[derive(serde::Serialize)]
struct Candle {
    symbol: &'static str,
    close: f64,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows its result")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir();
    let producer = Producer::open(
        directory.join("spoolway-example.sock"),
        directory.join("spoolway-example.db"),
    )
    .await?;

    let candle = Candle {
        symbol: "BTCUSDT",
        close: 91_250.5,
    };
    let message = Message::new("candle:complete", &candle)?.key(candle.symbol);
    let receipt = producer.send(message).await?;
    println!("{} {} by {}", receipt.id, receipt.outcome, receipt.path);
    Ok(())
}
