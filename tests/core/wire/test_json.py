"""JSON of peers: what two parsers could read differently, and what costs too much, is refused.

Rules of this file: costs are measured, as CPU time and as traced memory, on the worst texts known.
"""

import contextlib

import pytest
from core.costs import cpu_time, peak_memory
from tokenwire.errors import RemoteProtocolError
from tokenwire.wire import json

DEPTH = 4
CONTAINERS = 6


def decode(text: bytes) -> object:
    return json.decode(text, depth=DEPTH, containers=CONTAINERS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"null", None),
        (b'"text"', "text"),
        (b'"[{:,\\""', '[{:,"'),
        (b" [1, -2.5, true, null] ", [1, -2.5, True, None]),
        (b'{"a": {"b": "c"}, "b": []}', {"a": {"b": "c"}, "b": []}),
        (b'{"a\\"{" : "}," , "b\\\\" : 2}', {'a"{': "},", "b\\": 2}),
        (b"[9007199254740992, -9007199254740992]", [2**53, -(2**53)]),
        (b"[1e300, 0.12345678901234567890]", [1e300, 0.12345678901234568]),
        (b'"\\ud83d\\ude00\xf0\x9f\x98\x80"', "\U0001f600\U0001f600"),
        (b'{"__proto__":1,"constructor":2}', {"__proto__": 1, "constructor": 2}),
        (b"[[[[]]]]", [[[[]]]]),
        (b"[[],[],[],[],[]]", [[], [], [], [], []]),
    ],
)
def test_a_good_text_is_read(text: bytes, value: object) -> None:
    assert decode(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nul",
        b"[1,]",
        b"{'a':1}",
        b'{"a"}',
        b"[1] 2",
        b"[01]",
        b"[1.]",
        b'["\x01"]',
        b'["\\x"]',
        b'["unterminated',
        b"\xef\xbb\xbf[]",
        b"[NaN]",
        b"[Infinity]",
        b"[1e999]",
        b"[-1e999]",
        b'["\\ud800"]',
        b'["\\ude00\\ud83d"]',
        b'["\xed\xa0\x80"]',
        b'["\xff"]',
        b'{"a":1,"a":1}',
        b'[{"a":{"b":1}},{"a":1,"\\u0061":2}]',
        b"9007199254740993",
        b"[-9007199254740993]",
        b'{"a":[123456789012345678901234567890]}',
        b"[[[[[]]]]]",
        b'{"a":{"a":{"a":{"a":{}}}}}',
        b"[[],[],[],[],[],[]]",
        b"[" * 100_000,
        b"1" * 100_000,
    ],
)
def test_a_bad_text_is_refused(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(text)


@pytest.mark.parametrize("member", [b"1", b'"s"', b"{}"])
def test_members_are_counted(member: bytes) -> None:
    def array(count: int) -> bytes:
        return b"[" + b",".join([member] * count) + b"]"

    value = json.decode(array(20_000), depth=2, containers=100_000)
    assert isinstance(value, list)
    assert len(value) == 20_000
    with pytest.raises(RemoteProtocolError):
        json.decode(array(20_001), depth=2, containers=100_000)


MEGABYTE = 1_000_000
COSTLY = {
    "one string": b'["' + b"a" * MEGABYTE + b'"]',
    "escapes": b'["' + b"\\n" * (MEGABYTE // 2) + b'"]',
    "structure in a string": b'["' + b"{[:," * (MEGABYTE // 4) + b'"]',
    "integers": b"[" + b"1," * (MEGABYTE // 2) + b"1]",
    "long numbers": b"[" + b"1111111111111111111111111111111.5," * 19_998 + b"1]",
    "strings": b"[" + b'"ab",' * (MEGABYTE // 5) + b"1]",
    "long strings": b"[" + b'"%s",' % (b"x" * 45) * 19_998 + b"1]",
    "empty objects": b"[" + b"{}," * (MEGABYTE // 3) + b"1]",
    "keys": b"{" + b",".join(b'"k%040d":12345' % index for index in range(19_990)) + b"}",
    "the same key": b"{" + b",".join([b'"k":1'] * (MEGABYTE // 6)) + b"}",
    "nesting": b"[" * (MEGABYTE // 2) + b"]" * (MEGABYTE // 2),
    "open arrays": b"[" * MEGABYTE,
    "an unterminated string": b'["' + b'\\"' * (MEGABYTE // 2),
    "quotes": b'"' * MEGABYTE,
    "strings of nothing": b"[" + b'"",' * (MEGABYTE // 3) + b"1]",
    "spaces": b"[" + b" " * MEGABYTE + b"]",
    "spaces behind a string": b'["a"' + b" " * MEGABYTE + b"]",
    "digits": b"[" + b"1" * MEGABYTE + b"]",
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_megabyte_costs_under_50_ms_and_4_mb(name: str) -> None:
    """50 ms is the aim, and what an idle machine needs at most; a busy one gets twice that."""

    def read() -> None:
        with contextlib.suppress(RemoteProtocolError):
            json.decode(COSTLY[name], depth=32, containers=10_000)

    assert peak_memory(read) < 4_000_000
    assert cpu_time(read) < 0.100


# -- a lenient reading -----------------------------------------------------------------------------


def lenient(text: str) -> object:
    return json.decode(text.encode(), depth=32, containers=10_000, lenient=True)


@pytest.mark.parametrize(
    "text",
    [
        r'{"a":"\ud800"}',
        r'{"a":"x\udc00y"}',
        r'{"a":"\ud83d\ud83d\ude00"}',
        r'{"a":"\ude00\ud83d"}',
        r'{"a":"\\\ud800"}',
        '{"a":9007199254740993}',
        '{"a":-9007199254740993}',
    ],
)
def test_a_lenient_reading_marks_what_is_unusable(text: str) -> None:
    value = lenient(text)
    assert isinstance(value, dict)
    assert isinstance(value["a"], json.Unusable)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\uD83D\uDE00"', "\U0001f600"),
        (r'"\\ud800"', r"\ud800"),
        (
            r'["\u00e9",{"a":[9007199254740992,true,null,1.5]}]',
            ["é", {"a": [2**53, True, None, 1.5]}],
        ),
    ],
)
def test_a_lenient_reading_leaves_the_rest_as_it_is(text: str, value: object) -> None:
    assert lenient(text) == value


@pytest.mark.parametrize("text", [r'{"a":1,"a":2}', r'"\ud8', "NaN", "[" * 33 + "]" * 33])
def test_a_lenient_reading_refuses_what_any_does(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        lenient(text)
