"""The core as a network for vectors: virtual sockets, virtual time, the fixture's program.

Rules of this file: the program is the one of `spec/README.md`; a player over sockets runs the same
one (`fixture`), so that both play the same vectors.
"""

import contextlib

from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import AckFailed, Acknowledged, Connected, Event, Joining, ProgramEvent
from tokenwire.testing.vectors import AiOptions, ServerOptions
from tokenwire.testing.world import Model, Wire, World
from tokenwire.types import Millis, Response


def config(options: ServerOptions) -> Config:
    """Return the configuration for a vector's server."""
    ai = options.ai or AiOptions()
    return Config(
        ai_namespace="/ai" if options.ai else None,
        max_concurrent_streams=ai.max_concurrent_streams,
        stream_timeout=ai.stream_timeout,
        first_token_timeout=ai.first_token_timeout,
        idle_timeout=ai.idle_timeout,
        reconnect_timeout=ai.reconnect_timeout,
        backpressure_threshold=ai.backpressure_threshold,
        memory_bytes=ai.memory_bytes,
        slow_consumer_timeout=ai.slow_consumer_timeout,
        messages_per_second=ai.messages_per_second,
        message_burst=ai.message_burst,
        stream_starts_per_minute=ai.stream_starts_per_minute,
        takeovers_per_minute=ai.takeovers_per_minute,
        backpressure_policy=ai.backpressure_policy,
        stream_rate_limit=ai.stream_rate_limit,
        default_model=ai.default_model,
        allowed_models=ai.allowed_models,
        recovery="on" if ai.recovery else "off",
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
        max_sessions=options.max_sessions,
        max_sessions_per_address=options.max_sessions_per_address,
        handshakes_per_second=options.handshakes_per_second,
        handshake_burst=options.handshake_burst,
        guesses_per_minute=options.guesses_per_minute,
        trusted_proxies=options.trusted_proxies,
        shutdown_timeout=options.shutdown_timeout,
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
        self._asked = 0
        """How many of the models' requests were seen."""
        ai = options.ai or AiOptions()
        self._model_server = ai.model_server
        self.world.offered = list(ai.offered_models) if ai.model_server else None
        self.world.advance(0)  # the server looks at once what the model server offers

    def connect(self) -> "WorldLink":
        return WorldLink(self.world.connect(), self)

    def wait(self, ms: int) -> None:
        self.world.advance(ms)
        self.react()

    def shut_down(self) -> None:
        self.world.server.shut_down(self.world.now)
        self.world.pump()

    def asked(self, *, wait: bool) -> "WorldModel | None":
        if self._asked == len(self.world.models):
            return None
        self._asked += 1
        return WorldModel(self.world.models[self._asked - 1])

    def react(self) -> None:
        """Answer the program's HTTP requests; fail those to a model server that is not there."""
        while self.world.requests:
            self.world.respond(self.world.requests.pop(0), NOT_FOUND)
        while not self._model_server and (model := self.asked(wait=False)) is not None:
            model.lose()

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
        self._net.react()

    def eof(self) -> None:
        self._wire.eof()
        self._net.react()

    def drop(self) -> None:
        self._wire.drop()
        self._net.react()

    def stop(self) -> None:
        self._wire.room = 0

    def read(self) -> None:
        self._wire.unblock()
        self._net.react()

    def wait_for_more(self, than: int) -> None:
        """Everything that can come has come."""

    def wait_for_end(self) -> None:
        """The same."""

    wait_for_rest = wait_for_end


class WorldModel:
    """A virtual model server's side of one request."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._answered = False
        self.headers = dict(model.request.headers)
        self.body = model.body

    @property
    def cancelled(self) -> bool:
        return self._model.cancelled

    def send(self, data: bytes) -> None:
        self._answered = True
        self._model.send(data)

    def refuse(self, status: int, body: bytes) -> None:
        self._model.status(status)
        self._model.send(body)
        self._model.eof()

    def finish(self) -> None:
        self._model.eof()

    def lose(self) -> None:
        self._model.fail(reached=self._answered)
