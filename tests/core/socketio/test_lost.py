"""Those who may come back: who makes room for whom."""

from tokenwire.socketio.lost import Lost

ONE, OTHER, HERE = b"one", b"other", None


def test_the_one_lost_first_makes_room() -> None:
    lost: Lost[str] = Lost(2, 9)
    assert [lost.add("a", HERE), lost.add("b", ONE), lost.add("c", OTHER)] == [None, None, "a"]
    lost.remove("a")
    assert list(lost) == ["b", "c"]
    assert lost.add("d", ONE) == "b"


def test_one_address_makes_room_for_itself() -> None:
    lost: Lost[str] = Lost(9, 2)
    assert lost.add("old", OTHER) is None
    assert [lost.add(name, ONE) for name in "abc"] == [None, None, "a"]
    lost.remove("a")
    lost.remove("b")
    assert lost.add("d", ONE) is None
    assert list(lost) == ["old", "c", "d"]


def test_this_machine_is_bounded_only_with_all() -> None:
    lost: Lost[int] = Lost(100, 1)
    assert [lost.add(number, HERE) for number in range(101)] == [None] * 100 + [0]


def test_who_is_back_does_not_count() -> None:
    lost: Lost[str] = Lost(9, 1)
    for _ in range(3):
        assert lost.add("a", ONE) is None
        lost.remove("a")
        lost.remove("a")
    assert list(lost) == []
