"""One WebSocket, of either role: wsproto's frames, with the limits that it does not have.

Rules of this file: a message that comes whole is read without wsproto (`frames.py`), at a tenth of
the cost. wsproto is made when another frame comes, and dropped when it has nothing begun. A message
is bounded by what its frames announce, before their payload comes; a few pongs wait until the
socket has room (RFC 6455 5.5.3 lets us answer only the latest pings), and go before messages that
came later; after a close or a violation nothing that comes is looked at or kept.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from tokenwire.http import frames
from tokenwire.wire import Binary

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
TOO_BIG = 1009
GOING_NORMALLY = 1000
_PONGS = 16  # ws 8.23 keeps 60


def accept_token(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()  # noqa: S324


class WebSocket:
    """The frames of one connection after its 101."""

    __slots__ = (
        "_careful",
        "_control",
        "_max_fragments",
        "_max_message",
        "_new_mask",
        "_part",
        "close_sent",
        "closed",
    )

    def __init__(
        self,
        *,
        max_message: int,
        max_fragments: int,
        new_mask: Callable[[], bytes] | None = None,
    ) -> None:
        """
        Args:
            max_message: the largest message that is taken.
            max_fragments: how many frames it may come in.
            new_mask: draws a masking key, 4 bytes: the client's role. None: the server's.
        """
        self._new_mask = new_mask
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._careful: tuple[Connection, frames.SizeGuard] | None = None
        """wsproto, and what counts for it; None: nothing is begun that they must see the end of."""
        self._part = bytearray()
        """What has come of a message."""
        self._control: list[bytes] = []
        """The control frames that wait: the latest pongs, or the close."""
        self.close_sent = False
        self.closed = False
        """True: the peer's close has come, or it broke a rule. It is not listened to any more."""

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that `data` completes. Afterwards `take_control` may have an answer.

        Not to be called once `closed`.
        """
        at = 0
        if self._careful is None:
            limit, is_masked = self._max_message, self._new_mask is None
            while read := frames.read_message(data, at, max_size=limit, is_masked=is_masked):
                message, at = read
                yield message
        if at < len(data):
            yield from self._receive_frames(data[at:])

    def _receive_frames(self, data: bytes) -> Iterator[bytes]:
        if self._careful is None:
            self._careful = self._begin()
        connection, guard = self._careful
        too_big = guard.feed(data)
        connection.receive_data(data if too_big is None else data[:too_big])
        for event in connection.events():
            match event:
                case TextMessage() | BytesMessage():
                    text = isinstance(event, TextMessage)
                    self._part += event.data.encode() if isinstance(event.data, str) else event.data
                    if event.message_finished:
                        yield bytes(self._part) if text else Binary(self._part)
                        self._part.clear()
                case Ping():
                    if not self.close_sent:
                        self._control.append(self._control_frame(frames.PONG, bytes(event.payload)))
                        del self._control[:-_PONGS]
                case CloseConnection():
                    # wsproto tells of a violation with this event too, its state still OPEN.
                    broken = connection.state is ConnectionState.OPEN
                    self._finish(event.code if broken else _echo(event.code))
                    return
                case _:
                    pass  # an unsolicited pong (RFC 6455 5.5.3)
        if too_big is not None:
            self._finish(TOO_BIG)
        elif guard.between_messages:
            self._careful = None

    def _begin(self) -> tuple[Connection, frames.SizeGuard]:
        server = self._new_mask is None
        guard = frames.SizeGuard(
            max_message=self._max_message, max_fragments=self._max_fragments, masked=server
        )
        return Connection(ConnectionType.SERVER if server else ConnectionType.CLIENT), guard

    def _finish(self, code: int) -> None:
        self.closed = True
        self._careful = None
        self._part.clear()
        if not self.close_sent:
            self._control.append(self.close(code))

    @property
    def has_control(self) -> bool:
        """True: a control frame waits."""
        return bool(self._control)

    def take_control(self) -> bytes:
        """Take the control frames that wait."""
        control = b"".join(self._control)
        self._control.clear()
        return control

    def close(self, code: int) -> bytes:
        """Return the close frame; empty if it was sent before. No pong comes after it."""
        if self.close_sent:
            return b""
        self.close_sent = True
        self._control.clear()
        return self._control_frame(frames.CLOSE, code.to_bytes(2, "big"))

    def encode(self, messages: list[bytes]) -> bytes:
        """Return messages as frames, joined for one write."""
        parts: list[bytes] = []
        for message in messages:
            kind = frames.BINARY if type(message) is Binary else frames.TEXT
            if self._new_mask is None:
                parts.append(frames.header(kind, len(message)))
                parts.append(message)
            else:
                parts.append(frames.masked(kind, message, self._new_mask()))
        return b"".join(parts)

    def _control_frame(self, first_byte: int, payload: bytes) -> bytes:
        if self._new_mask is None:
            return frames.header(first_byte, len(payload)) + payload
        return frames.masked(first_byte, payload, self._new_mask())


def _echo(code: int) -> int:
    """Return the code that answers a peer's close: its own, where it may be sent (7.4.1)."""
    return code if code not in (1005, 1006, 1015) else GOING_NORMALLY
