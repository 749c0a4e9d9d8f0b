"""Stock clients behind a link that cuts, stalls and resets at random: what they show is whole.

Rules of this file: a case is a client with three interleaved streams and a few faults in a row; the
seed and the number of a case decide all of it but the clients' own timing. A fault comes after a
number of the server's bytes, counted from when the one before has struck, so that it also meets
handshakes, upgrades and replays. The model has a part of each text for each fault, at least as many
bytes as the fault may wait for, and speaks the next part when the fault has struck: so every place
is met, and the streams go on while the client is away.

    cd tests && ../.venv/bin/python -m interop.cuts --places 300 --seed 1
    cd tests && ../.venv/bin/python -m interop.cuts --seed 1 --case 17
"""

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass

from interop.clients import Node, Resume, running_node
from interop.link import Fault
from interop.scene import playing
from runtimes.loop_thread import LIMIT
from runtimes.scripted_ollama import (
    Gate,
    Pause,
    ScriptedOllama,
    Send,
    Step,
    done,
    running_ollama,
    token,
)
from runtimes.server_thread import RUNTIMES
from tokenwire import Config

STREAMS = 3
PLACES = 4
"""Faults in a case of the long run."""
FAULTS: tuple[Fault, ...] = ("cut", "reset", "stall")
_NEAR, _FAR = 400, 3_000  # bytes that a fault waits for at most, each as often
_TOKENS = 24  # of a stream in a part
_TOKEN_CHARS = _FAR // (STREAMS * _TOKENS) + 1
_PACE = 0.002  # seconds between two tokens
_LETTERS = 'abcdefghijklmnopqrstuvwxyz      ,{}"\\\n\u2028äß€👩'
_QUICK = Config(heartbeat_interval=500, heartbeat_timeout=1_000)  # a stall is found by them

_DIAL = 1_000  # ms that a JavaScript client waits for a handshake


@dataclass(frozen=True)
class Who:
    """A client and the way that it gets its streams back."""

    kind: str
    resume: Resume | None
    """None: by Socket.IO's recovery alone, without code."""
    recovery: bool

    def __str__(self) -> str:
        ways = (["recovery"] if self.recovery else []) + ([self.resume] if self.resume else [])
        return f"{self.kind} by {' and '.join(ways)}"


_JAVASCRIPT = ("js-default", "js-websocket", "js-polling")
WHO = (
    *(Who(kind, None, recovery=True) for kind in _JAVASCRIPT),
    *(Who(kind, "previous", recovery=False) for kind in _JAVASCRIPT),
    *(Who(kind, "cursor", recovery=False) for kind in _JAVASCRIPT),
    Who("js-default", "previous", recovery=True),
    Who("py", "previous", recovery=False),
    Who("py", "cursor", recovery=False),
)


class Case:
    """One client, and what happens to it."""

    def __init__(self, seed: int, number: int, places: int = PLACES) -> None:
        draw = random.Random(f"{seed}/{number}")
        self.who = WHO[number % len(WHO)]
        # Not the same runtime for a client each time.
        self.runtime = list(RUNTIMES)[(number + number // len(WHO)) % len(RUNTIMES)]
        self.faults = [
            (draw.choice(FAULTS), draw.randrange(draw.choice((_NEAR, _FAR)))) for _ in range(places)
        ]
        self.texts = [
            [
                ["".join(draw.choices(_LETTERS, k=_TOKEN_CHARS)) for _ in range(_TOKENS)]
                for _ in range(places + 1)
            ]
            for _ in range(STREAMS)
        ]
        """Of each stream its parts, of each part its tokens."""

    def __str__(self) -> str:
        faults = ", ".join(f"{fault} after {after}" for fault, after in self.faults)
        return f"{self.who}, {self.runtime}: {faults}"

    def play(self, node: Node, ollama: ScriptedOllama) -> None:
        """Play it.

        Raises:
            AssertionError: a text is not the model's, or anything else is not as it should be.
        """
        gates = [[Gate() for _ in self.faults] for _ in range(STREAMS)]
        for number, (parts, shut) in enumerate(zip(self.texts, gates, strict=True)):
            ollama.scripts[f"stream {number}"] = _script(parts, shut)
        with playing(node, self.who.kind, ollama, _QUICK, runtime=self.runtime) as scene:
            link = scene.link()
            options: dict[str, object] = {} if self.who.kind == "py" else {"timeout": _DIAL}
            if not self.who.recovery:
                options["auth"] = {"recovery": False}
            client = scene.connect(f"http://localhost:{link.port}", options, self.who.resume)
            for number in range(STREAMS):
                client.stream(f"stream {number}", streamId=f"s{number}")
                client.take("ai:stream:start", streamId=f"s{number}")
            for at, (fault, after) in enumerate(self.faults):
                if self.who.kind == "py":
                    # An error in its handshake ends its task that reconnects.
                    client.take_all("$connect")
                struck = link.fail(fault, after=after)
                assert struck.wait(LIMIT), (
                    f"place {at} was not met; last: {[item.name for item in client.log[-9:]]}"
                )
                for shut in gates:
                    shut[at].open()
            for number, parts in enumerate(self.texts):
                client.take("ai:done", streamId=f"s{number}")
                assert client.text(f"s{number}") == "".join(map("".join, parts)), f"s{number}"
            assert len(ollama.requests) == STREAMS, "a stream was asked for twice"


def _script(parts: list[list[str]], gates: list[Gate]) -> list[Step]:
    """The parts of a text, each but the first behind a gate."""
    steps: list[Step] = []
    for part, gate in zip(parts, [None, *gates], strict=True):
        if gate is not None:
            steps.append(gate)
        for text in part:
            steps += [Send(token(text)), Pause(_PACE)]
    return [*steps, Send(done())]


def run(seed: int, numbers: range) -> bool:
    """Play cases and print how it goes. Return whether all was well."""
    began, met, failed = time.monotonic(), Counter[str](), 0
    with running_node() as node:
        for number in numbers:
            case = Case(seed, number)
            try:
                with running_ollama() as ollama:
                    case.play(node, ollama)
            except AssertionError:
                failed += 1
                print(f"seed {seed}, case {number} failed ({case}):\n{traceback.format_exc()}")
            met.update(fault for fault, _ in case.faults)
            seconds = time.monotonic() - began
            print(f"{met.total()} places, {failed} failed, {seconds:.0f} s: {case}", flush=True)
    print(f"{dict(met)}, seed {seed}: {failed} of {len(numbers)} cases failed")
    return failed == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Cut stock clients' connections at random places.")
    parser.add_argument("--places", type=int, default=300, help="faults in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this case alone")
    options = parser.parse_args()
    if options.case is not None:
        numbers = range(options.case, options.case + 1)
    else:
        numbers = range(-(-options.places // PLACES))
    return 0 if run(options.seed, numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
