//! A consumer written by hand over a real socket, and a place with a real queue file.

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use spoolway_client::route::RouteConfig;
use spoolway_client::{Producer, ProducerBuilder};
use spoolway_proto::{
    Ack, ConsumerHello, ConsumerOp, Epoch, FrameDecoder, Incoming, InstanceId, Limits, Message,
    PROTOCOL_VERSION, ProducerHello, ProducerOp, QueueId, Ranges, decode_for_consumer,
};
use spoolway_queue::{QueueOptions, SqliteQueue};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for what must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what)
        .await
        .expect("it happens in time")
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn message(id: impl ToString) -> Message {
    Message::new("task", "x").unwrap().id(id.to_string())
}

/// A directory with a socket's name and a queue file.
pub(crate) struct Bed {
    pub(crate) socket: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) queue: QueueId,
    pub(crate) dir: TempDir,
}

/// What a row says of the message in it.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) producer: String,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("queue.db");
        let queue = SqliteQueue::open(&database, QueueOptions::default())
            .unwrap()
            .identity();
        let socket = dir.path().join("consumer.sock");
        Self {
            socket,
            database,
            queue,
            dir,
        }
    }

    /// Times that suit a test: what is awaited is short, what must not happen is long.
    pub(crate) fn route() -> RouteConfig {
        RouteConfig {
            connect_timeout: LIMIT,
            resume_grace: LIMIT,
            full_wait: LIMIT,
            ping_every: Duration::from_millis(20),
            silence_max: LIMIT,
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(20),
            spool_retry: Duration::from_millis(20),
            ..RouteConfig::default()
        }
    }

    pub(crate) fn builder(&self) -> ProducerBuilder {
        Producer::builder(&self.socket, &self.database)
            .route(Self::route())
            .send_timeout(LIMIT)
    }

    pub(crate) fn listen(&self) -> Consumer {
        Consumer::new(&self.socket, self.queue)
    }

    /// A producer and the connection that it opened.
    pub(crate) async fn connected(&self, builder: ProducerBuilder) -> (Producer, Consumer, Peer) {
        let consumer = self.listen();
        let (producer, peer) = tokio::join!(builder.open(), consumer.greet());
        (producer.unwrap(), consumer, peer)
    }

    /// The rows of the file, in their order.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let file = rusqlite::Connection::open(&self.database).unwrap();
        let mut select = file
            .prepare("SELECT message_id, producer, epoch, sequence FROM message_queue ORDER BY seq")
            .unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Row {
                id: row.get(0)?,
                producer: row.get(1)?,
                epoch: row.get::<_, i64>(2)? as u64,
                sequence: row.get::<_, i64>(3)? as u64,
            })
        };
        let rows = select.query_map((), row).unwrap();
        rows.map(Result::unwrap).collect()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.id).collect()
    }
}

/// The consumer's end of the socket.
pub(crate) struct Consumer {
    listener: UnixListener,
    hello: ConsumerHello,
}

impl Consumer {
    /// Listens before the name shows up, as a real one does.
    fn new(socket: &Path, queue: QueueId) -> Self {
        let hidden = socket.with_extension("new");
        let listener = UnixListener::bind(&hidden).unwrap();
        std::fs::rename(&hidden, socket).unwrap();
        let hello = ConsumerHello {
            version: PROTOCOL_VERSION,
            server: "test".into(),
            instance: InstanceId::from_u128(1),
            window: 1_000,
            window_bytes: 64 << 20,
            message_bytes_max: 10 << 20,
            durability: "full".into(),
            queue,
        };
        Self { listener, hello }
    }

    pub(crate) fn window(mut self, window: u32) -> Self {
        self.hello.window = window;
        self
    }

    pub(crate) fn window_bytes(mut self, bytes: u64) -> Self {
        self.hello.window_bytes = bytes;
        self
    }

    pub(crate) fn queue(mut self, queue: QueueId) -> Self {
        self.hello.queue = queue;
        self
    }

    pub(crate) fn message_bytes_max(mut self, bytes: u64) -> Self {
        self.hello.message_bytes_max = bytes;
        self
    }

    /// A connection on which hello was heard and not answered.
    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        let mut peer = Peer {
            stream,
            inbox: BytesMut::new(),
            decoder: FrameDecoder::new(Limits::default().frame_bytes_max),
            hello: None,
            n: 0,
            batch: VecDeque::new(),
            frames: Vec::new(),
        };
        match peer.next().await {
            Some(Heard::Op(ProducerOp::Hello(hello))) => {
                peer.n = hello.first;
                peer.hello = Some(hello);
            }
            heard => panic!("hello comes first, not {heard:?}"),
        }
        peer
    }

    /// A connection on which hello was answered.
    pub(crate) async fn greet(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.say(ConsumerOp::Hello(self.hello.clone())).await;
        peer
    }
}

/// What came from the producer.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(u64, Box<Message>),
    Op(ProducerOp),
}

/// One connection, from the consumer's side.
pub(crate) struct Peer {
    stream: UnixStream,
    inbox: BytesMut,
    decoder: FrameDecoder,
    hello: Option<ProducerHello>,
    n: u64,
    /// The rest of the batch that was read last.
    batch: VecDeque<Message>,
    /// How many messages each frame of them had.
    pub(crate) frames: Vec<usize>,
}

impl Peer {
    pub(crate) fn hello(&self) -> &ProducerHello {
        self.hello.as_ref().unwrap()
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.hello().epoch
    }

    /// What comes next; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        let limits = Limits::default();
        loop {
            if let Some(message) = self.batch.pop_front() {
                self.n += 1;
                return Some(Heard::Message(self.n - 1, Box::new(message)));
            }
            if let Some(frame) = self.decoder.next(&mut self.inbox).unwrap() {
                return Some(match decode_for_consumer(&frame, &limits).unwrap() {
                    Incoming::Message(message) => {
                        self.frames.push(1);
                        self.batch.push_back(message.unwrap());
                        continue;
                    }
                    Incoming::Batch(batch) => {
                        self.frames.push(batch.len());
                        self.batch.extend(batch.into_iter().map(Result::unwrap));
                        continue;
                    }
                    Incoming::Op(op) => {
                        if let ProducerOp::At { n } = op {
                            self.n = n;
                        }
                        Heard::Op(op)
                    }
                });
            }
            match soon(self.stream.read_buf(&mut self.inbox)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The number and id of the next message; pings are answered.
    pub(crate) async fn message(&mut self) -> (u64, String) {
        self.messages(1).await.remove(0)
    }

    /// The next `count` of them. The pings in between do not prolong the wait.
    pub(crate) async fn messages(&mut self, count: usize) -> Vec<(u64, String)> {
        let mut messages = Vec::new();
        let all = async {
            while messages.len() < count {
                match self.next().await {
                    Some(Heard::Message(n, message)) => messages.push((n, message.id.to_string())),
                    Some(Heard::Op(ProducerOp::Ping)) => self.say(ConsumerOp::Pong).await,
                    Some(Heard::Op(_)) => {}
                    None => panic!("the connection ended"),
                }
            }
        };
        if tokio::time::timeout(LIMIT, all).await.is_err() {
            panic!("{} of {count} messages came: {messages:?}", messages.len());
        }
        messages
    }

    /// Reads on, answering pings, until nothing comes for a few of them; fails on a message.
    pub(crate) async fn no_message(&mut self) {
        let mut pings = 0;
        while pings < 3 {
            match self.next().await {
                Some(Heard::Message(n, _)) => panic!("message {n} comes all the same"),
                Some(Heard::Op(ProducerOp::Ping)) => {
                    pings += 1;
                    self.say(ConsumerOp::Pong).await;
                }
                Some(Heard::Op(_)) => {}
                None => panic!("the connection ended"),
            }
        }
    }

    /// The next confirmation: ranges and counts. What comes before it is passed over.
    pub(crate) async fn seen(&mut self) -> (Vec<(u64, u64)>, u64, u64) {
        soon(async {
            loop {
                match self.next().await {
                    Some(Heard::Op(ProducerOp::Seen { ranges, queue, err })) => {
                        return (ranges.iter().collect(), queue, err);
                    }
                    Some(_) => {}
                    None => panic!("the connection ended unconfirmed"),
                }
            }
        })
        .await
    }

    /// Reads to the end of the connection; returns the messages.
    pub(crate) async fn rest(&mut self) -> Vec<u64> {
        soon(async {
            let mut rest = Vec::new();
            while let Some(heard) = self.next().await {
                if let Heard::Message(n, _) = heard {
                    rest.push(n);
                }
            }
            rest
        })
        .await
    }

    pub(crate) async fn say(&mut self, op: ConsumerOp) {
        let mut out = BytesMut::new();
        op.put(&mut out);
        self.write(&out).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn processed(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let processed = Ranges::from_iter(numbers);
        self.say(ConsumerOp::Ack(Ack {
            processed,
            ..Ack::default()
        }))
        .await;
    }
}
