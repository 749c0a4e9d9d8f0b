"""How much is held for the streams of all clients, and what may be.

Rules of this file: it counts, and says how bad it is; what is done about it is decided in
`streams.py`. Above REFUSE percent new streams are refused, above EVICT sessions without a
connection go, above the limit all models are paused, until it is below EVICT again.
"""

REFUSE = 80
EVICT = 95


class Memory:
    """A counter of bytes against a limit."""

    __slots__ = ("_limit", "held", "is_starved")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        self.is_starved = False
        """True from above the limit until it is below EVICT percent of it."""

    def add(self, size: int) -> None:
        """Count what is held more, or less."""
        self.held += size
        if self.held > self._limit:
            self.is_starved = True
        elif not self.is_above(EVICT):
            self.is_starved = False

    def is_above(self, percent: int) -> bool:
        return self.held * 100 > self._limit * percent

    def share(self, streams: int) -> int:
        """Return what each of so many streams may keep of text that was handed over, when memory
        is short.

        All together keep no more than a part of what lies between REFUSE and EVICT.
        """
        return self._limit // 20 // max(1, streams)
