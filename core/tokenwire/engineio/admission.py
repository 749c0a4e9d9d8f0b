"""How many sessions there may be, and how fast they may come: in all, and of one address.

Rules of this file: it only counts. This machine itself is not counted by address. A refusal says
when to come again, and is told to the operator at most once a second, without the address.
"""

from tokenwire.buckets import Bucket, Buckets, Rate
from tokenwire.config import Config
from tokenwire.outputs import Notice
from tokenwire.queue import Outputs
from tokenwire.types import Millis

_SECOND = 1_000


class Admission:
    """Decides on handshakes."""

    __slots__ = (
        "_by_address",
        "_handshakes",
        "_max_by_address",
        "_max_open",
        "_notices",
        "_open",
        "_outputs",
    )

    def __init__(self, config: Config, outputs: Outputs) -> None:
        self._outputs = outputs
        self._max_open = config.max_sessions
        self._max_by_address = config.max_sessions_per_address
        self._open = 0
        self._by_address: dict[bytes, int] = {}
        rate = Rate(config.handshakes_per_second, _SECOND, config.handshake_burst)
        self._handshakes = Buckets(rate, config.max_addresses)
        self._notices = Bucket(Rate(1, _SECOND, 1))

    def __len__(self) -> int:
        """Return how many addresses have sessions."""
        return len(self._by_address)

    def take_handshake(self, address: bytes | None, now: Millis) -> int:
        """Take a handshake. Return 0, or how many seconds later it may come again.

        Args:
            address: of `address.Addresses`.
            now: the time.
        """
        if self._open >= self._max_open:
            return self._refused("MAX_SESSIONS", _SECOND, now)
        if address is None:
            return 0
        wait = self._handshakes.take(address, now)
        if wait:
            return self._refused("handshakes of one address", wait, now)
        if self._by_address.get(address, 0) >= self._max_by_address:
            return self._refused("MAX_SESSIONS_PER_ADDRESS", _SECOND, now)
        return 0

    def _refused(self, limit: str, wait: int, now: Millis) -> int:
        if not self._notices.take(now):
            self._outputs.put(Notice("warning", "handshake_refused", (("limit", limit),)))
        return -(-wait // _SECOND)

    def opened(self, address: bytes | None) -> None:
        """There is one session more."""
        self._open += 1
        if address is not None:
            self._by_address[address] = self._by_address.get(address, 0) + 1

    def closed(self, address: bytes | None) -> None:
        """There is one session less."""
        self._open -= 1
        if address is not None:
            left = self._by_address.pop(address) - 1
            if left:
                self._by_address[address] = left
