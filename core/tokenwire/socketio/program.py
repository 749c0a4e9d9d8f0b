"""The program's own namespaces: what happens in them becomes outputs.

Rules of this file: an acknowledgement that was asked for comes (Acknowledged) or does not
(AckFailed), exactly once; what still waits when a socket leaves fails before Disconnected is said.
"""

from tokenwire.config import Config
from tokenwire.outputs import (
    AckFailed,
    Acknowledged,
    Connected,
    Disconnected,
    Event,
    Joining,
    Outputs,
)
from tokenwire.socketio.socket import LATER, Later, Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import Millis


class ProgramNamespace:
    """The handler of every namespace of the program's (`socket.Namespace`)."""

    def __init__(self, config: Config, outputs: Outputs, timers: Timers) -> None:
        self._recovers = config.recovery_timeout is not None
        self._decides = config.program_decides_joins
        self._outputs = outputs
        self._timers = timers

    def connect(self, socket: Socket, auth: object, now: Millis) -> Later | None:
        if not self._decides:
            return None
        self._outputs.put(Joining(socket.id, socket.name, self._shown(auth)))
        return LATER

    def connected(self, socket: Socket, auth: object, now: Millis, *, recovered: bool) -> None:
        self._outputs.put(Connected(socket.id, socket.name, self._shown(auth), recovered))

    def _shown(self, auth: object) -> object:
        """Return the payload without what is the protocol's own: a pid is a secret."""
        if self._recovers and isinstance(auth, dict) and "pid" in auth:
            return {key: value for key, value in auth.items() if key not in ("pid", "offset")}
        return auth

    def event(
        self, socket: Socket, name: str | int, args: list[object], ack_id: int | None, now: Millis
    ) -> None:
        self._outputs.put(Event(socket.id, socket.name, name, tuple(args), ack_id))

    def acknowledged(self, socket: Socket, ack_id: int, args: list[object]) -> None:
        self._timers.clear(Timer.ACK, f"{socket.id} {ack_id}")
        self._outputs.put(Acknowledged(socket.id, ack_id, tuple(args)))

    def disconnected(self, socket: Socket, reason: str, now: Millis) -> None:
        for ack_id in socket.end_acks():
            self._timers.clear(Timer.ACK, f"{socket.id} {ack_id}")
            self._outputs.put(AckFailed(socket.id, ack_id, "disconnected"))
        self._outputs.put(Disconnected(socket.id, socket.name, reason))
