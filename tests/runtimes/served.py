"""What the tests of all runtimes share: a plain client on one side, a scripted model on the other.

Rules of this file: no test knows which runtime it runs, and how that asks the model server;
`RUNTIMES` and `VARIATIONS` name them (`conftest.py`). No sleep stands for an event; where nothing
is to happen, the test waits for something that comes after it.
"""

import json
from collections.abc import Callable

from runtimes.raw_client import RawClient
from runtimes.scripted_ollama import (
    Gate,
    Head,
    Recorded,
    Script,
    ScriptedOllama,
    Send,
    say,
    token,
)
from runtimes.server_thread import LIMIT, Control
from tokenwire import Config
from tokenwire.types import Request, Response

Serve = Callable[[Config], Control]
PIECE = "x" * 1_000
PIECES = 8_000  # 8 MB: more than all buffers between the two together
SMALL_BUFFER = 4 * 1024  # of a client's socket, so that a slow reader is felt soon


def respond(request: Request) -> Response:
    """Answer as a program might: one path, the rest is not there."""
    if request.path != "/healthz":
        return Response(404)
    body = json.dumps({"status": "ok", "method": request.method, "query": request.query}).encode()
    return Response(200, (("content-type", "application/json"),), body)


def connect(server: Control, *, receive_buffer: int | None = None) -> RawClient:
    return RawClient(server.host, server.port, receive_buffer=receive_buffer)


def still_serves(server: Control, ollama: ScriptedOllama) -> None:
    """A new client gets a whole stream."""
    ollama.scripts["still?"] = say("still ", "here")
    with connect(server) as client:
        client.stream("still?")
        assert client.read_stream() == "still here"


def stalls() -> dict[str, tuple[Script, Gate, str]]:
    """Scripts that stall, each with the gate where it does and the text before it."""
    gates = [Gate() for _ in range(4)]
    return {
        "before the head": ([gates[0]], gates[0], ""),
        "before the first token": ([Head(), gates[1]], gates[1], ""),
        "in a line": ([Send(token("a")), Send(token("b")[:30]), gates[2]], gates[2], "a"),
        "between lines": ([Send(token("a")), gates[3]], gates[3], "a"),
    }


def stalled(server: Control, ollama: ScriptedOllama, where: str) -> tuple[RawClient, Recorded]:
    """A client with a stream that has stalled at the model."""
    ollama.default, gate, text = stalls()[where]
    client = connect(server)
    client.stream("stall")
    if text:
        assert client.expect("ai:token")["data"] == text
    assert gate.reached.wait(LIMIT)
    return client, ollama.request()


def endless() -> Script:
    return [Send(token(f"{number:05}{PIECE}")) for number in range(PIECES)]


def blocked_model(ollama: ScriptedOllama) -> Recorded:
    """Wait until the model cannot write any more, and return its request."""
    request = ollama.request()
    request.wait_held_up()
    return request
