"""The head of a request as it is read, and that of an answer as it is written (RFC 9112 2 to 5).

Rules of this file: a head comes whole, and the guards have looked at its bytes (`guards.py`). What
is read is no more than h11 would (a test holds them together), at an eighth of its cost, on the way
of every poll and handshake.
"""

import re

import msgspec

from tokenwire.errors import RemoteProtocolError
from tokenwire.types import Headers

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE = re.compile(rf"({_TOKEN.pattern}) ([!-~]+) HTTP/([0-9]\.[0-9])")


class RequestHead(msgspec.Struct, frozen=True):
    """What a head says."""

    method: str
    target: str
    version: str
    """Such as `1.1`."""
    headers: Headers
    """Names in lower case; values without the space around them, bytes as Latin-1."""


def read_request(head: bytes) -> RequestHead:
    """Return what a whole head says, of which `guards.check_head` thinks well.

    Raises:
        RemoteProtocolError: it is none.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise RemoteProtocolError("the request line is not one")
    return RequestHead(match[1], match[2], match[3], tuple(map(_field, lines)))


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or _TOKEN.fullmatch(name) is None:
        raise RemoteProtocolError("a header field is not one")
    return name.lower(), value.strip(" \t")


def options(headers: Headers, name: str) -> list[str]:
    """Return the members of a list-based field (RFC 9110 5.6.1), in lower case."""
    return [
        option.strip().lower()
        for key, value in headers
        if key == name
        for option in value.split(",")
    ]


def write_answer(status: int, headers: Headers) -> bytes:
    """Return the head of an answer. Its reason phrase is empty: nobody reads it (RFC 9112 4)."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"HTTP/1.1 {status} \r\n{fields}\r\n".encode("latin-1")
