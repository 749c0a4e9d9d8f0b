"""Token buckets: how often something may happen.

Rules of this file: whole numbers only, and no timer: a bucket is one number, the instant at which
it will be full again. It counts in parts of a millisecond, as many to one as the rate's `count`, so
that nothing is ever rounded. What is refused costs nothing: who waits as long as was said gets in.
"""

from collections import OrderedDict

import msgspec

from tokenwire.types import Millis


class Rate(msgspec.Struct, frozen=True):
    """So many in a span, and after a rest so many at once."""

    count: int
    span: int
    """Milliseconds."""
    burst: int

    def wait(self, full_at: int, now: Millis) -> int:
        """Return how long a bucket with this rate has no token, in milliseconds; 0: it has one."""
        missing = max(full_at - now * self.count, 0)
        late = missing + self.span - self.burst * self.span
        return max(-(-late // self.count), 0)

    def without_one(self, full_at: int, now: Millis) -> int:
        """Return when the bucket is full again after one token was taken out."""
        return max(full_at, now * self.count) + self.span


def per_minute(count: int) -> Rate:
    """Return the rate of so many a minute, all of them at once after a rest."""
    return Rate(count, 60_000, count)


class Bucket:
    """One bucket, full at first."""

    __slots__ = ("_full_at", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._full_at: int | None = None

    def take(self, now: Millis) -> int:
        """Take a token. Return 0, or in how many milliseconds there will be one."""
        full_at = now * self._rate.count if self._full_at is None else self._full_at
        wait = self._rate.wait(full_at, now)
        if not wait:
            self._full_at = self._rate.without_one(full_at, now)
        return wait


class Buckets:
    """A bucket for each key. Those that are full again are forgotten."""

    __slots__ = ("_full_at", "_max_keys", "_rate")

    def __init__(self, rate: Rate, max_keys: int) -> None:
        """
        Args:
            rate: of each.
            max_keys: how many are kept; the one that was used longest ago makes room.
        """
        self._rate = rate
        self._max_keys = max_keys
        self._full_at: OrderedDict[bytes, int] = OrderedDict()
        """The one used longest ago first."""

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: bytes, now: Millis) -> int:
        """Take a token. Return 0, or in how many milliseconds there will be one."""
        full_at = self._full_at.pop(key, now * self._rate.count)
        wait = self._rate.wait(full_at, now)
        self._make_room(now)
        self._full_at[key] = full_at if wait else self._rate.without_one(full_at, now)
        return wait

    def _make_room(self, now: Millis) -> None:
        """Forget, from the front on, those that are full again, and one more if there must be."""
        while self._full_at:
            oldest = next(iter(self._full_at))
            full = self._full_at[oldest] <= now * self._rate.count
            if not full and len(self._full_at) < self._max_keys:
                return
            del self._full_at[oldest]
