//! What `tests/fuzz` calls of what is private here: how bytes become messages, without a socket. No part of the
//! interface, and no promise.

use bytes::{Bytes, BytesMut};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use spoolway_proto::{Dialect, Invalid, Limits, Message};

use crate::connection::cut::{self, Front};
use crate::http::{body, query};

/// Cuts a stream of frames or lines, and looks at its front, as a connection does.
pub struct Cutter(cut::Cutter);

impl Cutter {
    /// That of a dialect; HTTP has none.
    pub fn of(dialect: Dialect, limits: &Limits) -> Option<Self> {
        Some(Self(match dialect {
            Dialect::Frames => cut::Cutter::frames(limits),
            Dialect::Lines => cut::Cutter::lines(limits),
            Dialect::Http => return None,
        }))
    }

    /// The front of the buffer, if a whole message shorter than a hello may be is there: as it will be cut.
    pub fn front<'a>(&self, buffer: &'a [u8]) -> Option<&'a [u8]> {
        match self.0.front(buffer) {
            Front::Short(front) => Some(front),
            Front::Nothing | Front::Long => None,
        }
    }

    /// The next frame or line.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Invalid> {
        self.0.next(buffer)
    }

    /// What the end of the stream makes whole.
    pub fn end(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Invalid> {
        self.0.end(buffer)
    }
}

/// What `POST /messages` takes from a body of that type: `None` where it refuses all of it.
pub fn messages(
    content_type: &[u8],
    body: Bytes,
    limits: &Limits,
) -> Option<Vec<Result<Message, Invalid>>> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(content_type).ok()?);
    let kind = body::kind(&headers).ok()?;
    let messages = body::messages(kind, body, limits).ok()?;
    assert!(!messages.alone || messages.all.len() == 1);
    Some(messages.all)
}

/// What `POST /send` makes of a body and a query.
pub fn send(query: &str, body: Bytes, limits: &Limits) -> Option<Result<Message, Invalid>> {
    let plain = Message::with_payload("message", body::payload(body).ok()?);
    Some(query::message(query, plain, limits))
}
