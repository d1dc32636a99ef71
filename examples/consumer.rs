//! Prints candles until Ctrl-C: `cargo run --example consumer`.

use spoolway::Consumer;

#[derive(serde::Deserialize)]
struct Candle {
    symbol: String,
    close: f64,
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
async fn print(candle: Candle) {
    println!("{} closed at {}", candle.symbol, candle.close);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir();
    let socket = directory.join("spoolway-example.sock");
    Consumer::builder(socket, directory.join("spoolway-example.db"))
        .on("candle:complete", print)
        .run(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}
