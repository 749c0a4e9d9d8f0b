"""Token buckets against a model that counts: nothing is rounded, nothing is kept for nothing.

Rules of this file: `Model` is what the words say: fractions of tokens, and a bucket that holds no
more than its burst.
"""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenwire.buckets import Bucket, Buckets, Rate
from tokenwire.types import Millis

TEN_A_SECOND = Rate(10, 1_000, 3)


class Model:
    """A bucket in fractions of tokens."""

    def __init__(self, rate: Rate, now: int) -> None:
        self.rate, self.at, self.tokens = rate, now, Fraction(rate.burst)

    def take(self, now: int) -> bool:
        gained = Fraction((now - self.at) * self.rate.count, self.rate.span)
        self.tokens, self.at = min(self.tokens + gained, Fraction(self.rate.burst)), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def test_a_burst_then_one_after_another() -> None:
    bucket = Bucket(TEN_A_SECOND)
    assert [bucket.take(Millis(0)) for _ in range(5)] == [0, 0, 0, 100, 100]
    assert bucket.take(Millis(99)) == 1
    assert bucket.take(Millis(100)) == 0
    assert bucket.take(Millis(100)) == 100


def test_a_rest_fills_it_and_no_more() -> None:
    bucket = Bucket(TEN_A_SECOND)
    for now in (0, 10_000):
        assert [bucket.take(Millis(now)) for _ in range(4)] == [0, 0, 0, 100]


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket(Rate(1, 60_000, 1))
    assert bucket.take(Millis(0)) == 0
    for now in range(0, 60_000, 500):
        assert bucket.take(Millis(now)) == 60_000 - now
    assert bucket.take(Millis(60_000)) == 0


@given(
    st.builds(Rate, st.integers(1, 40), st.integers(1, 70), st.integers(1, 5)),
    st.integers(-1_000, 1_000),
    st.lists(st.integers(0, 60), max_size=60),
)
def test_it_counts_as_fractions_do(rate: Rate, start: int, steps: list[int]) -> None:
    bucket, model, now = Bucket(rate), Model(rate, start), start
    for step in steps:
        now += step
        wait = bucket.take(Millis(now))
        assert (wait == 0) is model.take(now)
        if wait:  # the time that is told is the first at which there is one
            ahead = Model(rate, now)
            ahead.tokens = model.tokens
            assert not Model.take(ahead, now + wait - 1)
            assert ahead.take(now + wait)


def test_each_key_has_its_own() -> None:
    buckets = Buckets(TEN_A_SECOND, 10)
    assert [buckets.take(b"a", Millis(0)) for _ in range(4)] == [0, 0, 0, 100]
    assert buckets.take(b"b", Millis(0)) == 0
    assert [buckets.take(b"a", Millis(now)) for now in (50, 100, 150)] == [50, 0, 50]


def test_those_that_are_full_again_are_forgotten() -> None:
    buckets = Buckets(TEN_A_SECOND, 1_000)
    for number in range(100):
        buckets.take(b"%d" % number, Millis(0))
    buckets.take(b"busy", Millis(0))
    buckets.take(b"busy", Millis(0))
    assert len(buckets) == 101
    buckets.take(b"new", Millis(100))
    assert len(buckets) == 2  # "busy" needs 200 ms
    buckets.take(b"new", Millis(300))
    assert len(buckets) == 1


def test_one_that_is_used_without_end_keeps_no_others() -> None:
    buckets = Buckets(TEN_A_SECOND, 1_000)
    buckets.take(b"often", Millis(0))
    buckets.take(b"once", Millis(0))
    for now in range(0, 1_000, 10):
        buckets.take(b"often", Millis(now))
    assert len(buckets) == 1


def test_the_one_used_longest_ago_makes_room() -> None:
    buckets = Buckets(Rate(1, 1_000, 1), 2)
    for key in (b"a", b"b", b"a", b"c"):  # "a" is refused, and yet used
        buckets.take(key, Millis(0))
    assert len(buckets) == 2
    assert buckets.take(b"a", Millis(0)) == 1_000
    assert buckets.take(b"b", Millis(0)) == 0


@pytest.mark.parametrize("keys", [1_000, 50_000])
def test_a_flood_of_keys_is_bounded(keys: int) -> None:
    buckets = Buckets(Rate(1, 60_000, 1), 500)
    for number in range(keys):
        buckets.take(b"%d" % number, Millis(number // 100))
    assert len(buckets) == 500
