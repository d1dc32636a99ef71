//! The two dialects for programs that have nothing installed, over the consumer's one socket.
//!
//! `cargo bench -p spoolway-benches --bench dialects` prints, for 200-byte messages, a handler that does nothing, and a
//! client of blocking threads:
//!
//! - `ndjson`: lines written as fast as they are taken while another thread reads the answers, one connection.
//! - `http`: `POST /messages` on one connection that is kept alive, one request after the other; then four such.
//!
//! Behind `--`: the parts to run, then `--messages 1000000`, `--requests 100000`. Nothing here passes or fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use bytes::BytesMut;
use hdrhistogram::Histogram;
use spoolway_benches::{
    Side, begin, consume, histogram, is_picked, nanos, option, place, show, stamped,
};

const MESSAGES: u64 = 1_000_000;
const REQUESTS: u64 = 100_000;
/// Lines of one write.
const LINES: u64 = 100;
const CONNECTIONS: u64 = 4;

fn main() {
    let (runtime, side) = begin();
    if let Some((_, dir)) = side {
        return runtime.block_on(consume(&dir, |_| {}));
    }
    let (_dir, dir) = place();
    let side = Side::start("consumer", &dir);
    if is_picked("ndjson") {
        ndjson(&dir, option("--messages", MESSAGES));
    }
    if is_picked("http") {
        http(&dir, option("--requests", REQUESTS));
    }
    side.end();
}

fn connect(dir: &Path) -> UnixStream {
    UnixStream::connect(dir.join("s.sock")).expect("a consumer")
}

fn json() -> BytesMut {
    let mut text = BytesMut::new();
    stamped().encode(&mut text);
    text
}

fn ndjson(dir: &Path, messages: u64) {
    let stream = connect(dir);
    let mut reader = BufReader::with_capacity(1 << 16, stream.try_clone().expect("a descriptor"));
    let start = Instant::now();
    let writing = thread::spawn(move || {
        let mut stream = stream;
        for _ in 0..messages / LINES {
            let mut lines = BytesMut::new();
            for _ in 0..LINES {
                lines.extend_from_slice(&json());
                lines.extend_from_slice(b"\n");
            }
            stream.write_all(&lines).expect("written");
        }
        stream.shutdown(std::net::Shutdown::Write).expect("closed");
    });
    let (mut line, mut answers) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).expect("an answer") > 0 {
        assert!(
            line.starts_with(b"{\"success\":true"),
            "{}",
            line.escape_ascii()
        );
        line.clear();
        answers += 1;
    }
    let took = start.elapsed();
    writing.join().expect("written");
    assert_eq!(answers, messages / LINES * LINES);
    let rate = answers as f64 / took.as_secs_f64();
    println!("{:<24} {rate:.0}/s ({answers})", "ndjson, pipelined");
}

fn http(dir: &Path, requests: u64) {
    let times = ask(dir, requests);
    show("http, one at a time", &times);
    let start = Instant::now();
    let asking: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let dir = dir.to_owned();
            thread::spawn(move || ask(&dir, requests))
        })
        .collect();
    let mut all = histogram();
    for asked in asking {
        all += asked.join().expect("answered");
    }
    let rate = all.len() as f64 / start.elapsed().as_secs_f64();
    show("http, four connections", &all);
    println!("{:<24} {rate:.0}/s", "");
}

/// How long each request of a connection took.
fn ask(dir: &Path, requests: u64) -> Histogram<u64> {
    let mut stream = connect(dir);
    let mut times = histogram();
    let mut answer = [0; 4096];
    for _ in 0..requests {
        let body = json();
        let mut request = BytesMut::new();
        write_head(&mut request, body.len());
        request.extend_from_slice(&body);
        let start = Instant::now();
        stream.write_all(&request).expect("written");
        let length = stream.read(&mut answer).expect("an answer");
        times.record(nanos(start.elapsed())).expect("in bounds");
        let answer = &answer[..length];
        let whole = answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"}\n");
        assert!(whole, "{}", answer.escape_ascii());
    }
    times
}

fn write_head(request: &mut BytesMut, length: usize) {
    let head = format!(
        "POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    request.extend_from_slice(head.as_bytes());
}
