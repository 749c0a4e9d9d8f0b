"""Chunked bodies: strict, bounded, the same in any cuts. (More in test_connection.py.)"""

import pytest
from tokenwire.errors import RemoteProtocolError
from tokenwire.http.chunks import ChunkedBody


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_framing_is_taken_off(size: int) -> None:
    data = b"5\r\nhello\r\n00000006\r\n world\r\n0\r\n\r\nGET /"
    body = ChunkedBody(11)
    got = bytearray()
    taken = 0
    for start in range(0, len(data), size):
        if body.done:
            break
        taken += body.feed(data[start : start + size], got)
    assert body.done
    assert got == b"hello world"
    assert data[taken:] == b"GET /"


def test_a_read_may_end_with_a_chunk() -> None:
    body = ChunkedBody(11)
    got = bytearray()
    for chunk in (b"5\r\nhello\r\n", b"6\r\n world\r\n", b"0\r\n\r\n"):
        assert not body.done
        assert body.feed(chunk, got) == len(chunk)
    assert body.done
    assert got == b"hello world"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"c\r\n", 413),
        (b"b\r\nhello world\r\n1\r\n", 413),
        (b"0123456789\r\n", 400),
        (b"5\n", 400),
        (b"5 \r\n", 400),
        (b"5\r\nhellos\r\n", 400),
        (b"0\r\na: b\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_broken_framing_is_refused(data: bytes, status: int, bytewise: bool) -> None:
    body = ChunkedBody(11)
    size = 1 if bytewise else len(data)

    def feed() -> None:
        for start in range(0, len(data), size):
            body.feed(data[start : start + size], bytearray())

    with pytest.raises(RemoteProtocolError) as caught:
        feed()
    assert caught.value.status == status
