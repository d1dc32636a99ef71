//! Puts a consumer together.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::handler::{Handlers, decoding};
use crate::{Consumer, ConsumerConfig, ConsumerError, Delivery, IntoFinish, Sink, Summary};

/// A consumer that is not listening yet. Made by [`Consumer::builder`].
#[must_use = "a builder does nothing until `run` or `build`"]
pub struct Builder {
    pub(crate) socket: PathBuf,
    pub(crate) queue: PathBuf,
    pub(crate) config: ConsumerConfig,
    pub(crate) handlers: Handlers,
    pub(crate) sink: Option<Sink>,
    pub(crate) standby: bool,
    pub(crate) listener: Option<UnixListener>,
    pub(crate) spool_directory: Option<PathBuf>,
}

impl Builder {
    pub(crate) fn new(socket: PathBuf, queue: PathBuf) -> Self {
        Self {
            socket,
            queue,
            config: ConsumerConfig::default(),
            handlers: Handlers::default(),
            sink: None,
            standby: false,
            listener: None,
            spool_directory: None,
        }
    }

    /// Handles messages of that type by their payload.
    ///
    /// A payload that does not decode is a dead letter `invalid_payload` at once. A handler that returns an error,
    /// or panics, is tried again by the retry policy. A second handler for a type replaces the first.
    pub fn on<T, F, Fut>(mut self, r#type: impl AsRef<str>, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoFinish> + Send + 'static,
    {
        self.handlers.on(r#type.as_ref(), decoding(handler));
        self
    }

    /// Handles messages of that type with everything that is known of them.
    pub fn on_message<F, Fut>(mut self, r#type: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoFinish> + Send + 'static,
    {
        self.handlers.on(r#type.as_ref(), handler);
        self
    }

    /// Handles commands of that name, such as `{"command":"privmsg","target":"#ruby","message":"hi"}`, by the whole
    /// object.
    ///
    /// Commands of other names go to the handler of the type `command`, if there is one. As [`Builder::on`] otherwise.
    ///
    /// ```
    /// # use spoolway_consumer::Consumer;
    /// #[derive(serde::Deserialize)]
    /// struct Privmsg {
    ///     target: String,
    ///     message: String,
    /// }
    ///
    /// let builder = Consumer::builder("/run/app/chat.sock", "/var/lib/app/chat.db")
    ///     .on_command("privmsg", |said: Privmsg| async move { println!("{}: {}", said.target, said.message) });
    /// ```
    pub fn on_command<T, F, Fut>(mut self, name: impl AsRef<str>, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoFinish> + Send + 'static,
    {
        self.handlers.on_command(name.as_ref(), decoding(handler));
        self
    }

    /// Handles messages of every other type. Without it, and without a sink, they are dead letters `no_route`.
    pub fn default<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoFinish> + Send + 'static,
    {
        self.handlers.set_default(handler);
        self.sink = None;
        self
    }

    /// Hands messages of every other type to the sink, in place of [`Builder::default`].
    pub fn sink(mut self, sink: Sink) -> Self {
        self.handlers.unset_default();
        self.sink = Some(sink);
        self
    }

    /// Sets everything else.
    pub fn config(mut self, config: ConsumerConfig) -> Self {
        self.config = config;
        self
    }

    /// Waits for the consumer that owns the socket and the queue file to end, and takes over at once; by default a
    /// second consumer is refused.
    ///
    /// [`Builder::build`] waits then; a future of it that is dropped leaves a thread behind which waits on and gives
    /// up what it gets.
    pub fn standby(mut self, standby: bool) -> Self {
        self.standby = standby;
        self
    }

    /// Listens with a socket that somebody else has made and keeps, such as systemd (socket activation), in place of
    /// making one.
    ///
    /// Producers that connect while no consumer runs wait in it for the next one, so a restart refuses nobody. Its file
    /// is never removed, and its path takes no lock: of those that share it, the one with the queue file's lock accepts.
    pub fn listener(mut self, listener: UnixListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Takes messages from files too: `DIR/<folder>/messages/<id>.json`, as soon as each is renamed into place.
    ///
    /// What became of it is written to `DIR/<folder>/acks/<id>.ack`, and what is refused or dead to
    /// `DIR/<folder>/errors` as well; both stay for [`ConsumerConfig::retention`], at least an hour. The directory is
    /// made when missing, for its owner only, and one consumer at a time takes from it.
    /// `docs/spool-directory.md` is what a program that writes there must know.
    pub fn spool_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spool_directory = Some(directory.into());
        self
    }

    /// Takes the locks, opens the queue file and listens: from here on producers may connect.
    ///
    /// Nothing is accepted or processed before [`Consumer::run`].
    ///
    /// # Errors
    ///
    /// See [`ConsumerError`]; nothing is left behind.
    pub async fn build(self) -> Result<Consumer, ConsumerError> {
        Consumer::open(self).await
    }

    /// [`Builder::build`] and [`Consumer::run`].
    ///
    /// # Errors
    ///
    /// See [`ConsumerError`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Summary, ConsumerError> {
        self.build().await?.run(shutdown).await
    }
}
