"""Virtual time: what happens when, drawn from one seed, and the trace of it.

Rules of this file: all chance comes from `draw`; what is due at one time happens in the order in
which it was asked for. The trace is the run: two runs of one seed have the same.
"""

import hashlib
import heapq
from collections.abc import Callable
from random import Random

from tokenwire.types import Millis


class Violation(AssertionError):
    """Something that must hold does not."""


class Loop:
    """The clock of a simulation."""

    def __init__(self, seed: int) -> None:
        self.now = Millis(1_000)
        self.draw = Random(seed)
        self.trace: list[tuple[int, str, str]] = []
        """The time, who, what."""
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def later(self, span: float, do: Callable[[], None]) -> None:
        """Let something happen in `span` milliseconds."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + max(0, int(span)), self._count, do))

    def next(self) -> int | None:
        """Return when the next thing happens."""
        return self._queue[0][0] if self._queue else None

    def step(self) -> None:
        """Let the next thing happen."""
        at, _, do = heapq.heappop(self._queue)
        self.now = Millis(max(self.now, at))
        do()

    def note(self, who: str, what: str) -> None:
        self.trace.append((self.now, who, what))

    def digest(self) -> str:
        """Return a hash of the trace."""
        digest = hashlib.sha256()
        for line in self.trace:
            digest.update(repr(line).encode())
        return digest.hexdigest()

    def chance(self, probability: float) -> bool:
        return self.draw.random() < probability
