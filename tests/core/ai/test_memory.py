"""Bytes against a limit: how bad it is."""

from tokenwire.ai.memory import Memory


def test_it_says_how_bad_it_is() -> None:
    memory = Memory(1_000)
    seen: list[tuple[bool, bool]] = []
    for size in (800, 1, 149, 1):
        memory.add(size)
        seen.append((memory.is_scarce, memory.is_short))
    assert seen == [(False, False), (True, False), (True, False), (True, True)]
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
