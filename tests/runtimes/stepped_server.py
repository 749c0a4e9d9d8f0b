"""A real server whose clock a player of vectors moves, and which says when it has taken all.

Rules of this file: the runtime under test is as it is; it is watched through the core that it runs,
and its event loop's clock is a `SteppedClock`.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from runtimes.server_thread import RUNTIMES, Control, SystemIds
from runtimes.stepped_clock import SteppedClock
from tokenwire import Server
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import Output, ProbeUpstream, ProgramEvent, StartUpstream
from tokenwire.testing.player import VectorFailed
from tokenwire.testing.vectors import AiOptions, ServerOptions
from tokenwire.testing.worldnet import NOT_FOUND, config, fixture
from tokenwire.types import ConnId, Millis, Peer, StreamId
from vectors.model_server import ModelServer
from vectors.sockets import SocketLink, SocketModel, SocketNet, socket_net

_LOOK = 0.005  # seconds
_LIMIT = 5.0  # seconds that the server and its model server have for each other
_PATIENCE = 20
"""Looks after which a server that does not take what it was sent is believed not to want it. Its
event loop goes round between two of them, so that a slow machine does not look like that."""


class WatchedServer(Server):
    """A server that knows how much has reached it."""

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(config(options), ids=SystemIds())
        self.taken: dict[int, float] = {}
        """Bytes of each client, by its port; its end counts as one; all of them once it is gone."""
        self.probes = 0
        """Looks at the model server whose answer has not come."""
        self.asked = 0
        """Requests to the model server for a stream."""
        self.unreached = 0
        """Those of them that did not reach it."""
        self.taken_upstream = 0
        """Bytes of all its answers; the end of one counts as one."""
        self._ports: dict[ConnId, int] = {}
        self._changed = threading.Condition()

    def wait_for_change(self, done: Callable[[], bool]) -> bool:
        """Return True as soon as `done`, False after a while. Called by another thread."""
        with self._changed:
            return self._changed.wait_for(done, _LOOK)

    def connected(self, peer: Peer, now: Millis) -> ConnId:
        conn = super().connected(peer, now)
        port = self._ports[conn] = peer.port or 0
        with self._change():
            self.taken[port] = 0
        return conn

    def receive_data(self, conn: ConnId, data: bytes, now: Millis) -> None:
        super().receive_data(conn, data, now)
        with self._change():
            self.taken[self._ports[conn]] += len(data)

    def receive_eof(self, conn: ConnId, now: Millis) -> None:
        super().receive_eof(conn, now)
        with self._change():
            self.taken[self._ports[conn]] += 1

    def connection_lost(self, conn: ConnId, now: Millis) -> None:
        super().connection_lost(conn, now)
        with self._change():
            self.taken[self._ports[conn]] = math.inf

    def poll(self) -> Output | None:
        output = super().poll()
        if isinstance(output, ProbeUpstream):
            self.probes += 1
        elif isinstance(output, StartUpstream):
            self.asked += 1
        return output

    def receive_upstream(self, stream: StreamId, data: bytes, now: Millis) -> None:
        super().receive_upstream(stream, data, now)
        with self._change():
            self.taken_upstream += len(data)

    def upstream_eof(self, stream: StreamId, now: Millis) -> None:
        super().upstream_eof(stream, now)
        with self._change():
            self.taken_upstream += 1

    def upstream_failed(self, stream: StreamId, now: Millis, *, reached: bool) -> None:
        super().upstream_failed(stream, now, reached=reached)
        with self._change():
            self.taken_upstream += 1
            self.unreached += not reached

    def upstream_probed(self, status: int | None, body: bytes, now: Millis) -> None:
        super().upstream_probed(status, body, now)
        with self._change():
            self.probes -= 1

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()


class SteppedServer:
    """A server that listens, its model server and its clock."""

    def __init__(self, runtime: str, options: ServerOptions) -> None:
        ai = options.ai or AiOptions()
        self.ending = False
        """True: it was told to end."""
        self._clock = SteppedClock()
        self._server = WatchedServer(options)
        self._model_server = ModelServer(ai.offered_models, there=ai.model_server)
        callbacks = {"handle": self._handle, "respond": lambda request: NOT_FOUND}
        launch = RUNTIMES[runtime]
        self._control: Control = launch(
            self._server, self._model_server.url, callbacks, clock=self._clock
        )
        self._control.turn()  # it looks at once what the model server offers

    def _handle(self, output: ProgramEvent) -> None:
        # What it answers may have gone meanwhile: one write can hold an event and an end.
        with suppress(LocalProtocolError):
            fixture(self._server, output, self._clock.now())

    def net(self) -> AbstractContextManager[SocketNet]:
        """Return a network for one vector."""
        control = self._control
        pace = _SteppedPace(control, self._server, self._model_server, self._clock)
        return socket_net(control.host, control.port, self._model_server, pace, self.shut_down)

    def shut_down(self) -> None:
        """Tell it to end."""
        self.ending = True
        self._control.begin_shut_down()

    def close(self) -> None:
        """End at once; raise what went wrong meanwhile."""
        try:
            self._control.close()
        finally:
            self._model_server.close()


class _SteppedPace:
    """The server's own clock, moved from deadline to deadline, for one vector."""

    def __init__(
        self,
        control: Control,
        server: WatchedServer,
        model_server: ModelServer,
        clock: SteppedClock,
    ) -> None:
        self._control = control
        self._server = server
        self._model_server = model_server
        self._clock = clock
        self._taken_before = server.taken_upstream
        self._lost_before = self._on_their_way()

    def wait(self, ms: int) -> None:
        end = Millis(self._clock.now() + ms)
        while (deadline := self._control.call(self._server.next_timeout)) is not None:
            if deadline.at > end:
                break
            if deadline.at <= self._clock.now():
                raise VectorFailed(f"the runtime's timer did not go off for {deadline}")
            self._move_to(deadline.at)
        self._move_to(end)

    def _move_to(self, now: Millis) -> None:
        self._control.call(lambda: self._clock.move_to(now))
        self._control.turn()
        self._wait_for_models(())

    def take(self, net: SocketNet) -> None:
        for _ in range(_PATIENCE):
            if self._server.wait_for_change(lambda: self._has_all(net.links)):
                break
            self._control.turn()
        self._wait_for_models(net.models)

    def settle(self, net: SocketNet) -> None:
        self.take(net)
        self._control.turn()  # now it has asked the model server what it has to ask
        self._wait_for_models(net.models)
        self._control.turn()

    def _has_all(self, links: list[SocketLink]) -> bool:
        return all(self._server.taken.get(link.port, -1) >= link.sent for link in links)

    def _wait_for_models(self, models: Sequence[SocketModel]) -> None:
        """Return when all questions have reached the model server, and all answers the server."""
        until = time.monotonic() + _LIMIT
        while not self._server.wait_for_change(lambda: self._is_quiet(models)):
            if time.monotonic() > until:
                raise VectorFailed("server and model server did not come to rest")

    def _is_quiet(self, models: Sequence[SocketModel]) -> bool:
        taken = self._server.taken_upstream - self._taken_before
        return (
            self._server.probes == 0
            and self._on_their_way() <= self._lost_before
            and (taken >= sum(one.sent for one in models) or any(one.closed for one in models))
        )

    def _on_their_way(self) -> int:
        """Return how many requests for a stream have not reached the model server."""
        server = self._server
        return server.asked - server.unreached - len(self._model_server.requests)


class SteppedServers:
    """The servers of one runtime: one for each set of options."""

    def __init__(self, runtime: str) -> None:
        self._runtime = runtime
        self._started: dict[ServerOptions, SteppedServer] = {}
        self._ending = ExitStack()

    def net(self, options: ServerOptions) -> AbstractContextManager[SocketNet]:
        """Return a network with a server that is set up like this, for one vector."""
        server = self._started.get(options)
        if server is None or server.ending:
            server = self._started[options] = SteppedServer(self._runtime, options)
            self._ending.callback(server.close)
        return server.net()

    def close(self) -> None:
        self._ending.close()
