//! PostgreSQL: a table, `FOR UPDATE SKIP LOCKED`, and a commit that is synced.

use std::cell::RefCell;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::future::{join3, try_join_all};
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls, Statement};

use super::{Place, Served, Skipped, runtime};
use crate::Result;
use crate::job::{Job, Seen};
use crate::process::{self, Server};

/// Connections where each message is a transaction: they share syncs.
const CONNECTIONS: usize = 8;
/// Messages of a transaction in batches.
const BATCH: usize = 512;
/// How long the reader waits when nothing is there.
const POLL: Duration = Duration::from_millis(1);

const TABLE: &str =
    "CREATE TABLE queue (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)";
const INSERT: &str = "INSERT INTO queue (text) SELECT unnest($1::text[])";
const TAKE: &str = "DELETE FROM queue WHERE id IN \
    (SELECT id FROM queue ORDER BY id FOR UPDATE SKIP LOCKED LIMIT $1) RETURNING text";

pub fn serve(place: &Place) -> Result<Served> {
    let (Some(initdb), Some(postgres)) = (process::find("initdb"), process::find("postgres"))
    else {
        return Err(Skipped("no postgres; apt-get install postgresql".into()).into());
    };
    let version = process::version(&postgres, "--version")?;
    let data = place.dir.join("data");
    std::fs::create_dir(&data)?;
    let mut init = Command::new(initdb);
    init.args([
        "--username",
        "bench",
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
    ])
    .arg(&data);
    let mut command = Command::new(postgres);
    command.arg("-D").arg(&data).arg("-k").arg(&place.dir);
    for setting in [
        "listen_addresses=",
        "synchronous_commit=on",
        "shared_buffers=256MB",
        "max_wal_size=4GB",
    ] {
        command.args(["-c", setting]);
    }
    if rustix::process::geteuid().is_root() {
        // It refuses to run as root, so it runs as the user that its package made.
        let (user, group) = user("postgres")
            .ok_or_else(|| Skipped("root cannot run it, and there is no user postgres".into()))?;
        chown(&data, Some(user), Some(group))?;
        chown(&place.dir, Some(user), Some(group))?;
        init.uid(user).gid(group);
        command.uid(user).gid(group);
    }
    let done = init
        .current_dir(&place.dir)
        .stdout(Stdio::null())
        .output()?;
    if !done.status.success() {
        return Err(format!("initdb: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    let runtime = runtime()?;
    let is_up = || {
        // A connection of the client would say more, and is refused while the server starts.
        UnixStream::connect(place.dir.join(".s.PGSQL.5432")).is_ok()
            && runtime.block_on(connect(&place.dir)).is_ok()
    };
    let server = Server::start(&mut command, &place.dir, Signal::INT, is_up)?;
    runtime.block_on(async { connect(&place.dir).await?.batch_execute(TABLE).await })?;
    Ok(Served {
        server: Some(server),
        version,
    })
}

/// Number and group of a user.
fn user(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields[0] == name)?;
    Some((found[2].parse().ok()?, found[3].parse().ok()?))
}

async fn connect(dir: &Path) -> std::result::Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host_path(dir).user("bench").dbname("postgres");
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub fn produce_single(dir: &Path, job: &mut Job) -> Result<()> {
    produce(dir, job, CONNECTIONS, 1)
}

pub fn produce_batches(dir: &Path, job: &mut Job) -> Result<()> {
    produce(dir, job, 1, BATCH)
}

fn produce(dir: &Path, job: &mut Job, connections: usize, most: usize) -> Result<()> {
    runtime()?.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let client = std::rc::Rc::new(connect(dir).await?);
            let insert = client.prepare(INSERT).await?;
            clients.push((client, insert));
        }
        let mut turn = clients.iter().cycle();
        let tasks = tokio::task::LocalSet::new();
        let sending = job.stream(most, async |batch: Vec<String>| {
            let (client, insert) = turn.next().ok_or("no connection")?.clone();
            // A task of its own sends now, not when it is awaited.
            let sent =
                tokio::task::spawn_local(async move { client.execute(&insert, &[&batch]).await });
            Ok(async move {
                sent.await??;
                Result::<()>::Ok(())
            })
        });
        tasks.run_until(sending).await
    })
}

pub fn consume_single(dir: &Path, seen: Seen) -> Result<()> {
    consume(dir, seen, CONNECTIONS, 1)
}

pub fn consume_batches(dir: &Path, seen: Seen) -> Result<()> {
    consume(dir, seen, 1, BATCH as i64)
}

fn consume(dir: &Path, mut seen: Seen, connections: usize, most: i64) -> Result<()> {
    runtime()?.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let client = connect(dir).await?;
            let take = client.prepare(TAKE).await?;
            clients.push((client, take));
        }
        seen.ready();
        let seen = RefCell::new(seen);
        try_join_all(clients.iter().map(|client| take_all(client, most, &seen))).await?;
        seen.into_inner().tell();
        Ok(())
    })
}

/// Takes until everything has come: one round trip commits what was handled and takes the next.
async fn take_all(
    (client, take): &(Client, Statement),
    most: i64,
    seen: &RefCell<Seen>,
) -> Result<()> {
    client.batch_execute("BEGIN").await?;
    let mut rows = client.query(take, &[&most]).await?;
    loop {
        for row in &rows {
            seen.borrow_mut().take(row.get::<_, &str>(0).as_bytes());
        }
        if seen.borrow().is_over() {
            return Ok(client.batch_execute("COMMIT").await?);
        }
        if rows.is_empty() {
            tokio::time::sleep(POLL).await;
        }
        let commit = client.batch_execute("COMMIT");
        let begin = client.batch_execute("BEGIN");
        let (committed, begun, taken) = join3(commit, begin, client.query(take, &[&most])).await;
        committed?;
        begun?;
        rows = taken?;
    }
}
