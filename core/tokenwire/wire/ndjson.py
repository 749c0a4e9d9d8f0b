"""Newline-delimited JSON, framed on byte 0x0A alone.

U+0085, U+2028 and the other ends of line that text libraries know are data here: the model server
sends U+0085 raw inside a token.
"""

from tokenwire.errors import RemoteProtocolError


class LineSplitter:
    """Cuts a byte stream into lines. Holds at most one unfinished line of `max_line` bytes."""

    __slots__ = ("_max_line", "_rest")

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their ends and without empty lines.

        Raises:
            RemoteProtocolError: a line is longer than the limit.
        """
        could_be_too_long = len(self._rest) + len(data) > self._max_line
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._rest:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest = bytearray()
        self._rest += rest
        if could_be_too_long and max(map(len, (*lines, self._rest))) > self._max_line:
            raise RemoteProtocolError("a line of the model's stream is too long")
        if b"" in lines or b"\r" in lines:
            return [line for line in lines if line and line != b"\r"]
        return lines

    @property
    def size(self) -> int:
        """Bytes of the unfinished line."""
        return len(self._rest)

    def end(self) -> bytes:
        """Return what came after the last newline: an answer of one object has none."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest
