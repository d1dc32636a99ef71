/**
 * Sends messages to a Spoolway consumer: over its socket, else through its spool directory.
 *
 *     const { Client } = require('./spoolway');
 *
 *     const client = new Client({ socket: '/run/app/orders.sock', directory: '/var/lib/app/spool', folder: 'orders' });
 *     const receipt = await client.send({ type: 'order', payload: { id: 1 } });
 *     console.log(receipt.id, 'by', receipt.path, receipt.outcome); // 0199... by socket processed
 *
 * `send` waits for the consumer's answer. Where there is no consumer, or it does not answer in time, the message is
 * written to `DIR/<folder>/messages/<id>.json`, synced and renamed into place; the consumer (`spoolway serve --spool-dir
 * DIR`) takes it as soon as it is there. Both copies have one id, chosen here, so a message that the socket had taken is
 * not processed again. To send something once more after an error, send it with the same id.
 *
 * One file, Node 18 or later, nothing but the standard library. Sends of one client share a connection and need not
 * wait for each other; an idle one keeps no process alive. Frames and files are described in docs/protocol.md.
 */
'use strict';

const { randomBytes } = require('node:crypto');
const fs = require('node:fs/promises');
const net = require('node:net');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');

const FRAME_BYTES_MAX = 16_777_215;
/** What passes: the message is right, so it goes the other way. */
const PASSING = new Set(['bad_dialect', 'busy', 'forbidden', 'rate_limited', 'unavailable']);
/** Ids that are file names as they are; a message with another one gets a file name of its own. */
const FILE_NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/;

/**
 * What became of a message. `stored`: on disk, and will be processed. `reason`: why it is dead.
 * @typedef {{id: string, path: 'socket' | 'directory', outcome: 'processed' | 'stored' | 'dead', reason?: string}} Receipt
 */

/** What went wrong; `code` is stable, `nextStep` says what to do, `id` is that of the message. */
class SpoolwayError extends Error {
  constructor(code, text, nextStep, id) {
    super(`${code}: ${text}; ${nextStep}`);
    this.name = new.target.name;
    Object.assign(this, { code, nextStep, id });
  }
}

/** The message itself is wrong, and nothing holds it. */
class Refused extends SpoolwayError {}

/** Neither way was open. `code` is `not_taken`, or `unknown`: the consumer may have the message. */
class Undelivered extends SpoolwayError {}

/** The socket was no way for this message. `taken`: it may have arrived all the same; `broken`: the connection ended. */
class NoAnswer extends Error {
  constructor(text, { taken = false, broken = false } = {}) {
    super(text);
    Object.assign(this, { taken, broken });
  }
}

/** A sender. */
class Client {
  #connection;

  /**
   * @param {object} [options]
   * @param {string} [options.socket] default: SPOOLWAY_SOCKET; may be left out
   * @param {string} [options.directory] default: SPOOLWAY_SPOOL_DIR; may be left out. It must exist: the consumer makes it
   * @param {string} [options.folder] made in the directory when missing
   * @param {number} [options.connectTimeout] milliseconds
   * @param {number} [options.answerTimeout] milliseconds
   */
  constructor({ socket, directory, folder = 'default', connectTimeout = 5_000, answerTimeout = 10_000 } = {}) {
    this.socket = socket ?? process.env.SPOOLWAY_SOCKET;
    this.directory = directory ?? process.env.SPOOLWAY_SPOOL_DIR;
    Object.assign(this, { folder, connectTimeout, answerTimeout });
    if (!this.socket && !this.directory) {
      throw new SpoolwayError('config', 'neither socket nor directory is known', 'name one, or set SPOOLWAY_SOCKET');
    }
    if (!folder || folder.includes('/') || folder.startsWith('.')) {
      throw new SpoolwayError('config', `folder ${JSON.stringify(folder)}`, 'give it a name without `/` that begins with no dot');
    }
  }

  /**
   * Sends a message: an object with `type` and `payload`, and whatever else docs/protocol.md names. Rejects with
   * Refused if the message is wrong, with Undelivered if neither way is open.
   *
   * @param {object} message
   * @param {object} [options]
   * @param {number} [options.wait] milliseconds to wait for the ack of one that goes by the directory; without, it is
   *   `stored` at once
   * @returns {Promise<Receipt>}
   */
  async send(message, { wait = 0 } = {}) {
    const [id, body] = encode(message);
    let why = new NoAnswer('no socket is named');
    if (this.socket) {
      try {
        return receipt(id, 'socket', await this.#bySocket(id, body));
      } catch (error) {
        if (!(error instanceof NoAnswer)) throw error;
        why = error;
      }
    }
    let also = 'no spool directory is named';
    if (this.directory) {
      try {
        return await this.#byDirectory(id, body, wait);
      } catch (error) {
        if (error instanceof SpoolwayError) throw error;
        also = `spool directory: ${error.message}`;
      }
    }
    const step = 'start `spoolway serve --spool-dir DIR`, then send it again with this id';
    throw new Undelivered(why.taken ? 'unknown' : 'not_taken', `${why.message}; ${also}`, step, id);
  }

  /** Closes the connection; the next send makes another one. */
  close() {
    this.#connection?.end(new NoAnswer('closed', { taken: true }));
    this.#connection = undefined;
  }

  // ---- by socket

  async #bySocket(id, body) {
    const used = this.#connection;
    try {
      return await this.#ask(id, body);
    } catch (error) {
      // As a connection breaks when the consumer was restarted.
      if (!(used && error.broken)) throw error;
    }
    return this.#ask(id, body);
  }

  async #ask(id, body) {
    if (!this.#connection || this.#connection.ended) {
      this.#connection = new Connection(this.socket, this.connectTimeout);
    }
    return this.#connection.ask(id, body, this.answerTimeout);
  }

  // ---- by directory

  async #byDirectory(id, body, wait) {
    await fs.access(this.directory);
    const folder = path.join(this.directory, this.folder);
    const messages = path.join(folder, 'messages');
    if (await fs.mkdir(messages, { recursive: true })) {
      await sync(folder);
      await sync(this.directory);
    }
    const name = FILE_NAME.test(id) ? id : uuid7();
    const ack = path.join(folder, 'acks', `${name}.ack`);
    const before = await inode(ack);
    const temporary = path.join(messages, `.tmp-${uuid7()}`);
    try {
      await fs.writeFile(temporary, body, { flag: 'wx', mode: 0o660 });
      await sync(temporary);
      await fs.rename(temporary, path.join(messages, `${name}.json`));
    } catch (error) {
      await fs.rm(temporary, { force: true });
      throw error;
    }
    await sync(messages);
    const deadline = Date.now() + wait;
    while (wait > 0 && Date.now() < deadline) {
      const now = await inode(ack);
      if (now && now !== before) return receipt(id, 'directory', JSON.parse(await fs.readFile(ack, 'utf8')));
      await sleep(5);
    }
    return { id, path: 'directory', outcome: 'stored' };
  }
}

/** One connection: frames out, replies in, each for the message of its id. */
class Connection {
  #stream;
  #open;
  #waiting = new Map();
  #data = Buffer.alloc(0);
  ended = false;

  constructor(socket, timeout) {
    this.socket = socket;
    this.#open = this.#dial(Date.now() + timeout);
    this.#open.catch((error) => this.end(error));
  }

  async ask(id, body, timeout) {
    await this.#open;
    if (this.ended) throw new NoAnswer('connection lost', { broken: true });
    const answered = new Promise((resolve, reject) => {
      const expired = () => this.end(new NoAnswer('not responding (timeout)', { taken: true }));
      const asked = { resolve, reject, timer: setTimeout(expired, timeout) };
      this.#waiting.set(id, [...(this.#waiting.get(id) ?? []), asked]);
    });
    const header = Buffer.alloc(4);
    header.writeUInt32BE(body.length);
    this.#stream.ref();
    this.#stream.write(Buffer.concat([header, body]));
    const reply = await answered;
    if (PASSING.has(reply.code)) throw new NoAnswer(reply.error ?? reply.code);
    return reply;
  }

  /** Nothing more comes: whoever waits hears why. */
  end(why) {
    this.ended = true;
    this.#stream?.destroy();
    const waiting = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    for (const { reject, timer } of waiting) {
      clearTimeout(timer);
      reject(why);
    }
  }

  async #dial(deadline) {
    for (;;) {
      try {
        return await this.#connect(deadline - Date.now());
      } catch (error) {
        // The consumer's queue of connections is full for the moment.
        if (error.code !== 'EAGAIN' || Date.now() >= deadline) throw await this.#whyNot(error);
        await sleep(1 + Math.random() * 20);
      }
    }
  }

  #connect(timeout) {
    return new Promise((resolve, reject) => {
      const stream = net.createConnection({ path: this.socket });
      const late = setTimeout(() => stream.destroy(Object.assign(new Error(), { code: 'ETIMEDOUT' })), timeout);
      stream.once('connect', () => {
        clearTimeout(late);
        this.#stream = stream;
        stream.on('data', (some) => this.#read(some));
        stream.unref();
        resolve();
      });
      stream.on('error', (error) => {
        clearTimeout(late);
        reject(error);
        this.#lost(error.message);
      });
      stream.on('close', () => this.#lost('closed by the consumer'));
    });
  }

  #lost(how) {
    if (this.#stream) this.end(new NoAnswer(`connection lost (${how})`, { taken: true, broken: true }));
  }

  #read(some) {
    this.#data = this.#data.length ? Buffer.concat([this.#data, some]) : some;
    while (this.#data.length >= 4 && !this.ended) {
      const length = this.#data.readUInt32BE();
      if (length === 0 || length > FRAME_BYTES_MAX) return this.#stranger();
      if (this.#data.length < 4 + length) return;
      const frame = this.#data.subarray(4, 4 + length);
      this.#data = this.#data.subarray(4 + length);
      try {
        this.#hear(JSON.parse(frame.toString()));
      } catch {
        return this.#stranger();
      }
    }
  }

  #stranger() {
    this.end(new NoAnswer(`${this.socket} is no socket of Spoolway`));
  }

  #hear(reply) {
    if (reply.op === 'error') return this.end(new NoAnswer(`${reply.code}: ${reply.message}`));
    // A refusal without an id is that of the only message, or of none that is known here.
    const id = reply.id ?? (reply.code && this.#waiting.size === 1 ? this.#waiting.keys().next().value : undefined);
    const asked = this.#waiting.get(id);
    if (!asked) return;
    const { resolve, timer } = asked.shift();
    clearTimeout(timer);
    if (!asked.length) this.#waiting.delete(id);
    if (!this.#waiting.size) this.#stream.unref();
    resolve(reply);
  }

  async #whyNot(error) {
    switch (error.code) {
      case 'ENOENT':
        return new NoAnswer('consumer not running (socket not found)');
      case 'ECONNREFUSED':
        return new NoAnswer('consumer not running (connection refused)');
      case 'ETIMEDOUT':
      case 'EAGAIN':
        return new NoAnswer('not responding (timeout)');
      case 'EACCES': {
        const found = await fs.stat(this.socket).catch(() => undefined);
        if (!found) return new NoAnswer('permission denied (directory of the socket)');
        const mode = (found.mode & 0o7777).toString(8).padStart(4, '0');
        return new NoAnswer(`permission denied (socket mode ${mode}, owner uid ${found.uid}, you are uid ${process.geteuid()})`);
      }
      default:
        return new NoAnswer(error.message);
    }
  }
}

/** The message with an id and a time, once, so that every copy of it is the same. */
function encode(message) {
  const whole = { ...message, requires_ack: true };
  delete whole.requiresAck;
  whole.id ||= uuid7();
  whole.timestamp ??= Date.now();
  const { id } = whole;
  if (typeof id !== 'string') throw new Refused('invalid', `\`id\` is ${id}`, 'make it a text');
  let body;
  try {
    body = Buffer.from(JSON.stringify(whole));
  } catch (error) {
    throw new Refused('invalid', error.message, 'send what JSON can say', id);
  }
  if (body.length > FRAME_BYTES_MAX) {
    throw new Refused('too_large', `${body.length} bytes, allowed are ${FRAME_BYTES_MAX}`, 'send less at once', id);
  }
  return [id, body];
}

/** What an answer says, be it a frame or an ack. */
function receipt(id, way, reply) {
  const reason = reply.error ?? reply.reason;
  if (['processed', 'stored', 'dead'].includes(reply.outcome)) {
    return { id, path: way, outcome: reply.outcome, ...(reason && { reason }) };
  }
  const code = reply.code ?? 'refused';
  throw new Refused(code, String(reason).replace(`${code}: `, ''), 'correct the message', id);
}

async function sync(name) {
  const file = await fs.open(name, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function inode(name) {
  const found = await fs.stat(name, { bigint: true }).catch(() => undefined);
  return found && `${found.ino} ${found.mtimeNs}`;
}

let last = { millis: 0, count: 0 };

/** A UUIDv7 with a count within the millisecond: what is made later sorts later, and so do its files. */
function uuid7() {
  const millis = Math.max(Date.now(), last.millis);
  const count = millis === last.millis ? last.count + 1 : 0;
  last = count < 4096 ? { millis, count } : { millis: millis + 1, count: 0 };
  const time = last.millis.toString(16).padStart(12, '0');
  const chance = randomBytes(8);
  chance[0] = (chance[0] & 0x3f) | 0x80;
  const rest = chance.toString('hex');
  const part = last.count.toString(16).padStart(3, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${part}-${rest.slice(0, 4)}-${rest.slice(4)}`;
}

module.exports = { Client, Refused, SpoolwayError, Undelivered };
