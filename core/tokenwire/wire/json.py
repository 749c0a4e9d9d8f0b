"""JSON as it comes from peers: checked before it is built.

Rules of this file: time and memory are linear in the input, under 50 ms and 4 MB per MB of it; a
text that breaks a rule raises RemoteProtocolError. The text is checked for validity first (a scan
of unterminated strings is quadratic), then its nesting and its values are counted on the text, up
to a limit, before any object is made. Two parsers must not read a text differently: keys that
stand twice and integers that JavaScript cannot hold are refused; msgspec itself refuses lone
surrogates and numbers that are not finite.
"""

import re

import msgspec

from tokenwire.errors import RemoteProtocolError

# A string, if there is one, and the structure behind it. Every string of a valid array or object
# is followed by structure. Possessive: nothing is kept for backtracking.
_TOKEN = re.compile(rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\r\n]*+)?+([\[\]{},:]++)')
_MAX_VALUES = 20_000  # members of arrays and objects; one costs some 2 us and 120 bytes
_MAX_INTEGER = 2**53  # RFC 8259 6: what doubles hold exactly
_SPACE = b" \t\r\n"
_COMMA, _COLON = b",:"
_OPENING = b"[{"

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
        members = _check_structure(text, depth, containers)
        value = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError("the payload is not valid JSON") from error
    _check_values(value, members)
    return value


def _check_structure(text: bytes, depth: int, containers: int) -> int:
    """Check how much there is in a valid text. Return how many members its objects have."""
    if text.lstrip(_SPACE)[:1] not in (b"[", b"{"):
        return 0
    open_now = opened = commas = members = 0
    for match in _TOKEN.finditer(text):
        for token in match[1]:
            if token == _COMMA:
                commas += 1
                if commas >= _MAX_VALUES:
                    raise RemoteProtocolError(
                        f"the JSON payload holds more than {_MAX_VALUES} values"
                    )
            elif token == _COLON:
                members += 1
            elif token in _OPENING:
                open_now += 1
                opened += 1
                if open_now > depth:
                    raise RemoteProtocolError(f"the JSON payload is deeper than {depth}")
                if opened > containers:
                    raise RemoteProtocolError(
                        f"the JSON payload holds more than {containers} arrays and objects"
                    )
            else:
                open_now -= 1
    return members


def _check_values(value: object, members: int) -> None:
    """Check that no key stands twice (`members` on the text, fewer here), and the integers."""
    todo: list[object] = [value]
    while todo:
        item = todo.pop()
        if type(item) is dict:
            members -= len(item)
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
        elif type(item) is int and not -_MAX_INTEGER <= item <= _MAX_INTEGER:
            raise RemoteProtocolError("the JSON payload holds an integer beyond 2^53")
    if members:
        raise RemoteProtocolError("the JSON payload holds a key twice")
