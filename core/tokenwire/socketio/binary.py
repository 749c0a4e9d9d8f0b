"""Attachments: bytes taken out of a payload and put back into it.

Rules of this file: in a binary packet `{"_placeholder": true, "num": n}` stands for attachment n;
each attachment is named exactly once. In any other packet that object is plain data.
"""

import msgspec

from tokenwire.errors import LocalProtocolError, RemoteProtocolError
from tokenwire.wire import Binary, json
from tokenwire.wire.socketio import Packet


class Body(msgspec.Struct, frozen=True):
    """The payload of an event or an ack, encoded once for any number of recipients."""

    json: bytes
    attachments: tuple[Binary, ...] = ()


def encode_body(data: list[object]) -> Body:
    """Encode the arguments of an event (behind its name) or of an ack; bytes become attachments.

    Raises:
        LocalProtocolError: they are not JSON and bytes.
    """
    attachments: list[Binary] = []
    try:
        return Body(json.encode(take_out(data, attachments)), tuple(attachments))
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalProtocolError(f"the arguments cannot be sent: {error}") from error


def take_out(data: object, attachments: list[Binary]) -> object:
    """Return `data` with each bytes value replaced by a placeholder and appended to `attachments`.

    Args:
        data: JSON values and bytes, nested.
        attachments: is filled.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        attachments.append(Binary(data))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(data, dict):
        return {key: take_out(value, attachments) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [take_out(value, attachments) for value in data]
    return data


class Assembler:
    """Collects the attachments of one binary packet."""

    __slots__ = ("_size", "attachments", "packet")

    def __init__(self, packet: Packet, max_bytes: int) -> None:
        self.packet = packet
        self.attachments: list[bytes] = []
        self._size = max_bytes

    def add(self, attachment: bytes) -> bool:
        """Take one attachment. Return True when it was the last.

        Raises:
            RemoteProtocolError: all of them together are larger than a payload may be.
        """
        self.attachments.append(bytes(attachment))
        self._size -= len(attachment)
        if self._size < 0:
            raise RemoteProtocolError("the attachments of a packet are too large", close_code=1009)
        return len(self.attachments) == self.packet.attachments

    def data(self) -> object:
        """Return the payload with every attachment in its place.

        Raises:
            RemoteProtocolError: a placeholder out of range, or an attachment not used once.
        """
        unused = dict(enumerate(self.attachments))
        data = _put_back(self.packet.data, unused)
        if unused:
            raise RemoteProtocolError("an attachment without a placeholder")
        return data


def _put_back(data: object, unused: dict[int, bytes]) -> object:
    if isinstance(data, dict):
        if data.get("_placeholder") is True:
            number = data.get("num")
            if type(number) is not int or number not in unused:
                raise RemoteProtocolError("a placeholder without an attachment")
            return unused.pop(number)
        return {key: _put_back(value, unused) for key, value in data.items()}
    if isinstance(data, list):
        return [_put_back(value, unused) for value in data]
    return data
