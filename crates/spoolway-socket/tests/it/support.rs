//! A directory with a server, and what its handler has heard.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use spoolway_proto::{ConsumerOp, FrameDecoder, Message, Reply, decode_for_producer, put_frame};
use spoolway_socket::{UnixSocketClient, UnixSocketServer, UnixSocketServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Longer than anything here takes on a loaded machine; reached only by a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    dir: TempDir,
}

/// The types of the messages that came, in order.
pub(crate) type Heard = Arc<Mutex<Vec<String>>>;

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    /// A server that has heard what came, and fails at the type `bad`.
    pub(crate) fn hearing(&self) -> (UnixSocketServer, Heard) {
        let heard = Heard::default();
        let mut server = UnixSocketServer::new(UnixSocketServerConfig::new(self.path()));
        let hears = Arc::clone(&heard);
        server.set_message_handler(move |message| {
            let hears = Arc::clone(&hears);
            async move {
                assert_ne!(&*message.r#type, "panic", "as it was asked to");
                hears.lock().unwrap().push(message.r#type.to_string());
                match &*message.r#type {
                    "bad" => Err(io::Error::other("out of tea")),
                    _ => Ok(()),
                }
            }
        });
        (server, heard)
    }

    pub(crate) async fn client(&self) -> UnixSocketClient {
        UnixSocketClient::connect(self.path(), DEADLINE)
            .await
            .unwrap()
    }

    pub(crate) async fn peer(&self) -> Peer {
        Peer {
            stream: UnixStream::connect(self.path()).await.unwrap(),
            buffer: BytesMut::new(),
            decoder: FrameDecoder::new(1 << 20),
        }
    }
}

/// A connection by hand.
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    buffer: BytesMut,
    decoder: FrameDecoder,
}

impl Peer {
    pub(crate) async fn write(&mut self, body: &str) {
        let mut out = BytesMut::new();
        put_frame(&mut out, |out| out.extend_from_slice(body.as_bytes()));
        self.stream.write_all(&out).await.unwrap();
    }

    async fn frame(&mut self) -> Option<bytes::Bytes> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let read = self.stream.read_buf(&mut self.buffer);
            if tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap() == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn op(&mut self) -> ConsumerOp {
        decode_for_producer(&self.frame().await.unwrap()).unwrap()
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        serde_json::from_slice(&self.frame().await.unwrap()).unwrap()
    }

    pub(crate) async fn ends(&mut self) -> bool {
        self.frame().await.is_none()
    }
}

pub(crate) fn message(kind: &str) -> Message {
    Message::new(kind, &1).unwrap()
}

pub(crate) fn asking(kind: &str) -> Message {
    message(kind).requires_ack(true)
}

pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(std::time::Instant::now() < end, "in vain: {what}");
        tokio::task::yield_now().await;
    }
}
