"""Packets as they may stand in a log: their shape, without what is private.

Rules of this file: a text of a peer or of a model is shown as its length, but for the fields in
SHOWN, which hold names that the protocol needs. Identifiers that open something (sid, pid,
clientId) are never among them.
"""

from tokenwire.errors import RemoteProtocolError
from tokenwire.wire import Binary, json
from tokenwire.wire import engineio as wire
from tokenwire.wire.socketio import BINARY_TYPES, PacketType

SHOWN = frozenset(
    {"streamId", "model", "agent", "intent", "code", "field", "epoch", "finishReason", "policy"}
)

_NAMES = {
    wire.OPEN: "open",
    wire.CLOSE: "close",
    wire.PING: "ping",
    wire.PONG: "pong",
    wire.UPGRADE: "upgrade",
    wire.NOOP: "noop",
}
_SHOWN_CHARS = 64
_DEPTH = 8


def describe(packet: bytes) -> str:
    """Return one line about an Engine.IO packet, valid or not."""
    if type(packet) is Binary:
        return f"binary ({len(packet)} bytes)"
    kind, data = packet[:1], packet[1:]
    if kind == wire.MESSAGE:
        return _describe_message(data)
    if kind == b"b":  # in a polling payload
        return f"binary ({len(data)} bytes in base64)"
    name = _NAMES.get(kind, "unknown")
    return f"{name} ({len(data)} bytes)" if data else name


def _describe_message(data: bytes) -> str:
    try:
        kind = PacketType(int(data[:1]))
    except ValueError:
        return f"unknown message ({len(data)} bytes)"
    start = next((at for at, byte in enumerate(data) if byte in b"[{"), len(data))
    head, payload = data[1:start], data[start:]
    if kind in BINARY_TYPES:
        head = head.partition(b"-")[2]
    # The namespace and the ack id: `/ai,12`.
    words = [kind.name, *head.decode(errors="replace")[:_SHOWN_CHARS].split(",")]
    if payload:
        try:
            value = json.decode(payload, depth=_DEPTH, containers=1_000)
        except RemoteProtocolError:
            words.append(f"({len(payload)} bytes)")
        else:
            is_event = kind in (PacketType.EVENT, PacketType.BINARY_EVENT)
            words.append(json.encode(_mask_payload(value, is_event=is_event)).decode())
    return " ".join(filter(None, words))


def _mask_payload(value: object, *, is_event: bool) -> object:
    if is_event and isinstance(value, list) and value and isinstance(value[0], str):
        return [value[0][:_SHOWN_CHARS], *map(_mask_argument, value[1:])]
    return _mask(value)


def _mask_argument(value: object) -> object:
    """Mask an argument of an event: the fields in SHOWN are those of the object itself."""
    if not isinstance(value, dict):
        return _mask(value)
    return {
        name[:_SHOWN_CHARS]: item[:_SHOWN_CHARS]
        if name in SHOWN and isinstance(item, str)
        else _mask(item)
        for name, item in value.items()
    }


def _mask(value: object) -> object:
    if isinstance(value, str):
        return f"<{len(value)} chars>"
    if isinstance(value, dict):
        return {name[:_SHOWN_CHARS]: _mask(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return value
