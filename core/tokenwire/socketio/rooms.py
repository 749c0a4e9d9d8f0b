"""Rooms: who is to hear what is said to many.

Rules of this file: a room is a name within one namespace; it is there as long as a socket is in it.
Order is the order of entering, so that the same inputs give the same outputs.
"""

from tokenwire.socketio.socket import Socket


class Rooms:
    """The rooms of all namespaces."""

    __slots__ = ("_members", "_of")

    def __init__(self) -> None:
        self._members: dict[tuple[str, str], dict[Socket, None]] = {}
        self._of: dict[Socket, dict[str, None]] = {}

    def enter(self, socket: Socket, room: str) -> None:
        """Put a socket into a room; harmless when it is in it."""
        self._members.setdefault((socket.name, room), {})[socket] = None
        self._of.setdefault(socket, {})[room] = None

    def leave(self, socket: Socket, room: str) -> None:
        """Take a socket out of a room; harmless when it is not in it."""
        members = self._members.get((socket.name, room), {})
        if socket not in members:
            return
        del members[socket]
        if not members:
            del self._members[socket.name, room]
        del self._of[socket][room]
        if not self._of[socket]:
            del self._of[socket]

    def leave_all(self, socket: Socket) -> None:
        for room in self.of(socket):
            self.leave(socket, room)

    def of(self, socket: Socket) -> tuple[str, ...]:
        """Return the rooms that a socket is in."""
        return tuple(self._of.get(socket, ()))

    def members(self, namespace: str, room: str) -> tuple[Socket, ...]:
        """Return who is in a room."""
        return tuple(self._members.get((namespace, room), ()))
