"""How many tokens of one stream may go out, and when.

Rules of this file: arithmetic of whole numbers, a thousandth of a token is the unit; no rounding
loses anything. What has been earned and not used is kept for two steps only (a timer may be late),
so that no burst is larger than that.
"""

from tokenwire.types import Millis

_STEP = 50  # ms: a faster pace than one token a step goes in steps, merged
_TOKEN = 1_000


class Pace:
    """A rate of tokens."""

    __slots__ = ("_at", "_credit", "_rate", "_step")

    def __init__(self, rate: int, now: Millis) -> None:
        """
        Args:
            rate: tokens a second.
            now: the time.
        """
        self._rate = rate
        self._step = max(_TOKEN, rate * _STEP // _TOKEN * _TOKEN)
        self._credit = self._step
        self._at = now

    def take(self, wanted: int, now: Millis) -> int:
        """Return how many of the tokens may go now."""
        self._credit = min(2 * self._step, self._credit + (now - self._at) * self._rate)
        self._at = now
        taken = min(wanted, self._credit // _TOKEN)
        self._credit -= taken * _TOKEN
        return taken

    def next_at(self, wanted: int) -> Millis:
        """Return when so many may go, or as many of them as go in a step."""
        missing = min(wanted * _TOKEN, self._step) - self._credit
        return Millis(self._at + -(-missing // self._rate))
