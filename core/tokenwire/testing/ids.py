"""Identifiers that a seed decides."""

import hashlib


class SeededIds:
    """An IdSource whose bytes depend on a seed and on how many were drawn before."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._drawn = 0

    def random_bytes(self, count: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_128(b"%d %d" % (self._seed, self._drawn)).digest(count)
