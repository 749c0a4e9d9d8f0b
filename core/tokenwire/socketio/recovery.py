"""Connection state recovery: what a socket was sent lately, and the secret by which it comes back.

Rules of this file: an offset is the number of the last event that a client has seen, behind a name
of the journal's own. The stock client keeps the offset of an earlier session, and takes any
trailing string for one: so what is no offset of this journal says that nothing of it was seen, and
each event carries one but those with an ack id. A journal is bounded in bytes; who has missed more
than it holds starts anew. A pid is a secret: only its hash is kept.
"""

import hashlib
import re

from tokenwire.socketio.binary import Body
from tokenwire.types import IdSource
from tokenwire.wire import ids

_PID_BYTES = 18  # 144 bits
_NAME_BYTES = 6
_EVENT_BYTES = 128  # what an event costs beside its packet
_PID = re.compile(r"[A-Za-z0-9_-]{24}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")


class Journal:
    """The last events of one socket."""

    __slots__ = ("_kept", "_max_bytes", "_name", "_size", "last")

    def __init__(self, name: str, max_bytes: int) -> None:
        """
        Args:
            name: its own, without a dot.
            max_bytes: how much is kept.
        """
        self._kept: list[list[bytes]] = []
        self.last = 0
        """The number of the last event."""
        self._name = name
        self._max_bytes = max_bytes
        self._size = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def offset(self, number: int) -> bytes:
        """Return the offset of an event."""
        return b"%b.%d" % (self._name.encode(), number)

    def keep(self, messages: list[bytes]) -> None:
        """Keep the packet of the next event; the oldest make room for it."""
        self.last += 1
        self._kept.append(messages)
        self._size += _size(messages)
        while self._size > self._max_bytes:
            self._size -= _size(self._kept.pop(0))

    def since(self, offset: object) -> list[list[bytes]] | None:
        """Return the packets that came after an offset of the client's, or None: nobody knows."""
        seen = 0
        if isinstance(offset, str):
            name, _, number = offset.partition(".")
            if name == self._name:
                if not _NUMBER.fullmatch(number):
                    return None
                seen = int(number)
        return self.after(seen)

    def after(self, number: int) -> list[list[bytes]] | None:
        """Return the packets after so many, or None: there were not so many, or more are gone."""
        missed = self.last - number
        if not 0 <= missed <= len(self._kept):
            return None
        return self._kept[len(self._kept) - missed :]


def _size(messages: list[bytes]) -> int:
    return _EVENT_BYTES + sum(map(len, messages))


def with_last(body: Body, text: bytes) -> Body:
    """Return an event's payload with a string, given as it is, for its last argument."""
    return Body(b'%b,"%b"]' % (body.json[:-1], text), body.attachments)


def new_pid(source: IdSource) -> str:
    """Draw the secret by which a socket can come back."""
    return ids.text(source.random_bytes(_PID_BYTES))


def new_name(source: IdSource) -> str:
    """Draw the name of a journal."""
    return ids.text(source.random_bytes(_NAME_BYTES))


def is_pid(value: object) -> bool:
    """Return True if what a client sent has the form of a pid."""
    return isinstance(value, str) and _PID.fullmatch(value) is not None


def pid_key(pid: str) -> bytes:
    """Return what is kept of a pid."""
    return hashlib.sha256(pid.encode("utf-8", "surrogatepass")).digest()
