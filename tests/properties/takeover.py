"""Attempts to take over sessions of others, very many in the life of one server.

Rules of this file: the owners are stock clients that lose their connections and come back, each
with a stream whose text names it. The thieves know all that is no secret, and the secrets that are
over (`forgeries.py`). An attempt has one answer that it may get; nothing of a stream ever comes to
a thief; each owner has its whole text whenever it is there, and nothing else. A seed decides all.

    cd tests && ../.venv/bin/python -m properties.takeover --attempts 1000000 --seed 1
    cd tests && ../.venv/bin/python -m properties.takeover --races 10000 --seed 1
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec
from core.ai.client import NO_PINGS
from core.ai.stock import Stock, WebSocketLink
from properties import races
from properties.forgeries import CLIENT_IDS, OFFSETS, PIDS, Forger, Over, Secrets
from properties.mutations import UPGRADE, WEBSOCKET, request
from tokenwire.config import Config
from tokenwire.testing import World
from tokenwire.testing.parse import take_answer, take_frames
from tokenwire.testing.world import masked_frame

CONFIG = Config(
    heartbeat_interval=NO_PINGS,
    stream_timeout=NO_PINGS,
    idle_timeout=NO_PINGS,
    recovery="on",
    messages_per_second=1_000_000,
    message_burst=1_000_000,
    stream_starts_per_minute=1_000_000,
    joins_per_minute=1_000_000,
    takeovers_per_minute=1_000_000,
    guesses_per_connection=1_000_000,
    guesses_per_minute=1_000_000,
)
"""Whatever limits how often somebody may guess is lifted here: else only that would be tried."""
OWNERS = 12
LIFE = 8  # rounds of one owner
ROUND = 200  # attempts
BURST = 50  # attempts in one read
TICK = 3_000  # ms, one round
TEXT = "private"
"""Stands in each piece of an owner's text."""
_PROGRESS = 30  # seconds

CANCEL, CURSOR = "ai:cancel of another's stream", "the own clientId with another's cursors"
FAILED = (
    b'["ai:error",{"error":"There is no session to take over with this previousClientId.",'
    b'"code":"reconnect_failed","details":"reconnect_failed","retryable":false}]'
)
FAILED_ACK = (
    b'[{"ok":false,"error":"There is no session to take over with this previousClientId.",'
    b'"code":"reconnect_failed"}]'
)
UNKNOWN = (
    b'["ai:error",{"error":"There is no such stream.","code":"stream_not_found",'
    b'"details":"stream_not_found","retryable":false,"field":"streamId","streamId":"%b"}]'
)
UNKNOWN_ACK = b'[{"ok":false,"error":"There is no such stream.","code":"stream_not_found"}]'
NOTHING = b'["ai:reconnect:success",{"previousClientId":"%b","newClientId":"%b","streams":[]}]'
NOTHING_ACK = b'[{"ok":true,"newClientId":"%b"}]'


class Broken(Exception):
    """Something that must hold does not."""


class Owner:
    """A client with a stream, and its model."""

    def __init__(self, world: World, number: int, over: Over, draw: random.Random) -> None:
        self._world = world
        self._over = over
        self._draw = draw
        self._away = 0
        self._said = ""
        self._left = LIFE
        self.is_over = False
        self.stream = f"stream-{number}"
        self._reloads = number % 4 == 1
        self._client = Stock(
            partial(WebSocketLink, world),
            recovery=number % 4 < 2,
            reconnect=(None, "whole", "cursors", "whole")[number % 4],
        )
        self._client.read()
        self._client.emit("ai:stream", {"prompt": "p", "streamId": self.stream})
        self._client.read()
        self._model = world.models[-1]

    @property
    def secrets(self) -> Secrets:
        client = self._client
        assert client.client_id is not None
        return Secrets(client.client_id, client.pid or "", client.offset or "")

    def turn(self) -> None:
        """Let the model say something; lose the connection, or come back; look at the text."""
        self._left -= 1
        piece = f"{TEXT} {self.stream} "
        self._said += piece
        self._model.say(piece)
        if self._away:
            self._away -= 1
            if not self._away:
                self._return()
        elif self._draw.random() < 0.15:
            self._client.read()
            self._client.link.drop()
            self._client.connected = False
            self._away = self._draw.randrange(1, 6)
        if not self._away:
            self.check()
            if self._left <= 0:
                self._end()

    def _return(self) -> None:
        before = self.secrets
        if self._reloads and self._draw.random() < 0.5:  # a page that knows its clientId alone
            self._client.pid = self._client.offset = None
        self._client.open()
        self._client.read()
        self._client.emit("ai:heartbeat", {})  # from now on the old secrets are over
        self._client.read()
        if self.secrets.client_id != before.client_id:
            self._over.latest.append(before)

    def check(self) -> None:
        """The client has all that its model has said, and nothing else.

        Raises:
            Broken: it does not.
        """
        client = self._client
        client.read()
        if list(client.shown) != [self.stream] or client.shown[self.stream].text != self._said:
            raise Broken(f"{self.stream} shows {client.said[-3:]}")
        if any(event.name == "ai:error" for event in client.said):
            raise Broken(f"{self.stream} was refused something")

    def _end(self) -> None:
        self._model.done()
        self.check()
        if self._client.shown[self.stream].ends != ["ai:stream:complete", "ai:done"]:
            raise Broken(f"{self.stream} has no end")
        self.is_over = True
        self._client.link.drop()
        self._over.expire_at(self._world.now + CONFIG.reconnect_timeout, self.secrets)


class Thief:
    """A WebSocket on which attempts are made, many in one read."""

    def __init__(self, world: World) -> None:
        self._wire = world.connect()
        self._wire.send(request(b"GET", WEBSOCKET, UPGRADE))
        answer, self._wire.received = take_answer(self._wire.received)
        assert answer is not None
        self._sent: list[bytes] = []
        self.exchange()  # the first packet of Engine.IO

    def put(self, packet: str) -> None:
        """Send a Socket.IO packet with the next read."""
        self._sent.append(masked_frame(f"4{packet}".encode()))

    def exchange(self) -> bytes:
        """Send what was put, and return the frames that come.

        Raises:
            Broken: there is something of an owner's text in it, or the thief was cut off.
        """
        if self._sent:
            self._wire.send(b"".join(self._sent))
            self._sent.clear()
        came, self._wire.received = self._wire.received, b""
        if TEXT.encode() in came:
            raise Broken(f"a thief has got {came!r}")
        if not self._wire.open:
            raise Broken("a thief was cut off")
        return came

    def packets(self) -> list[str]:
        """Send what was put, and return the Socket.IO packets that come."""
        frames, _ = take_frames(self.exchange())
        return [frame.text[1:] for frame in frames]

    def join(self, auth: dict[str, object]) -> tuple[Secrets, bool]:
        """Join /ai. Return what it has got by it, and if a session is said to be recovered.

        Raises:
            Broken: there came something else than that.
        """
        self.put("0/ai," + json.dumps(auth))
        reply, *events = self.packets()
        fields = msgspec.json.decode(reply[5:], type=dict[str, str])
        recovered = False
        for event in events:
            name, hello, *rest = msgspec.json.decode(event[5:])
            if name != "ai:connected":
                raise Broken(f"{auth} has got {event}")
            recovered = recovered or hello["recovered"]
        return Secrets(hello["clientId"], fields.get("pid", ""), "".join(rest)), recovered

    def leave(self) -> None:
        self._wire.drop()


def server_frame(packet: bytes) -> bytes:
    """Return the frame of a server with a Socket.IO packet."""
    return masked_frame(b"4" + packet, masked=False)


class Robbery:
    """The owners, the thieves, and what was tried so far."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.world = World(CONFIG, seed=seed)
        self.world.offered = ["codellama"]
        self.world.advance(0)
        self._over = Over()
        self._forger = Forger(self._draw, self._over)
        self._started = 0
        self._owners = [self._new_owner() for _ in range(OWNERS)]
        self.tried: Counter[str] = Counter()

    def _new_owner(self) -> Owner:
        self._started += 1
        return Owner(self.world, self._started, self._over, self._draw)

    @property
    def secrets(self) -> list[Secrets]:
        """Those of all owners."""
        return [owner.secrets for owner in self._owners]

    def round(self, attempts: int) -> None:
        """Make attempts; then the owners have their turn.

        Raises:
            Broken: an attempt had another answer than it may have, or an owner was disturbed.
        """
        with_pids = attempts // 5
        self._show_client_ids(attempts - with_pids)
        self._show_pids(with_pids)
        self.world.advance(TICK)
        self._over.look(self.world.now)
        for number, owner in enumerate(self._owners):
            owner.turn()
            if owner.is_over:
                self._owners[number] = self._new_owner()

    def finish(self) -> None:
        """Let all owners come to their ends.

        Raises:
            Broken: one does not have what its model has said, or something is left.
        """
        for owner in self._owners:
            while not owner.is_over:
                owner.turn()
        self.world.advance(2 * CONFIG.reconnect_timeout)
        stats = self.world.server.stats()
        if stats.total_active_streams or stats.total_sessions or stats.bytes_held:
            raise Broken(f"{stats} is left")

    def _aim(self) -> None:
        """Choose whose session is to be taken over."""
        self._forger.victim = self._draw.choice(self._owners).secrets
        self._forger.other = self._owners[0].secrets

    # -- with ai:reconnect -------------------------------------------------------------------------

    def _show_client_ids(self, attempts: int) -> None:
        thief = Thief(self.world)
        self._forger.own, _ = thief.join({"recovery": False})
        kinds = [*CLIENT_IDS, CANCEL, CURSOR]
        for start in range(0, attempts, BURST):
            expected = b""
            for number in range(start, min(start + BURST, attempts)):
                self._aim()
                kind = self._draw.choice(kinds)
                self.tried[kind] += 1
                event, ack = self._show_client_id(thief, kind, number)
                expected += server_frame(b"2/ai," + event)
                expected += server_frame(b"3/ai,%d%b" % (number, ack))
            came = thief.exchange()
            if came != expected:
                raise Broken(f"the answers {came!r} are not {expected!r}")
        thief.leave()

    def _show_client_id(self, thief: Thief, kind: str, number: int) -> tuple[bytes, bytes]:
        """Make an attempt. Return the event and the acknowledgement that must come."""
        stream = self._draw.choice(self._owners).stream
        if kind == CANCEL:
            thief.put(f'2/ai,{number}["ai:cancel",{{"streamId":"{stream}"}}]')
            return UNKNOWN % stream.encode(), UNKNOWN_ACK
        own = self._forger.own.client_id
        shown = own if kind == CURSOR else CLIENT_IDS[kind](self._forger)
        fields: dict[str, object] = {"previousClientId": shown}
        if kind == CURSOR or self._draw.random() < 0.2:
            fields["streams"] = {stream: self._draw.choice([0, 1, 2**53, {"seq": 3, "epoch": "e"}])}
        thief.put(f"2/ai,{number}" + json.dumps(["ai:reconnect", fields]))
        if kind == CURSOR:
            return NOTHING % (own.encode(), own.encode()), NOTHING_ACK % own.encode()
        return FAILED, FAILED_ACK

    # -- with a pid --------------------------------------------------------------------------------

    def _show_pids(self, attempts: int) -> None:
        thief = Thief(self.world)
        self._forger.own, _ = thief.join({})
        for _ in range(attempts):
            thief.put("1/ai,")
            self._aim()
            kind = self._draw.choice([*PIDS, *OFFSETS])
            self.tried[kind] += 1
            self._show_pid(thief, kind)
        thief.leave()

    def _show_pid(self, thief: Thief, kind: str) -> None:
        forger, before = self._forger, self._forger.own
        auth: dict[str, object]
        if kind in PIDS:
            auth = {"pid": PIDS[kind](forger), "offset": forger.victim.offset}
        else:
            auth = {"pid": before.pid, "offset": OFFSETS[kind](forger)}
        forger.own, recovered = thief.join(auth)
        same = (before.client_id, before.pid) == (forger.own.client_id, forger.own.pid)
        owned = {text for secrets in self.secrets for text in secrets if text}
        if recovered != same or (recovered and kind in PIDS) or owned & {*forger.own}:
            raise Broken(f"{auth} has got {forger.own}, recovered: {recovered}")


def run(what: str, count: int, step: int, play: Callable[[int], None]) -> None:
    """Play so many, and say how it goes."""
    started = shown = time.monotonic()
    for done in range(0, count, step):
        play(min(step, count - done))
        now = time.monotonic()
        if now - shown > _PROGRESS:
            shown = now
            rate = (done + step) / (now - started)
            print(
                f"{done + step} of {count} {what}, {now - started:.0f} s, {rate:.0f}/s", flush=True
            )
    print(f"{count} of {count} {what}, {time.monotonic() - started:.0f} s")


def attempts(seed: int, count: int) -> None:
    """Make so many attempts in one life of a server, and list them.

    Raises:
        Broken: one of them had an effect, or another answer than it may have.
    """
    robbery = Robbery(seed)
    run("attempts", count, ROUND, robbery.round)
    robbery.finish()
    for kind, number in sorted(robbery.tried.items()):
        print(f"  {number:8} {kind}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Try to take over sessions of others.")
    parser.add_argument("--attempts", type=int, default=0)
    parser.add_argument("--races", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.attempts:
        attempts(options.seed, options.attempts)
    if options.races:
        numbers = iter(range(options.races))
        run("races", options.races, 1, lambda _: races.play(options.seed, next(numbers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
