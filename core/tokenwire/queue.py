"""The one output queue of a core, shared by its layers.

Rules of this file: what was put first is polled first. A connection's `WantWrite` is an edge: it is
said once, and again only after a pull of that connection has come back empty.
"""

from collections import deque

from tokenwire.outputs import Output, WantWrite
from tokenwire.types import ConnId


class Outputs:
    """What waits for the runtime."""

    __slots__ = ("_queue", "_wanted")

    def __init__(self) -> None:
        self._queue: deque[Output] = deque()
        self._wanted: dict[ConnId, None] = {}

    def put(self, output: Output) -> None:
        self._queue.append(output)

    def poll(self) -> Output | None:
        return self._queue.popleft() if self._queue else None

    def want_write(self, conn: ConnId) -> None:
        """Say `WantWrite`, unless it was said and no pull has come back empty since."""
        if conn not in self._wanted:
            self._wanted[conn] = None
            self._queue.append(WantWrite(conn))

    def pulled_empty(self, conn: ConnId) -> None:
        """A pull came back empty: the next `want_write` is an edge again."""
        self._wanted.pop(conn, None)
