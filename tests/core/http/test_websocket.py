"""One WebSocket: wsproto's traps closed, each a regression test.

Rules of this file: what comes is fed whole and byte by byte, with the same messages and the same
close code.
"""

import gc

import pytest
from tokenwire.http.websocket import WebSocket, accept_token
from tokenwire.testing.world import masked_frame
from tokenwire.wire import Binary
from wsproto.connection import Connection

MASK = b"\x00\x00\x00\x00"


def receive(*pieces: bytes) -> tuple[list[bytes], WebSocket]:
    websocket = WebSocket(max_message=1_000, max_fragments=4)
    messages: list[bytes] = []
    for piece in pieces:
        if websocket.closed:
            break
        messages.extend(websocket.receive(piece))
    return messages, websocket


def outcome(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the messages and the control frame that answers, which must not depend on cuts."""
    messages, websocket = receive(data)
    control = websocket.take_control()
    bytewise, other = receive(*(data[index : index + 1] for index in range(len(data))))
    assert bytewise == messages
    assert other.take_control() == control
    assert other.closed is websocket.closed
    return messages, control


def close(code: int) -> bytes:
    return b"\x88\x02" + code.to_bytes(2, "big")


def test_the_accept_token_is_the_rfcs() -> None:
    assert accept_token("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (masked_frame(b"text"), [b"text"]),
        (masked_frame(b""), [b""]),
        (masked_frame(b"\x00\xff", 2), [Binary(b"\x00\xff")]),
        (masked_frame("é€😀".encode()), ["é€😀".encode()]),
        (masked_frame(b"x" * 1_000), [b"x" * 1_000]),
        (masked_frame(b"a", fin=False) + masked_frame(b"b", 0), [b"ab"]),
        (masked_frame(b"\xe2\x82", fin=False) + masked_frame(b"\xac", 0), ["€".encode()]),
        (
            masked_frame(b"", 2, fin=False) * 1 + masked_frame(b"", 0) + masked_frame(b"x"),
            [b"", b"x"],
        ),
        (masked_frame(b"unsolicited", 10) + masked_frame(b"x"), [b"x"]),
    ],
)
def test_messages_come_out_whole(data: bytes, messages: list[bytes]) -> None:
    got, control = outcome(data)
    assert got == messages
    assert [type(message) for message in got] == [
        Binary if isinstance(message, Binary) else bytes for message in messages
    ] or data.startswith(b"\x02")
    assert control == b""


def test_a_ping_between_fragments_breaks_nothing() -> None:
    data = masked_frame(b"a", fin=False) + masked_frame(b"ping", 9) + masked_frame(b"b", 0)
    assert outcome(data) == ([b"ab"], b"\x8a\x04ping")


def test_the_latest_16_pings_are_answered() -> None:
    pings = [masked_frame(b"%02d" % number, 9) for number in range(20)]
    _, websocket = receive(b"".join(pings[:10]), *pings[10:])
    assert websocket.has_control
    pongs = [b"\x8a\x02%02d" % number for number in range(4, 20)]
    assert websocket.take_control() == b"".join(pongs)
    assert not websocket.has_control


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("unmasked", b"\x81\x02hi", 1002),
        ("unmasked and empty", b"\x81\x00", 1002),
        ("RSV1, as of permessage-deflate", b"\xc1\x81" + MASK + b"a", 1002),
        ("RSV2", b"\xa1\x81" + MASK + b"a", 1002),
        ("RSV3", b"\x91\x81" + MASK + b"a", 1002),
        *((f"opcode {op}", masked_frame(b"", op), 1002) for op in (3, 4, 5, 6, 7, 11, 12, 15)),
        ("a fragmented ping", masked_frame(b"", 9, fin=False), 1002),
        ("a long ping", masked_frame(b"x" * 126, 9), 1002),
        ("a continuation of nothing", masked_frame(b"x", 0), 1002),
        ("a message in a message", masked_frame(b"x", fin=False) + masked_frame(b"x"), 1002),
        ("2 bytes for a short length", b"\x81\xfe\x00\x05" + MASK + b"hello", 1002),
        ("8 bytes for a short length", b"\x81\xff" + (5).to_bytes(8, "big") + MASK, 1002),
        ("bad UTF-8", masked_frame(b"\xff"), 1007),
        ("UTF-8 that ends early", masked_frame(b"\xe2\x82"), 1007),
        ("a surrogate", masked_frame(b"\xed\xa0\x80"), 1007),
        ("bad UTF-8 in a fragment", masked_frame(b"\xff", fin=False), 1007),
        ("too large", masked_frame(b"x" * 1_001), 1009),
        ("too large, binary", masked_frame(b"x" * 1_001, 2), 1009),
        (
            "too large by fragments",
            masked_frame(b"x" * 999, fin=False) + masked_frame(b"xx", 0),
            1009,
        ),
        (
            "too many fragments",
            masked_frame(b"", fin=False) + masked_frame(b"", 0, fin=False) * 4,
            1009,
        ),
        ("2^62 announced", b"\x82\xff" + (2**62).to_bytes(8, "big"), 1009),
        ("2^63 announced", b"\x82\xff" + b"\x80" + bytes(7), 1009),
        ("a close of one byte", masked_frame(b"\x03", 8), 1002),
        ("a close of bad UTF-8", masked_frame(b"\x03\xe8\xff", 8), 1007),
        *(
            (f"close {code}", masked_frame(code.to_bytes(2, "big"), 8), 1002)
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
        ),
    ],
)
def test_a_violation_is_answered_with_its_code(name: str, data: bytes, code: int) -> None:
    messages, control = outcome(masked_frame(b"before") + data + masked_frame(b"after"))
    assert messages == [b"before"]
    assert control == close(code)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4999])
def test_a_close_is_answered_with_its_own_code(code: int) -> None:
    data = masked_frame(code.to_bytes(2, "big") + b"why", 8)
    assert outcome(data) == ([], close(code))


def test_a_close_without_a_code_is_answered_with_1000() -> None:
    assert outcome(masked_frame(b"", 8)) == ([], close(1000))


def test_a_close_overtakes_the_pong_that_waits() -> None:
    assert outcome(masked_frame(b"p", 9) + masked_frame(b"", 8)) == ([], close(1000))


def test_our_close_is_said_once_and_no_pong_follows_it() -> None:
    _, websocket = receive(masked_frame(b"p", 9))
    assert websocket.close(1001) == close(1001)
    assert websocket.close(1000) == b""
    assert list(websocket.receive(masked_frame(b"p", 9))) == []
    assert not websocket.has_control
    assert list(websocket.receive(masked_frame(b"\x03\xe9", 8))) == []
    assert websocket.closed
    assert not websocket.has_control


def test_messages_become_frames() -> None:
    assert receive()[1].encode([b"a", Binary(b"b"), b""]) == b"\x81\x01a\x82\x01b\x81\x00"


def test_a_client_masks_what_it_sends() -> None:
    client = WebSocket(max_message=1_000, max_fragments=4, new_mask=lambda: MASK)
    assert client.encode([b"a", Binary(b"b")]) == b"\x81\x81" + MASK + b"a\x82\x81" + MASK + b"b"
    assert list(client.receive(b"\x89\x01p\x81\x01a")) == [b"a"]
    assert client.take_control() == b"\x8a\x81" + MASK + b"p"
    assert list(client.receive(masked_frame(b"a"))) == []
    assert client.take_control() == b"\x88\x82" + MASK + b"\x03\xea", "a server does not mask"


@pytest.mark.parametrize(
    "before",
    [
        masked_frame(b"x" * 1_000, 2),
        masked_frame(b"p", 9) + masked_frame(b"x" * 1_000),
        masked_frame(b"", fin=False) + masked_frame(b"", 0, fin=False) * 2 + masked_frame(b"", 0),
    ],
)
def test_a_continuation_of_nothing_is_that_also_behind_the_largest_message(before: bytes) -> None:
    assert outcome(before + masked_frame(b"y", 0))[1].endswith(close(1002))


def test_wsproto_is_there_only_while_it_has_something_begun() -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(item, Connection) for item in gc.get_objects())

    before = alive()
    _, websocket = receive(masked_frame(b"x") + masked_frame(b"a", fin=False))
    assert alive() == before + 1
    assert list(websocket.receive(masked_frame(b"p", 9) + masked_frame(b"b", 0))) == [b"ab"]
    assert alive() == before
    assert websocket.take_control() == b"\x8a\x01p"


def test_every_first_frame_header_is_accepted_or_closed() -> None:
    for first in range(256):
        for second in range(256):
            receive(bytes((first, second)) + b"\x00\x7e" * 8)
