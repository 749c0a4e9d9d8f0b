"""A short soak, and that the long one would see what is wrong."""

import asyncio
import re

import pytest
from load.model import Workload
from load.soak import Fault, Sample, Screen, slope, soak

MOST_RESIDENT = 150e6  # bytes: three times what a server takes


def test_a_round_leaves_nothing() -> None:
    told: list[str] = []
    (sample,) = asyncio.run(soak(0, told.append))
    assert sample.resident < MOST_RESIDENT
    found = re.search(r": (\d+) streams, .*, (\d+) resumed, (\d+) cancelled, ", told[0])
    assert found is not None
    streams, resumed, cancelled = map(int, found.groups())
    assert (streams, cancelled) == (49, 7)
    assert resumed >= 3  # twice as often, unless the machine is too busy for the second cut


def test_the_slope_is_that_of_the_line() -> None:
    line = [Sample(at, 50_000_000 + 500 * at) for at in range(0, 600, 10)]
    found = slope(line)
    assert (round(found.value, 6), round(found.error, 6)) == (1.8, 0)
    assert str(found) == "+1.80 MB an hour (standard error 0.00)"


def test_the_error_of_the_slope_is_the_noise_over_the_spread() -> None:
    noisy = [Sample(3600 * at, 1_000_000 * (at + at % 2)) for at in range(5)]
    found = slope(noisy)
    assert (round(found.value, 6), round(found.error, 6)) == (1.0, 0.2)


TOKEN: dict[str, object] = {"streamId": "s0", "data": "1 2 ", "seq": 2}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ai:token", {**TOKEN, "seq": 5}),  # one is missing
        ("ai:token", TOKEN),  # again
        ("ai:done", {"streamId": "s0", "totalTokens": 4}),  # too early
        ("ai:stream:error", {"streamId": "s0", "code": "upstream_error"}),
    ],
)
def test_a_stream_that_is_not_whole_is_a_fault(name: str, data: dict[str, object]) -> None:
    screen = Screen(Workload(4), 1)
    screen.show("ai:stream:start", {"streamId": "s0", "epoch": "e"})
    screen.show("ai:token", TOKEN)
    with pytest.raises(Fault):
        screen.show(name, data)


def test_a_whole_stream_is_none() -> None:
    screen = Screen(Workload(4), 1)
    screen.show("ai:stream:start", {"streamId": "s0", "epoch": "e"})
    screen.show("ai:token", TOKEN)
    assert screen.cursors() == {"s0": {"seq": 2, "epoch": "e"}}
    screen.show("ai:token", {**TOKEN, "seq": 4})
    assert not screen.over
    screen.show("ai:done", {"streamId": "s0", "totalTokens": 4})
    assert screen.over
