"""Engine.IO for programs that want nothing above it: messages in, messages out.

Rules of this file: what a session receives becomes outputs; what it is sent is queued, bounded as a
Socket.IO client's events are.
"""

from tokenwire.config import Config
from tokenwire.engineio.engine import Engine
from tokenwire.engineio.outbox import Outbox
from tokenwire.engineio.session import SLOW_CONSUMER, EngineSession
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import Message, SessionClosed, SessionOpened
from tokenwire.queue import Outputs
from tokenwire.timers import Timers
from tokenwire.types import IdSource, Millis
from tokenwire.wire import Binary


class PlainSession:
    """What is above one session (`session.Upper`)."""

    __slots__ = ("_server", "outbox", "session")

    def __init__(self, session: EngineSession, server: "PlainServer", outbox: Outbox) -> None:
        self.session = session
        self.outbox = outbox
        self._server = server

    def receive(self, message: bytes, now: Millis) -> None:
        data = bytes(message) if type(message) is Binary else message.decode()
        self._server.outputs.put(Message(self.session.sid, data))

    def closed(self, reason: str, now: Millis) -> None:
        self.outbox.take_all()
        self._server.forget(self, reason)

    def has_output(self) -> bool:
        return bool(self.outbox)

    def has_queued(self) -> bool:
        return bool(self.outbox)

    def received(self) -> None:
        """Nothing is kept here for a client that may not have got it."""

    def pull(self, out: list[bytes], budget: int, now: Millis) -> None:
        self.outbox.pull(out, budget)

    def refused(self, now: Millis) -> None:
        """Nothing is streamed here: what waits is bounded by the outbox."""

    def last_words(self) -> list[bytes]:
        return self.outbox.take_all()


class PlainServer:
    """All sessions of a server without Socket.IO."""

    def __init__(
        self, config: Config, outputs: Outputs, timers: Timers, id_source: IdSource
    ) -> None:
        self.outputs = outputs
        self.engine = Engine(config, outputs, timers, id_source, self._open)
        self._config = config
        self._sessions: dict[str, PlainSession] = {}

    def _open(self, session: EngineSession, now: Millis) -> PlainSession:
        plain = PlainSession(
            session, self, Outbox(self._config.outbox_bytes, self._config.outbox_burst_bytes)
        )
        self._sessions[session.sid] = plain
        self.outputs.put(SessionOpened(session.sid))
        return plain

    def forget(self, plain: PlainSession, reason: str) -> None:
        del self._sessions[plain.session.sid]
        self.outputs.put(SessionClosed(plain.session.sid, reason))

    def has_output(self) -> bool:
        """Return True if a client was not handed everything yet."""
        return any(plain.has_output() for plain in self._sessions.values())

    def send(self, sid: str, data: str | bytes, now: Millis) -> None:
        """Queue a message. A client that lets too much wait is dropped.

        Raises:
            LocalProtocolError: there is no such session (any more), or `data` is no Unicode text.
        """
        plain = self._find(sid)
        try:
            message = data.encode() if isinstance(data, str) else Binary(data)
        except UnicodeEncodeError as error:
            raise LocalProtocolError("a text message cannot hold lone surrogates") from error
        if plain.outbox.put([message], writable=plain.session.writable()):
            plain.session.wake()
        else:
            self.engine.abort_session(plain.session, SLOW_CONSUMER, now)

    def close(self, sid: str, now: Millis) -> None:
        """Close a session behind what is queued.

        Raises:
            LocalProtocolError: there is no such session (any more).
        """
        self.engine.close_session(self._find(sid).session, "forced close", now)

    def _find(self, sid: str) -> PlainSession:
        plain = self._sessions.get(sid)
        if plain is None:
            raise LocalProtocolError("no such session: it is over")
        return plain
