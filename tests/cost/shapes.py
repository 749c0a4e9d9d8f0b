"""Tokens on their way through a whole core: from a model's bytes to the bytes for its client.

Rules of this file: a Flow does what a runtime does, and as little else as it can: it brings the
model's bytes, polls, and pulls until nothing is left. What is measured is the core. Time stands
still.
"""

from typing import NamedTuple

from core.ai.client import Client, new_world
from core.clients import Polling
from tokenwire.outputs import WantWrite
from tokenwire.types import ConnId, StreamId

LINE = (
    b'{"model":"codellama","created_at":"2026-11-24T06:00:00.123456789Z",'
    b'"message":{"role":"assistant","content":" token"},"done":false}\n'
)
PULL_BYTES = 16 * 1024  # as the runtimes


class Shape(NamedTuple):
    """Who streams, and how."""

    batch: int = 1
    """Tokens in one write of the model."""
    clients: int = 1
    streams: int = 1
    """Of each client."""
    recovers: bool = True
    """True: as stock JavaScript clients, each event says how far they are."""
    polls: bool = False
    """True: long-polling, on a connection that is kept alive. False: WebSocket."""


SHAPES = {
    "1 token a write": Shape(),
    "1 token a write, no recovery": Shape(recovers=False),
    "1 token a write, 10 streams of a client": Shape(streams=10),
    "100 tokens a write": Shape(batch=100),
    "100 tokens a write, no recovery": Shape(batch=100, recovers=False),
    "1 token a poll": Shape(polls=True),
    "100 tokens a poll": Shape(batch=100, polls=True),
}


class Flow:
    """A world in which models speak in turns."""

    def __init__(self, shape: Shape, **changes: object) -> None:
        """
        Args:
            shape: who streams, and how.
            changes: in the server's configuration.
        """
        self.world = new_world(**changes)
        self._server = self.world.server
        self._data = LINE * shape.batch
        self._gets: dict[ConnId, bytes] = {}
        """What a polling client sends when it was answered."""
        for _ in range(shape.clients):
            if shape.polls:
                self._start_polling(shape)
            else:
                client = Client(self.world, None if shape.recovers else {"recovery": False})
                for number in range(shape.streams):
                    client.stream(f"s{number}")
        self._streams = [model.stream for model in self.world.models]
        self._turn = 0
        for stream in self._streams:
            self._server.upstream_answered(stream, 200, self.world.now)
        self.say(1)  # the start and the first token are no measure

    def _start_polling(self, shape: Shape) -> None:
        client = Polling(self.world)
        auth = b"" if shape.recovers else b'{"recovery":false}'
        client.post(b"40/ai," + auth)
        for number in range(shape.streams):
            client.post(b'42/ai,["ai:stream",{"prompt":"tell me","streamId":"s%d"}]' % number)
        client.poll()
        get = f"GET {client.target} HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n\r\n".encode()
        wire = self.world.connect()
        wire.send(get)
        self._gets[wire.conn] = get

    def write(self) -> list[bytes]:
        """Let the next model write once, and its client take what there is. Return its bytes."""
        stream = self._streams[self._turn]
        self._turn = (self._turn + 1) % len(self._streams)
        return self._deliver(stream, self._data)

    def say(self, tokens: int) -> None:
        """Let each model say so many tokens, a hundred in a write at most."""
        for said in range(0, tokens, 100):
            data = LINE * min(100, tokens - said)
            for stream in self._streams:
                self._deliver(stream, data)

    def _deliver(self, stream: StreamId, data: bytes) -> list[bytes]:
        """Bring a model's bytes, and carry out what the core wants."""
        server, now, taken = self._server, self.world.now, []
        server.receive_upstream(stream, data, now)
        while (output := server.poll()) is not None:
            assert type(output) is WantWrite, output
            conn = output.conn
            while piece := server.data_to_send(conn, PULL_BYTES, now).data:
                taken.append(piece)
            if taken and conn in self._gets:
                server.receive_data(conn, self._gets[conn], now)
        return taken
