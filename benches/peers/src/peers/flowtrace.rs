//! FlowTrace's way: a socket that nobody answers, and a file whose reader takes 50 messages a second.

use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{Place, Served, socket};
use crate::Result;
use crate::job::{Job, Seen};

/// Bytes of text in a message of 200 bytes.
const TEXT: usize = 92;
const POLL: Duration = Duration::from_secs(1);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS message_queue (
  message_id TEXT PRIMARY KEY,
  type TEXT NOT NULL,
  payload TEXT NOT NULL,
  timestamp INTEGER NOT NULL,
  processed INTEGER DEFAULT 0,
  processed_at INTEGER,
  created_at INTEGER DEFAULT (strftime('%s','now'))
);
CREATE INDEX IF NOT EXISTS idx_processed ON message_queue(processed);
CREATE INDEX IF NOT EXISTS idx_timestamp ON message_queue(timestamp);";
const INSERT: &str = "INSERT OR IGNORE INTO message_queue (message_id, type, payload, timestamp) VALUES (?, ?, ?, ?)";
const READ: &str =
    "SELECT message_id, payload FROM message_queue WHERE processed = 0 ORDER BY timestamp LIMIT 50";
const MARK: &str = "UPDATE message_queue SET processed = 1, processed_at = strftime('%s','now') WHERE message_id = ?";

pub fn serve(place: &Place) -> Result<Served> {
    open(&place.dir)?.execute_batch(TABLE)?;
    Ok(Served {
        server: None,
        version: format!("its statements, SQLite {}", rusqlite::version()),
    })
}

// ---- the socket

pub fn produce_socket(dir: &Path, job: &mut Job) -> Result<()> {
    let mut socket = UnixStream::connect(socket(dir))?;
    job.begin();
    while let Some(text) = job.text(TEXT) {
        socket.write_all(&frame(&text))?;
    }
    job.end();
    Ok(())
}

/// A message behind its length.
fn frame(text: &str) -> Vec<u8> {
    let message = format!(
        r#"{{"id":"01234567-89ab-cdef-0123-456789abcdef","type":"bench","payload":{{"text":"{text}"}},"timestamp":1700000000000}}"#
    );
    let mut frame = (message.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(message.as_bytes());
    frame
}

pub fn consume_socket(dir: &Path, mut seen: Seen) -> Result<()> {
    let listener = UnixListener::bind(socket(dir))?;
    seen.ready();
    let mut stream = BufReader::with_capacity(1 << 16, listener.accept()?.0);
    let mut frame = Vec::new();
    while !seen.is_over() {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        frame.resize(u32::from_be_bytes(length) as usize, 0);
        stream.read_exact(&mut frame)?;
        let message: serde_json::Value = serde_json::from_slice(&frame)?;
        let text = message["payload"]["text"].as_str();
        seen.take(text.ok_or("a message without text")?.as_bytes());
    }
    seen.tell();
    Ok(())
}

// ---- the file

/// With SQLite's own settings, which are FlowTrace's: a rollback journal, synced.
fn open(dir: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let file = Connection::open_with_flags(dir.join("queue.db"), flags)?;
    file.busy_timeout(Duration::from_secs(30))?;
    Ok(file)
}

pub fn produce_file(dir: &Path, job: &mut Job) -> Result<()> {
    let file = open(dir)?;
    let mut insert = file.prepare(INSERT)?;
    let mut number = 1_700_000_000_000_i64;
    job.begin();
    while let Some(text) = job.text(TEXT) {
        number += 1;
        let payload = format!(r#"{{"text":"{text}"}}"#);
        insert.execute((format!("flowtrace-{number}"), "bench", payload, number))?;
    }
    job.end();
    Ok(())
}

pub fn consume_file(dir: &Path, mut seen: Seen) -> Result<()> {
    let file = open(dir)?;
    let mut read = file.prepare(READ)?;
    let mut mark = file.prepare(MARK)?;
    seen.ready();
    while !seen.is_over() {
        std::thread::sleep(POLL);
        let rows = read.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(String, String)> = rows.collect::<rusqlite::Result<_>>()?;
        for (id, payload) in rows {
            let payload: serde_json::Value = serde_json::from_str(&payload)?;
            let text = payload["text"].as_str();
            seen.take(text.ok_or("a message without text")?.as_bytes());
            mark.execute([id])?;
        }
    }
    seen.tell();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_of_the_size_of_all() {
        assert_eq!(frame(&"x".repeat(TEXT)).len(), 4 + crate::job::BYTES);
    }
}
