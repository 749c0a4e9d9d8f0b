"""A session of three streams, cut at every byte: whatever the client, it has the model's text.

Rules of this file: a cut means that the client reads so many bytes of a connection and no more
(`stock.py`). The server hears of it at once, or only when the client has long been back. What the
models say, and when, is always the same.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import pytest
from core.ai.client import NO_PINGS
from core.ai.stock import Link, PollingLink, Stock, WebSocketLink
from tokenwire.config import Config
from tokenwire.testing import World

NAMES = ("a", "b", "c")
TEXTS = {
    "a": ["one ", "two ", "thr\u00e9\u00e9 ", "four", " five", " six"],
    "b": ["\U0001f389", "x" * 200, "y"],
    "c": ["", "only"],
}
KINDS: dict[str, dict[str, object]] = {
    "recovery alone": {"recovery": True, "reconnect": None},
    "recovery and the seed's ai:reconnect": {"recovery": True, "reconnect": "whole"},
    "ai:reconnect alone": {"recovery": False, "reconnect": "whole"},
    "cursors": {"recovery": False, "reconnect": "cursors"},
    "recovery and cursors": {"recovery": True, "reconnect": "cursors"},
}
PAUSE = 3
LINKS: dict[str, Callable[[World], Link]] = {
    "websocket": WebSocketLink,
    "polling": PollingLink,
    "polling with pauses": partial(PollingLink, pause=PAUSE),
}
BOTH = [(link, kind) for link in LINKS for kind in KINDS]
each = pytest.mark.parametrize(("link", "kind"), BOTH)


def script(world: World, client: Stock) -> Iterator[None]:
    """Say what the models say, a step at a time."""
    for number, name in enumerate(NAMES):
        client.emit("ai:stream", {"prompt": "p", "streamId": name})
        yield
        while len(world.models) <= number:  # it is sent when the client is back
            yield
    models = dict(zip(NAMES, world.models, strict=True))
    for pieces in itertools.zip_longest(*TEXTS.values()):
        for name, piece in zip(NAMES, pieces, strict=True):
            if piece is not None:
                models[name].say(piece)
                yield
    for name in ("b", "a", "c"):
        models[name].done()
        yield


def new_session(link: str, kind: str) -> tuple[World, Stock]:
    """Return a world and a client in it that has got its `ai:connected`."""
    world = World(Config(heartbeat_interval=NO_PINGS))
    world.offered = ["codellama"]
    world.advance(0)
    client = Stock(partial(LINKS[link], world), **KINDS[kind])  # type: ignore[arg-type]
    settle(client)
    assert client.client_id is not None
    return world, client


def settle(client: Stock) -> None:
    """Let a client read all that is there for it."""
    for _ in range(PAUSE + 2):
        client.read()


def play(
    link: str, kind: str, cuts: list[int], *, away: int = 0, noticed: bool = True
) -> tuple[Stock, int]:
    """Play the session. Connection number n is cut when its client has read `cuts[n]` bytes.

    Args:
        link: one of LINKS.
        kind: one of KINDS.
        cuts: where; a connection behind them lives.
        away: so many steps pass before the client is back.
        noticed: False: the server hears of the losses when the client has all that it wants.

    Returns:
        The client, and how many bytes its last connection has brought.
    """
    world, client = new_session(link, kind)
    steps = script(world, client)
    cuts = list(cuts)
    lost: list[Link] = []
    absent = 0
    for _ in itertools.chain(steps, itertools.repeat(None, (away + 2 * PAUSE) * (len(cuts) + 1))):
        if absent:
            absent -= 1
            if absent:
                continue
            client.open()
        while cuts and client.read(cuts[0]) >= cuts[0]:
            if noticed:
                client.link.drop()
            else:
                lost.append(client.link)
            client.connected = False
            cuts.pop(0)
            absent = away
            if absent:
                break
            client.open()
        if not cuts and not absent:
            client.read()
    check(client, f"{link}, {kind}, {cuts}")
    for late in lost:
        late.drop()
    said = len(client.said)
    client.emit("ai:heartbeat", {})
    settle(client)
    assert [event.name for event in client.said[said:]] == ["ai:heartbeat:ack"]
    return client, client.link.came


def check(client: Stock, case: str) -> None:
    """The client shows what the models have said, and each end once."""
    for stream, shown in client.shown.items():
        assert shown.text == "".join(TEXTS[stream]), (stream, case)
        assert shown.ends == ["ai:stream:complete", "ai:done"], (stream, case)
    assert set(client.shown) == set(NAMES), case
    assert not any(event.name == "ai:error" for event in client.said), case


@each
def test_uncut(link: str, kind: str) -> None:
    play(link, kind, [])


def started_bytes(link: str, kind: str) -> int:
    """Return how many bytes a connection brings until all streams have started."""
    world, client = new_session(link, kind)
    steps = script(world, client)
    for _ in NAMES:
        next(steps)
        settle(client)
    return client.link.came


def first_bytes(link: str, kind: str) -> int:
    """Return how many bytes a connection brings to the end of its `ai:connected`."""
    _, client = new_session(link, kind)
    return client.link.came


LONG = bool(os.environ.get("TOKENWIRE_LONG"))
STRIDES = {"websocket": 23, "polling": 61, "polling with pauses": 97}
"""In a short run a cut is made at every so many bytes, each kind of client beginning elsewhere."""


@each
def test_a_cut_at_every_byte(link: str, kind: str) -> None:
    stride = 1 if LONG else STRIDES[link]
    first = first_bytes(link, kind) + list(KINDS).index(kind) % stride
    _, whole = play(link, kind, [])
    for number, cut in enumerate(range(first, whole, stride)):
        for noticed in (False, True) if LONG else (number % 2 == 0,):
            play(link, kind, [cut], noticed=noticed)


@pytest.mark.parametrize("away", [0, 1, 5])
@each
def test_cuts_one_after_the_other(link: str, kind: str, away: int) -> None:
    """A drop in the midst of a replay, two in a row, and the models go on meanwhile."""
    first = started_bytes(link, kind)
    _, whole = play(link, kind, [])
    random = Random(f"{link} {kind} {away}")
    for number in range(400 if LONG else 16):
        cuts = [random.randrange(first, whole)]
        cuts += [random.randrange(1, 1_500) for _ in range(random.randrange(1, 5))]
        play(link, kind, cuts, away=away, noticed=number % 2 == 0)
