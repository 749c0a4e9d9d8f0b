"""Lines of a model's stream: framed on 0x0A alone, bounded."""

import pytest
from tokenwire.errors import RemoteProtocolError
from tokenwire.wire.ndjson import LineSplitter


@pytest.mark.parametrize(
    ("pieces", "lines", "rest"),
    [
        ([b'{"a":1}\n{"b":2}\n'], [b'{"a":1}', b'{"b":2}'], b""),
        ([b'{"a"', b":1}", b'\n{"b":2}\n{"c'], [b'{"a":1}', b'{"b":2}'], b'{"c'),
        ([b"a\xc2\x85b\xe2\x80\xa8c\x0bd\n"], [b"a\xc2\x85b\xe2\x80\xa8c\x0bd"], b""),
        ([b"\n\n\r\na\r\n\n"], [b"a\r"], b""),
        ([b"a", b"", b"\n"], [b"a"], b""),
        ([b'{"whole":true}'], [], b'{"whole":true}'),
    ],
)
def test_lines_come_out_whole(pieces: list[bytes], lines: list[bytes], rest: bytes) -> None:
    splitter = LineSplitter(100)
    assert [line for piece in pieces for line in splitter.feed(piece)] == lines
    assert splitter.end() == rest
    assert splitter.end() == b""


@pytest.mark.parametrize("pieces", [[b"x" * 10 + b"\n"], [b"x" * 5, b"x" * 5 + b"\n"]])
def test_a_line_of_the_limit_passes(pieces: list[bytes]) -> None:
    splitter = LineSplitter(10)
    assert [line for piece in pieces for line in splitter.feed(piece)] == [b"x" * 10]


@pytest.mark.parametrize("pieces", [[b"x" * 11 + b"\n"], [b"x" * 11], [b"x" * 6, b"x" * 5]])
def test_a_line_beyond_the_limit_is_refused_before_it_ends(pieces: list[bytes]) -> None:
    splitter = LineSplitter(10)
    for piece in pieces[:-1]:
        splitter.feed(piece)
    with pytest.raises(RemoteProtocolError):
        splitter.feed(pieces[-1])


def test_what_is_held_is_the_unfinished_line() -> None:
    splitter = LineSplitter(100)
    splitter.feed(b"one\ntw")
    assert splitter.size == 2
    splitter.feed(b"o")
    assert splitter.size == 3
    splitter.feed(b"\n")
    assert splitter.size == 0
