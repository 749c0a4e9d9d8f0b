"""Wrong secrets: how many a connection may show, and how many an address.

Rules of this file: a right secret is never refused, however many wrong ones came before it. It has
128 bits and more: no rate makes it guessable, but a limit on right ones would let anybody lock out
all who share his address. Who guesses loses the connection, after fewer wrong ones where many have
come from the same address; one wrong one alone, that of a page from before the server's restart,
never ends anything.
"""

from tokenwire.buckets import Buckets
from tokenwire.types import Millis

_CROWDED = 2


class Guesser:
    """One connection, and the wrong secrets that it has shown."""

    __slots__ = ("_address", "_by_address", "_limit", "_wrong", "is_over")

    def __init__(self, address: bytes | None, by_address: Buckets, limit: int) -> None:
        """
        Args:
            address: the connection's; None: this machine itself.
            by_address: how many are taken from one address.
            limit: how many are taken from one connection.
        """
        self._address = address
        self._by_address = by_address
        self._limit = limit
        self._wrong = 0
        self.is_over = False
        """True: the connection is to be closed."""

    def was_wrong(self, now: Millis) -> None:
        """The connection has shown a secret of the right form that nobody has."""
        self._wrong += 1
        crowded = self._address is not None and self._by_address.take(self._address, now) > 0
        self.is_over = self._wrong >= (min(_CROWDED, self._limit) if crowded else self._limit)
