"""The table of deadlines: one for each kind and key, in order, and no more work than is due."""

import pytest
from tokenwire.timers import Timer, Timers
from tokenwire.types import Deadline, Millis


def due(timers: Timers, now: int) -> list[tuple[Timer, int | str]]:
    return list(timers.due(Millis(now)))


def test_an_empty_table_has_no_deadline() -> None:
    timers = Timers()
    assert timers.next() is None
    assert due(timers, 1_000) == []


def test_what_is_due_comes_out_once_and_in_order() -> None:
    timers = Timers()
    timers.set(Timer.PING, "b", 20)
    timers.set(Timer.PONG, "a", 10)
    timers.set(Timer.CLOSE, 1, 10)
    timers.set(Timer.PING, "c", 30)
    assert timers.next() == Deadline(Millis(10), "engine.io pong")
    assert due(timers, 9) == []
    assert due(timers, 20) == [(Timer.PONG, "a"), (Timer.CLOSE, 1), (Timer.PING, "b")]
    assert due(timers, 20) == []
    assert timers.next() == Deadline(Millis(30), "engine.io ping")


def test_a_deadline_moves_in_both_directions() -> None:
    timers = Timers()
    timers.set(Timer.PING, "a", 20)
    timers.set(Timer.PING, "a", 30)
    assert timers.next() == Deadline(Millis(30), Timer.PING.value)
    timers.set(Timer.PING, "a", 10)
    assert due(timers, 15) == [(Timer.PING, "a")]
    assert timers.next() is None


def test_a_cleared_deadline_is_gone() -> None:
    timers = Timers()
    timers.set(Timer.PING, "a", 10)
    timers.set(Timer.PING, "b", 20)
    timers.clear(Timer.PING, "a")
    timers.clear(Timer.PING, "a")
    timers.clear(Timer.PONG, "b")
    assert not timers.is_set(Timer.PING, "a")
    assert timers.is_set(Timer.PING, "b")
    assert due(timers, 100) == [(Timer.PING, "b")]


@pytest.mark.parametrize(("now", "expected"), [(9, False), (10, True), (11, True)])
def test_one_deadline_can_be_looked_at(now: int, expected: bool) -> None:
    timers = Timers()
    timers.set(Timer.PONG, "a", 10)
    assert timers.is_due(Timer.PONG, "a", Millis(now)) is expected
    assert timers.is_due(Timer.PONG, "b", Millis(now)) is False


def test_what_a_handler_clears_is_not_due_any_more() -> None:
    timers = Timers()
    timers.set(Timer.PING, "a", 10)
    timers.set(Timer.PING, "b", 10)
    seen = []
    for _, key in timers.due(Millis(10)):
        seen.append(key)
        timers.clear(Timer.PING, "b")
    assert seen == ["a"]


def test_what_a_handler_sets_waits_for_the_next_call() -> None:
    timers = Timers()
    timers.set(Timer.PING, "a", 10)
    seen = []
    for timer, key in timers.due(Millis(10)):
        seen.append(key)
        timers.set(timer, key, 10)
    assert seen == ["a"]
    assert due(timers, 10) == [(Timer.PING, "a")]


def test_moving_deadlines_keeps_the_table_small_and_right() -> None:
    timers = Timers()
    for at in range(10_000):
        timers.set(Timer.PING, at % 7, 1_000_000 - at)
        timers.set(Timer.PONG, at, at)
        timers.clear(Timer.PONG, at)
    assert [key for _, key in due(timers, 1_000_000)] == [
        9_999 % 7,
        *(k % 7 for k in range(9_998, 9_992, -1)),
    ]
