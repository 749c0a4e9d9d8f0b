"""JSON as it comes from peers: checked before it is built.

Rules of this file: time and memory are linear in the input; a text that breaks a rule raises
RemoteProtocolError. The cost of a hostile text is that of reading it, not of building it: depth and
containers are counted on the text, with its strings cut out, before any object is made.
"""

import re

import msgspec

from tokenwire.errors import RemoteProtocolError

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NESTING = re.compile(rb"[\[\]{}]")
_OPENING = frozenset(b"[{")

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_check = msgspec.json.Decoder(msgspec.Raw).decode


def decode(text: bytes, *, depth: int, containers: int) -> object:
    """Return the value of a JSON text.

    Args:
        text: the whole text.
        depth: how deep arrays and objects may nest.
        containers: how many arrays and objects there may be.

    Raises:
        RemoteProtocolError: not JSON, or beyond a limit.
    """
    try:
        _check(text)
        if text.count(b"[") + text.count(b"{") > min(depth, containers):
            _check_nesting(text, depth, containers)
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError("the payload is not valid JSON") from error


def _check_nesting(text: bytes, depth: int, containers: int) -> None:
    open_now = opened = 0
    for match in _NESTING.finditer(_STRING.sub(b"", text)):
        if match.group()[0] in _OPENING:
            open_now += 1
            opened += 1
            if open_now > depth:
                raise RemoteProtocolError(f"the JSON payload is deeper than {depth}")
            if opened > containers:
                raise RemoteProtocolError(f"the JSON payload holds more than {containers} values")
        else:
            open_now -= 1
