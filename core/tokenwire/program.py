"""What the program wants of the sockets in its own namespaces.

Rules of this file: arguments are checked and encoded before anything changes. A socket is named by
its id, which a `Connected` (or `Joining`) has told; one that has left for good raises.
"""

from collections.abc import Sequence

from tokenwire.errors import LocalProtocolError
from tokenwire.socketio.binary import Body, encode_body
from tokenwire.socketio.server import SocketServer
from tokenwire.types import Millis
from tokenwire.wire.socketio import RESERVED_EVENTS


class Program:
    """The part of a server that a program of Socket.IO calls."""

    _sockets: SocketServer

    # -- joining -----------------------------------------------------------------------------------

    def admit(self, socket: str, now: Millis) -> None:
        """Answer a Joining: let the client in. Does nothing if it has gone meanwhile."""
        self._sockets.answer(socket, None, now)

    def refuse(
        self, socket: str, message: str, now: Millis, data: dict[str, object] | None = None
    ) -> None:
        """Answer a Joining: the client's `connect_error` gets `message` and `data`.

        Raises:
            LocalProtocolError: `data` is not JSON alone.
        """
        error: dict[str, object] = {"message": message}
        if data is not None:
            error["data"] = data
        encode_body([error], 0)
        self._sockets.answer(socket, error, now)

    def disconnect(self, socket: str, now: Millis, *, close: bool = False) -> None:
        """Take a socket out of its namespace; with `close` its transport closes too.

        Raises:
            LocalProtocolError: there is no such socket.
        """
        program = self._sockets.program
        program.disconnect(program.socket(socket), now, close=close)

    # -- events ------------------------------------------------------------------------------------

    def emit(
        self,
        socket: str,
        name: str | int,
        args: list[object],
        now: Millis,
        *,
        want_ack: bool = False,
        ack_timeout: int | None = None,
        volatile: bool = False,
    ) -> int | None:
        """Send an event to one socket.

        Args:
            socket: its id. One that is away gets the event when it is back in time.
            name: the event's name.
            args: JSON values and bytes.
            now: the time.
            want_ack: ask for an acknowledgement: Acknowledged or AckFailed will follow.
            ack_timeout: milliseconds until AckFailed; without it, when the socket leaves.
            volatile: drop the event if it cannot go out now.

        Returns:
            The ack id to wait for, if one is wanted.

        Raises:
            LocalProtocolError: there is no such socket, the name is reserved, `args` is not JSON
                and bytes, or a volatile event is to be acknowledged.
        """
        body = self._event(name, args)
        _check(want_ack=want_ack, ack_timeout=ack_timeout, volatile=volatile)
        found = self._sockets.program.socket(socket)
        if want_ack:
            return self._sockets.program.ask(found, body, now, ack_timeout)
        found.emit(body, now, volatile=volatile)
        return None

    def broadcast(
        self,
        namespace: str,
        name: str | int,
        args: list[object],
        now: Millis,
        *,
        rooms: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        want_ack: bool = False,
        ack_timeout: int | None = None,
        volatile: bool = False,
    ) -> dict[str, int]:
        """Send an event to many sockets, once to each.

        Args:
            namespace: where.
            name: the event's name.
            args: JSON values and bytes.
            now: the time.
            rooms: to whom; a socket's id is a room of its own. None: all in the namespace.
            exclude: rooms whose members are left out (a sender's id, for example).
            want_ack: ask each for an acknowledgement.
            ack_timeout: as with `emit`.
            volatile: as with `emit`.

        Returns:
            With `want_ack`: the ack id to wait for, by socket.

        Raises:
            LocalProtocolError: as with `emit`.
        """
        body = self._event(name, args)
        _check(want_ack=want_ack, ack_timeout=ack_timeout, volatile=volatile)
        for names in (rooms, exclude):
            if names is not None and not isinstance(names, list | tuple):
                # A string has letters, a set no order.
                raise LocalProtocolError("rooms and exclude are lists of names")
        program = self._sockets.program
        audience = program.audience(namespace, rooms, exclude)
        if want_ack:
            return {found.id: program.ask(found, body, now, ack_timeout) for found in audience}
        program.broadcast(audience, body, now, volatile=volatile)
        return {}

    def acknowledge(self, socket: str, ack_id: int, args: list[object], now: Millis) -> None:
        """Answer an Event that has an `ack_id`.

        Raises:
            LocalProtocolError: there is no such socket, or `args` is not JSON and bytes.
        """
        body = encode_body(args, self._sockets.config.max_attachments)
        if type(ack_id) is not int or ack_id < 0:
            raise LocalProtocolError(f"{ack_id!r} is no Event's ack_id")
        self._sockets.program.socket(socket).acknowledge(ack_id, body, now)

    # -- rooms -------------------------------------------------------------------------------------

    def join(self, socket: str, room: str) -> None:
        """Put a socket into a room of its namespace; harmless when it is in it.

        Raises:
            LocalProtocolError: there is no such socket, or the room has another one's id.
        """
        self._sockets.program.enter(self._sockets.program.socket(socket), room)

    def leave(self, socket: str, room: str) -> None:
        """Take a socket out of a room; harmless when it is not in it.

        Raises:
            LocalProtocolError: there is no such socket.
        """
        self._sockets.program.leave(self._sockets.program.socket(socket), room)

    def rooms(self, socket: str) -> tuple[str, ...]:
        """Return the rooms that a socket was put into.

        Raises:
            LocalProtocolError: there is no such socket.
        """
        return self._sockets.program.rooms(self._sockets.program.socket(socket))

    def members(self, namespace: str, room: str | None = None) -> tuple[str, ...]:
        """Return the ids of the sockets in a room, or in the whole namespace."""
        rooms = None if room is None else (room,)
        audience = self._sockets.program.audience(namespace, rooms, ())
        return tuple(socket.id for socket in audience)

    def _event(self, name: object, args: list[object]) -> Body:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise LocalProtocolError("the name of an event is a string or an integer")
        if name in RESERVED_EVENTS:
            raise LocalProtocolError(f"{name!r} is the protocol's own event")
        return encode_body([name, *args], self._sockets.config.max_attachments)


def _check(*, want_ack: bool, ack_timeout: int | None, volatile: bool) -> None:
    if volatile and want_ack:
        raise LocalProtocolError("a volatile event may be dropped: it cannot be acknowledged")
    if ack_timeout is not None and (not want_ack or ack_timeout < 1):
        raise LocalProtocolError("ack_timeout is at least 1 and needs want_ack")
