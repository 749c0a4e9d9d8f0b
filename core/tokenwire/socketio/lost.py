"""Those who were lost and may come back: bounded in all, and for each address.

Rules of this file: whoever was lost first makes room; where one address has too many, one of its
own, so that nobody can push out others by losing many connections.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Lost(Generic[T]):
    """The lost ones, each with the address that it counts for."""

    __slots__ = ("_addresses", "_by_address", "_max_all", "_max_by_address")

    def __init__(self, max_all: int, max_by_address: int) -> None:
        self._max_all = max_all
        self._max_by_address = max_by_address
        self._addresses: OrderedDict[T, bytes | None] = OrderedDict()
        """The one lost first comes first, here and for each address."""
        self._by_address: dict[bytes, OrderedDict[T, None]] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._addresses)

    def add(self, item: T, address: bytes | None) -> T | None:
        """Add one. Return who has to go for it; `remove` that one."""
        self._addresses[item] = address
        if address is not None:
            own = self._by_address.setdefault(address, OrderedDict())
            own[item] = None
            if len(own) > self._max_by_address:
                return next(iter(own))
        if len(self._addresses) > self._max_all:
            return next(iter(self._addresses))
        return None

    def remove(self, item: T) -> None:
        """One is back, or forgotten. Harmless for one that is not lost."""
        address = self._addresses.pop(item, None)
        if address is not None:
            own = self._by_address[address]
            del own[item]
            if not own:
                del self._by_address[address]
