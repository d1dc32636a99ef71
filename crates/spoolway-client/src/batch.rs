//! A batch on its way: its answers are gathered, and told together.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use spoolway_proto::Message;
use tokio::sync::oneshot;

use crate::receipt::{Answer, lost};

/// Messages on their way together. Dropping it drops the answers, not the messages.
///
/// It yields an answer for each message, in the order they were given, once the last of them is there.
#[derive(Debug)]
#[must_use = "the messages are on their way; wait for their answers"]
pub struct SendingBatch {
    messages: Vec<Arc<Message>>,
    answers: oneshot::Receiver<Vec<Answer>>,
}

impl SendingBatch {
    pub(crate) fn new(
        messages: Vec<Arc<Message>>,
        answers: oneshot::Receiver<Vec<Answer>>,
    ) -> Self {
        Self { messages, answers }
    }

    /// Waits on this thread, for programs without a runtime of their own.
    ///
    /// # Panics
    ///
    /// Inside an async task, which it would block.
    pub fn wait(self) -> Vec<Answer> {
        let Self { messages, answers } = self;
        answers
            .blocking_recv()
            .unwrap_or_else(|_| all_lost(&messages))
    }
}

impl Future for SendingBatch {
    type Output = Vec<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answers = ready!(Pin::new(&mut self.answers).poll(context));
        Poll::Ready(answers.unwrap_or_else(|_| all_lost(&self.messages)))
    }
}

/// Every place is answered before it is dropped, but for those of a producer that was leaked.
fn all_lost(messages: &[Arc<Message>]) -> Vec<Answer> {
    messages.iter().map(|message| Err(lost(message))).collect()
}

/// Where the answers of a batch are gathered.
#[derive(Debug)]
pub(crate) struct Gathering(Mutex<Gathered>);

#[derive(Debug)]
struct Gathered {
    answers: Vec<Option<Answer>>,
    left: usize,
    done: Option<oneshot::Sender<Vec<Answer>>>,
}

impl Gathering {
    /// For so many answers, which the second waits for.
    pub(crate) fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<Answer>>) {
        let (done, answers) = oneshot::channel();
        let mut gathered = Gathered {
            answers: (0..count).map(|_| None).collect(),
            left: count,
            done: Some(done),
        };
        gathered.tell();
        (Arc::new(Self(Mutex::new(gathered))), answers)
    }

    /// The answer of the message at this place. It is given back when nobody waits for it.
    pub(crate) fn answer(&self, place: usize, answer: Answer) -> Result<(), Answer> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gathered
            .done
            .as_ref()
            .is_none_or(oneshot::Sender::is_closed)
        {
            return Err(answer);
        }
        gathered.left -= 1;
        gathered.answers[place] = Some(answer);
        gathered.tell();
        Ok(())
    }
}

impl Gathered {
    fn tell(&mut self) {
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            let answers = std::mem::take(&mut self.answers);
            // Who stopped waiting in this moment has the same answers in the log as one who did before.
            let _ = done.send(answers.into_iter().flatten().collect());
        }
    }
}
