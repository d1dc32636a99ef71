//! What is in a socket directory, and whether it lives. Nothing is ever removed.

use std::fs::{DirEntry, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use spoolway_proto::{Code, ConsumerOp, FrameDecoder, Limits, ProducerOp, decode_for_producer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::absence::{Absence, Denial};
use crate::access::Peer;
use crate::dial::dial;
use crate::name::SocketName;

/// A socket of the directory.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name.
    pub name: SocketName,
    /// Where it is.
    pub path: PathBuf,
    /// The user that owns the file.
    pub uid: u32,
    /// How long the file has been there, as far as the clocks agree: since its consumer began to listen.
    pub age: Duration,
    /// What came of a ping.
    pub health: Health,
}

/// What came of a ping.
#[derive(Clone, Debug)]
pub enum Health {
    /// It lives.
    Live {
        /// Who listens, where it may be seen. For an inherited socket that is who made it.
        pid: Option<u32>,
        /// From connecting to the answer.
        answer: Duration,
        /// It has no room for another connection, and says so.
        full: bool,
    },
    /// Somebody listens, who does not answer or not so that it is understood.
    NotAnswering {
        /// Who listens, as above.
        pid: Option<u32>,
        /// Why.
        why: Absence,
    },
    /// This user may not connect.
    NotPermitted(Denial),
    /// Nobody listens: the file is left over, and the next consumer replaces it.
    Stale(Absence),
}

impl Health {
    /// The state in a word: `live`, `not_answering`, `not_permitted`, `stale`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Live { .. } => "live",
            Self::NotAnswering { .. } => "not_answering",
            Self::NotPermitted(_) => "not_permitted",
            Self::Stale(_) => "stale",
        }
    }
}

/// The sockets in a directory whose names are of the form `{channel}-{instance}.sock`, sorted, each of which is sent a
/// ping and has `patience` to answer. All are asked at once.
///
/// # Errors
///
/// The directory cannot be read; [`io::ErrorKind::NotFound`] if there is none.
pub async fn sockets(directory: impl AsRef<Path>, patience: Duration) -> io::Result<Vec<Found>> {
    let directory = directory.as_ref().to_owned();
    let listed = spawn_blocking(move || list(&directory)).await;
    let mut asked: JoinSet<Option<Found>> = listed??
        .into_iter()
        .map(|(name, path, file)| async move {
            let health = ask(&path, patience).await?;
            let made = file.modified().unwrap_or(SystemTime::now());
            Some(Found {
                name,
                uid: file.uid(),
                age: made.elapsed().unwrap_or_default(),
                path,
                health,
            })
        })
        .collect();
    let mut found = Vec::new();
    while let Some(answered) = asked.join_next().await {
        found.extend(answered?);
    }
    found.sort_by(|one: &Found, other| one.name.cmp(&other.name));
    Ok(found)
}

fn list(directory: &Path) -> io::Result<Vec<(SocketName, PathBuf, Metadata)>> {
    let named = |entry: DirEntry| {
        let name = entry.file_name().to_str()?.parse().ok()?;
        // What is gone again need not be listed.
        let file = entry.metadata().ok()?;
        let is_socket = file.file_type().is_socket();
        is_socket.then(|| (name, entry.path(), file))
    };
    std::fs::read_dir(directory)?
        .filter_map(|entry| entry.map(named).transpose())
        .collect()
}

/// `None`: it is gone.
async fn ask(path: &Path, patience: Duration) -> Option<Health> {
    let began = Instant::now();
    let stream = match dial(path, patience).await {
        Ok(stream) => stream,
        Err(error) => {
            return match Absence::of(path, &error) {
                Absence::NotFound => None,
                why @ Absence::Refused => Some(Health::Stale(why)),
                Absence::Denied(denial) => Some(Health::NotPermitted(denial)),
                why => Some(Health::NotAnswering { pid: None, why }),
            };
        }
    };
    let peer = Peer::of(&stream).ok();
    let pid = peer.and_then(|peer| peer.pid);
    let answered = timeout(patience.saturating_sub(began.elapsed()), ping(stream)).await;
    let answer = began.elapsed();
    Some(match answered {
        Ok(Ok(ConsumerOp::Error {
            code: Code::Forbidden,
            ..
        })) => {
            let own = rustix::process::geteuid().as_raw();
            Health::NotPermitted(Denial::of(path, own))
        }
        Ok(Ok(said)) => Health::Live {
            pid,
            answer,
            full: matches!(
                said,
                ConsumerOp::Error {
                    code: Code::Busy,
                    ..
                }
            ),
        },
        Ok(Err(why)) => Health::NotAnswering { pid, why },
        Err(_) => Health::NotAnswering {
            pid,
            why: Absence::Silent,
        },
    })
}

/// What is said to a ping, which does nothing and needs no hello.
async fn ping(mut stream: UnixStream) -> Result<ConsumerOp, Absence> {
    let mut out = BytesMut::new();
    ProducerOp::Ping.put(&mut out);
    // Who has refused it may read no more; what was said is read all the same.
    let _ = stream.write_all(&out).await;
    let odd = |what: String| Absence::Io(format!("not understood: {what}"));
    let mut inbox = BytesMut::new();
    let mut decoder = FrameDecoder::new(Limits::default().frame_bytes_max);
    loop {
        match decoder
            .next(&mut inbox)
            .map_err(|error| odd(error.to_string()))?
        {
            Some(frame) => {
                return decode_for_producer(&frame).map_err(|invalid| odd(invalid.to_string()));
            }
            None => match stream.read_buf(&mut inbox).await {
                Ok(0) => return Err(Absence::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(Absence::Closed);
                }
                Err(error) => return Err(Absence::Io(error.to_string())),
            },
        }
    }
}
