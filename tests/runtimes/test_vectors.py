"""The session vectors, played over sockets on every runtime.

Rules of this file: the server is real, its sockets and timers too; only its event loop's clock is
moved by the player, from deadline to deadline, so that 65 seconds take none and a millisecond is
exact. Vectors with the same options share a server, one after the other. A file of which fewer
vectors were played than the manifest says fails. Every vector is played whole; every twentieth in
which little is said also byte by byte, on each runtime others; with TOKENWIRE_LONG=1 in the
environment, every one.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from runtimes.server_thread import RUNTIMES
from runtimes.stepped_server import SteppedServers
from tokenwire.testing.player import Player
from tokenwire.testing.vectors import Vector
from tokenwire.testing.worldnet import WorldNet
from vectors.replay import FILES, expected, read, replay, replay_against

_EVERY = 1 if os.environ.get("TOKENWIRE_LONG") else 20
_FEW_BYTES = 2_000
_SERVER = Path(__file__).parents[1] / "vectors" / "fixture_server.py"


@pytest.fixture(scope="module", params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def servers(runtime: str) -> Iterator[SteppedServers]:
    with closing(SteppedServers(runtime)) as servers:
        yield servers


@pytest.mark.parametrize("name", FILES, ids=lambda name: Path(name).stem)
def test_the_vectors_of(name: str, servers: SteppedServers) -> None:
    report = replay(read(name), servers.net, movable_clock=True)
    assert not report.failures, "\n".join(["", *report.failures])
    assert len(report.played) >= expected([name], movable_clock=True)


def test_some_vectors_byte_by_byte(runtime: str, servers: SteppedServers) -> None:
    first = list(RUNTIMES).index(runtime)
    some = [vector for name in FILES for vector in read(name)][first::_EVERY]
    short = [vector for vector in some if _bytes(vector) <= _FEW_BYTES]
    report = replay(short, servers.net, movable_clock=True, cut=1)
    assert not report.failures, "\n".join(["", *report.failures])
    assert len(report.played) > 25


def _bytes(vector: Vector) -> int:
    player = Player(WorldNet(vector.server))
    player.play(vector)
    return player.sent + player.answered


def test_a_command_is_played_against_by_the_real_clock() -> None:
    # Nothing in these is due soon: a slow machine may be slow.
    files = ["stream/malformed.json", "session/socketio-acks.json"]
    report = replay_against([sys.executable, str(_SERVER)], files)
    assert not report.failures, "\n".join(["", *report.failures])
    assert len(report.played) == expected(files, movable_clock=False) > 0
