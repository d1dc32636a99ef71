//! A row of the model: a message, and what became of it.

use crate::steps::{Draft, Time, Which};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    Processed,
    Dead,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) seq: usize,
    pub(crate) id: String,
    /// `None`: what another program stored, which is no JSON.
    pub(crate) content: Option<u8>,
    pub(crate) key: Option<&'static str>,
    pub(crate) priority: u8,
    pub(crate) wait: Wait,
    pub(crate) expired: bool,
    pub(crate) foreign: bool,
    pub(crate) damaged: bool,
    pub(crate) producer: Option<usize>,
    pub(crate) state: State,
    pub(crate) attempts: u32,
    pub(crate) delivery: u32,
    pub(crate) suspect: bool,
    pub(crate) error: Option<&'static str>,
    pub(crate) reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Over,
    Delivery,
    Retry,
}

impl Draft {
    pub(crate) fn is_valid(&self) -> bool {
        self.priority <= 100 && (self.key.is_none() || self.deliver.is_none())
    }

    pub(crate) fn made_valid(&self) -> Self {
        Self {
            priority: self.priority.min(100),
            deliver: self.deliver.filter(|_| self.key.is_none()),
            ..self.clone()
        }
    }

    pub(crate) fn row(&self, producer: Option<usize>) -> Row {
        Row {
            seq: 0,
            id: self.id.clone(),
            content: Some(self.content),
            key: self.key,
            priority: self.priority,
            wait: match self.deliver {
                Some(Time::Future) => Wait::Delivery,
                _ => Wait::Over,
            },
            expired: self.ttl == Some(Time::Past),
            foreign: false,
            damaged: false,
            producer,
            state: State::Pending,
            attempts: 0,
            delivery: 0,
            suspect: false,
            error: None,
            reason: None,
        }
    }
}

impl Which {
    pub(crate) fn means(&self, row: &Row) -> bool {
        row.state == State::Dead
            && match self {
                Self::All => true,
                Self::Id(id) => row.id == *id,
                Self::Content(content) => row.content.unwrap_or(0) == *content,
                Self::Key(key) => row.key == Some(key),
                Self::Reason(reason) => row.reason == Some(reason),
            }
    }
}
