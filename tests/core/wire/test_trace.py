"""Packets in a log: their shape is seen, and nothing that is private."""

import pytest
from tokenwire.wire import Binary
from tokenwire.wire.trace import describe

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("packet", "line"),
    [
        (b'0{"sid":"s3cret"}', "open (16 bytes)"),
        (b"1", "close"),
        (b"2", "ping"),
        (b"3", "pong"),
        (b"2probe", "ping (5 bytes)"),
        (b"5", "upgrade"),
        (b"6", "noop"),
        (b"", "unknown"),
        (b"9x", "unknown (1 bytes)"),
        (Binary(b"s3cret"), "binary (6 bytes)"),
        (b"bczNjcmV0", "binary (8 bytes in base64)"),
        (b"4", "unknown message (0 bytes)"),
        (b"49", "unknown message (1 bytes)"),
        (b"40", "CONNECT"),
        (b'40/ai,{"token":"s3cret"}', 'CONNECT /ai {"token":"<6 chars>"}'),
        (b"41/ai,", "DISCONNECT /ai"),
        (b'42/ai,12["ai:stream",{"prompt":"s3cret","model":"m","n":[1,"s3cret"]}]',
         'EVENT /ai 12 ["ai:stream",{"prompt":"<6 chars>","model":"m","n":[1,"<6 chars>"]}]'),
        (b'451-/ai,["a",{"_placeholder":true,"num":0}]',
         'BINARY_EVENT /ai ["a",{"_placeholder":true,"num":0}]'),
        (b'430["s3cret"]', 'ACK 0 ["<6 chars>"]'),
        (b'42["s3cret', "EVENT (8 bytes)"),
        (b'42[5,"s3cret"]', 'EVENT [5,"<6 chars>"]'),
        (b"42[]", "EVENT []"),
    ],
)  # fmt: skip
def test_a_packet_is_described(packet: bytes, line: str) -> None:
    assert describe(packet) == line


def test_long_names_are_cut() -> None:
    assert len(describe(b'42/%b,["%b",{"%b":1}]' % (b"n" * 500, b"e" * 500, b"k" * 500))) < 250


def test_arguments_that_are_no_objects_are_masked_too() -> None:
    assert describe(b'42["e","secret",["secret"],7,null]') == (
        'EVENT ["e","<6 chars>",["<6 chars>"],7,null]'
    )
