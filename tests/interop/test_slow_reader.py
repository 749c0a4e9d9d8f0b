"""A stock client that stops reading costs the server little and the others nothing.

Rules of this file: the short form of `make test-sleeper`, with bounds for a machine that has
much else to do.
"""

import statistics

import pytest
from interop.slow_reader import GROWTH, measure

TOKENS = 40_000
OTHERS = 10
SECONDS = 1.0
NOT_HELD_UP = SECONDS / 4  # a server that waits for the sleeper would hold them up for all of it


@pytest.mark.parametrize("lost", [False, True], ids=["wakes", "wakes to a lost connection"])
@pytest.mark.parametrize("runtime", ["asyncio", "anyio-trio"])
def test_a_client_that_stops_reading(runtime: str, lost: bool) -> None:
    found = measure(runtime, tokens=TOKENS, others=OTHERS, seconds=SECONDS, lost=lost)
    assert found.growth < GROWTH
    assert found.growth_awake < 2 * GROWTH
    assert len(found.asleep) > OTHERS
    assert statistics.median(found.asleep) < NOT_HELD_UP
