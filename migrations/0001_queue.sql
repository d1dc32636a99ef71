-- The queue file, version 1.0. Never edited after release: a change is a new file.
--
-- A program that knows only (message_id, type, payload, timestamp) can insert, and one that knows
-- only `processed` can read: every other column has a default.

PRAGMA application_id = 1399877487; -- "Spoo": what tells our files from others

CREATE TABLE message_queue (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT, -- the order; never reused
    message_id       TEXT    NOT NULL UNIQUE,
    type             TEXT    NOT NULL,
    payload          TEXT    NOT NULL,                  -- JSON
    timestamp        INTEGER NOT NULL,                  -- ms since the epoch
    processed        INTEGER DEFAULT 0,                 -- 0 pending, 1 processed, 2 dead
    processed_at     INTEGER,                           -- s since the epoch; when processed or dead
    created_at       INTEGER DEFAULT (strftime('%s', 'now')),
    attributes       TEXT,                              -- JSON of every other member of the message
    key              TEXT,                              -- ordering key
    priority         INTEGER NOT NULL DEFAULT 50,       -- higher first
    due_at           INTEGER,                           -- ms; NULL: at once
    due_boot         TEXT,                              -- NULL: due_at is wall clock; else CLOCK_BOOTTIME of that boot
    expires_at       INTEGER,                           -- ms since the epoch
    attempts         INTEGER NOT NULL DEFAULT 0,        -- handler starts
    delivery         INTEGER NOT NULL DEFAULT 0,        -- times requeued or replayed; > 0 runs outside the lanes
    suspect          INTEGER NOT NULL DEFAULT 0,        -- 1: its claim ended with its owner
    producer         TEXT,                              -- who sent it: UUID, epoch, sequence
    epoch            INTEGER,
    sequence         INTEGER,
    crc              INTEGER,                           -- CRC-32C over id, type, payload; NULL: a foreign writer
    first_attempt_at INTEGER,                           -- ms since the epoch
    last_attempt_at  INTEGER,                           -- ms since the epoch
    last_error       TEXT,
    dead_reason      TEXT
);

-- Dequeue: its cost does not depend on how many processed rows are kept. due_* are in it so that
-- rows whose time has not come are passed over without a look at the table.
CREATE INDEX message_ready ON message_queue (priority DESC, seq, due_at, due_boot) WHERE processed = 0;

-- What waits before a row in its lane.
CREATE INDEX message_lane ON message_queue (key, seq) WHERE processed = 0 AND delivery = 0 AND key IS NOT NULL;

-- When the next delayed row comes due, one clock at a time.
CREATE INDEX message_due ON message_queue (due_boot, due_at) WHERE processed = 0 AND due_at IS NOT NULL;

CREATE INDEX message_suspect ON message_queue (seq) WHERE processed = 0 AND suspect = 1;

-- Cleanup, oldest first.
CREATE INDEX message_processed ON message_queue (processed_at) WHERE processed = 1;

-- Dead letters: walked by seq, counted by reason and sorted by the time they died without a look at the table.
CREATE INDEX message_dead ON message_queue (seq, processed_at, dead_reason) WHERE processed = 2;

-- What the owner of the file holds: a row for each range, not a write for each message.
CREATE TABLE claim (
    id         INTEGER PRIMARY KEY,
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL,
    instance   TEXT    NOT NULL, -- UUID of the consumer's run
    claimed_at INTEGER NOT NULL  -- ms since the epoch
);

-- What is known of each producer, across restarts of the consumer.
CREATE TABLE producer (
    producer   TEXT    PRIMARY KEY,          -- UUID
    epoch      INTEGER NOT NULL DEFAULT 0,   -- the highest seen
    instance   TEXT,                         -- UUID of the consumer's run that saved this; NULL: none has
    sent       INTEGER NOT NULL DEFAULT 0,   -- the highest sequence seen
    by_socket  INTEGER NOT NULL DEFAULT 0,   -- answered over the socket, by the producer's word
    answered   INTEGER NOT NULL DEFAULT 0,   -- answered so by a consumer that remembers it
    by_word    INTEGER NOT NULL DEFAULT 0,   -- of by_socket: by a consumer that was killed since
    err        INTEGER NOT NULL DEFAULT 0,   -- sends that returned Err and left nothing anywhere
    unheard    INTEGER NOT NULL DEFAULT 0,   -- spooled by the producer's word, but never into this file
    missing    INTEGER NOT NULL DEFAULT 0,   -- settled by the producer's word, and nobody knows how
    -- Counted with its rows, in the commits that make and settle them.
    by_queue   INTEGER NOT NULL DEFAULT 0,   -- rows it made
    stored     INTEGER NOT NULL DEFAULT 0,   -- rows the consumer made of what came over the socket
    processed  INTEGER NOT NULL DEFAULT 0,   -- of both, those processed, copies of what was, and those moved away
    dead       INTEGER NOT NULL DEFAULT 0,   -- of both, dead letters, those purged since included
    since      INTEGER NOT NULL,             -- ms since the epoch: first heard of
    updated_at INTEGER NOT NULL              -- ms since the epoch
) WITHOUT ROWID;

-- Outcomes of messages without a row that their producers have not confirmed.
CREATE TABLE outcome (
    producer   TEXT    NOT NULL,
    sequence   INTEGER NOT NULL,
    message_id TEXT    NOT NULL,
    crc        INTEGER NOT NULL,
    outcome    TEXT    NOT NULL, -- processed, stored, dead, received
    reason     TEXT,             -- why it is dead
    counted    INTEGER NOT NULL, -- 1: it is among those that its consumer has answered
    PRIMARY KEY (producer, sequence)
) WITHOUT ROWID;

-- Keys stopped by a dead letter (on_dead = hold).
CREATE TABLE held_key (
    key        TEXT    PRIMARY KEY,
    since      INTEGER NOT NULL, -- ms since the epoch
    message_id TEXT    NOT NULL,
    reason     TEXT    NOT NULL
) WITHOUT ROWID;

-- identity: UUID of this file. owner: UUID of the consumer's run that took it last.
-- clean_shutdown: UUID of the run that gave it up in order, until the next one takes it.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
