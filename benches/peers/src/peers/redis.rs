//! Redis Streams: a consumer group over a Unix socket, the append-only file as the disk.

use std::path::Path;
use std::process::Command;

use redis::{Client, Connection, Value, cmd, from_redis_value};
use rustix::process::Signal;

use super::{Place, Served, Skipped, socket};
use crate::Result;
use crate::job::{Job, Seen};
use crate::process::{self, Server};

/// Messages that one read takes.
const READ: usize = 512;

pub fn serve_everysec(place: &Place) -> Result<Served> {
    serve(place, "everysec")
}

pub fn serve_always(place: &Place) -> Result<Served> {
    serve(place, "always")
}

fn serve(place: &Place, appendfsync: &str) -> Result<Served> {
    let program = process::find("redis-server")
        .ok_or_else(|| Skipped("no redis-server; apt-get install redis-server".into()))?;
    let version = process::version(&program, "--version")?;
    let mut command = Command::new(program);
    command
        .args(["--port", "0", "--save", "", "--appendonly", "yes"])
        .args([
            "--appendfsync",
            appendfsync,
            "--auto-aof-rewrite-percentage",
            "0",
        ])
        .args(["--unixsocket", "s.sock"]);
    let is_up = || connect(&place.dir).is_ok_and(|mut redis| cmd("PING").exec(&mut redis).is_ok());
    let server = Server::start(&mut command, &place.dir, Signal::TERM, is_up)?;
    let mut group = cmd("XGROUP");
    group.arg(&["CREATE", "queue", "group", "0", "MKSTREAM"]);
    group.exec(&mut connect(&place.dir)?)?;
    Ok(Served {
        server: Some(server),
        version,
    })
}

fn connect(dir: &Path) -> Result<Connection> {
    let address = format!("redis+unix://{}", socket(dir).display());
    Ok(Client::open(address)?.get_connection()?)
}

pub fn produce(dir: &Path, job: &mut Job) -> Result<()> {
    let send = |redis: &mut Connection, batch: &[String]| {
        let mut packed = Vec::new();
        for text in batch {
            cmd("XADD")
                .arg(&["queue", "*", "m", text.as_str()])
                .write_packed_command(&mut packed);
        }
        Ok(redis.send_packed_command(&packed)?)
    };
    let receive = |redis: &mut Connection, count| {
        for _ in 0..count {
            redis.recv_response()?;
        }
        Ok(())
    };
    job.block(&mut connect(dir)?, send, receive)
}

pub fn consume(dir: &Path, mut seen: Seen) -> Result<()> {
    let mut redis = connect(dir)?;
    seen.ready();
    let mut read = cmd("XREADGROUP");
    read.arg(&["GROUP", "group", "reader", "COUNT"]).arg(READ);
    read.arg(&["BLOCK", "1000", "STREAMS", "queue", ">"]);
    let mut owed = Vec::new();
    loop {
        let mut packed = Vec::new();
        if !owed.is_empty() {
            cmd("XACK")
                .arg(&["queue", "group"])
                .arg(&owed)
                .write_packed_command(&mut packed);
        }
        if !seen.is_over() {
            read.write_packed_command(&mut packed);
        }
        redis.send_packed_command(&packed)?;
        if !owed.is_empty() {
            redis.recv_response()?;
            owed.clear();
        }
        if seen.is_over() {
            break;
        }
        // [[stream, [[id, [field, text]], …]]], or nil when nothing came.
        let Value::Array(streams) = redis.recv_response()? else {
            continue;
        };
        for stream in streams {
            let (_, entries): (Value, Vec<(Vec<u8>, (Value, Vec<u8>))>) = from_redis_value(stream)?;
            for (id, (_, text)) in entries {
                seen.take(&text);
                owed.push(id);
            }
        }
    }
    seen.tell();
    Ok(())
}
