"""One WebSocket, server side: wsproto's frames, with the limits that it does not have.

Rules of this file: a message is bounded as it grows, not when it is whole; at most one pong waits
(RFC 6455 5.5.3 lets us answer only the latest ping); after a close or a violation nothing that
comes is looked at or kept.
"""

import base64
import hashlib
from collections.abc import Iterator

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from tokenwire.http import frames
from tokenwire.wire import Binary

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
TOO_BIG = 1009
GOING_NORMALLY = 1000


def accept_token(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()  # noqa: S324


class WebSocket:
    """The frames of one connection after its 101."""

    __slots__ = (
        "_connection",
        "_fragments",
        "_max_fragments",
        "_max_message",
        "_parts",
        "_pong",
        "_size",
        "close_sent",
        "closed",
    )

    def __init__(self, *, max_message: int, max_fragments: int) -> None:
        self._connection = Connection(ConnectionType.SERVER)
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._parts: list[bytes] = []
        self._size = 0
        self._fragments = 0
        self._pong: bytes | None = None
        self.close_sent = False
        self.closed = False
        """True: the peer's close has come, or it broke a rule. It is not listened to any more."""

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes. Afterwards `control` may have an answer.

        Not to be called once `closed`.
        """
        self._connection.receive_data(data)
        for event in self._connection.events():
            match event:
                case TextMessage() | BytesMessage():
                    if not self._add(event):
                        self._finish(TOO_BIG)
                        return
                    if event.message_finished:
                        yield self._message(event)
                case Ping():
                    self._pong = self._connection.send(Pong(bytes(event.payload)))
                case CloseConnection():
                    # wsproto tells of a violation with this event too, its state still OPEN.
                    broken = self._connection.state is ConnectionState.OPEN
                    code = event.code if broken else _echo(event.code)
                    self._finish(code)
                    return
                case _:
                    pass  # an unsolicited pong (RFC 6455 5.5.3)

    def _add(self, event: TextMessage | BytesMessage) -> bool:
        """Collect a part of a message. Return False if the message is too big."""
        part = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
        self._size += len(part)
        self._fragments += event.frame_finished
        self._parts.append(part)
        return self._size <= self._max_message and self._fragments <= self._max_fragments

    def _message(self, event: TextMessage | BytesMessage) -> bytes:
        """Take the message that `event` has finished."""
        message = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size, self._fragments = [], 0, 0
        return message if isinstance(event, TextMessage) else Binary(message)

    def _finish(self, code: int) -> None:
        self.closed = True
        self._parts = []
        self._pong = self.close(code)

    def control(self) -> bytes:
        """Take the control frame that waits, if one does."""
        pong, self._pong = self._pong, None
        return pong or b""

    def close(self, code: int) -> bytes:
        """Return the close frame; empty if it was sent before."""
        if self.close_sent:
            return b""
        self.close_sent = True
        payload = code.to_bytes(2, "big")
        return frames.header(frames.CLOSE, len(payload)) + payload

    @staticmethod
    def encode(messages: list[bytes]) -> bytes:
        """Return messages as frames, joined for one write."""
        parts: list[bytes] = []
        for message in messages:
            kind = frames.BINARY if type(message) is Binary else frames.TEXT
            parts.append(frames.header(kind, len(message)))
            parts.append(message)
        return b"".join(parts)


def _echo(code: int) -> int:
    """Return the code that answers a peer's close: its own, where it may be sent (7.4.1)."""
    return code if code not in (1005, 1006, 1015) else GOING_NORMALLY
