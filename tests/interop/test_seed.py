"""The seed's own code and address, verbatim, against the server.

Rules of this file: `seed_snippet.mjs` is the seed's "Automated Testing", `seed_reconnect.mjs` its
"Connection", "Streaming Requests" and "Reconnection" in one, `seed_client.mjs` its class
AIStreamingClient, all unchanged but for the import line, which brings an `io` that knows the test's
port (`seed_io.mjs`). They are never to be changed. What a client shows is what it prints. (The
seed's React component: `tests/browser`.)
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from interop.clients import HERE, require_packages, settle
from interop.link import Fault, Link, running_link
from interop.scene import Scene
from interop.test_streams import still_streams
from msgspec import structs
from runtimes.scripted_ollama import Gate, ScriptedOllama, Send, Step, say, token
from runtimes.server_thread import LIMIT, Control, running_server
from tokenwire import Config

PATIENCE = 60.0
"""Seconds for a program that waits before it dials, as the stock client and the class do."""


class Program:
    """A Node program and the lines that it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines: list[str] = []

    def wait_for(self, part: str, times: int = 1) -> None:
        """Read lines until `part` has stood in so many of all."""
        assert self._process.stdout is not None
        while sum(part in line for line in self.lines) < times:
            line = self._process.stdout.readline()
            assert line, f"no {part!r} in {self.lines}"
            self.lines.append(line.rstrip("\n"))

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


@contextmanager
def node(script: str, port: int, **environment: str) -> Iterator[Program]:
    """Run a program that finds the server at this port; it is killed when it takes too long."""
    require_packages()
    with subprocess.Popen(
        ("node", script),
        cwd=HERE,
        env=os.environ | {"TOKENWIRE_PORT": str(port)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        limit = threading.Timer(PATIENCE, process.kill)
        limit.start()
        try:
            yield Program(process)
        finally:
            limit.cancel()
            limit.join()
            process.kill()


@pytest.fixture
def server(ollama: ScriptedOllama) -> Iterator[Control]:
    with running_server(ollama.url) as control:
        yield control


def test_the_literal_address(scene: Scene) -> None:
    """`io('ws://localhost:3000/ai')`, but for the port."""
    url = f"ws://localhost:{scene.server.port}"
    if scene.kind == "py":
        url += "/ai"  # the other clients append their namespace themselves
    client = scene.connect(url)
    still_streams(client, scene)


def shown(lines: list[str], label: str) -> str:
    """Return the text of the lines that a program printed for tokens."""
    assert all(line.startswith(label) for line in lines), lines
    return "".join(line.removeprefix(label) for line in lines)


def test_the_snippet(server: Control, ollama: ScriptedOllama) -> None:
    ollama.default = say("print(", "'hello, world'", ")")
    with node("seed_snippet.mjs", server.port) as program:
        program.wait_for("Stream completed:")
        first, *tokens, last = [line.partition(" ")[2] for line in program.lines]
    assert (first, last) == ("Connection successful", "Stream completed: 3 tokens")
    # Tokens that come while no GET of the client's waits are merged.
    assert shown(tokens, "Token received: ") == "print('hello, world')"
    (request,) = ollama.requests
    assert request.body["messages"] == [{"role": "user", "content": "Write a hello world function"}]


class Drops:
    """A stream that loses its transport three times, each time in another way, in mid-text."""

    FAULTS: tuple[Fault, ...] = ("cut", "reset", "stall")
    CONFIG = Config(heartbeat_interval=500, heartbeat_timeout=1_000)
    """A stall is found soon."""
    TOKENS = tuple(f"{part}{number} " for part in "abcd" for number in range(5))

    def __init__(self) -> None:
        self._gates = [Gate() for _ in self.FAULTS]
        parts = [self.TOKENS[at : at + 5] for at in range(0, len(self.TOKENS), 5)]
        self.script: list[Step] = [Send(token(text)) for text in parts[0]]
        for gate, part in zip(self._gates, parts[1:], strict=True):
            self.script += [gate, *(Send(token(text)) for text in part)]
        self.script += say()

    def play(self, link: Link, program: Program) -> None:
        """Drop the transport when all so far is shown, while the model says the next part."""
        for part, fault, gate in zip("abc", self.FAULTS, self._gates, strict=True):
            program.wait_for(f"{part}4 ")  # at the end of its line: text that comes late is merged
            struck = link.fail(fault, after=200)
            gate.open()
            assert struck.wait(LIMIT)


@pytest.mark.parametrize(
    ("recovery", "keeps_id"),
    [("auto", ""), ("auto", "1"), ("off", "1")],
    ids=["recovery alone", "recovery and an id", "an id alone"],
)
def test_the_reconnection_snippet_over_three_drops(
    ollama: ScriptedOllama, recovery: Literal["auto", "off"], keeps_id: str
) -> None:
    drops = Drops()
    ollama.scripts["Explain this code"] = drops.script
    config = structs.replace(drops.CONFIG, recovery=recovery)
    with (
        running_server(ollama.url, config) as server,
        running_link(server.host, server.port) as link,
        node("seed_reconnect.mjs", link.port, TOKENWIRE_KEEPS_ID=keeps_id) as program,
    ):
        drops.play(link, program)
        program.wait_for("Total tokens: 20")
    lines = program.lines
    assert sum(line.startswith("Disconnected:") for line in lines) == len(drops.FAULTS)
    if recovery == "off":
        assert lines.count("Reconnection successful") == len(drops.FAULTS)
    last_start = max(at for at, line in enumerate(lines) if line.startswith("Stream started:"))
    shown = [line for line in lines[last_start:] if line.startswith("Token: ")]
    assert "".join(line.removeprefix("Token: ") for line in shown) == "".join(drops.TOKENS)
    assert len(ollama.requests) == 1


def test_the_class_over_three_drops(ollama: ScriptedOllama) -> None:
    """It lives from recovery, while it opens more and more sockets beside the stock client's."""
    drops = Drops()
    ollama.scripts["long"] = drops.script
    with (
        running_server(ollama.url, drops.CONFIG) as server,
        running_link(server.host, server.port) as link,
        node("seed_class.mjs", link.port) as program,
    ):
        program.wait_for("AI WebSocket ready:")
        program.write("long")
        drops.play(link, program)
        program.wait_for("Stream completed: 20 tokens")
        settle(
            lambda: server.call(server.core.stats).total_sessions > 1,
            "the class has opened no other socket",
        )
    tokens = [line for line in program.lines if line.startswith("Token: ")]
    assert "".join(line.removeprefix("Token: ") for line in tokens) == "".join(drops.TOKENS)
    assert len(ollama.requests) == 1


def test_the_class(server: Control, ollama: ScriptedOllama) -> None:
    ollama.scripts["first"] = say("one ", "two")
    ollama.scripts["second"] = say("three")
    with running_link(server.host, server.port) as link:
        with node("seed_class.mjs", link.port) as program:
            program.wait_for("AI WebSocket ready:")
            program.write("first")
            program.wait_for("Stream completed: 2 tokens")
            link.cut()
            assert link.refused.wait(LIMIT)  # by now it knows
            link.mend()
            # The stock client comes back, and the class opens another socket beside it.
            program.wait_for("AI WebSocket ready:", times=3)
            program.write("second")
            program.wait_for("Stream completed: 1 tokens")
        tokens = [line for line in program.lines if line.startswith("Token:")]
    assert shown(tokens, "Token: ") == "one twothree"
    assert [request.prompt for request in ollama.requests] == ["first", "second"]


def test_the_seeds_code_has_only_another_import() -> None:
    for name, first in (
        ("seed_snippet.mjs", "// Test basic connection"),
        ("seed_reconnect.mjs", "// Client connects"),
        ("seed_client.mjs", "class AIStreamingClient {"),
    ):
        line, blank, start, *_ = Path(HERE, name).read_text(encoding="utf-8").split("\n")
        assert (line, blank, start) == ("import { io } from './seed_io.mjs';", "", first)
