"""What properties are tried on: byte streams near the protocols, and cuts of them.

Rules of this file: every strategy shrinks; a mutated stream is a good one with a few edits, since
bytes at random end at the first guard.
"""

from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tokenwire.testing.world import masked_frame

HANDSHAKE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


def repeatable(examples: int) -> settings:
    """Run a property on the same examples each time: a failure is a failure of the change."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


REQUESTS = st.sampled_from(
    [
        b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=polling&sid=none HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS /socket.io/ HTTP/1.1\r\nHost: x\r\nOrigin: http://localhost:5173\r\n\r\n",
        b"HEAD /x HTTP/1.1\r\nHost: x\r\nOrigin: null\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 301\r\n\r\n" + b"x" * 301,
        b"GET /x HTTP/1.0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        HANDSHAKE,
    ]
)
PACKETS = st.sampled_from(
    [
        b"40",
        b"40/x,",
        b'40{"a":1}',
        b'42["a",1]',
        b'420["a",{"b":[]}]',
        b'451-["a",{"_placeholder":true,"num":0}]',
        b"43/x,0[]",
        b"41",
        b"1",
        b"2",
        b"3",
        b"5",
        b"2probe",
        b"",
    ]
)
FRAMES = st.one_of(
    PACKETS.map(masked_frame),
    st.builds(masked_frame, st.binary(max_size=20), st.sampled_from([0, 1, 2, 8, 9, 10])),
    st.builds(
        lambda payload, opcode: masked_frame(payload, opcode, fin=False),
        st.binary(max_size=8),
        st.sampled_from([0, 1, 2]),
    ),
    st.sampled_from(
        [
            masked_frame(b"\x03\xe8", 8),
            masked_frame(b"x" * 299),
            masked_frame(b"x" * 300, 2),
            masked_frame(b"x" * 301),
            masked_frame(b"4", fin=False)
            + masked_frame(b"", 0, fin=False) * 2
            + masked_frame(b"", 0),
            b"\x82\xff\x40" + bytes(7),
        ]
    ),
)
FRAME_STREAMS = st.lists(FRAMES, min_size=1, max_size=8).map(b"".join)
HTTP_STREAMS = st.lists(REQUESTS, min_size=1, max_size=4).map(b"".join)
STREAMS = st.one_of(HTTP_STREAMS, FRAME_STREAMS.map(HANDSHAKE.__add__))

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "copy"]),
        st.integers(0, 2_000),
        st.one_of(
            st.binary(min_size=1, max_size=3),
            st.sampled_from([b"\r\n", b"\n", b"\r", b"\x00", b"\x1e", b"\xff", b", ", b":", b"0"]),
        ),
    ),
    max_size=4,
)


def edited(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """Return `data` with some edits, each at a position that wraps around."""
    for kind, at, what in edits:
        at %= len(data) + 1
        match kind:
            case "replace":
                data = data[:at] + what + data[at + len(what) :]
            case "insert":
                data = data[:at] + what + data[at:]
            case "delete":
                data = data[:at] + data[at + len(what) :]
            case _:
                data = data[:at] + data[max(0, at - 30) : at] + data[at:]
    return data


MUTATED = st.builds(edited, STREAMS, EDITS)
CUTS = st.lists(st.integers(1, 2_000), max_size=6)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in pieces."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
