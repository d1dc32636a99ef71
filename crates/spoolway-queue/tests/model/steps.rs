//! What can be done to a queue in one step, and how often it is chosen.

use std::fmt;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::model::Model;

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The handle that dequeues.
    Consumer,
    /// Another handle on the file.
    Other,
}

/// A message to store. Two with the same id and content are the same message.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) id: String,
    pub(crate) content: u8,
    pub(crate) key: Option<&'static str>,
    pub(crate) priority: u8,
    pub(crate) deliver: Option<Time>,
    pub(crate) ttl: Option<Time>,
}

impl Draft {
    /// Of normal priority, and to run at once.
    pub(crate) fn new(id: impl Into<String>, content: u8, key: Option<&'static str>) -> Self {
        Self {
            id: id.into(),
            content,
            key,
            priority: 50,
            deliver: None,
            ttl: None,
        }
    }

    /// What a [`Step::Fill`] stores.
    pub(crate) fn many(many: usize, key: Option<&'static str>) -> Vec<Self> {
        (0..many)
            .map(|n| Self::new(format!("many{n}"), 0, key))
            .collect()
    }
}

impl fmt::Debug for Draft {
    /// One line, of what is not usual about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} at {}", self.id, self.content, self.priority)?;
        if let Some(key) = self.key {
            write!(f, " of {key}")?;
        }
        if let Some(time) = self.deliver {
            write!(f, " not before {time:?}")?;
        }
        match self.ttl {
            Some(time) => write!(f, " until {time:?}"),
            None => Ok(()),
        }
    }
}

/// A moment that is long past, or one that no run reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    Past,
    Future,
}

/// How a claim ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Processed,
    Retry { later: bool },
    Dead { reason: &'static str, error: bool },
    Release,
}

/// Which dead letters are meant.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    All,
    Id(String),
    Content(u8),
    Key(&'static str),
    Reason(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Enqueue(By, Draft),
    EnqueueBatch(By, Vec<Draft>),
    /// Many messages of one key, in one commit.
    Fill(usize, Option<&'static str>),
    /// A message with an origin, as a producer spools it.
    Spool(usize, Draft),
    /// Another program inserts its four columns.
    Insert {
        id: String,
        content: Option<u8>,
    },
    /// Another program marks a row as processed.
    MarkForeign(String),
    /// The payload of a row is no longer what was stored.
    Damage(String),
    Dequeue(usize),
    /// Somebody else wants to dequeue.
    Intrude,
    Peek(usize),
    /// Of what is held, by place, each at most once.
    Settle(Vec<(usize, End)>),
    MarkProcessed(By, String),
    Cleanup {
        all: bool,
    },
    List(Which, usize),
    Requeue(By, Which),
    /// What was processed is to run again.
    Replay(usize),
    Purge(By, Which),
    Hold(&'static str),
    Free(&'static str),
    /// The consumer ends in order, and starts again.
    Restart,
    /// The consumer ends as if killed, and starts again.
    Crash,
}

const IDS: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
const KEYS: &[&str] = &["k", "l"];
pub(crate) const REASONS: &[&str] = &["attempts", "no_route"];

fn id() -> impl Strategy<Value = String> {
    prop::sample::select(IDS).prop_map(str::to_owned)
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![3 => Just(By::Consumer), 1 => Just(By::Other)]
}

fn draft() -> impl Strategy<Value = Draft> {
    let time = prop::sample::select(&[Time::Past, Time::Future][..]);
    (
        id(),
        prop_oneof![5 => Just(0), 1 => Just(1_u8)],
        option::of(prop::sample::select(KEYS)),
        prop_oneof![20 => prop::sample::select(&[10_u8, 50, 90][..]), 1 => Just(101)],
        option::weighted(0.15, time.clone()),
        option::weighted(0.15, time),
    )
        .prop_map(|(id, content, key, priority, deliver, ttl)| Draft {
            id,
            content,
            key,
            priority,
            deliver,
            ttl,
        })
}

fn end() -> impl Strategy<Value = End> {
    let dead = (prop::sample::select(REASONS), any::<bool>());
    prop_oneof![
        3 => Just(End::Processed),
        3 => any::<bool>().prop_map(|later| End::Retry { later }),
        3 => dead.prop_map(|(reason, error)| End::Dead { reason, error }),
        2 => Just(End::Release),
    ]
}

fn which() -> impl Strategy<Value = Which> {
    let reasons = &["attempts", "no_route", "expired", "invalid", "corrupt"][..];
    prop_oneof![
        3 => Just(Which::All),
        2 => id().prop_map(Which::Id),
        1 => (0..2_u8).prop_map(Which::Content),
        1 => prop::sample::select(KEYS).prop_map(Which::Key),
        1 => prop::sample::select(reasons).prop_map(Which::Reason),
    ]
}

fn step(model: &Model) -> BoxedStrategy<Step> {
    let key = || prop::sample::select(KEYS);
    let held = match model.held_ids() {
        ids if ids.is_empty() => id().boxed(),
        ids => prop::sample::select(ids).boxed(),
    };
    prop_oneof![
        8 => (by(), draft()).prop_map(|(by, draft)| Step::Enqueue(by, draft)),
        4 => (by(), vec(draft(), 0..6)).prop_map(|(by, drafts)| Step::EnqueueBatch(by, drafts)),
        1 => (1..5_usize, option::of(key())).prop_map(|(many, key)| Step::Fill(many * 20, key)),
        4 => (0..2_usize, draft()).prop_map(|(producer, draft)| Step::Spool(producer, draft)),
        3 => (id(), option::weighted(0.7, 0..2_u8))
            .prop_map(|(id, content)| Step::Insert { id, content }),
        1 => id().prop_map(Step::MarkForeign),
        1 => id().prop_map(Step::Damage),
        10 => (0..6_usize).prop_map(Step::Dequeue),
        2 => (30..70_usize).prop_map(Step::Dequeue),
        1 => Just(Step::Intrude),
        2 => (0..80_usize).prop_map(Step::Peek),
        12 => vec((0..8_usize, end()), 1..6).prop_map(Step::Settle),
        1 => (by(), id()).prop_map(|(by, id)| Step::MarkProcessed(by, id)),
        4 => (by(), held).prop_map(|(by, id)| Step::MarkProcessed(by, id)),
        1 => any::<bool>().prop_map(|all| Step::Cleanup { all }),
        2 => (which(), 0..5_usize).prop_map(|(which, limit)| Step::List(which, limit)),
        2 => (by(), which()).prop_map(|(by, which)| Step::Requeue(by, which)),
        1 => (0..4_usize).prop_map(Step::Replay),
        1 => (by(), which()).prop_map(|(by, which)| Step::Purge(by, which)),
        1 => key().prop_map(Step::Hold),
        1 => key().prop_map(Step::Free),
        1 => Just(Step::Restart),
        2 => Just(Step::Crash),
    ]
    .boxed()
}

/// The steps of a run, of which the model says what they must answer.
#[derive(Debug)]
pub(crate) struct Steps<const FLAW: u8>;

impl<const FLAW: u8> ReferenceStateMachine for Steps<FLAW> {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::new(FLAW)).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        step(model)
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        model.answer = model.take(step);
        model
    }

    fn preconditions(model: &Model, step: &Step) -> bool {
        model.allows(step)
    }
}
