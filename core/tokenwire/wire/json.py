"""JSON as it comes from peers: checked before it is built.

Rules of this file: time and memory are linear in the input, under 50 ms and 4 MB per MB of it (up
to 8 MB where a string holds a character beyond U+FFFF: Python takes 4 bytes for each character of
such a string, and reads it twice); a text that breaks a rule raises RemoteProtocolError. The text
is checked for validity first (a scan of unterminated strings is quadratic), then its nesting and
its values are counted on the text, up to a limit, before any object is made. Two parsers must not
read a text differently: keys that stand twice, integers that JavaScript cannot hold and lone
surrogates are refused; msgspec itself refuses numbers that are not finite. Who checks each value
anyway can ask for a lenient reading, in which such an integer or string is an Unusable, so that the
answer can name the field.
"""

import re

import msgspec

from tokenwire.errors import RemoteProtocolError

# A string, if there is one, and the structure behind it. Every string of a valid array or object
# is followed by structure. Possessive: nothing is kept for backtracking.
_TOKEN = re.compile(rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\r\n]*+)?+([\[\]{},:]++)')
# Where each backslash begins an escape: a surrogate's without its other half.
_LONE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|[c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
# An escape that is not the second half of a pair.
_BREAK = re.compile(rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\|\\(?!u[dD][c-fC-F])")
# Stands for a lone surrogate until the strings are looked at. ASCII, so that no string gets wider.
_MARK = "\x7f" * 6
_PIECE = 32 * 1024  # bytes to look through at once: `re` keeps the parts between its matches
_BACKSLASH, _ASIDE = b"\\\\", b"\x01\x01"  # the latter: in no JSON text
_MAX_VALUES = 20_000  # members of arrays and objects; one costs some 2 us and 120 bytes
_MAX_INTEGER = 2**53  # RFC 8259 6: what doubles hold exactly
_SPACE = b" \t\r\n"
_COMMA, _COLON = b",:"
_OPENING = b"[{"

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_check = msgspec.json.Decoder(msgspec.Raw).decode


class Unusable:
    """Stands in a lenient reading for a value that JSON allows and we do not."""

    __slots__ = ()


_UNUSABLE = Unusable()


def decode(text: bytes, *, depth: int, containers: int, lenient: bool = False) -> object:
    """Return the value of a JSON text.

    Args:
        text: the whole text.
        depth: how deep arrays and objects may nest.
        containers: how many arrays and objects there may be.
        lenient: read a string with a lone surrogate, and an integer beyond 2^53, as Unusable.

    Raises:
        RemoteProtocolError: not JSON, or beyond a limit.
    """
    mark = None
    if lenient and (b"\\ud" in text or b"\\uD" in text):
        text, mark = _mark_surrogates(text), _MARK
    try:
        _check(text)
        members = _check_structure(text, depth, containers)
        value = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError("the payload is not valid JSON") from error
    _check_values(value, members, lenient=lenient)
    return _mark_unusable(value, mark) if lenient else value


def _mark_surrogates(text: bytes) -> bytes:
    """Put the mark in the place of each lone surrogate."""
    if _ASIDE in text:
        return text  # it is not valid
    plain = text.replace(_BACKSLASH, _ASIDE)
    pieces: list[bytes] = []
    start = 0
    while start < len(plain):
        following = _BREAK.search(plain, start + _PIECE)
        end = following.start() if following else len(plain)
        pieces.append(_LONE.sub(_MARK.encode(), plain[start:end]).replace(_ASIDE, _BACKSLASH))
        start = end
    return b"".join(pieces)


def _mark_unusable(value: object, mark: str | None) -> object:
    """Return the value with an Unusable for each one that is. Its depth has been checked.

    Args:
        value: what was read.
        mark: stands in strings that had a lone surrogate; None: there was none.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _mark_unusable(item, mark)
    if isinstance(value, list):
        value[:] = [_mark_unusable(item, mark) for item in value]
    if isinstance(value, str):
        return _UNUSABLE if mark is not None and mark in value else value
    if type(value) is int and not -_MAX_INTEGER <= value <= _MAX_INTEGER:
        return _UNUSABLE
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


def _check_values(value: object, members: int, *, lenient: bool) -> None:
    """Check that no key stands twice (`members` on the text, fewer here), and the integers."""
    todo: list[object] = [value]
    while todo:
        item = todo.pop()
        if type(item) is dict:
            members -= len(item)
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
        elif type(item) is int and not (lenient or -_MAX_INTEGER <= item <= _MAX_INTEGER):
            raise RemoteProtocolError("the JSON payload holds an integer beyond 2^53")
    if members:
        raise RemoteProtocolError("the JSON payload holds a key twice")
