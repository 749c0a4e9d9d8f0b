"""How much one client may ask for: messages, streams, takeovers of its session.

Rules of this file: token buckets of the session's own, which go on while its client is away. What
is refused changes nothing and costs a client that waits nothing. One that goes on regardless is
told once a second, however much it sends, and is disconnected at ten times the rate.
"""

from tokenwire.ai.errors import Code, Refusal
from tokenwire.buckets import Bucket, Rate, per_minute
from tokenwire.config import Config
from tokenwire.types import Millis

_SECOND = 1_000


class Rates:
    """The limits of every session."""

    __slots__ = ("all_messages", "messages", "starts", "takeovers", "told")

    def __init__(self, config: Config) -> None:
        rate, burst = config.messages_per_second, config.message_burst
        flood = config.flood_factor
        self.messages = Rate(rate, _SECOND, burst)
        self.all_messages = Rate(rate * flood, _SECOND, burst * flood)
        self.told = Rate(1, config.refusal_interval, 1)
        self.starts = per_minute(config.stream_starts_per_minute)
        self.takeovers = per_minute(config.takeovers_per_minute)


class Allowance:
    """What one session may still do."""

    __slots__ = ("_all_messages", "_messages", "_starts", "_takeovers", "_told", "is_flooded")

    def __init__(self, rates: Rates) -> None:
        self._messages = Bucket(rates.messages)
        self._all_messages = Bucket(rates.all_messages)
        self._told = Bucket(rates.told)
        self._starts = Bucket(rates.starts)
        self._takeovers = Bucket(rates.takeovers)
        self.is_flooded = False
        """True: so many messages came that the client is to be disconnected."""

    def take_message(self, now: Millis) -> None:
        """Take any message of the client's.

        Raises:
            Refusal: too many came; it is `quiet` if the client was told just now.
        """
        self.is_flooded = self._all_messages.take(now) > 0
        wait = self._messages.take(now)
        if wait:
            quiet = self._told.take(now) > 0
            raise _refusal("Too many messages.", wait, quiet=quiet)

    def take_start(self, now: Millis) -> None:
        """Take the start of a stream, that nothing else speaks against.

        Raises:
            Refusal: too many were started.
        """
        _take(self._starts, "Too many streams were started.", now)

    def take_takeover(self, now: Millis) -> None:
        """Take a takeover of the session from a connection that is there.

        Raises:
            Refusal: there were too many.
        """
        _take(self._takeovers, "The session was taken over too often.", now)

    def inherit_takeovers(self, previous: "Allowance") -> None:
        """The session takes over that of `previous`: its takeovers count on."""
        self._takeovers = previous._takeovers


def _take(bucket: Bucket, error: str, now: Millis) -> None:
    wait = bucket.take(now)
    if wait:
        raise _refusal(error, wait)


def _refusal(error: str, wait: int, *, quiet: bool = False) -> Refusal:
    details = f"try again in {wait} ms"
    return Refusal(Code.RATE_LIMITED, error, details=details, retry_after_ms=wait, quiet=quiet)
