"""Bytes against a limit: how bad it is."""

from tokenwire.ai.memory import EVICT, REFUSE, Memory


def test_it_says_how_bad_it_is() -> None:
    memory = Memory(1_000)
    memory.add(800)
    assert not memory.is_above(REFUSE)
    memory.add(1)
    assert memory.is_above(REFUSE)
    memory.add(149)
    assert not memory.is_above(EVICT)
    memory.add(1)
    assert memory.is_above(EVICT)
    assert memory.held == 951


def test_it_is_starved_from_above_the_limit_until_there_is_room_again() -> None:
    memory = Memory(1_000)
    seen: list[bool] = []
    for size in (1_000, 1, -50, -1):
        memory.add(size)
        seen.append(memory.is_starved)
    assert seen == [False, True, True, False]


def test_streams_share_a_part_of_it() -> None:
    memory = Memory(1_000)
    assert memory.share(0) == memory.share(1) == 50
    assert memory.share(10) == 5
