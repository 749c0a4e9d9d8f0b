"""One function for each parser of the core: it takes any bytes, and raises only what is wrong.

Rules of this file: what a parser says to wrong input (RemoteProtocolError, a refusal) is right.
Where there is more to ask than that nothing else is raised, it is asked here: a round trip, the
same result in one piece and in two.
"""

import contextlib
from collections.abc import Callable

import msgspec
from tokenwire.ai import messages, ollama
from tokenwire.ai.errors import Refusal
from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.http.chunks import ChunkedBody
from tokenwire.http.client import ClientConnection, Phase
from tokenwire.http.connection import HttpConnection
from tokenwire.http.websocket import WebSocket
from tokenwire.testing import World
from tokenwire.types import Peer, Request, Response
from tokenwire.wire import engineio, json, socketio
from tokenwire.wire.ndjson import LineSplitter
from tokenwire.wire.trace import describe

CONFIG = Config(max_payload=500, header_bytes=1_000, max_fragments=4, allowed_models=("*",))
LIMITS = socketio.Limits()


class FixedIds:
    """Draws the key that the seeds' servers answer."""

    def random_bytes(self, count: int) -> bytes:
        return b"0123456789abcdef"[:count]


def halves(data: bytes) -> tuple[bytes, bytes]:
    """Return the data in two pieces; where it is cut, its size says."""
    middle = len(data) * 7 // 11
    return data[:middle], data[middle:]


def engineio_payload(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        packets = engineio.decode_payload(data, max_packets=16)
        assert engineio.encode_payload(packets) == data


def socketio_packet(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        packet = socketio.decode(data, LIMITS)
        assert socketio.decode(socketio.encode(packet), LIMITS) == packet


def json_text(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        json.decode(data, depth=8, containers=100, lenient=True)
    with contextlib.suppress(RemoteProtocolError):
        value = json.decode(data, depth=8, containers=100)
        assert json.decode(json.encode(value), depth=8, containers=100) == value


def json_lines(data: bytes) -> None:
    def read(pieces: tuple[bytes, ...]) -> object:
        splitter = LineSplitter(50)
        try:
            return [line for piece in pieces for line in splitter.feed(piece)], splitter.end()
        except RemoteProtocolError as error:
            return str(error)

    assert read(halves(data)) == read((data,))


def trace(data: bytes) -> None:
    assert describe(data)


def chunked_body(data: bytes) -> None:
    def read(pieces: tuple[bytes, ...]) -> object:
        chunks = ChunkedBody(200)
        body = bytearray()
        try:
            for piece in pieces:
                chunks.feed(piece, body)
        except RemoteProtocolError as error:
            return body, error.status
        return body, chunks.done

    assert read(halves(data)) == read((data,))


def http_connection(data: bytes) -> None:
    def read(pieces: tuple[bytes, ...]) -> object:
        connection = HttpConnection(Peer(), CONFIG)
        events: list[object] = []
        for piece in pieces:
            connection.receive_data(piece)
            while connection.events:
                event = connection.events.pop(0)
                events.append(event)
                if isinstance(event, Request):
                    connection.send_response(Response(101 if event.upgrade else 200))
                    connection.receive_early()
        return events, connection.phase

    assert read(halves(data)) == read((data,))


def websocket(data: bytes) -> None:
    def read(pieces: tuple[bytes, ...]) -> object:
        socket = WebSocket(max_message=500, max_fragments=4)
        got = [
            message for piece in pieces if not socket.closed for message in socket.receive(piece)
        ]
        return got, socket.closed, socket.take_control()

    assert read(halves(data)) == read((data,))


def http_client(data: bytes) -> None:
    connection = ClientConnection("x", max_bytes=500, max_fragments=4, ids=FixedIds())
    connection.send_request(Request("GET", "/"))
    for piece in halves(data):
        connection.receive_data(piece)
    connection.receive_eof()
    connection.take(10_000)


def websocket_client(data: bytes) -> None:
    connection = ClientConnection("x", max_bytes=500, max_fragments=4, ids=FixedIds())
    connection.send_upgrade(Request("GET", "/"))
    for piece in halves(data):
        connection.receive_data(piece)
    if connection.phase is Phase.OPEN:
        connection.send_messages([b"text"])
    connection.close()
    connection.take(10_000)


def ai_messages(data: bytes) -> None:
    try:
        value = json.decode(data, depth=32, containers=100, lenient=True)
    except RemoteProtocolError:
        return
    args = value if isinstance(value, list) else [value]
    messages.known_stream_id(args)
    for parse in (
        lambda: messages.parse_stream(args, CONFIG),
        lambda: messages.stream_id(args, "ai:cancel"),
        lambda: messages.parse_reconnect(args),
    ):
        with contextlib.suppress(Refusal):
            parse()


def ai_ollama(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        line = ollama.decode_line(data)
        msgspec.json.encode(line)
    with contextlib.suppress(RemoteProtocolError):
        ollama.decode_models(data)


def server(data: bytes) -> None:
    """The first byte says what follows: HTTP, frames in `/`, in `/ai`, or a model's answer."""
    world = World(CONFIG)
    wire = world.connect()
    kind, rest = data[:1], data[1:]
    if kind in (b"f", b"a", b"m"):
        wire.upgrade("/socket.io/?EIO=4&transport=websocket")
        wire.send_text("40" if kind == b"f" else "40/ai,")
    if kind == b"m":
        wire.send_text('42/ai,["ai:stream",{"prompt":"p","think":true}]')
        world.models[-1].send(rest)
        world.models[-1].eof()
    else:
        wire.send(rest)
    world.advance(1_000)
    if wire.open:
        wire.drop()
    world.advance(200_000)
    assert not world.server.stats().total_sessions


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wire.engineio": engineio_payload,
    "wire.socketio": socketio_packet,
    "wire.json": json_text,
    "wire.ndjson": json_lines,
    "wire.trace": trace,
    "http.chunks": chunked_body,
    "http.connection": http_connection,
    "http.websocket": websocket,
    "http.client": http_client,
    "http.client.websocket": websocket_client,
    "ai.messages": ai_messages,
    "ai.ollama": ai_ollama,
    "server": server,
}
