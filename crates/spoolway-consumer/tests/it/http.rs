//! HTTP on the socket: raw requests in odd pieces, every answer, and curl.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use spoolway_consumer::RetryPolicy;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::support::{PATIENCE, Rig, Seen, message, shell, until};

/// A client that writes raw requests.
struct Client {
    stream: BufReader<UnixStream>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// The code of an error, whose form is always the same.
    fn code(&self) -> String {
        let error = self.json();
        assert_eq!(error["success"], false, "{self:?}");
        assert!(
            error["error"].as_str().is_some_and(|text| !text.is_empty()),
            "{self:?}"
        );
        error["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{self:?}"))
            .to_owned()
    }
}

impl Client {
    async fn of(rig: &Rig) -> Self {
        let stream = UnixStream::connect(rig.socket()).await.unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read(true))
            .await
            .expect("nothing came")
    }

    async fn read(&mut self, has_body: bool) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with("\r\n\r\n".as_bytes()) {
            if self.stream.read_until(b'\n', &mut head).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: String::new(),
        };
        let length = answer
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; if has_body && status >= 200 { length } else { 0 }];
        self.stream.read_exact(&mut body).await.unwrap();
        answer.body = String::from_utf8(body).unwrap();
        Some(answer)
    }

    async fn recv(&mut self) -> Answer {
        self.next().await.expect("the connection was closed")
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "", body).await
    }

    /// Asks whether it is ready until the answer has this status.
    async fn until_ready(&mut self, status: u16) -> Answer {
        let began = std::time::Instant::now();
        loop {
            let answer = self.get("/ready").await;
            if answer.status == status {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.write(&request(method, path, headers, body)).await;
        self.recv().await
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: s\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

const NDJSON: &str = "content-type: application/x-ndjson\r\n";

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other_however_the_bytes_come() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let requests: String = ["a", "b"]
        .map(|id| request("POST", "/messages", "", &message(id).to_string()))
        .concat();
    let body = message("c").to_string();
    let (start, end) = body.split_at(9);
    let chunked = format!(
        "POST /messages HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n",
        end.len()
    );
    let stream = requests + &chunked;
    for size in [1, 2, 7, 60, stream.len()] {
        let mut client = Client::of(&rig).await;
        for chunk in stream.as_bytes().chunks(size) {
            client.stream.write_all(chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        for id in ["a", "b", "c"] {
            let answer = client.recv().await;
            assert_eq!(answer.status, 200, "{size}: {answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(
                answer.json(),
                json!({"success": true, "id": id, "outcome": "processed"})
            );
        }
    }
    assert_eq!(seen.ids(), ["a", "b", "c"], "the rest are copies");
    running.stop().await;
}

#[tokio::test]
async fn several_messages_get_a_result_each_in_their_order() {
    let rig = Rig::new();
    let seen = Seen::default();
    let noted = seen.clone();
    // The first ones end last.
    let handler = move |delivery: spoolway_consumer::Delivery| {
        noted.note(&delivery);
        let wait = if delivery.id.as_str() < "m" { 20 } else { 0 };
        async move { tokio::time::sleep(Duration::from_millis(wait)).await }
    };
    let running = rig.start(rig.builder().on_message("t", handler)).await;
    let mut client = Client::of(&rig).await;
    let ids = |answer: &Answer| -> Vec<String> {
        let results = answer.json()["results"].as_array().unwrap().clone();
        results
            .iter()
            .map(|result| result["id"].as_str().unwrap_or("-").to_owned())
            .collect()
    };
    let array = json!([message("a"), message("z"), message("a"), message("b")]).to_string();
    let answer = client.post("/messages", &array).await;
    assert_eq!(
        (answer.status, &answer.json()["success"]),
        (200, &json!(true))
    );
    assert_eq!(ids(&answer), ["a", "z", "a", "b"]);

    let lines = format!(
        "{}\r\n\n {{\"id\":\"x\"}}\n[{},{}]\nno\n{}",
        message("c"),
        message("d"),
        message("y"),
        message("e")
    );
    for headers in [NDJSON, ""] {
        let answer = client.ask("POST", "/messages", headers, &lines).await;
        assert_eq!(
            (answer.status, &answer.json()["success"]),
            (400, &json!(false))
        );
        assert_eq!(ids(&answer), ["c", "x", "d", "y", "-", "e"], "{headers}");
        let codes = answer.json();
        assert_eq!(codes["results"][1]["code"], "invalid");
        assert_eq!(codes["results"][4]["code"], "bad_json");
        assert_eq!(codes["results"][5]["outcome"], "processed");
    }
    let one = client
        .ask("POST", "/messages", NDJSON, &message("f").to_string())
        .await;
    assert_eq!(ids(&one), ["f"]);
    // The status is the highest of them.
    let mixed = json!([message("g"), {"id": "h", "type": "none", "payload": 1}]).to_string();
    let answer = client.post("/messages", &mixed).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json()["results"][0]["outcome"], "processed");
    assert_eq!(answer.json()["results"][1]["error"], "no_route");
    running.stop().await;
}

#[tokio::test]
async fn send_takes_any_json_and_the_rest_from_the_query() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let mut client = Client::of(&rig).await;
    for body in ["{\"a\": 1.50}", "7", "null", "\"x\"", "[[]]", " \t{} \n"] {
        let answer = client.post("/send", body).await;
        assert_eq!(
            (answer.status, &answer.json()["outcome"]),
            (200, &json!("processed"))
        );
        let last = seen.all().pop().unwrap();
        assert_eq!(answer.json()["id"], last.id.as_str());
        assert_eq!(
            (&*last.r#type, last.payload.as_str()),
            ("message", body.trim())
        );
    }
    let answer = client
        .post(
            "/send?type=candle:complete&key=B%26T&id=x&priority=7&topic=a.b&ttl_ms=60000",
            "1",
        )
        .await;
    assert_eq!(answer.json()["id"], "x");
    let last = seen.all().pop().unwrap();
    assert_eq!(
        (&*last.r#type, last.priority, last.ttl_ms),
        ("candle:complete", 7, Some(60_000))
    );
    assert_eq!(
        (last.key.as_ref().unwrap().as_str(), last.topic.as_deref()),
        ("B&T", Some("a.b"))
    );
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let header = format!("traceparent: {trace}\r\n");
    client.ask("POST", "/send", &header, "1").await;
    assert_eq!(seen.all().pop().unwrap().headers["traceparent"], trace);
    for (path, body, status, code) in [
        ("/send?id=x", "2", 409, "conflict"),
        ("/send?priority=x", "1", 400, "invalid"),
        ("/send?kye=x", "1", 400, "invalid"),
        ("/send", "{", 400, "bad_json"),
        ("/send", "", 400, "bad_json"),
        ("/send", "{} {}", 400, "bad_json"),
    ] {
        let answer = client.post(path, body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path} {body}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn every_outcome_has_its_status() {
    let mut rig = Rig::new();
    rig.config.message_bytes_max = 1_000;
    rig.config.http.body_bytes_max = 3_000;
    let running = rig
        .start(
            rig.builder()
                .on("good", |_: Value| async {})
                .on("bad", |_: Value| async { Err::<(), _>("no") })
                .on_command("join", |_: Value| async {}),
        )
        .await;
    let mut client = Client::of(&rig).await;
    let of = |kind: &str| json!({"type": kind, "payload": 1}).to_string();
    let large = json!({"type": "good", "payload": "x".repeat(2_000)}).to_string();
    for (body, status, answer) in [
        (of("good"), 200, ("outcome", "processed")),
        (
            "{\"command\":\"join\"}".into(),
            200,
            ("outcome", "processed"),
        ),
        (of("bad"), 202, ("outcome", "stored")),
        (of("none"), 422, ("error", "no_route")),
        ("{}".into(), 400, ("code", "invalid")),
        ("{".into(), 400, ("code", "bad_json")),
        (String::new(), 400, ("code", "bad_json")),
        ("7".into(), 400, ("code", "bad_frame")),
        ("[]".into(), 400, ("code", "bad_frame")),
        ("{\"op\":\"ping\"}".into(), 400, ("code", "bad_op")),
        (large, 413, ("code", "too_large")),
    ] {
        let got = client.post("/messages", &body).await;
        assert_eq!(got.status, status, "{body}: {got:?}");
        assert_eq!(got.json()[answer.0], answer.1, "{body}: {got:?}");
        assert_eq!(got.json()["success"], status < 300, "{body}");
    }
    for (method, path, status, code) in [
        ("GET", "/", 404, "not_found"),
        ("POST", "/message", 404, "not_found"),
        ("GET", "/messages", 405, "method_not_allowed"),
        ("DELETE", "/send", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ] {
        let got = client.ask(method, path, "", "").await;
        assert_eq!(
            (got.status, got.code().as_str()),
            (status, code),
            "{method} {path}"
        );
        if status == 405 {
            let allowed = if path == "/health" {
                "GET,HEAD"
            } else {
                "POST"
            };
            assert_eq!(got.header("allow"), Some(allowed), "{path}");
        }
    }
    for (headers, status) in [
        ("content-type: application/json; charset=utf-8\r\n", 200),
        ("content-type: application/cloudevents+json\r\n", 200),
        ("content-type: application/x-www-form-urlencoded\r\n", 200),
        ("content-type: multipart/form-data; boundary=x\r\n", 415),
        ("content-encoding: gzip\r\n", 415),
    ] {
        let got = client.ask("POST", "/messages", headers, &of("good")).await;
        assert_eq!(got.status, status, "{headers}");
    }
    let head = request(
        "POST",
        "/messages",
        "expect: 100-continue\r\n",
        &"x".repeat(3_001),
    );
    client
        .write(head.split_inclusive("\r\n\r\n").next().unwrap())
        .await;
    assert_eq!(
        client.recv().await.code(),
        "too_large",
        "not one byte of it was asked for"
    );
    let mut client = Client::of(&rig).await;
    client
        .write("POST /messages HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client
        .write(&format!("bb9\r\n{}\r\n", "x".repeat(3_001)))
        .await;
    assert_eq!(client.recv().await.status, 413);
    running.stop().await;
}

#[tokio::test]
async fn a_request_waits_while_the_consumer_is_full_and_then_says_when_to_come_back() {
    let mut rig = Rig::new();
    rig.config.machine.pending_max = 1;
    rig.config.machine.hold_max = Duration::from_secs(60);
    rig.config.http.full_max = Duration::from_millis(50);
    rig.config.http.answer_max = Duration::from_millis(200);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let seen = Seen::default();
    let (noted, open) = (seen.clone(), gate.clone());
    let handler = move |delivery| {
        noted.note(&delivery);
        let open = open.clone();
        async move { open.acquire().await.unwrap().forget() }
    };
    let running = rig.start(rig.builder().default(handler)).await;
    let mut first = Client::of(&rig).await;
    first
        .write(&request("POST", "/messages", "", &message("a").to_string()))
        .await;
    seen.until_count(1).await;
    let mut second = Client::of(&rig).await;
    let answer = second.post("/messages", &message("b").to_string()).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "unavailable")
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(
        second.get("/health").await.status,
        200,
        "it can be asked how it is"
    );
    // It was taken, and is not settled in time: a late reply must not answer another request.
    let answer = first.recv().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "unavailable")
    );
    assert_eq!(answer.json()["id"], "a");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(first.next().await.is_none());
    gate.add_permits(9);
    until("there is room", || seen.ids() == ["a"]).await;
    let answer = second.post("/messages", &message("a").to_string()).await;
    assert_eq!(
        answer.json(),
        json!({"success": true, "id": "a", "outcome": "processed"})
    );
    assert_eq!(
        seen.ids(),
        ["a"],
        "sent again with its id it is the same message"
    );
    running.stop().await;
}

#[tokio::test]
async fn who_asks_and_is_gone_is_processed_all_the_same() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    for n in 0..20 {
        let mut client = Client::of(&rig).await;
        client
            .write(&request(
                "POST",
                "/messages",
                "",
                &message(&n.to_string()).to_string(),
            ))
            .await;
    }
    seen.until_count(20).await;
    // Half a body was never the whole of anything.
    let mut client = Client::of(&rig).await;
    client
        .write("POST /messages HTTP/1.1\r\nhost: s\r\ncontent-length: 900\r\n\r\n{\"type\"")
        .await;
    drop(client);
    // Closing the writing side alone is asking for the answer.
    let mut client = Client::of(&rig).await;
    client
        .write(&request(
            "POST",
            "/messages",
            "",
            &message("last").to_string(),
        ))
        .await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.recv().await.status, 200);
    assert!(client.next().await.is_none());
    assert_eq!(running.stop().await.processed, 21);
}

#[tokio::test]
async fn a_shutdown_answers_what_has_arrived_and_closes() {
    let rig = Rig::new();
    let seen = Seen::default();
    let noted = seen.clone();
    let slow = move |delivery| {
        noted.note(&delivery);
        async { tokio::time::sleep(Duration::from_millis(30)).await }
    };
    let running = rig.start(rig.builder().default(slow)).await;
    let mut idle = Client::of(&rig).await;
    assert_eq!(
        idle.get("/ready").await.json(),
        json!({"success": true, "reasons": []})
    );
    let mut busy = Client::of(&rig).await;
    busy.write(&request("POST", "/messages", "", &message("a").to_string()))
        .await;
    seen.until_count(1).await;
    let mut written = Client::of(&rig).await;
    written
        .write(&request("POST", "/messages", "", &message("b").to_string()))
        .await;
    let mut asking = Client::of(&rig).await;
    asking.write(&request("GET", "/ready", "", "")).await;
    let stopping = running.tell_to_stop();
    for client in [&mut busy, &mut written] {
        let answer = client.recv().await;
        assert!(answer.status < 300, "{answer:?}");
    }
    let answer = asking.recv().await;
    assert!([200, 503].contains(&answer.status), "{answer:?}");
    for client in [&mut idle, &mut busy, &mut written, &mut asking] {
        assert!(client.next().await.is_none(), "closed");
    }
    let summary = stopping.await.unwrap().unwrap();
    assert_eq!(summary.processed + summary.stored, 2, "{summary:?}");
}

#[tokio::test]
async fn readiness_ends_while_nothing_can_be_stored_and_comes_back() {
    let mut rig = Rig::new();
    rig.config.queue_messages_max = Some(1);
    rig.config.machine.retries = RetryPolicy::fixed(Duration::from_secs(60)).into();
    let running = rig
        .start(rig.builder().default(|_| async { Err::<(), _>("no") }))
        .await;
    let mut client = Client::of(&rig).await;
    assert_eq!(client.get("/ready").await.status, 200);
    let answer = client.post("/messages", &message("a").to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let mut other = Client::of(&rig).await;
    other
        .write(&request("POST", "/messages", "", &message("b").to_string()))
        .await;
    let unready = client.until_ready(503).await;
    assert_eq!(
        unready.json()["reasons"],
        json!(["the queue file cannot be written"])
    );
    assert_eq!(unready.code(), "unavailable");
    assert_eq!(unready.header("retry-after"), Some("1"));
    let metrics = client.get("/metrics").await;
    assert!(metrics.body.contains("\nspoolway_ready 0\n"), "{metrics:?}");
    rig.sql()
        .execute("UPDATE message_queue SET processed = 1", ())
        .unwrap();
    client.until_ready(200).await;
    assert_eq!(other.recv().await.status, 202);
    running.stop().await;
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let mut rig = Rig::new();
    rig.config.http.head_max = Duration::from_millis(50);
    rig.config.http.idle_max = Duration::from_millis(150);
    rig.config.http.body_max = Duration::from_millis(50);
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut head = Client::of(&rig).await;
    head.write("GET /health HTTP/1.1\r\nho").await;
    assert!(head.next().await.is_none());
    let mut idle = Client::of(&rig).await;
    assert_eq!(idle.get("/health").await.status, 200);
    assert!(idle.next().await.is_none());
    let mut body = Client::of(&rig).await;
    body.write("POST /send HTTP/1.1\r\nhost: s\r\ncontent-length: 9\r\n\r\n{")
        .await;
    let answer = body.recv().await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "timeout"));
    assert!(body.next().await.is_none());
    let mut long = Client::of(&rig).await;
    long.write(&format!(
        "GET /health HTTP/1.1\r\nx: {}\r\n\r\n",
        "x".repeat(100_000)
    ))
    .await;
    assert_eq!(long.recv().await.status, 431);
    running.stop().await;
}

#[tokio::test]
async fn counts_are_told_to_people_and_to_prometheus() {
    let rig = Rig::new();
    let running = rig
        .start(
            rig.builder()
                .on("t", |_: Value| async {})
                .on("bad", |_: Value| async { Err::<(), _>("no") }),
        )
        .await;
    let mut client = Client::of(&rig).await;
    let batch = json!([message("a"), message("b"), {"type": "bad", "payload": 1}, {"type": "none", "payload": 1}]);
    client.post("/messages", &batch.to_string()).await;
    let stats = client.get("/stats").await.json();
    assert_eq!(
        [
            &stats["processed"],
            &stats["stored"],
            &stats["dead"],
            &stats["connections"]
        ],
        [2, 1, 1, 1]
    );
    assert_eq!(
        (&stats["queue"]["pending"], &stats["queue"]["dead"]),
        (&json!(1), &json!(1))
    );
    let metrics = client.get("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for line in [
        "spoolway_processed_total 2",
        "spoolway_stored_total 1",
        "spoolway_dead_total 1",
        "spoolway_connections 1",
        "spoolway_ready 1",
        "spoolway_backlog 1",
        "# TYPE spoolway_backlog gauge",
    ] {
        assert!(
            metrics.body.lines().any(|found| found == line),
            "{line}: {}",
            metrics.body
        );
    }
    for line in metrics.body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(
            value.parse::<f64>().is_ok() && name.starts_with("spoolway_"),
            "{line}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn what_openapi_says_is_what_there_is() {
    let rig = Rig::new();
    let running = rig.start(rig.builder().default(|_| async {})).await;
    let mut client = Client::of(&rig).await;
    let document = client.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 7);
    for (path, methods) in paths {
        for method in ["get", "post", "put", "delete", "patch"] {
            let upper = method.to_uppercase();
            let answer = client
                .ask(&upper, path, "", "{\"type\":\"t\",\"payload\":1}")
                .await;
            let described = &methods[method]["responses"];
            if described.is_null() {
                assert_eq!(answer.status, 405, "{method} {path} is not described");
                continue;
            }
            let status = answer.status.to_string();
            let response = &described[&status];
            assert!(!response.is_null(), "{method} {path} answers {status}");
            let kind = answer
                .header("content-type")
                .unwrap()
                .split(';')
                .next()
                .unwrap();
            assert!(
                !response["content"][kind].is_null(),
                "{method} {path} sends {kind}"
            );
            let schema = &response["content"][kind]["schema"];
            if kind == "application/json" && path != "/openapi.json" {
                assert!(
                    fits(&document, schema, &answer.json()),
                    "{path}: {answer:?}"
                );
            }
        }
    }
    // Every parameter of the query that is described is one that is known.
    for parameter in document["paths"]["/send"]["post"]["parameters"]
        .as_array()
        .unwrap()
    {
        let name = parameter["name"].as_str().unwrap();
        let value = match parameter["schema"]["type"].as_str().unwrap() {
            "integer" => "1",
            _ if name == "ack" => "stored",
            _ if name == "timestamp" || name == "deliver_at" => "1",
            _ => "x",
        };
        let answer = client.post(&format!("/send?{name}={value}"), "1").await;
        assert!(answer.status < 300, "{name}: {answer:?}");
    }
    running.stop().await;
}

/// Whether an object has what a schema requires, and no member that it does not describe.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    if let Some(name) = schema["$ref"].as_str() {
        let at = name.strip_prefix('#').unwrap();
        return fits(document, document.pointer(at).unwrap(), value);
    }
    if let Some(some) = schema["oneOf"].as_array() {
        return some.iter().any(|schema| fits(document, schema, value));
    }
    let required = schema["required"].as_array().unwrap();
    let object = value.as_object().unwrap();
    required
        .iter()
        .all(|name| object.contains_key(name.as_str().unwrap()))
        && object
            .keys()
            .all(|name| !schema["properties"][name].is_null())
}

#[tokio::test]
async fn curl_can_talk_to_it() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig.start(rig.builder().default(seen.handler())).await;
    let curl = format!("curl -sS --unix-socket {}", rig.socket().display());
    let lines: String = (0..3)
        .map(|n| format!("{}\n", message(&n.to_string())))
        .collect();
    let large = rig.path("large.json");
    std::fs::write(&large, format!("\"{}\"", "x".repeat(3 << 20))).unwrap();
    for (command, expected) in [
        (
            format!("{curl} http://localhost/health"),
            "\"success\":true",
        ),
        (
            format!("{curl} 'http://localhost/send?type=order&id=o' -d '{{\"id\":1}}'"),
            "{\"success\":true,\"id\":\"o\",\"outcome\":\"processed\"}",
        ),
        (
            format!("{curl} http://localhost/messages --data-binary @- <<'END'\n{lines}END"),
            "\"id\":\"2\",\"outcome\":\"processed\"",
        ),
        // Large enough for curl to ask first whether it may send it.
        (
            format!(
                "{curl} http://localhost/send -H content-type:application/json --data-binary @{}",
                large.display()
            ),
            "\"outcome\":\"processed\"",
        ),
        (
            format!("{curl} -w '%{{http_code}}' http://localhost/nothing"),
            "404",
        ),
        (
            format!("{curl} -I http://localhost/metrics http://localhost/health"),
            "content-type: application/json",
        ),
    ] {
        let Some(said) = shell("curl", &command).await else {
            break;
        };
        assert!(said.contains(expected), "{command}: {said}");
    }
    running.stop().await;
}
