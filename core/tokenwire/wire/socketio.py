"""Socket.IO v5 packets.

`<type>[<attachments>-][<namespace>,][<ack id>][JSON]`, without the Engine.IO type digit. The
namespace `/` is left out. The trailing comma is optional on input where nothing follows it, always
there on output.
"""

import enum

import msgspec

from tokenwire.errors import RemoteProtocolError
from tokenwire.wire import json


class PacketType(enum.IntEnum):
    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


BINARY_TYPES = (PacketType.BINARY_EVENT, PacketType.BINARY_ACK)

RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)

_MAX_ID_DIGITS = 16  # 2^53 has 16


class Packet(msgspec.Struct, frozen=True):
    """One packet, its JSON decoded, its attachments not yet put in place."""

    type: PacketType
    namespace: str = "/"
    id: int | None = None
    data: object = msgspec.UNSET
    attachments: int = 0


class Limits(msgspec.Struct, frozen=True):
    """What a peer's packet may hold."""

    max_attachments: int = 10
    json_depth: int = 32
    json_containers: int = 10_000
    lenient_namespace: str | None = None
    """The one whose handler looks at each value itself, and names what is wrong."""


def decode(text: bytes, limits: Limits) -> Packet:
    """Return the packet of a text message.

    Raises:
        RemoteProtocolError: the message is no packet that a client may send in this form.
    """
    kind = text[:1]
    if not b"0" <= kind <= b"6":  # an empty message compares below "0"
        raise RemoteProtocolError("an unknown packet type")
    packet_type = PacketType(int(kind))
    at = 1
    attachments = 0
    if packet_type in BINARY_TYPES:
        end = text.find(b"-", at, at + 4)
        digits = text[at:end] if end >= 0 else b""
        # Number() of the JavaScript parser takes "1e1" and " 5"; a count is digits.
        if not digits.isdigit() or digits[:1] == b"0":
            raise RemoteProtocolError("a binary packet without a count of attachments")
        attachments = int(digits)
        if attachments > limits.max_attachments:
            raise RemoteProtocolError(f"more than {limits.max_attachments} attachments")
        at = end + 1
    namespace = "/"
    if text[at : at + 1] == b"/":
        end = text.find(b",", at)
        namespace = _text(text[at:] if end < 0 else text[at:end])
        at = len(text) if end < 0 else end + 1
    start = at
    while text[at : at + 1].isdigit():
        at += 1
        if at - start > _MAX_ID_DIGITS:
            raise RemoteProtocolError("an ack id out of range")
    packet_id = int(text[start:at]) if at > start else None
    data: object = msgspec.UNSET
    if at < len(text):
        data = json.decode(
            text[at:],
            depth=limits.json_depth,
            containers=limits.json_containers,
            lenient=namespace == limits.lenient_namespace,
        )
    _check(packet_type, packet_id, data)
    return Packet(packet_type, namespace, packet_id, data, attachments)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("the packet is not UTF-8") from error


def _check(packet_type: PacketType, packet_id: int | None, data: object) -> None:
    match packet_type:
        case PacketType.CONNECT:
            valid = data is msgspec.UNSET or isinstance(data, dict)
        case PacketType.DISCONNECT:
            valid = data is msgspec.UNSET
        case PacketType.CONNECT_ERROR:  # a server's word only, but a codec reads both roles
            valid = isinstance(data, dict | str)
        case PacketType.EVENT | PacketType.BINARY_EVENT:
            valid = isinstance(data, list) and bool(data) and _is_event_name(data[0])
        case _:  # ACK, BINARY_ACK
            valid = isinstance(data, list) and packet_id is not None
    if not valid:
        raise RemoteProtocolError(f"a {packet_type.name} packet with a payload that it cannot have")


def _is_event_name(name: object) -> bool:
    if isinstance(name, str):
        return name not in RESERVED_EVENTS
    return type(name) is int


def event_head(namespace: str) -> bytes:
    """Return what stands before the JSON of an event without id: `2/ai,`."""
    return b"2" + _namespace(namespace)


def encode(packet: Packet) -> bytes:
    """Return the text of a packet."""
    count = b"%d-" % packet.attachments if packet.type in BINARY_TYPES else b""
    number = b"" if packet.id is None else b"%d" % packet.id
    data = b"" if packet.data is msgspec.UNSET else json.encode(packet.data)
    return b"%d%b%b%b%b" % (packet.type, count, _namespace(packet.namespace), number, data)


def _namespace(namespace: str) -> bytes:
    return b"" if namespace == "/" else namespace.encode() + b","
