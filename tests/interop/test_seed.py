"""The seed's own code and address, verbatim, against the server.

Rules of this file: `seed_snippet.mjs` and `seed_client.mjs` are the seed's "Automated Testing" and
its class AIStreamingClient, unchanged but for the import line, which brings an `io` that knows the
test's port (`seed_io.mjs`). They are never to be changed.
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from interop.clients import HERE, require_packages
from interop.link import running_link
from interop.scene import Scene
from interop.test_streams import still_streams
from runtimes.scripted_ollama import ScriptedOllama, say
from runtimes.server_thread import LIMIT, Control, running_server


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
def node(script: str, port: int) -> Iterator[Program]:
    """Run a program that finds the server at this port; it is killed at the limit."""
    require_packages()
    with subprocess.Popen(
        ("node", script),
        cwd=HERE,
        env=os.environ | {"TOKENWIRE_PORT": str(port)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        limit = threading.Timer(LIMIT, process.kill)
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
        ("seed_client.mjs", "class AIStreamingClient {"),
    ):
        line, blank, start, *_ = Path(HERE, name).read_text(encoding="utf-8").split("\n")
        assert (line, blank, start) == ("import { io } from './seed_io.mjs';", "", first)
