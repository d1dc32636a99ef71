//! Code that processes a message, and how its end is understood.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hashbrown::HashMap;
use serde::de::DeserializeOwned;
use spoolway_proto::{COMMAND, Message, Payload};

use crate::machine::Finish;

/// A message as a handler gets it: once an attempt.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Whether it was processed before and is delivered again by request.
    pub replayed: bool,
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// What a handler may return: `()`, a `Result` whose error is text enough, or a [`Finish`].
pub trait IntoFinish {
    /// How the handler ended.
    fn into_finish(self) -> Finish;
}

impl IntoFinish for () {
    fn into_finish(self) -> Finish {
        Finish::Done
    }
}

impl IntoFinish for Finish {
    fn into_finish(self) -> Finish {
        self
    }
}

/// An error is a failed attempt; its alternate form (`{:#}`) is kept, which for some types is the whole chain.
impl<E: Display> IntoFinish for Result<(), E> {
    fn into_finish(self) -> Finish {
        match self {
            Ok(()) => Finish::Done,
            Err(error) => Finish::Failed(format!("{error:#}")),
        }
    }
}

type Handling = Pin<Box<dyn Future<Output = Finish> + Send>>;
type Handler = Box<dyn Fn(Delivery) -> Handling + Send + Sync>;

/// Which handler takes which message.
#[derive(Default)]
pub(crate) struct Handlers {
    by_command: HashMap<Box<str>, Handler>,
    by_type: HashMap<Box<str>, Handler>,
    default: Option<Handler>,
}

impl Handlers {
    pub(crate) fn on<F, Fut>(&mut self, r#type: &str, handler: F)
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoFinish> + Send + 'static,
    {
        self.by_type.insert(r#type.into(), boxed(handler));
    }

    /// For the commands of that name; it goes before the handler of their type.
    pub(crate) fn on_command<F, Fut>(&mut self, name: &str, handler: F)
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoFinish> + Send + 'static,
    {
        self.by_command.insert(name.into(), boxed(handler));
    }

    pub(crate) fn set_default<F, Fut>(&mut self, handler: F)
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoFinish> + Send + 'static,
    {
        self.default = Some(boxed(handler));
    }

    pub(crate) fn unset_default(&mut self) {
        self.default = None;
    }

    /// Whether a handler of its own, or the default one, takes this message.
    pub(crate) fn takes(&self, message: &Message) -> bool {
        self.default.is_some() || self.of(message).is_some()
    }

    fn of(&self, message: &Message) -> Option<&Handler> {
        self.of_command(message)
            .or_else(|| self.by_type.get(&*message.r#type))
            .or(self.default.as_ref())
    }

    fn of_command(&self, message: &Message) -> Option<&Handler> {
        if self.by_command.is_empty() || &*message.r#type != COMMAND {
            return None;
        }
        self.by_command.get(&*command(&message.payload)?)
    }

    /// Starts the handler of the message. A panic of the handler is a failed attempt, also while it starts.
    pub(crate) fn start(&self, delivery: Delivery) -> Attempt {
        let Some(handler) = self.of(&delivery.message) else {
            return Attempt::Ended(Some(no_route(&delivery.message.r#type)));
        };
        match catch_unwind(AssertUnwindSafe(|| handler(delivery))) {
            Ok(handling) => Attempt::Running(handling),
            Err(panic) => Attempt::Ended(Some(panicked(&*panic))),
        }
    }
}

fn boxed<F, Fut>(handler: F) -> Handler
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoFinish> + Send + 'static,
{
    Box::new(move |delivery| {
        let handling = handler(delivery);
        Box::pin(async move { handling.await.into_finish() })
    })
}

/// The name of a command.
fn command(payload: &Payload) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Command<'a> {
        #[serde(borrow)]
        command: Cow<'a, str>,
    }

    serde_json::from_slice::<Command<'_>>(payload.as_bytes())
        .ok()
        .map(|named| named.command)
}

/// A handler of payloads as a handler of messages.
pub(crate) fn decoding<T, F, Fut>(
    handler: F,
) -> impl Fn(Delivery) -> Pin<Box<dyn Future<Output = Finish> + Send>> + Send + Sync + 'static
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoFinish> + Send + 'static,
{
    move |delivery| match delivery.payload.decode::<T>() {
        Ok(payload) => {
            let handling = handler(payload);
            Box::pin(async move { handling.await.into_finish() })
        }
        Err(_) => Box::pin(std::future::ready(misfit::<T>(&delivery.payload))),
    }
}

/// Decodes once more, this time with the path of what does not fit.
fn misfit<T: DeserializeOwned>(payload: &Payload) -> Finish {
    let mut deserializer = serde_json::Deserializer::from_slice(payload.as_bytes());
    let error = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => "the payload has something behind its value".to_owned(),
        Err(error) => match error.path().to_string().as_str() {
            "." => format!("payload: {}", error.inner()),
            path => format!("payload.{path}: {}", error.inner()),
        },
    };
    Finish::Rejected {
        reason: "invalid_payload".into(),
        error: Some(error),
    }
}

pub(crate) fn no_route(r#type: &str) -> Finish {
    let error = format!("no handler takes messages of type {type:?}");
    Finish::Rejected {
        reason: "no_route".into(),
        error: Some(error),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Finish {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    Finish::Failed(format!("handler panicked: {text}"))
}

/// One run of a handler. Never panics, whatever the handler does.
pub(crate) enum Attempt {
    Running(Handling),
    Ended(Option<Finish>),
}

impl Future for Attempt {
    type Output = Finish;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Finish> {
        let ended = match &mut *self {
            Self::Running(handling) => {
                match catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context))) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(finish)) => finish,
                    Err(panic) => panicked(&*panic),
                }
            }
            Self::Ended(finish) => finish
                .take()
                .unwrap_or_else(|| Finish::Failed("polled after its end".into())),
        };
        *self = Self::Ended(None);
        Poll::Ready(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Candle {
        #[expect(dead_code, reason = "only its decoding is tested")]
        close: f64,
    }

    fn delivery(payload: &str) -> Delivery {
        let payload = Payload::from_json(payload.to_owned()).unwrap();
        let message = Arc::new(Message::with_payload("candle", payload));
        Delivery {
            message,
            attempt: 1,
            replayed: false,
        }
    }

    fn finish(handlers: &Handlers, payload: &str) -> Finish {
        let mut attempt = handlers.start(delivery(payload));
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut attempt).poll(&mut context) {
            Poll::Ready(finish) => finish,
            Poll::Pending => panic!("still running"),
        }
    }

    #[test]
    fn a_payload_that_does_not_fit_is_rejected_and_its_field_named() {
        let mut handlers = Handlers::default();
        handlers.on("candle", decoding(|_: Candle| async {}));
        assert_eq!(finish(&handlers, r#"{"close":1}"#), Finish::Done);
        for (payload, part) in [
            (r#"{"close":"x"}"#, "payload.close:"),
            ("{}", "`close`"),
            ("7", "payload: "),
        ] {
            let Finish::Rejected {
                reason,
                error: Some(error),
            } = finish(&handlers, payload)
            else {
                panic!("{payload}")
            };
            assert_eq!(reason, "invalid_payload");
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_type_without_handler_has_no_route_unless_there_is_a_default() {
        let mut handlers = Handlers::default();
        let Finish::Rejected { reason, .. } = finish(&handlers, "1") else {
            panic!()
        };
        assert_eq!(reason, "no_route");
        handlers.set_default(|_| async { Err::<(), _>("not today") });
        assert_eq!(finish(&handlers, "1"), Finish::Failed("not today".into()));
    }

    #[test]
    fn a_command_goes_to_the_handler_of_its_name_and_else_to_that_of_its_type() {
        let mut handlers = Handlers::default();
        handlers.on(COMMAND, |_| async { Err::<(), _>("the type's") });
        handlers.on_command("privmsg", |_| async { Err::<(), _>("the name's") });
        for (r#type, payload, taken_by) in [
            (
                COMMAND,
                r#"{"target":"\u0023","command":"priv\u006dsg"}"#,
                "the name's",
            ),
            (COMMAND, r#"{"command":"join"}"#, "the type's"),
            (COMMAND, "7", "the type's"),
        ] {
            let payload = Payload::from_json(payload).unwrap();
            let message = Arc::new(Message::with_payload(r#type, payload));
            let delivery = Delivery {
                message,
                attempt: 1,
                replayed: false,
            };
            let mut attempt = handlers.start(delivery);
            let mut context = Context::from_waker(std::task::Waker::noop());
            let ended = Pin::new(&mut attempt).poll(&mut context);
            assert_eq!(ended, Poll::Ready(Finish::Failed(taken_by.into())));
        }
        let other = Message::new("privmsg", &()).unwrap();
        assert!(!handlers.takes(&other), "a type is no command's name");
    }

    #[test]
    fn a_panic_is_a_failed_attempt_wherever_it_happens() {
        let mut handlers = Handlers::default();
        handlers.set_default(|delivery| async move {
            assert!(delivery.replayed, "in the future");
        });
        assert_eq!(
            finish(&handlers, "1"),
            Finish::Failed("handler panicked: in the future".into())
        );
        handlers.set_default(|delivery| {
            assert!(delivery.replayed, "before it: {}", delivery.attempt);
            async {}
        });
        assert_eq!(
            finish(&handlers, "1"),
            Finish::Failed("handler panicked: before it: 1".into())
        );
    }
}
