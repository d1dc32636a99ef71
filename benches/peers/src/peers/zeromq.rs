//! ZeroMQ: two sockets and no server. The receiver answers with the number of messages it has taken.

use std::path::Path;

use zmq::{Context, DONTWAIT, Socket, SocketType};

use super::{Place, Served, socket};
use crate::Result;
use crate::job::{Job, Seen};

pub fn serve(_: &Place) -> Result<Served> {
    let (major, minor, patch) = zmq::version();
    Ok(Served {
        server: None,
        version: format!("{major}.{minor}.{patch}"),
    })
}

fn dealer(context: &Context) -> Result<Socket> {
    let socket = context.socket(SocketType::DEALER)?;
    // The window is the bound; the default of 1,000 would stop a sender just below it.
    socket.set_sndhwm(0)?;
    socket.set_rcvhwm(0)?;
    Ok(socket)
}

fn address(dir: &Path) -> String {
    format!("ipc://{}", socket(dir).display())
}

pub fn produce(dir: &Path, job: &mut Job) -> Result<()> {
    let context = Context::new();
    let socket = dealer(&context)?;
    socket.connect(&address(dir))?;
    let send = |(socket, _): &mut (Socket, usize), batch: &[String]| {
        for text in batch {
            socket.send(text.as_str(), 0)?;
        }
        Ok(())
    };
    let receive = |(socket, ahead): &mut (Socket, usize), count| {
        while *ahead < count {
            let taken = socket.recv_msg(0)?;
            *ahead += u32::from_le_bytes(taken[..].try_into()?) as usize;
        }
        *ahead -= count;
        Ok(())
    };
    job.block(&mut (socket, 0), send, receive)
}

pub fn consume_ranges(dir: &Path, seen: Seen) -> Result<()> {
    consume(dir, seen, 512)
}

pub fn consume_each(dir: &Path, seen: Seen) -> Result<()> {
    consume(dir, seen, 1)
}

/// Answers what has come, at most so many at a time.
fn consume(dir: &Path, mut seen: Seen, most: u32) -> Result<()> {
    let context = Context::new();
    let socket = dealer(&context)?;
    socket.bind(&address(dir))?;
    seen.ready();
    while !seen.is_over() {
        seen.take(&socket.recv_msg(0)?);
        let mut taken = 1_u32;
        while taken < most
            && let Ok(message) = socket.recv_msg(DONTWAIT)
        {
            seen.take(&message);
            taken += 1;
        }
        socket.send(&taken.to_le_bytes()[..], 0)?;
    }
    seen.tell();
    Ok(())
}
