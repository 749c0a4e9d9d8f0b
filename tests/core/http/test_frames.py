"""Frame headers: ours are wsproto's, and a peer's sizes are followed to the byte."""

import pytest
from tokenwire.http import frames
from tokenwire.testing.world import masked_frame
from tokenwire.wire import Binary
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_frame_is_what_wsproto_makes(size: int) -> None:
    peer = Connection(ConnectionType.SERVER)
    text = frames.header(frames.TEXT, size) + b"x" * size
    assert text == peer.send(TextMessage("x" * size))
    binary = frames.header(frames.BINARY, size) + b"x" * size
    assert binary == peer.send(BytesMessage(b"x" * size))


def test_a_close_frame_is_what_wsproto_makes() -> None:
    peer = Connection(ConnectionType.SERVER)
    assert frames.header(frames.CLOSE, 2) + b"\x03\xe8" == peer.send(CloseConnection(1000))


def test_a_masked_frame_is_the_rfcs() -> None:
    hello = bytes.fromhex("818537fa213d7f9f4d5158")  # RFC 6455 5.7
    assert frames.masked(frames.TEXT, b"Hello", bytes.fromhex("37fa213d")) == hello


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 65_535, 65_536])
def test_a_masked_frame_is_read_by_wsproto(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    peer = Connection(ConnectionType.SERVER)
    peer.receive_data(frames.masked(frames.BINARY, payload, b"\x01\x80\xff\x00"))
    assert list(peer.events()) == [BytesMessage(data=bytearray(payload))]


KEY = b"\x01\x80\xff\x00"


@pytest.mark.parametrize("size", [0, 1, 3, 125, 126, 127, 1_000, 65_535])
@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("first_byte", [frames.TEXT, frames.BINARY])
def test_a_whole_message_is_read_as_wsproto_reads_it(
    size: int, is_masked: bool, first_byte: int
) -> None:
    payload = (b"%d " * size)[:size]
    plain = frames.header(first_byte, size) + payload
    data = frames.masked(first_byte, payload, KEY) if is_masked else plain
    peer = Connection(ConnectionType.SERVER if is_masked else ConnectionType.CLIENT)
    peer.receive_data(data)
    (event,) = peer.events()
    assert isinstance(event, TextMessage | BytesMessage)
    read = frames.read_message(b"x" + data + b"y", 1, max_size=size, is_masked=is_masked)
    assert read is not None
    message, end = read
    assert message == (event.data.encode() if isinstance(event.data, str) else event.data)
    assert type(message) is (bytes if first_byte == frames.TEXT else Binary)
    assert end == 1 + len(data)
    for cut in {0, 1, 2, 3, 4, 6, 8, len(data) - 1} & set(range(len(data))):
        assert frames.read_message(data[:cut], 0, max_size=size, is_masked=is_masked) is None
    assert frames.read_message(data, 0, max_size=size - 1, is_masked=is_masked) is None
    assert frames.read_message(data, 0, max_size=size, is_masked=not is_masked) is None


def test_the_frames_of_a_server_are_followed_without_masks() -> None:
    guard = frames.SizeGuard(max_message=5, max_fragments=3, masked=False)
    assert guard.feed(b"\x81\x05hello" * 3) is None
    assert guard.feed(b"\x81\x05hello\x81\x06") == 8


def scan(data: bytes, size: int) -> int | None:
    """Return where in `data`, fed in pieces of `size`, too much is announced."""
    guard = frames.SizeGuard(max_message=70_000, max_fragments=3)
    for start in range(0, len(data), size):
        at = guard.feed(data[start : start + size])
        if at is not None:
            return start + at
    return None


SIZES = [1, 2, 3, 7, 1000, 1_000_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        masked_frame(b"x" * 70_000),
        masked_frame(b"x" * 69_000) * 2,
        masked_frame(b"x" * 69_000, 2, fin=False)
        + masked_frame(b"x" * 125, 9)
        + masked_frame(b"x" * 1_000, 0),
        (masked_frame(b"a", fin=False) + masked_frame(b"b", 0, fin=False) + masked_frame(b"", 0))
        * 5,
    ],
)
def test_what_is_within_the_limits_passes(data: bytes, size: int) -> None:
    if len(data) > 10_000 and size < 7:
        data = data[:5_000]
    assert scan(data, size) is None


GOOD = masked_frame(b"good") + masked_frame(b"x" * 200)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("bad", "at"),
    [
        (b"\x81\xff" + (70_001).to_bytes(8, "big"), 9),
        (b"\x82\xff" + (2**62).to_bytes(8, "big"), 9),
        (b"\x82\xff" + b"\xff" * 8, 9),
        (masked_frame(b"x" * 126, fin=False) + b"\x80\xff" + (69_900).to_bytes(8, "big"), 134 + 9),
        (masked_frame(b"", fin=False) + masked_frame(b"", 0, fin=False) * 2 + b"\x00\x80", 19),
    ],
)
def test_what_is_beyond_them_is_found_before_its_payload(bad: bytes, at: int, size: int) -> None:
    assert scan(GOOD + bad + b"more", size) == len(GOOD) + at
