"""The core as a network for vectors: virtual sockets, virtual time, the fixture's program.

Rules of this file: the program is the one of `spec/README.md`; a player over sockets runs the same
one (`fixture`), so that both play the same vectors.
"""

import contextlib

from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import AckFailed, Acknowledged, Connected, Event, Joining, ProgramEvent
from tokenwire.testing.vectors import ServerOptions
from tokenwire.testing.world import Wire, World
from tokenwire.types import Millis, Response


def config(options: ServerOptions) -> Config:
    """Return the configuration for a vector's server."""
    return Config(
        ai_namespace=None,
        namespaces=options.namespaces,
        namespace_patterns=options.namespace_patterns,
        program_decides_joins=options.program_decides_joins,
        recovery_timeout=options.recovery_timeout,
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
        case AckFailed():
            core.emit(output.socket, "not-asked", [output.reason], now)
        case Event(name="ask-in-time"):
            ms, *args = output.args
            assert isinstance(ms, int)
            core.emit(output.socket, "ask-back", args, now, want_ack=True, ack_timeout=ms)
        case Event(name="enter"):
            core.join(output.socket, str(output.args[0]))
        case Event(name="exit"):
            core.leave(output.socket, str(output.args[0]))
        case Event(name="say"):
            room, *args = output.args
            heard_by, but = (str(room),), (output.socket,)
            core.broadcast(output.namespace, "said", args, now, rooms=heard_by, exclude=but)
        case Event(name="shout"):
            core.broadcast(output.namespace, "said", list(output.args), now)
        case Event(name="shout-volatile"):
            core.broadcast(output.namespace, "said", list(output.args), now, volatile=True)
        case Joining():
            auth = output.auth if isinstance(output.auth, dict) else {}
            if "deny" in auth:
                core.refuse(output.socket, str(auth["deny"]), now, {"by": "program"})
            elif "ignore" not in auth:
                core.admit(output.socket, now)
        case _:
            pass


NOT_FOUND = Response(404, (("content-type", "text/plain; charset=UTF-8"),), b"not found")
"""What the fixture's program answers to every request that is not the protocol's."""


class WorldNet:
    """The core, with the fixture's program, under virtual time."""

    def __init__(self, options: ServerOptions) -> None:
        self.world = World(config(options))
        self.world.on_program = self._program

    def connect(self) -> "WorldLink":
        return WorldLink(self.world.connect(), self)

    def wait(self, ms: int) -> None:
        self.world.advance(ms)
        self.answer_requests()

    def answer_requests(self) -> None:
        """Answer what the program was asked over HTTP."""
        while self.world.requests:
            self.world.respond(self.world.requests.pop(0), NOT_FOUND)

    def _program(self, output: ProgramEvent) -> None:
        # What it answers may have gone meanwhile: one write can hold an event and an end.
        with contextlib.suppress(LocalProtocolError):
            fixture(self.world.server, output, self.world.now)


class WorldLink:
    """A virtual socket."""

    def __init__(self, wire: Wire, net: WorldNet) -> None:
        self._wire = wire
        self._net = net

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
        self._net.answer_requests()

    def eof(self) -> None:
        self._wire.eof()
        self._net.answer_requests()

    def drop(self) -> None:
        self._wire.drop()
        self._net.answer_requests()

    def stop(self) -> None:
        self._wire.room = 0

    def read(self) -> None:
        self._wire.unblock()
        self._net.answer_requests()

    def settle(self, *, until_end: bool) -> None:
        """Everything that can come has come."""
