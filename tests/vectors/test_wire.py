"""The codec vectors of `spec/vectors/wire`, played on this implementation's codecs.

Rules of this file: the vectors know nothing of our classes; the few lines that say how ours are
called stand here. What is valid is read, and written, and read in any cuts where cuts exist; what
is invalid is refused with RemoteProtocolError, and with nothing else.
"""

import re
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.http import frames
from tokenwire.testing import wire_vectors as vectors
from tokenwire.testing.parse import take_frames
from tokenwire.wire import Binary, engineio, socketio
from tokenwire.wire.ndjson import LineSplitter

SPEC = Path(__file__).parents[2] / "spec"
FILES = {
    path.relative_to(SPEC).as_posix(): vectors.load(path.read_bytes())
    for path in sorted((SPEC / "vectors" / "wire").rglob("*.json"))
}
VALID = [
    vector
    for file in FILES.values()
    if isinstance(file, vectors.ValidFile)
    for vector in file.vectors
]
INVALID = [
    vector
    for file in FILES.values()
    if isinstance(file, vectors.InvalidFile)
    for vector in file.vectors
]

CONFIG = Config()
LIMITS = socketio.Limits(CONFIG.max_attachments, CONFIG.json_depth, CONFIG.json_containers)
ENGINE_TYPES = {
    "open": engineio.OPEN,
    "close": engineio.CLOSE,
    "ping": engineio.PING,
    "pong": engineio.PONG,
    "message": engineio.MESSAGE,
    "upgrade": engineio.UPGRADE,
    "noop": engineio.NOOP,
}
SOCKET_TYPES = {
    "connect": socketio.PacketType.CONNECT,
    "disconnect": socketio.PacketType.DISCONNECT,
    "event": socketio.PacketType.EVENT,
    "ack": socketio.PacketType.ACK,
    "connect-error": socketio.PacketType.CONNECT_ERROR,
    "binary-event": socketio.PacketType.BINARY_EVENT,
    "binary-ack": socketio.PacketType.BINARY_ACK,
}
OPCODES = {"text": frames.TEXT, "binary": frames.BINARY, "close": frames.CLOSE}
READABLE = 70_000  # bytes: larger frames are not made only to be read
ANYWHERE = 2_000  # bytes: a longer stream is not cut at every place


def in_two(data: bytes) -> list[list[bytes]]:
    """Return `data` whole, in single bytes, and in every two pieces."""
    if len(data) > ANYWHERE:
        return [[data]]
    single = [data[at : at + 1] for at in range(len(data))]
    return [[data], single, *([data[:at], data[at:]] for at in range(len(data) + 1))]


# -- what is valid ---------------------------------------------------------------------------------


def play_payload(vector: vectors.EnginePayload) -> None:
    body = vectors.expand(vector.text).encode()
    packets = [
        ENGINE_TYPES[packet.type] + packet.text.encode()
        if packet.hex is None
        else Binary(bytes.fromhex(packet.hex))
        for packet in vector.packets
    ]
    read = engineio.decode_payload(body, max_packets=CONFIG.max_packets_per_post)
    assert read == packets
    assert [type(packet) is Binary for packet in read] == [
        packet.hex is not None for packet in vector.packets
    ]
    assert engineio.encode_payload(packets) == body


def play_packet(vector: vectors.SocketText) -> None:
    text = vectors.expand(vector.text).encode()
    read = socketio.decode(text, LIMITS)
    if vector.packet is not None:
        expected = socketio.Packet(
            SOCKET_TYPES[vector.packet.type],
            vector.packet.namespace,
            vector.packet.id,
            vector.packet.data,
            vector.packet.attachments,
        )
        assert read == expected
        # 1, 1.0 and true are equal in Python: compare what is written, too.
        assert socketio.encode(read) == socketio.encode(expected)
    if vector.canonical:
        assert socketio.encode(read) == text
    assert socketio.decode(socketio.encode(read), LIMITS) == read


def play_lines(vector: vectors.Lines) -> None:
    data = vectors.expand(vector.text).encode()
    bounds = [0, *vector.cuts, len(data)]
    cut = [data[start:end] for start, end in pairwise(bounds)]
    for pieces in [cut, *in_two(data)]:
        splitter = LineSplitter(vector.max_line)
        lines = [line for piece in pieces for line in splitter.feed(piece)]
        assert [line.removesuffix(b"\r").decode() for line in lines] == list(vector.lines)
        assert splitter.end().decode() == vector.rest


def play_header(vector: vectors.FrameHeader) -> None:
    header = frames.header(OPCODES[vector.opcode], vector.size)
    assert header.hex() == vector.hex
    if vector.size <= READABLE:
        taken, rest = take_frames(header + bytes(vector.size))
        assert [(frame.opcode, len(frame.payload)) for frame in taken] == [
            (OPCODES[vector.opcode] & 0x0F, vector.size)
        ]
        assert rest == b""


def play_sizes(vector: vectors.ClientFrames) -> None:
    for pieces in in_two(bytes.fromhex(vector.hex)):
        guard = frames.SizeGuard(max_message=vector.max_message, max_fragments=vector.max_fragments)
        assert [guard.feed(piece) for piece in pieces] == [None] * len(pieces)


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.id)
def test_what_is_valid_is_read_and_written(vector: vectors.Valid) -> None:
    match vector:
        case vectors.EnginePayload():
            play_payload(vector)
        case vectors.SocketText():
            play_packet(vector)
        case vectors.Lines():
            play_lines(vector)
        case vectors.FrameHeader():
            play_header(vector)
        case vectors.ClientFrames():
            play_sizes(vector)


# -- what is invalid -------------------------------------------------------------------------------


def refuses_lines(vector: vectors.BadLines) -> None:
    for pieces in in_two(vectors.expand(vector.text).encode()):
        splitter = LineSplitter(vector.max_line)
        with pytest.raises(RemoteProtocolError):
            [splitter.feed(piece) for piece in pieces]


def refuses_sizes(vector: vectors.BadClientFrames) -> None:
    data = bytes.fromhex(vector.hex)
    for pieces in in_two(data):
        guard = frames.SizeGuard(max_message=vector.max_message, max_fragments=vector.max_fragments)
        at = 0
        for piece in pieces:
            found = guard.feed(piece)
            if found is not None:
                break
            at += len(piece)
        else:
            pytest.fail(vector.reason)
        assert at + found == len(data) - 5  # the last byte of the header before its mask


@pytest.mark.parametrize("vector", INVALID, ids=lambda vector: vector.id)
def test_what_is_invalid_is_refused(vector: vectors.Invalid) -> None:
    match vector:
        case vectors.BadEnginePayload():
            body = vectors.expand(vector.text).encode() + bytes.fromhex(vector.hex)
            with pytest.raises(RemoteProtocolError):
                engineio.decode_payload(body, max_packets=CONFIG.max_packets_per_post)
        case vectors.BadSocketText():
            text = vectors.expand(vector.text).encode() + bytes.fromhex(vector.hex)
            with pytest.raises(RemoteProtocolError):
                socketio.decode(text, LIMITS)
        case vectors.BadLines():
            refuses_lines(vector)
        case vectors.BadClientFrames():
            refuses_sizes(vector)


# -- the files -------------------------------------------------------------------------------------


def test_every_vector_of_every_file_is_played() -> None:
    kinds = [name.split("/")[2] for name in FILES]
    assert sorted(kinds) == ["invalid"] * 4 + ["valid"] * 4
    for name, file in FILES.items():
        assert f"/{'valid' if isinstance(file, vectors.ValidFile) else 'invalid'}/" in name
    ids = [vector.id for vector in [*VALID, *INVALID]]
    assert len(ids) == sum(file.count for file in FILES.values())
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"W\d{3}", vector_id) for vector_id in ids)


def test_another_count_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="1 vectors announced, 0 there"):
        vectors.load(b'{"kind":"valid","format":"wire-1","count":1,"vectors":[]}')


def test_the_schema_is_that_of_the_code() -> None:
    text = msgspec.json.format(msgspec.json.encode(vectors.schema()), indent=2) + b"\n"
    assert (SPEC / "schema" / "wire-1.json").read_bytes() == text
