"""What waits for one peer, bounded.

Rules of this file: what does not fit is refused whole, and its owner drops the peer. One packet may
be larger than what may wait: then nothing else waits. What a peer has come back for is bounded
elsewhere, and does not count until all has gone.
"""

from collections.abc import Sequence


class Outbox:
    """A queue of messages, counted in bytes."""

    __slots__ = ("_burst", "_excused", "_limit", "_queue", "size")

    def __init__(self, limit: int, burst: int) -> None:
        """
        Args:
            limit: bytes that may wait.
            burst: bytes that may be queued before the transport was asked to take them.
        """
        self._limit = limit
        self._burst = burst
        self._queue: list[bytes] = []
        self.size = 0
        """Bytes that wait."""
        self._excused = 0
        """Bytes that were put without a limit, since the queue was last empty."""

    def __bool__(self) -> bool:
        return bool(self._queue)

    def put(self, messages: Sequence[bytes], *, writable: bool) -> bool:
        """Queue the messages of one packet. Return False, and queue none, if too much waits.

        Args:
            messages: a packet and its attachments.
            writable: True: the transport was not offered all of this yet; it is a burst, and not
                a backlog.
        """
        size = sum(map(len, messages))
        limit = max(self._burst, self._limit) if writable else self._limit
        if self._queue and self.size + size > limit + self._excused:
            return False
        self._put(messages, size)
        return True

    def put_excused(self, messages: Sequence[bytes]) -> None:
        """Queue what the peer has come back for."""
        size = sum(map(len, messages))
        self._put(messages, size)
        self._excused += size

    def _put(self, messages: Sequence[bytes], size: int) -> None:
        self._queue.extend(messages)
        self.size += size

    def pull(self, out: list[bytes], budget: int) -> int:
        """Move messages to `out`, about `budget` bytes of them. Return what is left of it."""
        count = 0
        while count < len(self._queue) and budget > 0:
            size = len(self._queue[count])
            self.size -= size
            budget -= size
            count += 1
        out += self._queue[:count]
        del self._queue[:count]
        if not self._queue:
            self._excused = 0
        return budget

    def take_all(self) -> list[bytes]:
        """Take out all that waits."""
        messages, self._queue = self._queue, []
        self.size = self._excused = 0
        return messages
