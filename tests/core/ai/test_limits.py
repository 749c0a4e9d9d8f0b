"""What one client may ask for: its buckets, what it is told, and when it is cut off."""

import pytest
from tokenwire.ai.errors import Code, Refusal
from tokenwire.ai.limits import Allowance, Rates
from tokenwire.config import Config
from tokenwire.types import Millis


def allowance(**changes: object) -> Allowance:
    return Allowance(Rates(Config(**changes)))  # type: ignore[arg-type]


def refused(allowed: Allowance, what: str, now: int = 0) -> Refusal | None:
    found: Refusal | None = None
    try:
        getattr(allowed, what)(Millis(now))
    except Refusal as refusal:
        found = refusal
    if found is not None:
        assert found.code is Code.RATE_LIMITED
        assert found.details == f"try again in {found.retry_after_ms} ms"
    return found


@pytest.mark.parametrize(
    ("what", "changes", "burst", "wait"),
    [
        ("take_message", {}, 40, 50),
        ("take_start", {}, 30, 2_000),
        ("take_takeover", {}, 30, 2_000),
        ("take_message", {"messages_per_second": 1, "message_burst": 2}, 2, 1_000),
        ("take_start", {"stream_starts_per_minute": 1}, 1, 60_000),
        ("take_takeover", {"takeovers_per_minute": 2}, 2, 30_000),
    ],
)
def test_a_burst_and_then_the_time_to_wait(
    what: str, changes: dict[str, object], burst: int, wait: int
) -> None:
    allowed = allowance(**changes)
    assert [refused(allowed, what) for _ in range(burst)] == [None] * burst
    refusal = refused(allowed, what)
    assert refusal is not None
    assert refusal.retry_after_ms == wait
    assert refused(allowed, what, wait - 1) is not None
    assert refused(allowed, what, wait) is None


def test_the_buckets_do_not_touch_each_other() -> None:
    allowed = allowance(messages_per_second=1, message_burst=1, stream_starts_per_minute=1)
    for what in ("take_message", "take_start", "take_takeover"):
        assert refused(allowed, what) is None


def test_a_client_that_goes_on_is_told_once_a_second() -> None:
    allowed = allowance(messages_per_second=1, message_burst=1)
    assert refused(allowed, "take_message") is None
    told = []
    for now in range(100, 3_000, 100):
        refusal = refused(allowed, "take_message", now)
        if refusal is not None and not refusal.quiet:
            told.append(now)
    assert told == [100, 1_100, 2_100]


def test_the_other_refusals_are_never_quiet() -> None:
    allowed = allowance(stream_starts_per_minute=1, takeovers_per_minute=1)
    for what in ("take_start", "take_takeover"):
        refused(allowed, what)
        for _ in range(3):
            refusal = refused(allowed, what)
            assert refusal is not None
            assert not refusal.quiet


def test_ten_times_too_much_is_a_flood() -> None:
    allowed = allowance(messages_per_second=1, message_burst=2)
    for _ in range(20):
        refused(allowed, "take_message")
        assert not allowed.is_flooded
    refused(allowed, "take_message")
    assert allowed.is_flooded
    refused(allowed, "take_message", 100)
    assert not allowed.is_flooded


def test_how_often_it_is_told_and_what_a_flood_is_is_configured() -> None:
    changes = {"messages_per_second": 1, "message_burst": 1}
    allowed = allowance(**changes, flood_factor=2, refusal_interval=100)
    seen = []
    for now in (0, 0, 99, 100):
        refusal = refused(allowed, "take_message", now)
        seen.append((refusal is not None and not refusal.quiet, allowed.is_flooded))
    assert seen == [(False, False), (True, False), (False, True), (True, True)]


def test_takeovers_go_on_counting_in_the_next_session() -> None:
    first, second = allowance(takeovers_per_minute=1), allowance(takeovers_per_minute=1)
    assert refused(first, "take_takeover") is None
    second.inherit_takeovers(first)
    assert refused(second, "take_takeover") is not None
