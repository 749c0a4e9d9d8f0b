"""A client of the AI protocol in a virtual world: Socket.IO over one WebSocket.

Rules of this file: it does what a stock client does on the wire and decides nothing; what it was
sent is kept in order, and read with `take`.
"""

import msgspec
from tokenwire.config import Config
from tokenwire.testing import Model, World
from tokenwire.types import Peer

NO_PINGS = 10_000_000
"""A heartbeat interval that no test lives to see."""

Fields = dict[str, object]


ENDED = ["ai:stream:complete", "ai:done"]
LAST_LINE: Fields = {
    "message": {"content": ""},
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 26,
    "eval_count": 259,
}


class Said(msgspec.Struct, frozen=True):
    """One event of the server's."""

    name: str
    fields: Fields

    def __getitem__(self, key: str) -> object:
        return self.fields[key]


def read(body: bytes) -> Said:
    """Return the event of a JSON array, without its offset."""
    name, fields, *_ = msgspec.json.decode(body)
    return Said(name, fields)


def config(**changes: object) -> Config:
    """Return a configuration without pings, with `changes`."""
    return Config(**{"heartbeat_interval": NO_PINGS, **changes})  # type: ignore[arg-type]


def new_world(**changes: object) -> World:
    """Return a world whose server has `changes` in its configuration, its model server probed."""
    made = World(config(**changes))
    made.offered = ["codellama", "llama3.2:1b"]
    made.advance(0)
    return made


class Client:
    """One client, connected to /ai."""

    def __init__(
        self, world: World, payload: Fields | None = None, peer: Peer | None = None
    ) -> None:
        self.world = world
        self.wire = world.connect(peer)
        assert self.wire.upgrade("/socket.io/?EIO=4&transport=websocket").status == 101
        self.acks: dict[int, Fields] = {}
        self.refusal: Fields | None = None
        """What a CONNECT_ERROR said."""
        self.fenced = False
        """True: the server sent a DISCONNECT."""
        self.hello: Fields = {}
        self.pid = ""
        self.sid = ""
        self.offset: str | None = None
        """That of the last event, as the stock client keeps it: any string at the end."""
        self._acks_wanted = 0
        self._kept: list[Said] = []
        auth = b"" if payload is None else msgspec.json.encode(payload)
        self.wire.send_text("40/ai," + auth.decode())
        said = self.take()
        if said:
            assert said[0].name == "ai:connected"
            self.hello = said[0].fields
            self._kept = said[1:]

    @property
    def id(self) -> str:
        return str(self.hello["clientId"])

    def send(self, name: str | int, *args: object) -> None:
        """Send an event."""
        self.wire.send_text("42/ai," + msgspec.json.encode([name, *args]).decode())

    def ask(self, name: str, *args: object) -> Fields:
        """Send an event with an acknowledgement and return that; other events are kept."""
        self._acks_wanted += 1
        number = self._acks_wanted
        self.wire.send_text(f"42/ai,{number}" + msgspec.json.encode([name, *args]).decode())
        self._kept = self.take()
        return self.acks.pop(number)

    def stream(self, name: str = "s", prompt: str = "tell me", **fields: object) -> Model:
        """Start a stream and return its model."""
        before = len(self.world.models)
        self.send("ai:stream", {"prompt": prompt, "streamId": name, **fields})
        assert len(self.world.models) == before + 1, self.take()
        return self.world.models[-1]

    def take(self) -> list[Said]:
        """Take all events that have come."""
        said, self._kept = self._kept, []
        for text in self.wire.texts():
            if text.startswith("42/ai,"):
                said.append(read(text[6:].encode()))
                last = msgspec.json.decode(text[6:])[-1]
                self.offset = last if isinstance(last, str) else self.offset
            elif text.startswith("40/ai,"):
                reply = msgspec.json.decode(text[6:], type=Fields)
                self.pid = str(reply.get("pid", ""))
                self.sid = str(reply["sid"])
            elif text.startswith("43/ai,"):
                number, _, rest = text[6:].partition("[")
                (self.acks[int(number)],) = msgspec.json.decode("[" + rest, type=tuple[Fields])
            elif text.startswith("44/ai,"):
                self.refusal = msgspec.json.decode(text[6:], type=Fields)
            elif text.startswith("41/ai,"):
                self.fenced = True
        return said

    def names(self) -> list[str]:
        """Take all events, and return their names."""
        return [event.name for event in self.take()]

    def one(self) -> Said:
        """Take the one event that has come."""
        (event,) = self.take()
        return event

    def error(self) -> tuple[object, object]:
        """Take the one event that has come, an `ai:error`; return its code and field."""
        event = self.one()
        assert event.name == "ai:error"
        return event["code"], event.fields.get("field")

    def block(self) -> None:
        """Read no more: the socket is full from now on."""
        self.wire.unblock(0)

    def pong(self) -> None:
        """Answer a ping."""
        self.wire.send_text("3")

    def leave(self) -> None:
        """Lose the connection."""
        self.wire.drop()


def back(world: World, client: Client, offset: str | None = None, **auth: object) -> Client:
    """Return a client that is back by itself, with its last offset or another."""
    payload: Fields = {"pid": client.pid, "offset": offset or client.offset, **auth}
    return Client(world, payload)


def text(said: list[Said], name: str = "s") -> str:
    """Return the text that a client shows for a stream, having read `said`."""
    shown = ""
    for event in said:
        if event.fields.get("streamId") == name:
            if event.name == "ai:stream:start":
                shown = ""
            elif event.name == "ai:token":
                shown += str(event["data"])
    return shown


def metadata(event: Said) -> Fields:
    """Return the metadata of an event."""
    fields = event["metadata"]
    assert isinstance(fields, dict)
    return fields


def line(**fields: object) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


def setting(**changes: object) -> tuple[World, Client]:
    """Return a world and a client that has read its `ai:connected`."""
    world = new_world(**changes)
    return world, Client(world)


def only(said: list[Said], name: str) -> Said:
    (event,) = [event for event in said if event.name == name]
    return event


def all_named(said: list[Said], name: str) -> list[Said]:
    return [event for event in said if event.name == name]


def ages(world: World, span: int = 200_000) -> None:
    """Let every grace period pass; then nothing may be left but the next look at the models."""
    world.advance(span)
    for _ in range(5):
        deadline = world.server.next_timeout()
        assert deadline is not None
        assert deadline.reason == "model server probe"
        world.advance(deadline.at - world.now)


def at_rest(world: World) -> None:
    """Lose all connections: after the grace periods nothing of them is left."""
    for wire in list(world.wires.values()):
        wire.drop()
    ages(world)
    stats = world.server.stats()
    assert (stats.total_sessions, stats.total_active_streams, stats.bytes_held) == (0, 0, 0)


def paused(model: Model) -> bool:
    """Return what is so now: a type checker takes an attribute for unchanged."""
    return model.paused


def cancelled(model: Model) -> bool:
    return model.cancelled


def stopped(world: World) -> bool:
    return world.stopped
