"""The program's log: one line for each record, on standard error.

Rules of this file:

- A line is `TIME LEVEL EVENT key=value ...`; the time is UTC.
- Whatever a peer can influence is a *value*: cut at `VALUE_CHARS`, its control characters escaped,
  quoted where it has a space, so that nobody can forge a line or a field, or drive a terminal.
- `message` is for the program's own sentences: escaped, but not cut. No peer's text goes there.
- Records of other libraries get the same treatment; of an exception the log has its type, the
  start of its text and where it was raised, on the same line.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TextIO

from tokenwire.outputs import Notice

VALUE_CHARS = 64
"""Characters of a value that are shown; an ellipsis stands for the rest."""

PACKETS = "websocket:packet"
"""The name that `DEBUG` has to match for the packet trace (`DEBUG=websocket:*`)."""

PACKET_CHARS = 400
"""As VALUE_CHARS, for a packet of the trace, whose private parts the core has masked."""

HINTS = {
    "origin_refused": "a page of this origin was refused; to allow it, add it to WS_CORS_ORIGIN",
    "upstream_down": "the model server does not answer; requests fail until it does: "
    "see OLLAMA_BASE_URL",
    "upstream_ok": "the model server answers",
    "handshake_refused": "a client was turned away by this limit",
    "session_aborted": "a client did not read what was sent to it",
}
"""What to do about a notice, by its event."""

TRACE_FRAMES = 12
"""Frames of a traceback that are shown, the innermost ones."""

_PROGRAM = "tokenwire"
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_.:-]")
_NEEDS_QUOTES = re.compile(r'[\s="]')


def set_up(level: str, debug: Sequence[str] = ()) -> None:
    """Send the log to standard error. Calling it again replaces what the last call set up.

    Args:
        level: the lowest level shown: "debug", "info", "warning" or "error".
        debug: patterns as in the npm package `debug`; one that matches `PACKETS` shows the packet
            trace, whatever the level.
    """
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _StderrHandler):
            root.removeHandler(handler)
    root.addHandler(_StderrHandler())
    # Other libraries (httpx, asyncio) speak at "info" of each request: only their warnings count.
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    logging.getLogger(_PROGRAM).setLevel(_LEVELS[level])
    traced = debug_matches(debug, PACKETS)
    logging.getLogger(PACKETS).setLevel(logging.DEBUG if traced else logging.CRITICAL)


def log(
    level: str,
    event: str,
    fields: Iterable[tuple[str, str | int]] = (),
    *,
    message: str = "",
    logger: str = _PROGRAM,
) -> None:
    """Log an event of the program's.

    Args:
        level: "debug", "info", "warning" or "error".
        event: a stable name, for filters.
        fields: names and values; a value may hold a peer's text.
        message: a sentence for people, the program's own words only.
        logger: the logger's name.
    """
    extra = {"tokenwire_fields": tuple(fields), "tokenwire_message": message}
    logging.getLogger(logger).log(_LEVELS[level], event, extra=extra)


def notice(n: Notice) -> None:
    """Log what the core reports. Its packet trace goes to the logger `PACKETS`."""
    is_packet = n.level == "debug" and n.event.startswith("packet")
    hint = HINTS.get(n.event, "")
    if n.event == "origin_refused" and ("origin", "null") in n.fields:
        hint = "a page from a file or a sandboxed frame was refused, as it always is"
    log(n.level, n.event, n.fields, message=hint, logger=PACKETS if is_packet else _PROGRAM)


def debug_matches(patterns: Sequence[str], name: str) -> bool:
    """Tell whether `DEBUG`'s patterns turn `name` on, by the rules of the npm package `debug`.

    `*` stands for any characters; a pattern that starts with `-` turns off what it matches,
    wherever it stands in the list.
    """

    def matches(pattern: str) -> bool:
        parts = (re.escape(part) for part in pattern.split("*"))
        return re.fullmatch(".*".join(parts), name) is not None

    if any(pattern.startswith("-") and matches(pattern[1:]) for pattern in patterns):
        return False
    return any(matches(pattern) for pattern in patterns)


def escaped(text: str) -> str:
    r"""Return `text` with what is not printable (control characters, U+202E, ...) as `\x1b` etc."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escaped_character, text))


class _StderrHandler(logging.StreamHandler[TextIO]):  # its own class: `set_up` finds it again
    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_LineFormatter())


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: tuple[tuple[str, str | int], ...] | None
        fields = getattr(record, "tokenwire_fields", None)
        if fields is None:  # another library's record
            event, message, fields = record.name, "", (("message", record.getMessage()),)
        else:
            event, message = record.msg, getattr(record, "tokenwire_message", "")
        words = [time.replace("+00:00", "Z"), record.levelname.lower(), _name(event)]
        if message:
            words.append(f"message={_quoted(message)}")
        limit = PACKET_CHARS if record.name == PACKETS else VALUE_CHARS
        words += [f"{_name(key)}={_value(value, limit)}" for key, value in fields]
        if record.exc_info and record.exc_info[1] is not None:
            words += _exception_words(record.exc_info[1])
        return " ".join(words)


def _name(text: str) -> str:
    return _NOT_A_NAME.sub("_", text) or "_"


def _value(value: str | int, limit: int = VALUE_CHARS) -> str:
    text = str(value)
    return _quoted(text if len(text) <= limit else text[:limit] + "…")


def _quoted(text: str) -> str:
    safe = escaped(text)
    if safe and not _NEEDS_QUOTES.search(safe):
        return safe
    return '"' + safe.replace('"', '\\"') + '"'


def _escaped_character(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _exception_words(error: BaseException) -> list[str]:
    # The source lines of an ordinary traceback would take many lines, and could show secrets.
    frames = traceback.extract_tb(error.__traceback__)[-TRACE_FRAMES:]
    where = " > ".join(f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in frames)
    return [
        f"exception={type(error).__name__}",
        f"text={_value(str(error))}",
        f"at={_quoted(where)}",
    ]
