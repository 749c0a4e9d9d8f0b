"""How much is held for the streams of all clients, and what may be.

Rules of this file: it counts, and says how bad it is; what is done about it is decided in
`streams.py`. Above REFUSE percent new streams are refused, above EVICT sessions without a
connection go, above the limit all models are paused, until it is below EVICT again.
"""

REFUSE = 80
EVICT = 95


class Memory:
    """A counter of bytes against a limit."""

    __slots__ = ("_limit", "held", "is_short", "is_starved")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        self.is_short = False
        """True: above EVICT percent of the limit."""
        self.is_starved = False
        """True from above the limit until it is not short any more."""

    def add(self, size: int) -> None:
        """Count what is held more, or less."""
        self.held += size
        self.is_short = self.held * 100 > self._limit * EVICT
        self.is_starved = self.is_short and (self.is_starved or self.held > self._limit)

    @property
    def is_scarce(self) -> bool:
        """True: above REFUSE percent of the limit."""
        return self.held * 100 > self._limit * REFUSE

    def share(self, streams: int) -> int:
        """Return what each of so many streams may keep of text that was handed over, when memory
        is short.

        All together keep no more than a part of what lies between REFUSE and EVICT.
        """
        return self._limit // 20 // max(1, streams)
