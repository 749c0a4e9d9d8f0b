"""Round trips of every codec, and what a codec says to anything else: RemoteProtocolError."""

import contextlib
import json as stdlib_json

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from properties.inputs import CUTS, EDITS, PACKETS, cut, edited, repeatable
from tokenwire.errors import RemoteProtocolError
from tokenwire.http.chunks import ChunkedBody
from tokenwire.http.websocket import WebSocket
from tokenwire.socketio.binary import Assembler, take_out
from tokenwire.testing.world import masked_frame
from tokenwire.wire import Binary, engineio, json, socketio
from tokenwire.wire.ndjson import LineSplitter
from tokenwire.wire.socketio import BINARY_TYPES, Limits, Packet, PacketType

LIMITS = Limits()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)


def nested(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(TEXTS.filter(lambda key: key != "_placeholder"), inner, max_size=4),
        ),
        max_leaves=12,
    )


JSON = nested(SCALARS)
NAMES = st.one_of(
    st.integers(-(2**53), 2**53), TEXTS.filter(lambda name: name not in socketio.RESERVED_EVENTS)
)
NAMESPACES = st.one_of(
    st.just("/"), TEXTS.map(lambda name: "/" + name.replace(",", "")).filter(lambda n: n != "/")
)
IDS = st.integers(0, 10**16 - 1)


@repeatable(200)
@given(JSON)
def test_json_comes_back(value: object) -> None:
    text = json.encode(value)
    assert json.decode(text, depth=32, containers=10_000) == value


@repeatable(500)
@given(JSON, EDITS)
def test_json_is_read_or_refused(value: object, edits: list[tuple[str, int, bytes]]) -> None:
    text = edited(json.encode(value), edits)
    with contextlib.suppress(RemoteProtocolError):
        read = json.decode(text, depth=32, containers=10_000)
        assert msgspec.json.decode(text) == read


PIECES = st.lists(
    st.sampled_from(
        ["\\ud83d", "\\uDE00", "\\ud83d\\ude00", "\\\\", '\\"', "\\u0041", "a", "ud83d"]
    ),
    max_size=12,
)


@repeatable(500)
@given(PIECES, st.integers(0, 60))
def test_lone_surrogates_are_found_wherever_they_stand(pieces: list[str], before: int) -> None:
    """Python's own parser reads them. The text is looked through in pieces of 32 KiB."""
    text = f'"{"x" * (32 * 1024 - before)}{"".join(pieces)}"'
    value = stdlib_json.loads(text)
    read = json.decode(text.encode(), depth=1, containers=1, lenient=True)
    if any("\ud800" <= char <= "\udfff" for char in value):
        assert isinstance(read, json.Unusable)
    else:
        assert read == value


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    kind = draw(st.sampled_from(PacketType))
    namespace = draw(NAMESPACES)
    count = draw(st.integers(1, 10)) if kind in BINARY_TYPES else 0
    arguments = draw(st.lists(JSON, max_size=3))
    objects = st.dictionaries(TEXTS, JSON, max_size=3)
    match kind:
        case PacketType.CONNECT:
            return Packet(kind, namespace, data=draw(st.one_of(st.just(msgspec.UNSET), objects)))
        case PacketType.DISCONNECT:
            return Packet(kind, namespace)
        case PacketType.CONNECT_ERROR:
            return Packet(kind, namespace, data=draw(st.one_of(TEXTS, objects)))
        case PacketType.EVENT | PacketType.BINARY_EVENT:
            number = draw(st.none() | IDS)
            return Packet(kind, namespace, number, [draw(NAMES), *arguments], count)
        case _:
            return Packet(kind, namespace, draw(IDS), arguments, count)


@repeatable(400)
@given(packets())
def test_socketio_packets_come_back(packet: Packet) -> None:
    assert socketio.decode(socketio.encode(packet), LIMITS) == packet


@repeatable(500)
@given(packets(), EDITS)
def test_socketio_packets_are_read_or_refused(
    packet: Packet, edits: list[tuple[str, int, bytes]]
) -> None:
    with contextlib.suppress(RemoteProtocolError):
        socketio.decode(edited(socketio.encode(packet), edits), LIMITS)


MESSAGES = st.lists(
    st.one_of(PACKETS.filter(bool), st.binary(max_size=20).map(Binary)), min_size=1, max_size=6
)


@repeatable(200)
@given(MESSAGES)
def test_payloads_come_back(messages: list[bytes]) -> None:
    decoded = engineio.decode_payload(engineio.encode_payload(messages), max_packets=6)
    assert decoded == messages
    assert [type(message) for message in decoded] == [type(message) for message in messages]


@repeatable(500)
@given(MESSAGES, EDITS)
def test_payloads_are_read_or_refused(
    messages: list[bytes], edits: list[tuple[str, int, bytes]]
) -> None:
    with contextlib.suppress(RemoteProtocolError):
        engineio.decode_payload(edited(engineio.encode_payload(messages), edits), max_packets=6)


@repeatable(200)
@given(nested(st.one_of(SCALARS, st.binary(max_size=8))))
def test_attachments_come_back(value: object) -> None:
    attachments: list[Binary] = []
    text = json.encode(take_out(value, attachments))
    packet = Packet(
        PacketType.BINARY_EVENT,
        data=json.decode(text, depth=64, containers=1_000),
        attachments=len(attachments),
    )
    assembler = Assembler(packet, 10_000)
    assert [assembler.add(item) for item in attachments][:-1].count(True) == 0
    assert assembler.data() == value


@repeatable(200)
@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), CUTS)
def test_chunked_bodies_come_back(chunks: list[bytes], places: list[int]) -> None:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    body = ChunkedBody(100)
    got = bytearray()
    for piece in cut(framed, places):
        assert body.feed(piece, got) == len(piece)
    assert body.done
    assert got == b"".join(chunks)


@repeatable(200)
@given(
    st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=6), CUTS
)
def test_lines_come_back(lines: list[bytes], places: list[int]) -> None:
    splitter = LineSplitter(20)
    got: list[bytes] = []
    for piece in cut(b"".join(line + b"\n" for line in lines), places):
        got.extend(splitter.feed(piece))
    assert got == [line for line in lines if line and line != b"\r"]
    assert splitter.end() == b""


@repeatable(200)
@given(
    st.lists(st.one_of(TEXTS.map(str.encode), st.binary(max_size=200).map(Binary)), max_size=5),
    CUTS,
)
def test_websocket_messages_come_back(messages: list[bytes], places: list[int]) -> None:
    frames = b"".join(
        masked_frame(message, 2 if type(message) is Binary else 1) for message in messages
    )
    websocket = WebSocket(max_message=1_000, max_fragments=10)
    got: list[bytes] = []
    for piece in cut(frames, places):
        got.extend(websocket.receive(piece))
    assert got == messages
    assert [type(message) for message in got] == [type(message) for message in messages]
