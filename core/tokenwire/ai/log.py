"""The text of one stream, kept once.

Rules of this file: the text is UTF-8 in one buffer, the end of each token a number in an array; a
token is a slice. Tokens are numbered from 1. The oldest can be evicted, the newest cut off; nothing
else ever changes. What is evicted is cut off both; the numbers behind it count on from where they
did, so that none of them has to be made anew. The text stays in its buffer: one that is cut off at
its front takes another as soon as it grows, and for a moment there are both.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

_END_BYTES = array("I").itemsize
_FAR = 16 * 1024 * 1024  # where the numbers begin anew: they have 32 bits
_LEAST_PART = 8  # an eighth of the buffer may be what is gone: then the rest is moved


class TokenLog:
    """An append-only log of tokens with a movable beginning."""

    __slots__ = ("_ends", "_origin", "_text", "first_seq", "last_seq")

    def __init__(self) -> None:
        self._text = bytearray()
        self._origin = 0
        """The number of the first byte in the buffer."""
        self._ends = array("I", (0,))
        """`_ends[i]`: where the token before index i ends; the text begins at `_ends[0]`."""
        self.first_seq = 1
        """The oldest token that is kept."""
        self.last_seq = 0
        """The newest token; 0 before the first."""

    @property
    def size(self) -> int:
        """Bytes held: the text and its boundaries."""
        return self._ends[-1] - self._ends[0] + _END_BYTES * len(self._ends)

    def append(self, piece: bytes) -> None:
        """Append one token: its UTF-8 text, not empty."""
        self._text += piece
        self._ends.append(self._ends[-1] + len(piece))
        self.last_seq += 1

    def text(self, first: int, last: int) -> str:
        """Return the text of tokens `first` to `last`, both kept and both included."""
        base, start = self.first_seq, self._origin
        text = self._text[self._ends[first - base] - start : self._ends[last - base + 1] - start]
        return text.decode()

    def texts(self, first: int, last: int) -> Iterator[str]:
        """Yield the text of each of the tokens `first` to `last`, both kept and both included."""
        text, ends, base, origin = self._text, self._ends, self.first_seq, self._origin
        start = ends[first - base] - origin
        for index in range(first - base + 1, last - base + 2):
            end = ends[index] - origin
            yield text[start:end].decode()
            start = end

    def bytes_from(self, seq: int) -> int:
        """Return the size of the text of all tokens from `seq` on (at most one past the last)."""
        return self._ends[-1] - self._ends[seq - self.first_seq]

    def piece_end(self, first: int, last: int, max_bytes: int) -> int:
        """Return the last token of a piece: at most `max_bytes`, at least one token."""
        base = self.first_seq
        limit = self._ends[first - base] + max_bytes
        index = bisect_right(self._ends, limit, first - base, last - base + 2) - 1
        return max(first, base + index - 1)

    def seq_before(self, seq: int, size: int) -> int:
        """Return the oldest token of the last `size` bytes of text before token `seq`."""
        base = self.first_seq
        start = self._ends[seq - base] - size
        return base + bisect_left(self._ends, start, 0, seq - base)

    def cut_after(self, seq: int) -> None:
        """Drop all tokens after `seq` (at least one before the first kept)."""
        index = seq - self.first_seq + 1
        del self._text[self._ends[index] - self._origin :]
        del self._ends[index + 1 :]
        self.last_seq = seq
        if not index:  # nothing is left but what was evicted
            self._text.clear()
            self._origin = self._ends[0]

    def evict_before(self, seq: int) -> None:
        """Drop all tokens before `seq` (at most one past the last)."""
        count = seq - self.first_seq
        if count <= 0:
            return
        del self._ends[:count]
        self.first_seq = seq
        gone = self._ends[0] - self._origin
        if gone * _LEAST_PART > len(self._text):
            self._move_to_front(gone)

    def _move_to_front(self, gone: int) -> None:
        """Take so many bytes out of the buffer."""
        left = len(self._text) - gone
        with memoryview(self._text) as text:
            text[:left] = text[gone:]
        del self._text[left:]
        self._origin += gone
        if self._origin > _FAR:
            self._ends = array("I", (end - self._origin for end in self._ends))
            self._origin = 0

    def evict_to(self, size: int, before: int) -> None:
        """Drop the oldest tokens until at most `size` bytes are held, none from `before` on."""
        seq = self.first_seq
        if self.size <= size or seq >= before:
            return
        base = self.first_seq
        excess = self.size - size + self._ends[0]
        low, high = base, before
        while low < high:  # the first token that can stay
            middle = (low + high) // 2
            if self._ends[middle - base] + _END_BYTES * (middle - base) >= excess:
                high = middle
            else:
                low = middle + 1
        self.evict_before(low)
