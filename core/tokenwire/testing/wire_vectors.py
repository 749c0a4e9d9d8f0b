"""Codec vectors: texts and bytes, and what they mean, both ways, as data.

Rules of this file: a vector speaks of packets, lines and frames, never of a class of ours, and its
limits are those of `spec/`. The structs here are the format; `spec/schema/wire-1.json` is made from
them. `spec/vectors/wire/valid` holds what must be read and written, `.../invalid` what must be
refused, with the reason in words.
"""

from typing import Any, Literal

import msgspec


class Repeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a text that stands there many times."""

    repeat: str
    times: int


Text = str | tuple[str | Repeat, ...]
"""A text, whole or in pieces to be joined."""


def expand(text: Text) -> str:
    """Return a text whole."""
    if isinstance(text, str):
        return text
    return "".join(part if isinstance(part, str) else part.repeat * part.times for part in text)


class _Codec(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="codec"
):
    """Base of all vectors."""

    id: str
    """Never reused."""
    title: str
    requirements: tuple[str, ...]
    """Numbers in `spec/`, or clauses of RFCs."""


# -- valid -----------------------------------------------------------------------------------------


class EnginePacket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Engine.IO packet: a text one, or a binary message."""

    type: Literal["open", "close", "ping", "pong", "message", "upgrade", "noop"]
    text: str = ""
    hex: str | None = None
    """Not None: a binary message of these bytes."""


class EnginePayload(_Codec, frozen=True, tag="engineio-payload"):
    """A polling payload, and its packets. It is read, and written."""

    text: Text
    packets: tuple[EnginePacket, ...]


class SocketPacket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Socket.IO packet, its placeholders not yet filled."""

    type: Literal[
        "connect", "disconnect", "event", "ack", "connect-error", "binary-event", "binary-ack"
    ]
    namespace: str = "/"
    id: int | None = None
    data: Any = msgspec.UNSET
    """The JSON value, if there is one."""
    attachments: int = 0


class SocketText(_Codec, frozen=True, tag="socketio-packet"):
    """The text of a Socket.IO packet (without Engine.IO's type), and the packet. It is read."""

    text: Text
    packet: SocketPacket | None = None
    """None: too large to stand here; what was read is written, and is the text again."""
    canonical: bool = True
    """True: it is also written, as this text. False: it may be written in another way."""


class Lines(_Codec, frozen=True, tag="ndjson"):
    """A stream of UTF-8 text in any cuts, and its lines.

    A line may keep the carriage return that stands at its end. Empty lines are left out.
    """

    text: Text
    lines: tuple[str, ...]
    cuts: tuple[int, ...] = ()
    """Where the stream is cut, in bytes. It must not matter: all cuts in two are played as well."""
    rest: str = ""
    """What stands behind the last newline when the stream ends."""
    max_line: int = msgspec.field(name="maxLine", default=1_000)
    """Bytes."""


class FrameHeader(_Codec, frozen=True, tag="websocket-header"):
    """The header of a server's frame (final, not masked): it is written, and read by a client."""

    opcode: Literal["text", "binary", "close"]
    size: int
    """Of the payload, in bytes."""
    hex: str


class ClientFrames(_Codec, frozen=True, tag="websocket-sizes"):
    """A client's frames, in any cuts: what their headers announce is within the limits."""

    hex: str
    max_message: int = msgspec.field(name="maxMessage")
    """Bytes of payload, in all frames of a message."""
    max_fragments: int = msgspec.field(name="maxFragments")


Valid = EnginePayload | SocketText | Lines | FrameHeader | ClientFrames


# -- invalid ---------------------------------------------------------------------------------------


class _Refused(_Codec, frozen=True):
    reason: str
    """Why it must be refused, in words."""


class BadEnginePayload(_Refused, frozen=True, tag="engineio-payload"):
    """No polling payload: the text, and behind it what the hexadecimal says."""

    text: Text = ""
    hex: str = ""


class BadSocketText(_Refused, frozen=True, tag="socketio-packet"):
    """No Socket.IO packet: the text, and behind it what the hexadecimal says."""

    text: Text = ""
    hex: str = ""


class BadLines(_Refused, frozen=True, tag="ndjson"):
    """A stream that must be refused, at the latest with its last byte, in any cuts."""

    text: Text
    max_line: int = msgspec.field(name="maxLine")


class BadClientFrames(_Refused, frozen=True, tag="websocket-sizes"):
    """A client's frames, the last of which announces too much: only its header stands here."""

    hex: str
    max_message: int = msgspec.field(name="maxMessage")
    max_fragments: int = msgspec.field(name="maxFragments")


Invalid = BadEnginePayload | BadSocketText | BadLines | BadClientFrames


# -- files -----------------------------------------------------------------------------------------


class _File(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"
):
    format: Literal["wire-1"]
    count: int
    """How many vectors there are. A player that has played fewer has failed."""


class ValidFile(_File, frozen=True, tag="valid"):
    """A file of what must be read and written."""

    vectors: tuple[Valid, ...]


class InvalidFile(_File, frozen=True, tag="invalid"):
    """A file of what must be refused."""

    vectors: tuple[Invalid, ...]


def load(data: bytes) -> ValidFile | InvalidFile:
    """Return the vectors of a file.

    Raises:
        msgspec.ValidationError: the file does not follow the format, or has another count.
    """
    file = msgspec.json.decode(data, type=ValidFile | InvalidFile)
    if len(file.vectors) != file.count:
        raise msgspec.ValidationError(f"{file.count} vectors announced, {len(file.vectors)} there")
    return file


def schema() -> dict[str, object]:
    """Return the JSON Schema of a file of vectors."""
    return msgspec.json.schema(ValidFile | InvalidFile)
