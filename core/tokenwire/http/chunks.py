"""A chunked body (RFC 9112 7.1), read more strictly than h11 does, at a tenth of its cost.

Rules of this file: what comes out does not depend on how the bytes were cut. No client of ours and
no model server sends chunk extensions or trailers, and smuggled requests live in them: they are
refused, which also bounds what a chunk may cost.
"""

import enum
import re

from tokenwire.errors import RemoteProtocolError

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_MAX_SIZE_LINE = 8 + len(b"\r\n")
_EMPTY_LINE = len(b"\r\n")
_NO_LIMIT = 1 << 60  # compiled, a larger one would be an object


class _Part(enum.Enum):
    SIZE = "size"
    DATA = "data"
    END_OF_CHUNK = "end of chunk"
    END_OF_BODY = "end of body"


class ChunkedBody:
    """Takes the framing off one body."""

    __slots__ = ("_left", "_line", "_part", "_room", "done")

    def __init__(self, max_size: int = _NO_LIMIT) -> None:
        """
        Args:
            max_size: bytes of the body that are taken.
        """
        self._room = max_size
        self._part = _Part.SIZE
        self._line = bytearray()
        self._left = 0
        self.done = False

    def feed(self, data: bytes | bytearray, body: bytearray) -> int:
        """Take a piece of the stream, and append to `body` what it holds of that.

        Returns:
            How much of it belongs to this body: all, unless `done`.

        Raises:
            RemoteProtocolError: the framing is broken (400), or the body too large (413).
        """
        at = 0
        while at < len(data) and not self.done:
            if self._part is _Part.SIZE and not self._line:
                at = self._feed_whole(data, at, body)
                if at == len(data):
                    return at
            if self._part is _Part.DATA:
                piece = data[at : at + self._left]
                body += piece
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._part = _Part.END_OF_CHUNK
            else:
                at += self._feed_line(data, at)
        return at

    def _feed_whole(self, data: bytes | bytearray, at: int, body: bytearray) -> int:
        """Take the chunks that are there whole, as nearly all are. Return where they end."""
        while at < len(data) and (line := _SIZE_LINE.match(data, at)) is not None:
            size = int(line[1], 16)
            start = line.end()
            end = start + size
            if not 0 < size <= self._room or not data.startswith(b"\r\n", end):
                break
            self._room -= size
            body += data[start:end]
            at = end + _EMPTY_LINE
        return at

    def _feed_line(self, data: bytes | bytearray, at: int) -> int:
        """Take what there is of a line of framing. Return how much that was."""
        longest = _MAX_SIZE_LINE if self._part is _Part.SIZE else _EMPTY_LINE
        limit = at + longest - len(self._line)
        end = data.find(b"\n", at, limit)
        piece = data[at : end + 1] if end >= 0 else data[at:limit]
        self._line += piece
        if end >= 0:
            self._take_line(bytes(self._line))
            self._line.clear()
        elif len(self._line) == longest:
            raise RemoteProtocolError("a line of a chunked body is too long")
        return len(piece)

    def _take_line(self, line: bytes) -> None:
        text = line.removesuffix(b"\r\n")
        if text == line:
            raise RemoteProtocolError("a bare line feed")
        # The other lines are empty: nothing else fits.
        if self._part is _Part.SIZE:
            if not _SIZE.fullmatch(text):
                raise RemoteProtocolError("a chunk's size is not a number")
            self._left = int(text, 16)
            self._room -= self._left
            if self._room < 0:
                raise RemoteProtocolError("the request body is too large", status=413)
            self._part = _Part.DATA if self._left else _Part.END_OF_BODY
        elif self._part is _Part.END_OF_CHUNK:
            self._part = _Part.SIZE
        else:
            self.done = True
