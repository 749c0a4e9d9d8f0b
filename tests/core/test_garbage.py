"""What a connection leaves: nothing that only Python's collector could find.

Rules of this file: the collector is off; what it would have had to find afterwards is looked at.
Cycles of ended connections wait until it looks through all that there is, and memory grows
meanwhile.
"""

import gc
from collections.abc import Callable, Iterator

import pytest
from core.ai.client import ages, back, setting
from core.clients import Polling, join, open_websocket, plain_world
from tokenwire.testing import World

OUTSIDE = "tokenwire.testing"


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def left() -> list[str]:
    """Return the types of the server's objects that lie in cycles which nobody refers to."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    kinds = [type(item) for item in gc.garbage]
    return [
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if kind.__module__.startswith("tokenwire.") and not kind.__module__.startswith(OUTSIDE)
    ]


def lost(world: World) -> None:
    wire = open_websocket(world)
    join(wire)
    wire.drop()


def closes(world: World) -> None:
    wire = open_websocket(world)
    join(wire)
    wire.send_text("1")
    wire.drop()


def breaks_a_rule(world: World) -> None:
    wire = open_websocket(world)
    wire.send_text("9")
    wire.drop()


def fragments(world: World) -> None:
    wire = open_websocket(world)
    wire.send_frame(b"40", fin=False)
    wire.send_frame(b"{}", 0)
    wire.drop()


def polls(world: World) -> None:
    client = Polling(world)
    client.join()
    client.hanging().drop()


def says_goodbye_over_polling(world: World) -> None:
    client = Polling(world)
    client.join()
    client.post(b"1")


def upgrades(world: World) -> None:
    client = Polling(world)
    client.join()
    client.upgrade().drop()


def loses_an_upgrade(world: World) -> None:
    client = Polling(world)
    client.probe().drop()
    client.hanging().drop()


def is_silent(world: World) -> None:
    wire = open_websocket(world)
    join(wire)
    world.advance(60_000)
    world.advance(60_000)
    assert not wire.open


@pytest.mark.parametrize(
    "play",
    [
        lost,
        closes,
        breaks_a_rule,
        fragments,
        polls,
        says_goodbye_over_polling,
        upgrades,
        loses_an_upgrade,
        is_silent,
    ],
)
def test_a_connection_leaves_no_cycles(play: Callable[[World], None]) -> None:
    world = plain_world()
    play(world)
    assert left() == []


def test_a_stream_leaves_no_cycles() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a", "b")
    client.leave()
    again = back(world, client)
    model.done()
    again.take()
    again.leave()
    ages(world)
    del client, again, model
    assert left() == []


def test_cycles_would_be_found() -> None:
    world = plain_world()
    lost(world)
    del world
    assert "tokenwire.socketio.server.SocketServer" in left()
