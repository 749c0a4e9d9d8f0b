"""A clock that stands still until a test moves it, for the event loops of real servers.

Rules of this file: loops and trio ask it in place of their own clocks, so that a runtime's own
timers run by it. Whoever moves it does so in the loop's thread: the loop then looks again.
"""

import asyncio

import trio
from tokenwire.types import Millis

_FAR = 3_600.0  # seconds that a loop may sleep before it looks again


class SteppedClock(trio.abc.Clock):
    """Time in whole milliseconds."""

    def __init__(self, start: int = 1_000_000) -> None:
        self._now = start
        self._moves = 0

    def now(self) -> Millis:
        """Return what a runtime makes of `seconds`."""
        return Millis(self._now)

    def move_to(self, now: Millis) -> None:
        self._now = now
        self._moves += 1

    @property
    def seconds(self) -> float:
        # Half a millisecond on: seconds are floats, and runtimes round them down. A hair more
        # with each move: a timer that is due at the millisecond is due for a loop, too.
        return (self._now + 0.5) / 1000 + self._moves * 1e-9

    # -- as trio names it --------------------------------------------------------------------------

    def start_clock(self) -> None:
        """It stands."""

    def current_time(self) -> float:
        return self.seconds

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.seconds else _FAR


class SteppedLoop(asyncio.SelectorEventLoop):
    """asyncio's loop by that clock."""

    def __init__(self, clock: SteppedClock) -> None:
        self._stepped = clock
        super().__init__()

    def time(self) -> float:
        return self._stepped.seconds
