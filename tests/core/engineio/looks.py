"""What the tests of the Engine.IO server ask, and how they look at it.

Rules of this file: `echo` answers each Socket.IO event with itself, so that messages can be counted
on their way in and out.
"""

import gc

import msgspec
from tokenwire.engineio.session import EngineSession
from tokenwire.outputs import Event
from tokenwire.socketio.client import Client
from tokenwire.socketio.socket import Socket
from tokenwire.testing import Answer, Wire, World

FAST = {"heartbeat_interval": 300, "heartbeat_timeout": 200}


def ask(
    world: World,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    answer = world.connect().request(method, target, headers, body)
    assert answer is not None
    return answer


def error(answer: Answer) -> tuple[int, object]:
    """Return the status and the code of an error answer."""
    content = msgspec.json.decode(answer.body, type=dict[str, object])
    assert set(content) == {"code", "message"}
    assert answer.headers["content-type"] == "application/json"
    return answer.status, content["code"]


def kept() -> int:
    """Return how many sessions, clients and sockets there are in memory."""
    gc.collect()
    kinds = (EngineSession, Client, Socket)
    return sum(isinstance(item, kinds) for item in gc.get_objects())


def reasons(world: World) -> list[object]:
    """Return the reasons of the sessions' ends."""
    return [dict(n.fields)["reason"] for n in world.notices if n.event == "session_closed"]


def body(wire: Wire) -> bytes | None:
    answer = wire.answer()
    return None if answer is None else answer.body


def echo(world: World) -> None:
    """Answer each event with itself."""
    while world.program:
        output = world.program.popleft()
        if isinstance(output, Event):
            world.server.emit(output.socket, output.name, list(output.args), world.now)
    world.pump()


def emit(world: World, socket: str, text: str) -> None:
    world.server.emit(socket, "a", [text], world.now)
    world.pump()
