"""Clients of the lower layers in a virtual world: Engine.IO over polling, Socket.IO over WebSocket.

Rules of this file: they do what is asked of them and decide nothing; each request has a socket of
its own unless one is given, so that no test depends on keep-alive by accident.
"""

import msgspec
from tokenwire.config import Config
from tokenwire.outputs import Joining
from tokenwire.testing import Answer, Wire, World
from tokenwire.types import Peer

PATH = "/socket.io/?EIO=4&transport="
POLLING = PATH + "polling"
WEBSOCKET = PATH + "websocket"
ORIGIN = "http://localhost:5173"


def plain_world(**changes: object) -> World:
    """Return a world whose server has no AI protocol, and `changes` in its configuration."""
    return World(Config(**{"ai_namespace": None, **changes}))  # type: ignore[arg-type]


def sid_of(opening: bytes) -> str:
    """Return the session of an open packet."""
    assert opening[:1] == b"0"
    sid = msgspec.json.decode(opening[1:], type=dict[str, object])["sid"]
    assert isinstance(sid, str)
    return sid


class Polling:
    """One Engine.IO session over polling, open."""

    def __init__(self, world: World, headers: dict[str, str] | None = None) -> None:
        self.world = world
        self.headers = headers or {}
        answer = world.connect().request("GET", POLLING, self.headers)
        assert answer is not None
        assert answer.status == 200
        self.sid = sid_of(answer.body)

    @property
    def target(self) -> str:
        return f"{POLLING}&sid={self.sid}"

    @property
    def ws_target(self) -> str:
        return f"{WEBSOCKET}&sid={self.sid}"

    def poll(self) -> Answer | None:
        """Poll; None: the answer is still to come, and its socket forgotten."""
        return self.hanging().answer()

    def hanging(self) -> Wire:
        """Send a GET and return its socket."""
        wire = self.world.connect()
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        wire.send(f"GET {self.target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode())
        return wire

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        fields = {**self.headers, **(headers or {})}
        answer = self.world.connect().request("POST", self.target, fields, body)
        assert answer is not None
        return answer

    def join(self, namespace: str = "") -> str:
        """Join a namespace. Return the socket's id in it."""
        assert self.post(b"40" + namespace.encode()).body == b"ok"
        answer = self.poll()
        assert answer is not None
        return sid_in_reply(answer.body.decode())

    def probe(self) -> Wire:
        """Open a WebSocket for the session."""
        wire = self.world.connect()
        assert wire.upgrade(self.ws_target).status == 101
        return wire

    def upgrade(self) -> Wire:
        """Upgrade, whole."""
        wire = self.probe()
        wire.send_text("2probe")
        assert wire.texts() == ["3probe"]
        wire.send_text("5")
        return wire


def open_websocket(
    world: World, headers: dict[str, str] | None = None, peer: Peer | None = None
) -> Wire:
    """Return a WebSocket with an Engine.IO session, its open packet read."""
    wire = world.connect(peer)
    assert wire.upgrade(WEBSOCKET, headers).status == 101
    (opening,) = wire.texts()
    assert opening.startswith("0{")
    return wire


def sid_in_reply(reply: str) -> str:
    """Return the socket id that a CONNECT reply holds."""
    assert reply.startswith("40")
    return msgspec.json.decode(reply[reply.index("{") :], type=dict[str, str])["sid"]


def join(wire: Wire, namespace: str = "/") -> str:
    """Join a namespace over a WebSocket. Return the socket's id in it."""
    wire.send_text("40" if namespace == "/" else f"40{namespace},")
    (reply,) = wire.texts()
    return sid_in_reply(reply)


def close_code(wire: Wire) -> int | None:
    """Return the code of the last frame that has come, if that is a close."""
    frames = wire.frames()
    if not frames or frames[-1].opcode != 8:
        return None
    return int.from_bytes(frames[-1].payload[:2], "big")


def status_of(wire: Wire) -> int | None:
    """Return the status of the answer that has come, if one has."""
    answer = wire.answer()
    return None if answer is None else answer.status


def asking(world: World) -> list[str]:
    """Return the sockets-to-be for which the program was asked, in order."""
    return [output.socket for output in world.program if isinstance(output, Joining)]
