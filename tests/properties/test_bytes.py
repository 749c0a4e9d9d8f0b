"""Any byte stream, in any cuts: the same outputs, no exception, bounded memory.

Rules of this file: a wire is read at the end only, where a ping flood's one pong has the same place
in any cuts. The requests that are the program's own are answered at once.
"""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from properties.inputs import CUTS, FRAME_STREAMS, HANDSHAKE, MUTATED, cut, repeatable
from tokenwire.config import Config
from tokenwire.outputs import HttpRequest, Output, WantWrite
from tokenwire.server import Server
from tokenwire.testing import SeededIds
from tokenwire.types import Millis, Peer, Response

NOW = Millis(1_000)
CONFIG = Config(max_payload=300, header_bytes=600, max_fragments=4, ai_namespace=None)


def played(pieces: list[bytes], *, handshake: bool) -> tuple[list[Output], bytes, bool]:
    """Feed the pieces to a fresh server. Return its outputs, what it sent, and if it ended."""
    server = Server(CONFIG, ids=SeededIds())
    conn = server.connected(Peer(), NOW)
    outputs: list[Output] = []
    sent = b""
    ended = False

    def drain(*, read: bool) -> None:
        nonlocal sent, ended
        progress = True
        while progress:
            progress = False
            while (output := server.poll()) is not None:
                progress = True
                if isinstance(output, HttpRequest):
                    server.respond(conn, Response(200, (), b"fine"), NOW)
                elif not isinstance(output, WantWrite):
                    outputs.append(output)
            chunk = server.data_to_send(conn, 1 << 20, NOW) if read else None
            if chunk is not None and (chunk.data or chunk.end):
                progress = True
                sent += chunk.data
                ended = ended or chunk.end

    if handshake:
        server.receive_data(conn, HANDSHAKE, NOW)
        drain(read=True)
    for piece in pieces:
        server.receive_data(conn, piece, NOW)
        drain(read=not handshake)
    drain(read=True)
    return outputs, sent, ended


@repeatable(400)
@given(MUTATED, CUTS)
def test_http_gives_the_same_in_any_cuts(data: bytes, places: list[int]) -> None:
    whole = played([data], handshake=False)
    assert without_pongs(played(cut(data, places), handshake=False)) == without_pongs(whole)


def without_pongs(result: tuple[list[Output], bytes, bool]) -> tuple[list[Output], object, bool]:
    """Leave out what stands after a handshake: pongs have their place by when a wire is read."""
    outputs, sent, ended = result
    head, switched, _ = sent.partition(b"HTTP/1.1 101 ")
    return outputs, (head, bool(switched)), ended


@repeatable(400)
@given(FRAME_STREAMS, CUTS)
def test_websockets_give_the_same_in_any_cuts(data: bytes, places: list[int]) -> None:
    assert played(cut(data, places), handshake=True) == played([data], handshake=True)


@repeatable(100)
@given(FRAME_STREAMS)
def test_websockets_give_the_same_byte_by_byte(data: bytes) -> None:
    bytewise = [data[index : index + 1] for index in range(len(data))]
    assert played(bytewise, handshake=True) == played([data], handshake=True)


@repeatable(1_200)
@given(MUTATED)
def test_no_stream_raises(data: bytes) -> None:
    played([data], handshake=False)


@repeatable(500)
@given(st.binary(max_size=200), st.booleans())
def test_no_noise_raises(data: bytes, handshake: bool) -> None:
    played([data], handshake=handshake)


@repeatable(30)
@given(MUTATED, st.booleans())
def test_nothing_is_kept_of_what_comes_after_an_error(data: bytes, handshake: bool) -> None:
    server = Server(CONFIG, ids=SeededIds())
    conn = server.connected(Peer(), NOW)
    broken = b"\xff\xff" if handshake else b"\x16\x03"
    server.receive_data(conn, (HANDSHAKE if handshake else b"") + broken, NOW)
    server.data_to_send(conn, 1 << 20, NOW)
    noise = data * (200_000 // max(1, len(data)))
    server.receive_data(conn, noise, NOW)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            server.receive_data(conn, noise, NOW)
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()
