"""A pace: never faster than its rate, never slower than it must be.

Rules of this file: time is a number that the test moves.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire.ai.pace import Pace
from tokenwire.types import Millis

NOW = Millis(1_000)


def test_a_slow_pace_lets_one_token_go_at_a_time() -> None:
    pace = Pace(4, NOW)
    assert pace.take(3, NOW) == 1
    assert pace.next_at(2) == NOW + 250
    assert pace.take(2, Millis(NOW + 249)) == 0
    assert pace.take(2, Millis(NOW + 250)) == 1
    assert pace.take(9, Millis(NOW + 60_000)) == 2  # a rest earns no burst


def test_a_fast_pace_goes_in_steps() -> None:
    pace = Pace(1_000, NOW)
    assert pace.take(120, NOW) == 50
    assert pace.next_at(70) == NOW + 50
    assert pace.next_at(3) == NOW + 3
    assert pace.take(70, Millis(NOW + 50)) == 50
    assert pace.take(20, Millis(NOW + 69)) == 19
    assert pace.next_at(1) == NOW + 70


def test_what_is_not_wanted_is_kept_for_two_steps() -> None:
    pace = Pace(1_000, NOW)
    assert pace.take(10, NOW) == 10
    assert pace.take(100, NOW) == 40
    assert pace.take(0, Millis(NOW + 20)) == 0
    assert pace.take(100, Millis(NOW + 20)) == 20
    assert pace.take(200, Millis(NOW + 1_000)) == 100


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(1, 5_000), st.lists(st.integers(0, 400), max_size=30))
def test_a_token_is_never_early_and_never_late(rate: int, waits: list[int]) -> None:
    pace, now, taken = Pace(rate, NOW), NOW, 0
    for wait in waits:
        now = Millis(now + wait)
        taken += pace.take(1_000_000, now)
        most = 2 * max(1, rate * 50 // 1_000)
        assert taken <= most + (now - NOW) * rate / 1_000
        at = pace.next_at(1)
        assert at > now
        assert pace.take(0, now) == 0
        assert pace.take(1, Millis(at - 1)) == 0
        now = at
        assert pace.take(1, now) == 1
        taken += 1


@pytest.mark.parametrize("rate", [1, 3, 7, 30, 333, 1_000])
def test_in_the_long_run_the_rate_is_exact(rate: int) -> None:
    pace, now, taken = Pace(rate, NOW), NOW, 0
    while now < NOW + 100_000:  # a hundred seconds
        taken += pace.take(1_000_000, now)
        now = pace.next_at(1_000_000)
    assert 0 <= taken - 100 * rate <= max(1, rate // 20)
