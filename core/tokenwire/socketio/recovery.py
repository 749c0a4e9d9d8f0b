"""Connection state recovery: what a socket was sent lately, and the secret by which it comes back.

Rules of this file: an offset is the number of the last event that a client has seen; each event but
those with an ack id carries one as its last argument, because the stock client takes any trailing
string for an offset. A journal is bounded in bytes; who has missed more than it holds starts anew.
A pid is a secret: only its hash is kept.
"""

import hashlib
import re
from collections import deque

import msgspec

from tokenwire.socketio.binary import Body
from tokenwire.types import IdSource
from tokenwire.wire import ids

_PID_BYTES = 18  # 144 bits
_OFFSET = re.compile(r"0|[1-9][0-9]{0,15}")


class Journal:
    """The last events of one socket."""

    __slots__ = ("_kept", "_last", "_room")

    def __init__(self, max_bytes: int) -> None:
        self._kept: deque[list[bytes]] = deque()
        self._last = 0
        self._room = max_bytes

    @property
    def offset(self) -> int:
        """The number of the last event."""
        return self._last

    def keep(self, messages: list[bytes]) -> None:
        """Keep the packet of the next event; the oldest make room for it."""
        self._last += 1
        self._kept.append(messages)
        self._room -= sum(map(len, messages))
        while self._room < 0:
            self._room += sum(map(len, self._kept.popleft()))

    def since(self, offset: object) -> list[bytes] | None:
        """Return what came after an offset of the client's, or None: nobody knows.

        Args:
            offset: what the client says; nothing (UNSET) if it has not seen an event.
        """
        if offset is msgspec.UNSET:
            seen = 0
        elif isinstance(offset, str) and _OFFSET.fullmatch(offset):
            seen = int(offset)
        else:
            return None
        missed = self._last - seen
        if not 0 <= missed <= len(self._kept):
            return None
        packets = list(self._kept)[len(self._kept) - missed :]
        return [message for packet in packets for message in packet]


def with_offset(body: Body, offset: int) -> Body:
    """Return an event's payload with the offset as its last argument."""
    return Body(body.json[:-1] + b',"%d"]' % offset, body.attachments)


def new_pid(source: IdSource) -> str:
    """Draw the secret by which a socket can come back."""
    return ids.text(source.random_bytes(_PID_BYTES))


def pid_key(pid: str) -> bytes:
    """Return what is kept of a pid."""
    return hashlib.sha256(pid.encode("utf-8", "surrogatepass")).digest()
