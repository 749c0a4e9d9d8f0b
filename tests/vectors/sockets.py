"""A network for vectors: a real server over TCP.

Rules of this file: it knows sockets, and nothing of what is said over them. How time passes, and
when a server has dealt with what it was sent, is a `Pace`: `RealPace` waits, and is good for every
server.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from vectors.model_server import LiveModel, ModelServer

_LIMIT = 5.0  # seconds that a server may take for what it has to say
_LOOK = 0.005  # seconds between two looks
_READ_BYTES = 256 * 1024


class Pace(Protocol):
    """Time, and patience."""

    def wait(self, ms: int) -> None:
        """Let time pass for the server."""
        ...

    def take(self, net: "SocketNet") -> None:
        """Return when the server has taken what `net` has sent: what comes next comes after it."""
        ...

    def settle(self, net: "SocketNet") -> None:
        """Return when it has said, too, what it has to say."""
        ...


class RealPace:
    """The clock on the wall, for any server."""

    def __init__(self, patience: float) -> None:
        """
        Args:
            patience: seconds in which the server deals with what it was sent.
        """
        self._patience = patience

    def wait(self, ms: int) -> None:
        time.sleep(ms / 1000)

    def take(self, net: "SocketNet") -> None:
        if len(net.links) + len(net.models) > 1:  # on one connection, order is TCP's
            time.sleep(self._patience)

    def settle(self, net: "SocketNet") -> None:
        time.sleep(self._patience)


class SocketNet:
    """A server that listens, and its model server, for one vector."""

    def __init__(
        self,
        host: str,
        port: int,
        model_server: ModelServer,
        pace: Pace,
        shut_down: Callable[[], None],
    ) -> None:
        self._address = (host, port)
        self._model_server = model_server
        self._pace = pace
        self._shut_down = shut_down
        self.links: list[SocketLink] = []
        self.models: list[SocketModel] = []
        """The requests that the player has seen."""

    def connect(self) -> "SocketLink":
        link = SocketLink(self, socket.create_connection(self._address, _LIMIT))
        self.links.append(link)
        self.take()
        return link

    def wait(self, ms: int) -> None:
        self.settle()
        self._pace.wait(ms)

    def shut_down(self) -> None:
        self.settle()
        self._shut_down()
        self.settle()

    def asked(self, *, wait: bool) -> "SocketModel | None":
        self.settle()
        until = time.monotonic() + (_LIMIT if wait else 0)
        while (live := self._model_server.take()) is None:
            if time.monotonic() >= until:
                return None
            time.sleep(_LOOK)
        model = SocketModel(self, live)
        self.models.append(model)
        return model

    def take(self) -> None:
        self._pace.take(self)

    def settle(self) -> None:
        self._pace.settle(self)

    def close(self) -> None:
        """Lose what is still open."""
        while self.asked(wait=False) is not None:
            pass
        for link in self.links:
            link.close()
        for model in self.models:
            model.close()
        self.settle()


@contextmanager
def socket_net(
    host: str, port: int, model_server: ModelServer, pace: Pace, shut_down: Callable[[], None]
) -> Iterator[SocketNet]:
    """A network for the time of one vector.

    Args:
        host: where the server listens.
        port: the same.
        model_server: whom it asks.
        pace: when it has dealt with what it was sent.
        shut_down: tells it to end, and returns at once.
    """
    net = SocketNet(host, port, model_server, pace, shut_down)
    try:
        yield net
    finally:
        net.close()


class SocketLink:
    """A socket that never blocks: a server may want to be read before it reads on."""

    def __init__(self, net: SocketNet, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._net = net
        self._received = b""
        self._over = False
        self.port: int = connected.getsockname()[1]
        self.sent = 0
        """Bytes that the socket took; an end counts as one."""

    @property
    def received(self) -> bytes:
        self._read()
        return self._received

    @received.setter
    def received(self, data: bytes) -> None:
        self._received = data

    @property
    def over(self) -> bool:
        self._read()
        return self._over

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        until = time.monotonic() + _LIMIT
        while left and not self._over and time.monotonic() < until:
            select.select([self._socket], [self._socket], [], _LIMIT)
            self._read()
            with suppress(BlockingIOError, ConnectionError):
                size = self._socket.send(left)
                self.sent += size
                left = left[size:]
        self._net.take()

    def eof(self) -> None:
        with suppress(OSError):  # the server may have ended it
            self._socket.shutdown(socket.SHUT_WR)
        self.sent += 1
        self._net.take()

    def drop(self) -> None:
        self.close()
        self.sent += 1
        self._net.take()

    def close(self) -> None:
        """Reset the connection."""
        self._over = True
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def stop(self) -> None:
        raise NotImplementedError("the kernel reads on: vectors with this are `virtual-socket`")

    read = stop

    def wait_for_more(self, than: int) -> None:
        self._wait(lambda: self._over or len(self._received) > than)

    def wait_for_end(self) -> None:
        self._wait(lambda: self._over)

    def wait_for_rest(self) -> None:
        self._net.settle()

    def _wait(self, come: Callable[[], bool]) -> None:
        until = time.monotonic() + _LIMIT
        while not come() and (left := until - time.monotonic()) > 0:
            select.select([self._socket], [], [], left)
            self._read()

    def _read(self) -> None:
        """Take what has come."""
        with suppress(BlockingIOError):
            while not self._over:
                try:
                    data = self._socket.recv(_READ_BYTES)
                except ConnectionError:
                    data = b""
                self._received += data
                self._over = not data


class SocketModel:
    """A request to the model server, and its answer."""

    def __init__(self, net: SocketNet, live: LiveModel) -> None:
        self._net = net
        self._live = live
        self.headers = live.headers
        self.body = live.body
        self.sent = 0
        """Bytes of the answer's body; its end counts as one."""

    @property
    def cancelled(self) -> bool:
        return self._live.cancelled

    @property
    def closed(self) -> bool:
        """True: the server has closed the connection, or the model server has lost it."""
        return self._live.closed

    def send(self, data: bytes) -> None:
        self._live.send(data)
        self.sent += len(data)
        self._net.take()

    def refuse(self, status: int, body: bytes) -> None:
        self._live.refuse(status, body)
        self.sent += len(body) + 1
        self._net.take()

    def finish(self) -> None:
        self._live.finish()
        self.sent += 1
        self._net.take()

    def lose(self) -> None:
        self._live.lose()
        self.sent += 1
        self._net.take()

    def close(self) -> None:
        self._live.close()
