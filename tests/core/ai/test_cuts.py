"""A session of three streams, cut at every byte: whatever the client, it has the model's text.

Rules of this file: `Stock` is what socket.io-client does, its rule for offsets included; a cut
means that the client reads so many bytes of a connection and no more, whatever the server thinks
that it has sent. What the models say, and when, is always the same.
"""

import itertools
import os
from collections.abc import Iterator
from random import Random

import msgspec
import pytest
from core.ai.client import NO_PINGS, Fields, Said, metadata
from tokenwire.config import Config
from tokenwire.testing import World
from tokenwire.testing.parse import take_answer, take_frames
from tokenwire.testing.world import masked_frame

NAMES = ("a", "b", "c")
TEXTS = {
    "a": ["one ", "two ", "thr\u00e9\u00e9 ", "four", " five", " six"],
    "b": ["\U0001f389", "x" * 200, "y"],
    "c": ["", "only"],
}


class Stock:
    """A stock client, and what its program shows."""

    def __init__(self, world: World, *, recovery: bool, reconnect: str | None) -> None:
        self.world = world
        self.recovery = recovery
        self.reconnect = reconnect
        """What the program sends when it is back: "whole", "cursors", or nothing."""
        self.said: list[Said] = []
        self.recovered = False
        self.client_id: str | None = None
        self._pid: str | None = None
        self._offset: str | None = None
        self._buffer: list[list[object]] = []
        self._unsent: list[str] = []
        self.open()

    def open(self) -> None:
        """Connect, and join."""
        self.connected = False
        self._read = 0
        self._data = b""
        self.wire = self.world.connect()
        self.wire.send(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        auth: dict[str, object] = {}
        if self._pid is not None:
            auth = {"pid": self._pid, "offset": self._offset}
            if self._offset is None:
                del auth["offset"]  # JavaScript leaves out what is undefined
        if not self.recovery:
            auth["recovery"] = False
        self._send_text("40/ai," + msgspec.json.encode(auth).decode())
        self._head = True

    def emit(self, name: str, fields: Fields) -> None:
        """Send an event, now or when it is connected again."""
        text = "42/ai," + msgspec.json.encode([name, fields]).decode()
        if self.connected:
            self._send_text(text)
        else:
            self._unsent.append(text)

    def _send_text(self, text: str) -> None:
        self.wire.send(masked_frame(text.encode()))

    def read(self, limit: int | None = None) -> int:
        """Read what has come, up to so many bytes of the connection. Return how many have come."""
        data = self.wire.received[: None if limit is None else limit]
        self._data += data[self._read :]
        self._read = len(data)
        if self._head:
            answer, rest = take_answer(self._data)
            if answer is None:
                return len(self.wire.received)
            self._head, self._data = False, rest
        frames, self._data = take_frames(self._data)
        for frame in frames:
            self._take(frame.payload.decode())
        return len(self.wire.received)

    def _take(self, text: str) -> None:
        if text.startswith("40/ai,"):
            reply = msgspec.json.decode(text[6:], type=dict[str, str])
            pid = reply.get("pid")
            self.recovered = pid is not None and pid == self._pid
            self._pid = pid
            self.connected = True
            for args in self._buffer:
                self._emit(args)
            self._buffer.clear()
            for unsent in self._unsent:
                self._send_text(unsent)
            self._unsent.clear()
        elif text.startswith("42/ai,"):
            args = msgspec.json.decode(text[6:], type=list[object])
            if self.connected:
                self._emit(args)
            else:
                self._buffer.append(args)

    def _emit(self, args: list[object]) -> None:
        name, fields = args[:2]
        assert isinstance(name, str)
        assert isinstance(fields, dict)
        self._program(Said(name, fields))
        if self._pid is not None and isinstance(args[-1], str):
            self._offset = args[-1]

    def _program(self, event: Said) -> None:
        self.said.append(event)
        if event.name != "ai:connected":
            return
        previous, self.client_id = self.client_id, str(event["clientId"])
        if previous is not None and self.reconnect is not None:
            fields: Fields = {"previousClientId": previous}
            if self.reconnect == "cursors":
                fields["streams"] = {
                    name: shown.seq for name, shown in self.shown().items() if shown.seq
                }
            self.emit("ai:reconnect", fields)

    def shown(self) -> dict[str, "Shown"]:
        """Return what the program shows of each stream."""
        streams: dict[str, Shown] = {}
        for event in self.said:
            name = event.fields.get("streamId")
            if isinstance(name, str):
                streams.setdefault(name, Shown()).take(event)
            elif event.name == "ai:reconnect:success" and self.reconnect == "cursors":
                for resumed in msgspec.convert(event["streams"], list[dict[str, object]]):
                    shown = streams.setdefault(str(resumed["streamId"]), Shown())
                    shown.go_back(msgspec.convert(resumed["nextSeq"], int))
        return streams


class Shown:
    """One stream as its client has it."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, str]] = []
        self.ends: list[str] = []
        self.is_again = False
        """True: it was asked for again from a cursor, which says nothing of the end."""

    @property
    def seq(self) -> int:
        return self._pieces[-1][0] if self._pieces else 0

    @property
    def text(self) -> str:
        return "".join(text for _, text in self._pieces)

    def go_back(self, next_seq: int) -> None:
        """What follows begins with this token (AI-063): what came meanwhile comes again."""
        self.is_again = True
        if next_seq <= self.seq:
            self._pieces = [piece for piece in self._pieces if piece[0] < next_seq]
            self.ends.clear()

    def take(self, event: Said) -> None:
        match event.name:
            case "ai:stream:start":
                self._pieces.clear()
                self.ends.clear()
            case "ai:token":
                seq = msgspec.convert(event["seq"], int)
                tokens = metadata(event).get("tokens", 1)
                assert seq - self.seq == tokens, "a hole, or twice"
                assert not self.ends
                self._pieces.append((seq, str(event["data"])))
            case "ai:stream:complete" | "ai:done":
                if not self.is_again or event.name not in self.ends:
                    self.ends.append(event.name)
            case _:
                raise AssertionError(event)


KINDS: dict[str, dict[str, object]] = {
    "recovery alone": {"recovery": True, "reconnect": None},
    "recovery and the seed's ai:reconnect": {"recovery": True, "reconnect": "whole"},
    "ai:reconnect alone": {"recovery": False, "reconnect": "whole"},
    "cursors": {"recovery": False, "reconnect": "cursors"},
    "recovery and cursors": {"recovery": True, "reconnect": "cursors"},
}


def script(world: World, client: Stock) -> Iterator[None]:
    """Say what the models say, a step at a time."""
    for name in NAMES:
        client.emit("ai:stream", {"prompt": "p", "streamId": name})
        yield
    models = dict(zip(NAMES, world.models, strict=True))
    for pieces in itertools.zip_longest(*TEXTS.values()):
        for name, piece in zip(NAMES, pieces, strict=True):
            if piece is not None:
                models[name].say(piece)
                yield
    for name in ("b", "a", "c"):
        models[name].done()
        yield


def new_world() -> World:
    world = World(Config(heartbeat_interval=NO_PINGS))
    world.offered = ["codellama"]
    world.advance(0)
    return world


def play(kind: str, cuts: list[int], away: int = 0) -> tuple[Stock, int]:
    """Play the session. Connection number n is cut when its client has read `cuts[n]` bytes.

    Args:
        kind: one of KINDS.
        cuts: where; a connection behind them lives.
        away: so many steps pass before the client is back.

    Returns:
        The client, and how many bytes its first connection has brought.
    """
    world = new_world()
    client = Stock(world, **KINDS[kind])  # type: ignore[arg-type]
    client.read()
    assert client.client_id is not None
    steps = script(world, client)
    cuts = list(cuts)
    absent = 0
    brought = 0
    for _ in itertools.chain(steps, itertools.repeat(None, (away + 1) * (len(cuts) + 1))):
        if absent:
            absent -= 1
            if absent:
                continue
            client.open()
        while True:
            total = client.read(cuts[0] if cuts else None)
            if not brought and not cuts:
                brought = total
            if not cuts or total < cuts[0]:
                break
            client.wire.drop()
            client.connected = False
            cuts.pop(0)
            absent = away
            if absent:
                break
            client.open()
    client.read()
    for stream, shown in client.shown().items():
        assert shown.text == "".join(TEXTS[stream]), (stream, kind, cuts)
        assert shown.ends == ["ai:stream:complete", "ai:done"]
    assert set(client.shown()) == set(NAMES)
    return client, client.read()


@pytest.mark.parametrize("kind", KINDS)
def test_uncut(kind: str) -> None:
    play(kind, [])


def started_bytes(kind: str) -> int:
    """Return how many bytes a connection brings until all streams have started."""
    world = new_world()
    client = Stock(world, **KINDS[kind])  # type: ignore[arg-type]
    client.read()
    steps = script(world, client)
    for _ in NAMES:
        next(steps)
    return client.read()


def first_bytes(kind: str) -> int:
    """Return how many bytes a connection brings to the end of its `ai:connected`."""
    client = Stock(new_world(), **KINDS[kind])  # type: ignore[arg-type]
    return client.read()


LONG = bool(os.environ.get("TOKENWIRE_LONG"))
STRIDE = 1 if LONG else 13
"""In a short run a cut is made at every so many bytes, each kind of client beginning elsewhere."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_at_every_byte(kind: str) -> None:
    first = first_bytes(kind) + list(KINDS).index(kind) % STRIDE
    _, whole = play(kind, [])
    for cut in range(first, whole, STRIDE):
        play(kind, [cut])


@pytest.mark.parametrize("away", [0, 1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_cuts_one_after_the_other(kind: str, away: int) -> None:
    """A drop in the midst of a replay, two in a row, and the models go on meanwhile."""
    first = started_bytes(kind)
    _, whole = play(kind, [])
    random = Random(f"{kind} {away}")
    for _ in range(400 if LONG else 25):
        cuts = [random.randrange(first, whole)]
        cuts += [random.randrange(1, 1_500) for _ in range(random.randrange(1, 5))]
        play(kind, cuts, away)
