"""Sends messages to a Spoolway consumer: over its socket, else through its spool directory.

    from spoolway import Client

    client = Client("/run/app/orders.sock", "/var/lib/app/spool", folder="orders")
    receipt = client.send({"type": "order", "payload": {"id": 1}})
    print(receipt.id, "by", receipt.path, receipt.outcome)   # 0199... by socket processed

`send` waits for the consumer's answer. Where there is no consumer, or it does not answer in time, the message is
written to `DIR/<folder>/messages/<id>.json`, synced and renamed into place; the consumer (`spoolway serve --spool-dir
DIR`) takes it as soon as it is there. Both copies have one id, chosen here, so a message that the socket had taken is
not processed again. To send something once more after an exception, send it with the same id.

One file, Python 3.8 or later, nothing but the standard library. A client may be used by several threads, which
take turns, and by a child after a fork. Frames and files are described in docs/protocol.md.
"""

import errno
import json
import os
import random
import re
import socket as sockets
import stat
import struct
import threading
import time
import uuid
from typing import Any, Dict, Mapping, NamedTuple, NoReturn, Optional, Tuple

__all__ = ["Client", "Receipt", "SpoolwayError", "Refused", "Undelivered"]

FRAME_BYTES_MAX = 16_777_215
# What passes: the message is right, so it goes the other way.
PASSING = frozenset(["bad_dialect", "busy", "forbidden", "rate_limited", "unavailable"])
# Ids that are file names as they are; a message with another one gets a file name of its own.
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}\Z", re.ASCII)


class Receipt(NamedTuple):
    """What became of a message."""

    id: str
    #: "socket" or "directory".
    path: str
    #: "processed", "stored" (on disk, will be processed) or "dead".
    outcome: str
    #: Why it is dead.
    reason: Optional[str] = None


class SpoolwayError(Exception):
    """What went wrong; `code` is stable, `next_step` says what to do."""

    def __init__(self, code: str, text: str, next_step: str, id: Optional[str] = None) -> None:
        super().__init__("%s: %s; %s" % (code, text, next_step))
        self.code = code
        self.next_step = next_step
        #: The id of the message, where it has one.
        self.id = id


class Refused(SpoolwayError):
    """The message itself is wrong, and nothing holds it."""


class Undelivered(SpoolwayError):
    """Neither way was open. `code` is "not_taken", or "unknown": the consumer may have the message."""


class _NoAnswer(Exception):
    """The socket was no way for this message. `taken`: it may have arrived all the same."""

    def __init__(self, text: str, taken: bool = False, broken: bool = False) -> None:
        super().__init__(text)
        self.taken = taken
        # The connection was lost, as one is when the consumer was restarted.
        self.broken = broken


class Client:
    """A sender. `socket` and `directory` may be None, or are taken from SPOOLWAY_SOCKET and SPOOLWAY_SPOOL_DIR.

    Timeouts are in seconds. The directory must exist: the consumer makes it. Folders in it are made here.
    """

    def __init__(
        self,
        socket: Optional[str] = None,
        directory: Optional[str] = None,
        folder: str = "default",
        connect_timeout: float = 5.0,
        answer_timeout: float = 10.0,
    ) -> None:
        self.socket = socket or os.environ.get("SPOOLWAY_SOCKET")
        self.directory = directory or os.environ.get("SPOOLWAY_SPOOL_DIR")
        if not (self.socket or self.directory):
            raise SpoolwayError("config", "neither socket nor directory is known", "name one, or set SPOOLWAY_SOCKET")
        if "/" in folder or folder.startswith(".") or not folder:
            raise SpoolwayError("config", "folder %r" % folder, "give it a name without `/` that begins with no dot")
        self.folder = folder
        self.connect_timeout = connect_timeout
        self.answer_timeout = answer_timeout
        self._lock = threading.Lock()
        self._stream: Optional[sockets.socket] = None
        self._pid = os.getpid()

    def send(self, message: Mapping[str, Any], wait: float = 0.0) -> Receipt:
        """Sends a message: an object with `type` and `payload`, and whatever else docs/protocol.md names.

        One that goes by the directory is "stored" at once; with `wait` its ack is waited for up to so many seconds.
        Raises Refused if the message is wrong, Undelivered if neither way is open.
        """
        id, body = _encode(message)
        why = _NoAnswer("no socket is named")
        if self.socket:
            try:
                return self._by_socket(id, body)
            except _NoAnswer as error:
                why = error
        if not self.directory:
            self._undelivered(id, why, "no spool directory is named")
        try:
            return self._by_directory(id, body, wait)
        except OSError as error:
            self._undelivered(id, why, "spool directory: %s" % error)

    def close(self) -> None:
        """Closes the connection; the next send makes another one."""
        with self._lock:
            self._hang_up()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _undelivered(self, id: str, socket: _NoAnswer, directory: str) -> NoReturn:
        code = "unknown" if socket.taken else "not_taken"
        step = "start `spoolway serve --spool-dir DIR`, then send it again with this id"
        raise Undelivered(code, "%s; %s" % (socket, directory), step, id) from socket

    # ---- by socket

    def _by_socket(self, id: str, body: bytes) -> Receipt:
        with self._lock:
            if self._pid != os.getpid():
                # The connection is the parent's: closing our copy of it leaves that alone.
                self._hang_up()
                self._pid = os.getpid()
            used = self._stream is not None
            try:
                try:
                    reply = self._ask(id, body)
                except _NoAnswer as error:
                    if not (used and error.broken):
                        raise
                    self._hang_up()
                    reply = self._ask(id, body)
            except BaseException:
                self._hang_up()
                raise
        return _receipt(id, "socket", reply)

    def _ask(self, id: str, body: bytes) -> Dict[str, Any]:
        if self._stream is None:
            self._stream = self._dial()
        stream, deadline = self._stream, time.monotonic() + self.answer_timeout
        try:
            _expires(stream, deadline)
            stream.sendall(struct.pack(">I", len(body)) + body)
            while True:
                (length,) = struct.unpack(">I", _read(stream, 4, deadline))
                if not 0 < length <= FRAME_BYTES_MAX:
                    raise _NoAnswer("%s is no socket of Spoolway" % self.socket)
                reply = json.loads(_read(stream, length, deadline))
                if reply.get("op") == "error":
                    raise _NoAnswer("%s: %s" % (reply.get("code"), reply.get("message")))
                if reply.get("id") == id or (reply.get("code") and not reply.get("id")):
                    break
        except sockets.timeout:
            raise _NoAnswer("not responding (timeout)", taken=True) from None
        except OSError as error:
            raise _NoAnswer("connection lost (%s)" % error, taken=True, broken=True) from None
        except (AttributeError, ValueError):
            raise _NoAnswer("%s is no socket of Spoolway" % self.socket) from None
        if reply.get("code") in PASSING:
            raise _NoAnswer(reply.get("error") or reply["code"])
        return reply

    def _dial(self) -> sockets.socket:
        deadline = time.monotonic() + self.connect_timeout
        while True:
            stream = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
            try:
                _expires(stream, deadline)
                stream.connect(self.socket)
                return stream
            except OSError as error:
                stream.close()
                # The consumer's queue of connections is full for the moment.
                if error.errno != errno.EAGAIN:
                    raise _NoAnswer(self._why_not(error)) from None
            time.sleep(random.uniform(0.001, 0.02))

    def _why_not(self, error: OSError) -> str:
        if isinstance(error, FileNotFoundError):
            return "consumer not running (socket not found)"
        if isinstance(error, ConnectionRefusedError):
            return "consumer not running (connection refused)"
        if isinstance(error, sockets.timeout):
            return "not responding (timeout)"
        if isinstance(error, PermissionError):
            try:
                found = os.stat(str(self.socket))
                whose = (stat.S_IMODE(found.st_mode), found.st_uid, os.geteuid())
                return "permission denied (socket mode %04o, owner uid %d, you are uid %d)" % whose
            except OSError:
                return "permission denied (directory of the socket)"
        return str(error)

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # ---- by directory

    def _by_directory(self, id: str, body: bytes, wait: float) -> Receipt:
        if not os.path.isdir(str(self.directory)):
            raise FileNotFoundError(errno.ENOENT, "no directory", self.directory)
        folder = os.path.join(str(self.directory), self.folder)
        messages = os.path.join(folder, "messages")
        if not os.path.isdir(messages):
            os.makedirs(messages, exist_ok=True)
            _sync(folder)
            _sync(str(self.directory))
        name = id if FILE_NAME.match(id) else _uuid7()
        ack = os.path.join(folder, "acks", name + ".ack")
        before = _inode(ack)
        temporary = os.path.join(messages, ".tmp-" + _uuid7())
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
            with os.fdopen(file, "wb") as out:
                out.write(body)
                out.flush()
                os.fsync(out.fileno())
            os.rename(temporary, os.path.join(messages, name + ".json"))
        except BaseException:
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass
            raise
        _sync(messages)
        deadline = time.monotonic() + wait
        while wait > 0 and time.monotonic() < deadline:
            if _inode(ack) not in (None, before):
                with open(ack, "rb") as found:
                    return _receipt(id, "directory", json.loads(found.read()))
            time.sleep(0.005)
        return Receipt(id, "directory", "stored")


def _encode(message: Mapping[str, Any]) -> Tuple[str, bytes]:
    """The message with an id and a time, once, so that every copy of it is the same."""
    whole = dict(message)
    whole["id"] = whole.get("id") or _uuid7()
    whole.setdefault("timestamp", time.time_ns() // 1_000_000)
    whole.pop("requiresAck", None)
    whole["requires_ack"] = True
    id = whole["id"]
    if not isinstance(id, str):
        raise Refused("invalid", "`id` is %r" % (id,), "make it a text")
    try:
        body = json.dumps(whole, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise Refused("invalid", str(error), "send what JSON can say", id) from error
    if len(body) > FRAME_BYTES_MAX:
        text = "%d bytes, allowed are %d" % (len(body), FRAME_BYTES_MAX)
        raise Refused("too_large", text, "send less at once", id)
    return id, body


def _receipt(id: str, path: str, reply: Mapping[str, Any]) -> Receipt:
    """What an answer says, be it a frame or an ack."""
    reason = reply.get("error") or reply.get("reason")
    outcome = reply.get("outcome")
    if outcome in ("processed", "stored", "dead"):
        return Receipt(id, path, outcome, reason)
    code = reply.get("code") or "refused"
    text = str(reason or "").partition(": ")
    raise Refused(code, text[2] if text[0] == code else str(reason), "correct the message", id)


def _read(stream: sockets.socket, count: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        _expires(stream, deadline)
        some = stream.recv(min(count - len(data), 65_536))
        if not some:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the consumer")
        data += some
    return bytes(data)


def _expires(stream: sockets.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise sockets.timeout()
    stream.settimeout(left)


def _sync(directory: str) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _inode(path: str) -> Optional[Tuple[int, int]]:
    try:
        found = os.stat(path)
        return found.st_ino, found.st_mtime_ns
    except FileNotFoundError:
        return None


def _uuid7() -> str:
    """A UUIDv7 with parts of a millisecond: what is made later sorts later, and so do its files."""
    millis, rest = divmod(time.time_ns(), 1_000_000)
    part = rest * 4096 // 1_000_000
    chance = int.from_bytes(os.urandom(8), "big") >> 2
    return str(uuid.UUID(int=millis << 80 | 0x7 << 76 | part << 64 | 0x2 << 62 | chance))
