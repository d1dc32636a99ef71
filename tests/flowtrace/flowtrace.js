// FlowTrace's side of a queue file: its table, its statements, its library.
//
//   node flowtrace.js make FILE           a queue of 40 messages, some read, some deleted
//   node flowtrace.js produce FILE NAME   inserts NAME-0, NAME-1, … until standard input ends, and says each
//   node flowtrace.js read FILE           the ids that its reader would take next, one a line
//   node flowtrace.js take FILE           the same, and marks them processed
'use strict';
const Database = require('better-sqlite3');

const TABLE = `CREATE TABLE IF NOT EXISTS message_queue (
  message_id TEXT PRIMARY KEY,
  type TEXT NOT NULL,
  payload TEXT NOT NULL,
  timestamp INTEGER NOT NULL,
  processed INTEGER DEFAULT 0,
  processed_at INTEGER,
  created_at INTEGER DEFAULT (strftime('%s','now'))
);
CREATE INDEX IF NOT EXISTS idx_processed ON message_queue(processed);
CREATE INDEX IF NOT EXISTS idx_timestamp ON message_queue(timestamp);`;
const INSERT = 'INSERT OR IGNORE INTO message_queue (message_id, type, payload, timestamp) VALUES (?, ?, ?, ?)';
const READ = 'SELECT message_id, type, payload, timestamp FROM message_queue WHERE processed = 0 ORDER BY timestamp LIMIT 50';
const MARK = "UPDATE message_queue SET processed = 1, processed_at = strftime('%s','now') WHERE message_id = ?";

const [command, file, name] = process.argv.slice(2);
const db = new Database(file, { timeout: 30000 });
const insert = (id, n) => db.prepare(INSERT).run(id, 'candle:complete', JSON.stringify({ n }), 1700000000000 + n);

if (command === 'make') {
  db.exec(TABLE);
  // Ids that fall while row numbers rise, and gaps between those.
  for (let n = 0; n < 40; n++) insert(`flowtrace-${99 - n}`, n);
  for (const { message_id } of db.prepare(READ).all().slice(0, 10)) db.prepare(MARK).run(message_id);
  for (const n of [0, 11, 39]) db.prepare('DELETE FROM message_queue WHERE message_id = ?').run(`flowtrace-${99 - n}`);
  db.close();
} else if (command === 'produce') {
  let n = 0;
  const next = () => {
    insert(`${name}-${n}`, n);
    console.log(`${name}-${n++}`);
    pending = setImmediate(next);
  };
  let pending = setImmediate(next);
  process.stdin.resume().on('end', () => { clearImmediate(pending); db.close(); });
} else {
  for (const { message_id } of db.prepare(READ).all()) {
    if (command === 'take') db.prepare(MARK).run(message_id);
    console.log(message_id);
  }
  db.close();
}
