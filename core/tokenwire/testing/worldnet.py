"""The core as a network for vectors: virtual sockets, virtual time, the fixture's program.

Rules of this file: the program is the one of `spec/README.md`; a player over sockets runs the same
one (`fixture`), so that both play the same vectors.
"""

from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.outputs import Acknowledged, Connected, Disconnected, Event
from tokenwire.testing.vectors import ServerOptions
from tokenwire.testing.world import ProgramEvent, Wire, World
from tokenwire.types import Millis


def config(options: ServerOptions) -> Config:
    """Return the configuration for a vector's server."""
    return Config(
        ai_namespace=None,
        namespaces=options.namespaces,
        heartbeat_interval=options.ping_interval,
        heartbeat_timeout=options.ping_timeout,
        connect_timeout=options.connect_timeout,
        upgrade_timeout=options.upgrade_timeout,
        max_payload=options.max_payload,
        cors_origins=options.origins,
        cors_credentials=options.credentials,
    )


def fixture(core: Endpoint, output: ProgramEvent, now: Millis) -> None:
    """Do what the fixture's program does with what happened in its namespaces."""
    match output:
        case Connected():
            core.emit(output.socket, "auth", [output.auth], now)
        case Event(name="message"):
            core.emit(output.socket, "message-back", list(output.args), now)
        case Event(name="message-with-ack", ack_id=int(ack_id)):
            core.acknowledge(output.socket, ack_id, list(output.args), now)
        case Event(name="ask"):
            core.emit(output.socket, "ask-back", list(output.args), now, want_ack=True)
        case Acknowledged():
            core.emit(output.socket, "asked", list(output.args), now)
        case Event(name="leave"):
            core.disconnect(output.socket, now)
        case Event(name="close"):
            core.disconnect(output.socket, now, close=True)
        case Event() | Disconnected():
            pass


class WorldNet:
    """The core, with the fixture's program, under virtual time."""

    def __init__(self, options: ServerOptions) -> None:
        self.world = World(config(options))
        self.world.on_program = self._program

    def connect(self) -> "WorldLink":
        return WorldLink(self.world.connect())

    def wait(self, ms: int) -> None:
        self.world.advance(ms)

    def _program(self, output: ProgramEvent) -> None:
        fixture(self.world.server, output, self.world.now)


class WorldLink:
    """A virtual socket."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def received(self) -> bytes:
        return self._wire.received

    @received.setter
    def received(self, data: bytes) -> None:
        self._wire.received = data

    @property
    def over(self) -> bool:
        return not self._wire.open

    def send(self, data: bytes) -> None:
        self._wire.send(data)

    def eof(self) -> None:
        self._wire.eof()

    def drop(self) -> None:
        self._wire.drop()

    def settle(self, *, until_end: bool) -> None:
        """Everything that can come has come."""
