"""Wrong secrets: what ends a connection, and what does not."""

from tokenwire.buckets import Buckets, Rate
from tokenwire.socketio.guesses import Guesser
from tokenwire.types import Millis

ADDRESS = b"address"
NOW = Millis(0)


def a_minute(count: int) -> Buckets:
    return Buckets(Rate(count, 60_000, count), 100)


def test_the_fifth_ends_a_connection() -> None:
    for address in (ADDRESS, None):
        guesser = Guesser(address, a_minute(20), 5)
        for _ in range(4):
            guesser.was_wrong(NOW)
            assert not guesser.is_over
        guesser.was_wrong(NOW)
        assert guesser.is_over


def test_the_second_does_where_many_came_from_one_address() -> None:
    shared = a_minute(3)
    crowd = [Guesser(ADDRESS, shared, 5) for _ in range(5)]
    for guesser in crowd:
        guesser.was_wrong(NOW)
        assert not guesser.is_over  # one wrong one ends nothing
    crowd[0].was_wrong(NOW)
    assert crowd[0].is_over
    other = Guesser(b"other", shared, 5)
    for _ in range(3):
        other.was_wrong(NOW)
    assert not other.is_over
    crowd[1].was_wrong(Millis(20_000))  # one more a third of a minute
    assert not crowd[1].is_over


def test_this_machine_is_no_crowd() -> None:
    shared = a_minute(1)
    for _ in range(9):
        guesser = Guesser(None, shared, 5)
        guesser.was_wrong(NOW)
        guesser.was_wrong(NOW)
        assert not guesser.is_over


def test_a_limit_of_one_holds_in_a_crowd_too() -> None:
    shared = a_minute(1)
    Guesser(ADDRESS, shared, 1).was_wrong(NOW)
    guesser = Guesser(ADDRESS, shared, 1)
    guesser.was_wrong(NOW)
    assert guesser.is_over
