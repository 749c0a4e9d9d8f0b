"""Two clients that show one secret at the same time, in any interleaving of their bytes.

Rules of this file: `Law` says in a few lines whose the session is after each whole message (AI-060,
AI-061, AI-074). The bytes of both come in pieces, some of them in one turn of the server, with
tokens of the model and the loss of the old connection in between. In the end one client has the
session and all of the text; no token has gone, as it came, to more than one connection.
"""

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import msgspec
from core.ai.client import NO_PINGS, Said, metadata, read
from core.ai.stock import Shown
from properties.mutations import UPGRADE, WEBSOCKET, request
from tokenwire.config import Config
from tokenwire.testing import World
from tokenwire.testing.parse import take_answer, take_frames
from tokenwire.testing.world import masked_frame

CONFIG = Config(heartbeat_interval=NO_PINGS, recovery="on", takeovers_per_minute=1_000_000)
STREAM = "s"

Kind = Literal["clientId", "pid"]
What = Literal["clientId", "pid", "word"]
"""What a message shows; a word shows nothing, but that its client has had the answer."""
KINDS: tuple[tuple[Kind, Kind], ...] = (
    ("clientId", "clientId"),
    ("pid", "pid"),
    ("clientId", "pid"),
    ("pid", "clientId"),
)


class Racer:
    """One connection: the old one, or a rival for its session."""

    def __init__(self, world: World, had: list[Said]) -> None:
        """
        Args:
            world: where.
            had: what its client had been sent over another connection.
        """
        self._world = world
        self.had = had
        self.wire = world.connect()
        self.send(request(b"GET", WEBSOCKET, UPGRADE))
        answer, self.wire.received = take_answer(self.wire.received)
        assert answer is not None
        self.packets: list[str] = []
        """What has come, of Socket.IO."""

    def send(self, data: bytes, *, pump: bool = True) -> None:
        """Send bytes, if there is a connection. Without `pump` the server's answers come later."""
        if self.wire.open:
            self._world.server.receive_data(self.wire.conn, data, self._world.now)
        if pump:
            self._world.pump()

    def look(self) -> None:
        """Read what has come."""
        frames, self.wire.received = take_frames(self.wire.received)
        self.packets += [frame.text[1:] for frame in frames if frame.text[:1] == "4"]

    @property
    def is_gone(self) -> bool:
        """True: the server has told it to go, or has dropped it."""
        return "1/ai," in self.packets or not self.wire.open

    @property
    def came(self) -> list[Said]:
        """The events that have come over this connection."""
        return [read(text[5:].encode()) for text in self.packets if text.startswith("2/ai,")]

    @property
    def of_stream(self) -> list[Said]:
        return [event for event in self.came if event.fields.get("streamId") == STREAM]

    @property
    def shown(self) -> Shown:
        """The stream as its client shows it: what it had before, and what came."""
        shown = Shown()
        for event in (*self.had, *self.of_stream):
            if event.fields.get("streamId") == STREAM:
                shown.take(event)
        return shown

    @property
    def client_id(self) -> str:
        names = [str(event["clientId"]) for event in self.came if event.name == "ai:connected"]
        return names[-1]

    @property
    def is_refused(self) -> bool:
        return any(event.fields.get("code") == "reconnect_failed" for event in self.came)


class Law:
    """Whose the session is."""

    def __init__(self) -> None:
        self.holder: int | None = None
        """The rival who has it; None: none of them."""
        self.refused: set[int] = set()
        self.fenced: set[int] = set()
        self.id_is_good = True
        """True: with the old clientId the session can be taken over."""
        self._pid_is_good = True
        self._unconfirmed: int | None = None

    def shows(self, rival: int, what: What) -> None:
        """A whole message of a rival's has come."""
        if rival in self.fenced:
            return
        if what == "word":
            if rival == self._unconfirmed:
                self.id_is_good = False
        elif not (self._pid_is_good if what == "pid" else self.id_is_good):
            self.refused.add(rival)
        elif self._unconfirmed is not None and rival < self._unconfirmed:
            self.refused.add(rival)  # it came before the one that has the session: it is late
        else:
            if self.holder is not None:
                self.fenced.add(self.holder)
            self.holder = rival
            if what == "clientId":
                self._pid_is_good = False
                self._unconfirmed = rival


def frame(packet: str) -> bytes:
    return masked_frame(f"4{packet}".encode())


def reconnect(client_id: str) -> bytes:
    fields = msgspec.json.encode({"previousClientId": client_id}).decode()
    return frame(f'2/ai,["ai:reconnect",{fields}]')


HEARTBEAT = frame('2/ai,["ai:heartbeat"]')


class Race:
    """One race. The old connection has a stream with two tokens."""

    def __init__(self, draw: random.Random, kinds: tuple[Kind, Kind]) -> None:
        self._draw = draw
        self._kinds = kinds
        self._world = World(CONFIG, seed=draw.randrange(1 << 30))
        self._world.offered = ["codellama"]
        self._world.advance(0)
        self._said: list[str] = []
        self._law = Law()
        self._old = Racer(self._world, [])
        self._old.send(frame("0/ai,"))
        request = f'{{"prompt":"p","streamId":"{STREAM}"}}'
        self._old.send(frame(f'2/ai,["ai:stream",{request}]'))
        self._model = self._world.models[-1]
        self._say()
        self._say()
        self._old.look()
        self._rivals = [self._rival(kind) for kind in kinds]
        self._racers = [self._old, *self._rivals]

    def _say(self) -> None:
        self._said.append(f"t{len(self._said)} ")
        self._model.say(self._said[-1])

    # -- what both will send -----------------------------------------------------------------------

    def _rival(self, kind: Kind) -> Racer:
        """Return who is about to show the secret; by a pid, with what a client had got so far."""
        if kind == "pid":
            return Racer(self._world, self._old.came[: self._draw.randrange(6)])
        racer = Racer(self._world, [])
        racer.send(frame('0/ai,{"recovery":false}'))
        return racer

    def _messages(self, number: int) -> list[tuple[bytes, What]]:
        kind, rival = self._kinds[number], self._rivals[number]
        if kind == "clientId":
            first = reconnect(self._old.client_id)
        else:
            reply, *events = self._old.packets
            auth = {"pid": msgspec.json.decode(reply[5:])["pid"]}
            if rival.had:
                auth["offset"] = msgspec.json.decode(events[len(rival.had) - 1][5:])[-1]
            first = frame("0/ai," + msgspec.json.encode(auth).decode())
        messages: list[tuple[bytes, What]] = [(first, kind)]
        if self._draw.random() < 0.4:
            messages.append((HEARTBEAT, "word"))
        return messages

    def _pieces(self, number: int) -> list[Callable[[bool], None]]:
        """Return what sends the rival's bytes, piece by piece."""
        messages = self._messages(number)
        data = b"".join(text for text, _ in messages)
        ends = [len(messages[0][0]), len(data)][: len(messages)]
        count = self._draw.randrange(4)
        cuts = sorted({0, len(data), *(self._draw.randrange(len(data)) for _ in range(count))})

        def piece(start: int, end: int) -> Callable[[bool], None]:
            def send(pump: bool) -> None:
                for at, (_, what) in zip(ends, messages, strict=True):
                    if start < at <= end:
                        self._law.shows(number, what)
                self._rivals[number].send(data[start:end], pump=pump)

            return send

        return [piece(start, end) for start, end in pairwise(cuts)]

    # -- the race ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Let everything happen, in an order that is drawn.

        Raises:
            AssertionError: something that must hold does not.
        """
        steps: list[Callable[[bool], None]] = []
        for number in (0, 1):
            at = 0
            for piece in self._pieces(number):
                at = self._draw.randrange(at, len(steps) + 1)
                steps.insert(at, piece)
                at += 1
        for _ in range(self._draw.randrange(4)):
            steps.insert(self._draw.randrange(len(steps) + 1), lambda pump: self._say())
        if self._draw.random() < 0.7:
            steps.insert(self._draw.randrange(len(steps) + 1), lambda pump: self._lose_old())
        for step in steps:
            step(self._draw.random() < 0.5)
        self._world.pump()
        self._check_holder()
        self._check_secrets()
        self._check_end()

    def _lose_old(self) -> None:
        self._look()
        if self._old.wire.open:
            self._old.wire.drop()

    def _look(self) -> None:
        self._world.pump()
        for racer in self._racers:
            racer.look()

    def _check_holder(self) -> None:
        """One rival has the session; the other was refused, or was told to go, or was dropped."""
        self._look()
        assert self._law.holder is not None
        self._winner = self._rivals[self._law.holder]
        loser = self._rivals[1 - self._law.holder]
        assert not self._winner.is_gone
        assert not self._winner.is_refused
        assert self._old.is_gone
        if self._law.fenced:
            assert loser.is_gone
            assert "".join(self._said).startswith(loser.shown.text)
        else:
            assert self._law.refused
            assert not loser.is_gone
            assert not loser.of_stream
            assert loser.is_refused or self._kinds[1 - self._law.holder] == "pid"
        before = [len(racer.of_stream) for racer in self._racers]
        self._say()
        self._look()
        grown = [len(racer.of_stream) for racer in self._racers]
        grown = [after - was for after, was in zip(grown, before, strict=True)]
        assert grown == [0, *(int(rival is self._winner) for rival in self._rivals)]
        assert self._winner.shown.text == "".join(self._said)

    def _check_secrets(self) -> None:
        """From now on the old secret is over; the new clientId is its owner's."""
        self._winner.send(HEARTBEAT)
        thief = self._come()
        if self._winner.client_id != self._old.client_id:  # else it is still that of the session
            thief.send(reconnect(self._old.client_id))
            self._look()
            assert thief.is_refused
            assert not thief.of_stream
            assert not self._winner.is_gone
        back = self._come()
        back.send(reconnect(self._winner.client_id))
        self._look()
        assert self._winner.is_gone
        assert back.shown.text == "".join(self._said)
        self._winner = back

    def _come(self) -> Racer:
        racer = Racer(self._world, [])
        racer.send(frame('0/ai,{"recovery":false}'))
        self._racers.append(racer)
        return racer

    def _check_end(self) -> None:
        """The winner has the end, much later; no token went to two connections as it came."""
        self._world.advance(CONFIG.reconnect_timeout)
        self._say()
        self._model.done()
        self._look()
        assert self._winner.shown.text == "".join(self._said)
        assert self._winner.shown.ends == ["ai:stream:complete", "ai:done"]
        live = Counter(
            event["seq"]
            for racer in self._racers
            for event in racer.of_stream
            if event.name == "ai:token" and "replayed" not in metadata(event)
        )
        assert max(live.values()) == 1, live


def play(seed: int, number: int) -> None:
    """Run one race.

    Raises:
        AssertionError: something that must hold does not.
    """
    draw = random.Random(f"{seed}/{number}")
    Race(draw, KINDS[number % len(KINDS)]).run()
