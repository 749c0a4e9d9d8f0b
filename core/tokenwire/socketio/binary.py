"""Attachments: bytes taken out of a payload and put back into it. Both roles use it.

Rules of this file: in a binary packet `{"_placeholder": true, "num": n}` stands for attachment n;
each attachment is named exactly once. In any other packet that object is plain data. Nothing comes
between a packet and its attachments.
"""

import msgspec
from msgspec.structs import replace

from tokenwire.errors import LocalProtocolError, RemoteProtocolError
from tokenwire.wire import Binary, json
from tokenwire.wire import socketio as wire
from tokenwire.wire.socketio import Limits, Packet, PacketType


class Body(msgspec.Struct, frozen=True):
    """The payload of an event or an ack, encoded once for any number of recipients."""

    json: bytes
    attachments: tuple[Binary, ...] = ()


def encode_body(args: list[object], max_attachments: int) -> Body:
    """Encode the name and arguments of an event, or the arguments of an ack.

    Args:
        args: JSON values and bytes, nested.
        max_attachments: how many bytes values there may be: the receiver has the same limit.

    Raises:
        LocalProtocolError: they cannot be sent.
    """
    attachments: list[Binary] = []
    try:
        text = json.encode(take_out(args, attachments))
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalProtocolError(f"the arguments cannot be sent: {error}") from error
    if len(attachments) > max_attachments:
        raise LocalProtocolError(f"the arguments hold more than {max_attachments} bytes values")
    if attachments and _holds_placeholder(args):
        # The receiver could not tell it from ours.
        raise LocalProtocolError("the arguments hold bytes, and a `_placeholder` of their own")
    return Body(text, tuple(attachments))


def encode_event(namespace: str, body: Body, ack_id: int | None = None) -> list[bytes]:
    """Return the messages of an event: its packet, then its attachments.

    Args:
        namespace: where it belongs.
        body: its name and arguments.
        ack_id: the id of the acknowledgement that is wanted, if one is.
    """
    return _encode(PacketType.EVENT, PacketType.BINARY_EVENT, namespace, ack_id, body)


def encode_ack(namespace: str, body: Body, ack_id: int) -> list[bytes]:
    """Return the messages of an acknowledgement, as `encode_event` does those of an event."""
    return _encode(PacketType.ACK, PacketType.BINARY_ACK, namespace, ack_id, body)


def _encode(
    plain: PacketType, binary: PacketType, namespace: str, ack_id: int | None, body: Body
) -> list[bytes]:
    kind = binary if body.attachments else plain
    data = msgspec.Raw(body.json)
    packet = Packet(kind, namespace, ack_id, data, len(body.attachments))
    return [wire.encode(packet), *body.attachments]


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


def _holds_placeholder(data: object) -> bool:
    if isinstance(data, dict):
        return data.get("_placeholder") is True or any(map(_holds_placeholder, data.values()))
    return isinstance(data, list | tuple) and any(map(_holds_placeholder, data))


class PacketReader:
    """Makes whole packets of the messages of one connection."""

    __slots__ = ("_assembler", "_limits", "_max_bytes")

    def __init__(self, limits: Limits, max_bytes: int) -> None:
        """
        Args:
            limits: what a packet may hold.
            max_bytes: how large its attachments may be, all together.
        """
        self._limits = limits
        self._max_bytes = max_bytes
        self._assembler: Assembler | None = None

    @property
    def unfinished(self) -> Packet:
        """The packet that waits for attachments, after `read` has returned None."""
        assert self._assembler is not None
        return self._assembler.packet

    def reset(self) -> None:
        """Forget the packet that waits for attachments: the connection is over."""
        self._assembler = None

    def read(self, message: bytes) -> Packet | None:
        """Take one message. Return the packet that is whole with it, its attachments in place.

        Raises:
            RemoteProtocolError: a message that is no packet, or not this one's turn.
        """
        if type(message) is Binary:
            if self._assembler is None:
                raise RemoteProtocolError("an attachment without its packet")
            if not self._assembler.add(message):
                return None
            packet = replace(self._assembler.packet, data=self._assembler.data())
            self._assembler = None
            return packet
        if self._assembler is not None:
            raise RemoteProtocolError("a packet between the attachments of another")
        packet = wire.decode(message, self._limits)
        if not packet.attachments:
            return packet
        self._assembler = Assembler(packet, self._max_bytes)
        return None


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
