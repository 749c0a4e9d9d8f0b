"""Replays session vectors, with a report that says what was not played, and why.

Rules of this file: what it plays against comes from outside, as a network for each vector.

    cd tests && ../.venv/bin/python -m vectors.replay COMMAND [ARGUMENT...]

plays all that a real clock allows against any server, in any language: see `spec/README.md`.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import msgspec
from tokenwire.testing.player import Net, Player, VectorFailed
from tokenwire.testing.vectors import AiOptions, ServerOptions, Vector, load
from vectors import manifest
from vectors.model_server import ModelServer
from vectors.sockets import RealPace, SocketNet, socket_net

FILES = sorted(name for name in manifest.committed().files if name.startswith(manifest.PLAYED))
Networks = Callable[[ServerOptions], AbstractContextManager[Net]]
"""Gives each vector its network: a server set up like this, and the way to it."""

REASONS = {
    "virtual-socket": "needs a socket without buffers",
    "virtual-time": "needs a clock that the player moves",
}
"""Why a vector with this flag is not played."""

_LIMIT = 10.0  # seconds that a command has to end
_PATIENCE = 0.005  # seconds


@dataclass
class Report:
    """What became of some vectors."""

    played: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Ids, by reason."""
    failures: list[str] = field(default_factory=list)
    """Each names the vector and the step."""

    def add(self, other: "Report") -> None:
        self.played += other.played
        self.failures += other.failures
        for reason, ids in other.skipped.items():
            self.skipped.setdefault(reason, []).extend(ids)


def read(name: str) -> tuple[Vector, ...]:
    """Return the vectors of a file."""
    return load((manifest.VECTORS / name).read_bytes()).vectors


def replay(
    vectors: Iterable[Vector], networks: Networks, *, movable_clock: bool, cut: int | None = None
) -> Report:
    """Play vectors over sockets, one after the other.

    Args:
        vectors: those to play.
        networks: the servers.
        movable_clock: True: `Net.wait` moves the server's clock, to the millisecond.
        cut: send everything in pieces of so many bytes; None: whole.
    """
    report = Report()
    cannot = ["virtual-socket"] if movable_clock else ["virtual-socket", "virtual-time"]
    for vector in vectors:
        flag = next((flag for flag in cannot if flag in vector.flags), None)
        if flag is not None:
            report.skipped.setdefault(REASONS[flag], []).append(vector.id)
            continue
        report.played.append(vector.id)
        try:
            with networks(vector.server) as net:
                Player(net, cut=cut).play(vector)
        except VectorFailed as failed:
            report.failures.append(f"{vector.title}: {failed}")
        except Exception as error:
            error.add_note(f"while {vector.id} was played: {vector.title}")
            raise
    return report


# -- any server, started by a command --------------------------------------------------------------


class CommandServer:
    """A server in a process of its own, set up for some vectors."""

    def __init__(self, command: list[str], options: ServerOptions, patience: float) -> None:
        """
        Args:
            command: what starts it. Two arguments are added: the options as JSON, and the model
                server's address. It listens on 127.0.0.1, and then writes a line: its port.
            options: how it is to be set up.
            patience: seconds in which it deals with what it was sent.

        Raises:
            RuntimeError: it said something else.
        """
        self.ending = False
        """True: it was told to end."""
        self._patience = patience
        ai = options.ai or AiOptions()
        self._model_server = ModelServer(ai.offered_models, there=ai.model_server)
        given = [msgspec.json.encode(options).decode(), self._model_server.url]
        self._process = subprocess.Popen([*command, *given], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdecimal():
            self.close()
            raise RuntimeError(f"the command should have written its port, not {line!r}")
        self._port = int(line)

    def net(self) -> AbstractContextManager[SocketNet]:
        """Return a network for one vector."""
        pace = RealPace(self._patience)
        return socket_net("127.0.0.1", self._port, self._model_server, pace, self.shut_down)

    def shut_down(self) -> None:
        """Tell it to end."""
        self.ending = True
        self._process.terminate()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate(timeout=_LIMIT)
        self._model_server.close()


def replay_against(command: list[str], files: Iterable[str], patience: float = _PATIENCE) -> Report:
    """Play all vectors of files that a real clock allows.

    A server is started for each set of options, and another after a `shutdown`; they are played
    side by side.

    Args:
        command: what starts a server.
        files: names of the manifest.
        patience: seconds in which the server deals with what it was sent.
    """
    by_options: dict[ServerOptions, list[Vector]] = {}
    for name in files:
        for vector in read(name):
            by_options.setdefault(vector.server, []).append(vector)

    def play(options: ServerOptions) -> Report:
        server = CommandServer(command, options, patience)

        def net(options: ServerOptions) -> AbstractContextManager[Net]:
            nonlocal server
            if server.ending:
                server.close()
                server = CommandServer(command, options, patience)
            return server.net()

        try:
            return replay(by_options[options], net, movable_clock=False)
        finally:
            server.close()

    report = Report()
    with ThreadPoolExecutor(len(by_options)) as workers:
        for one in workers.map(play, by_options):
            report.add(one)
    return report


def expected(files: Iterable[str], *, movable_clock: bool) -> int:
    """Return how many vectors of files the manifest wants played over sockets."""
    counts = [manifest.committed().files[name].sockets for name in files]
    return sum(
        (one.movable_clock if movable_clock else one.real_clock)
        for one in counts
        if one is not None
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vectors.replay",
        description="Replay the session vectors against a server; see spec/README.md.",
    )
    parser.add_argument("--file", action="append", choices=FILES, help="only this one (repeatable)")
    parser.add_argument(
        "--patience",
        type=float,
        default=_PATIENCE,
        metavar="SECONDS",
        help="in which the server deals with what it was sent (%(default)s)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="starts the server")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("a command is missing")
    files = arguments.file or FILES
    report = replay_against(arguments.command, files, arguments.patience)
    for failure in report.failures:
        print("failed", failure)
    for reason, ids in report.skipped.items():
        print(f"not played, {reason}: {len(ids)}: {' '.join(sorted(ids))}")
    wanted = expected(files, movable_clock=False)
    print(f"played {len(report.played)} of {wanted}, failed {len(report.failures)}")
    return 1 if report.failures or len(report.played) < wanted else 0


if __name__ == "__main__":
    sys.exit(main())
