"""A client: socket.io-client as far as it matters here, and the program above it.

Rules of this file: what a client may not know (whether a request has arrived, whether a session
still exists) it learns from the answers alone. What it was told is checked at once, what it must
have been told at the end (`check_rest`).
"""

from typing import NamedTuple, Protocol

import msgspec
from simulation.links import Pipe, draw_quality
from simulation.loop import Loop, Violation
from simulation.models import Model, Script
from simulation.node import Node
from simulation.settings import CERTAIN, CONFIG, MOST_UNREAD, REFUSALS
from simulation.shown import TERMINAL, Fields, Shown
from simulation.transport import Mode, Transport

UNTAKEN = 1_000
"""The most bytes of events that the server has encoded, and no socket has taken."""


class Kind(NamedTuple):
    """How a client resumes."""

    recovery: bool
    """It wants offsets."""
    keeps_pid: bool
    """It comes back with its pid; else as a page that is loaded again."""
    reconnect: str | None
    """What its program asks for when it is back: "whole", "cursors", or nothing."""


KINDS = {
    "recovery": Kind(True, True, None),
    "recovery and the seed's snippet": Kind(True, True, "whole"),
    "recovery and cursors": Kind(True, True, "cursors"),
    "the seed's snippet": Kind(False, False, "whole"),
    "cursors": Kind(False, False, "cursors"),
    "a page that is loaded again": Kind(True, False, "whole"),
}


class World(Protocol):
    """What a client needs of the simulation."""

    loop: Loop
    node: Node
    scripts: dict[str, Script]
    active: bool
    """True: things are asked for, and go wrong."""


class Client:
    """One client."""

    def __init__(self, world: World, number: int, kind: str, mode: Mode) -> None:
        self.world = world
        self.loop = world.loop
        self.who = f"client {number}"
        self.kind = KINDS[kind]
        self.shown: dict[str, Shown] = {}
        self.gone = False
        """True: it has left for good."""
        self.burnt: list[tuple[int, str]] = []
        """clientIds that it has used, and when it was told so."""
        self.dead_pids: list[str] = []
        """pids of sessions that were taken over."""
        self.client_id: str | None = None
        self.settled = False
        """True: it is connected, and has the session that it wants."""
        self._number = number
        self._mode = mode
        self._quality = draw_quality(world.loop)
        self._node = world.node
        self._transport: Transport | None = None
        self._in_touch_at = world.loop.now
        """When it was last told anything of its session."""
        self._pipes: list[Pipe] = []
        """All that it ever had."""
        self._lost_pipes: list[Pipe] = []
        """Those over which the session has come that it wants back."""
        self._candidates: list[str] = []
        """clientIds whose session it wants."""
        self._pids: dict[str, str] = {}
        """By the clientId."""
        self._asked_streams: dict[str, int] | None = None
        self._pid: str | None = None
        self._offset: str | None = None
        self._connected = False
        self._greeted = False
        self._recovered = False
        self._buffer: list[list[object]] = []
        self._acks: dict[int, tuple[str, str]] = {}
        """By its number: the event that wants an acknowledgement, and what it names."""
        self._last_ack = 0
        self._last_stream = 0
        self._beat: str | None = None
        """What is wrong with the latest ai:heartbeat:ack."""
        self._strangers: dict[str, int] = {}
        """Streams that are not there, and how often that was said."""
        self._heard: list[str] = []
        """Those of them for which the server was asked, and has to answer."""
        self.loop.later(self.loop.draw.randint(0, 3_000), self._come_back_now)

    # -- connections -------------------------------------------------------------------------------

    def connect(self) -> None:
        if self.gone:
            return
        if self._node is not self.world.node:  # a server that knows nobody
            self._node = self.world.node
            self._give_up("the server is another one", certain=False)
            self._candidates.clear()
            self.client_id = None
        self.loop.note(self.who, "connects")
        self._connected = self._greeted = self.settled = False
        self._acks.clear()
        self._asked_streams = None
        self._transport = transport = Transport(
            self.loop,
            self._mode,
            self._dial,
            lambda message: self._take(transport, message),
            lambda: self._lost(transport),
        )

    def _dial(self) -> Pipe:
        quality = self._quality
        pipe = self.world.node.connect(quality, f"192.0.2.{self._number + 1}")
        if not self.world.active:
            pipe.heal()
        self._pipes.append(pipe)
        return pipe

    def _lost(self, transport: Transport) -> None:
        if transport is self._transport:
            self.loop.note(self.who, "has lost its connection")
            self._leave_connection()
            self._come_back()

    def _leave_connection(self) -> None:
        if self._transport is not None:
            if self.settled:
                self._in_touch_at = self._transport.heard_at
                self._lost_pipes.clear()
            if self._transport.ws.pipe is not None:
                self._lost_pipes.append(self._transport.ws.pipe)
        self._transport = None
        self._connected = self.settled = False

    def _come_back(self) -> None:
        draw = self.loop.draw
        span = draw.choice((0, 0, 50, 500, 1_500, 3_000))
        if self.world.active and self.loop.chance(0.1):
            span = draw.randint(8_000, 16_000)
        self.loop.later(span, self._come_back_now)

    def _come_back_now(self) -> None:
        if self._transport is None:
            self.connect()

    def drop(self) -> None:
        """Let go of the connection, whatever the server thinks of it."""
        if self._transport is not None:
            transport = self._transport
            self._leave_connection()
            transport.close()

    def reload(self) -> None:
        """Drop the connection and come back."""
        self.loop.note(self.who, "lets go of its connection")
        self.drop()
        self._come_back()

    def leave(self) -> None:
        """Leave for good."""
        self.loop.note(self.who, "leaves")
        self.gone = True
        transport = self._transport
        self._leave_connection()
        if transport is not None:
            if self.loop.chance(0.5):
                transport.say_goodbye()
            else:
                transport.close()

    def _give_up(self, why: str, *, certain: bool = True) -> None:
        """The session is lost, and with it what was to come."""
        away = self.loop.now - self._in_touch_at
        if certain and away < CERTAIN and not self.world.node.stopping and self.client_id:
            raise Violation(f"{self.who} was away for {away} ms, and its session is lost: {why}")
        self.loop.note(self.who, f"gives up: {why}")
        for shown in self.shown.values():
            if not shown.settled:
                shown.excused = why
        self._strangers.clear()
        self._heard.clear()

    # -- to the server -----------------------------------------------------------------------------

    def _emit(self, name: str, fields: Fields, about: str = "", *, forged: bool = False) -> None:
        assert self._transport is not None
        self._last_ack += 1
        self._acks[self._last_ack] = "forged" if forged else name, about
        packet = f"42/ai,{self._last_ack}" + msgspec.json.encode([name, fields]).decode()
        self.loop.note(self.who, f"sends {packet}")
        self._transport.send(packet)

    def ask(self) -> None:
        """Ask for a stream."""
        self._last_stream += 1
        script = Script(self.loop, self._number, self._last_stream)
        self.world.scripts[script.key] = script
        self.shown[script.name] = Shown(script)
        self._emit("ai:stream", _request(script), script.name)

    def ask_anew(self) -> None:
        """Ask for a running stream again."""
        shown = self._running()
        if shown is not None and not shown.cancel_asked:
            shown.asked_anew = True
            self._emit("ai:stream", _request(shown.script), shown.name)
            if self.loop.chance(0.4):
                self._cancel(shown)
            if self.loop.chance(0.4):
                self.reload()

    def cancel(self) -> None:
        shown = self._running()
        if shown is not None:
            self._cancel(shown)

    def _cancel(self, shown: Shown) -> None:
        shown.cancel_asked = True
        self._emit("ai:cancel", {"streamId": shown.name}, shown.name)

    def _running(self) -> Shown | None:
        """Return one of the streams that have started and not ended."""
        running = [s for s in self.shown.values() if s.epoch is not None and not s.settled]
        return self.loop.draw.choice(running) if running else None

    def beat(self) -> None:
        self._emit("ai:heartbeat", {})

    def ask_for_a_stranger(self) -> None:
        """Cancel a stream that is not there: the answer must come exactly once."""
        assert self._transport is not None
        name = f"stranger-{self._last_ack}"
        self._strangers[name] = 0
        self._emit("ai:cancel", {"streamId": name}, name)
        sent = self._transport.all_sent()
        if sent is not None and self._transport.ws.pipe is not None:
            self._transport.ws.pipe.watched.append((sent, lambda: self._heard.append(name)))

    def reconnect(self, *, cursors: bool) -> None:
        """Ask for the session of the oldest clientId that is still good, or for the own one."""
        assert self.client_id is not None
        wanted = self._candidates[0] if self._candidates else self.client_id
        fields: Fields = {"previousClientId": wanted}
        self._asked_streams = None
        if cursors:
            known = [s for s in self.shown.values() if s.epoch and s.excused is None][-6:]
            self._asked_streams = {shown.name: shown.seq for shown in known}
            fields["streams"] = {
                shown.name: {"seq": shown.seq, "epoch": shown.epoch}
                if shown.asked_anew or shown.seq % 2
                else shown.seq
                for shown in known
            }
        self.settled = False
        self._emit("ai:reconnect", fields, wanted)

    # -- from the server ---------------------------------------------------------------------------

    def _take(self, transport: Transport, message: str) -> None:
        if transport is not self._transport:
            return
        kind = message[:2]
        if not message:
            self._join()
            return
        self.loop.note(self.who, f"hears {message}")
        body = message[len("42/ai,") :]
        match kind:
            case "40":
                self._joined(msgspec.json.decode(body))
            case "41":
                self._told_to_leave()
            case "42":
                args = msgspec.json.decode(body)
                if self._connected:
                    self._handle(args)
                else:
                    self._buffer.append(args)
            case "43":
                number, _, answer = body.partition("[")
                self._acknowledged(int(number), msgspec.json.decode("[" + answer)[0])
            case _:  # a CONNECT_ERROR
                if "server_shutting_down" not in body:
                    raise Violation(f"{self.who} is refused: {body}")
                self.reload()

    def _told_to_leave(self) -> None:
        raise Violation(f"{self.who} is told to leave, and nobody else has its clientId")

    def _join(self) -> None:
        assert self._transport is not None
        auth: dict[str, object] = {}
        if not self.kind.recovery:
            auth["recovery"] = False
        elif self.kind.keeps_pid and self._pid is not None:
            auth["pid"] = self._pid
            if self._offset is not None:
                auth["offset"] = self._offset
        packet = "40/ai," + msgspec.json.encode(auth).decode()
        self.loop.note(self.who, f"sends {packet}")
        self._transport.send(packet)

    def _joined(self, reply: dict[str, str]) -> None:
        """A CONNECT has come (socket.io-client's `onconnect`)."""
        pid = reply.get("pid")
        if (pid is not None) is not self.kind.recovery:
            raise Violation(f"{self.who} wants recovery: {self.kind.recovery}, pid: {pid}")
        self._recovered = pid is not None and pid == self._pid
        if self.kind.keeps_pid and self._pid is not None and not self._recovered:
            self._give_up("it is not recovered")
        self._pid = pid
        self._connected = True
        waiting, self._buffer = self._buffer, []
        for args in waiting:
            self._handle(args)

    def _handle(self, args: list[object]) -> None:
        name, fields = args[0], args[1]
        assert isinstance(name, str)
        assert isinstance(fields, dict)
        self._program(name, fields)
        if self._pid is not None and isinstance(args[-1], str):
            self._offset = args[-1]

    # -- the program -------------------------------------------------------------------------------

    def _program(self, name: str, fields: Fields) -> None:
        match name:
            case "ai:connected":
                self._welcome(str(fields["clientId"]), recovered=fields["recovered"] is True)
            case "ai:reconnect:success":
                self._resumed(fields)
            case "ai:heartbeat:ack":
                self._beaten(msgspec.convert(fields["streams"], dict[str, int]))
            case "ai:error":
                self._error(str(fields["code"]), fields)
            case _:
                self._stream_of(fields).take(name, fields)
                if name in TERMINAL:
                    self._check_model_is_over(str(fields["streamId"]))

    def _stream_of(self, fields: Fields) -> Shown:
        shown = self.shown.get(str(fields.get("streamId")))
        if shown is None:
            raise Violation(f"{self.who} sees a stream of somebody else: {fields}")
        return shown

    def _welcome(self, client_id: str, *, recovered: bool) -> None:
        if self._greeted and client_id == self.client_id:
            return  # the first greeting, which was missed
        self._greeted = True
        if recovered is not self._recovered:
            raise Violation(f"{self.who} is recovered: {self._recovered}, told: {recovered}")
        if recovered and self._pids.get(client_id, self._pid) != self._pid:
            raise Violation(f"{self.who} is recovered under another clientId")
        if client_id == self.client_id:
            self._pardon()
            if not self._candidates:
                self._in_touch_at = self.loop.now
        elif self.client_id is not None:
            self._candidates.append(self.client_id)
        self.client_id = client_id
        if self._pid is not None:
            self._pids[client_id] = self._pid
        if self.kind.reconnect is not None and (self._candidates or recovered):
            self.reconnect(cursors=self.kind.reconnect == "cursors")
        else:
            self._candidates.clear()
            self._settle()

    def _settle(self) -> None:
        self.settled = True
        self._in_touch_at = self.loop.now

    def _pardon(self) -> None:
        """After a long absence, a stream that has ended may be forgotten."""
        away = self.loop.now - self._in_touch_at
        for shown in self.shown.values():
            ends = [model.over_at for model in self._node.models_of(shown.script.key)]
            old = all(at is not None and at <= self.loop.now - CERTAIN for at in ends)
            if not shown.settled and ends and (away >= CERTAIN or old):
                shown.pardoned = True

    def _resumed(self, fields: Fields) -> None:
        previous = str(fields["previousClientId"])
        if fields["newClientId"] != self.client_id:
            raise Violation(f"{self.who} is told another newClientId than its own")
        taken_over = previous in self._candidates
        if taken_over:
            self.burnt.append((self.loop.now, previous))  # the others may not have been used
            self.dead_pids += [self._pids[previous]] if previous in self._pids else []
            self._candidates.clear()
        elif previous != self.client_id:
            raise Violation(f"{self.who} is told of a session that it did not ask for")
        self._pardon()
        streams = msgspec.convert(fields["streams"], list[dict[str, object]])
        for resumed in streams:
            shown = self._stream_of(resumed)
            shown.go_on_with(msgspec.convert(resumed["nextSeq"], int))
            if taken_over or shown.name in (self._asked_streams or {}):
                shown.again()
        listed = [resumed["streamId"] for resumed in streams]
        for shown in self.shown.values():
            if shown.settled or shown.pardoned or shown.name in listed:
                continue
            if self._node.models_of(shown.script.key):
                raise Violation(f"{shown.script.key} is lost in a transfer")
        self._settle()

    def _beaten(self, streams: dict[str, int]) -> None:
        self._beat = None
        for name, seq in streams.items():
            shown = self._stream_of({"streamId": name})
            if shown.seq < seq and not shown.astray:
                self._beat = f"{shown.script.key} was handed up to {seq}, has come to {shown.seq}"

    def _error(self, code: str, fields: Fields) -> None:
        name = str(fields.get("streamId"))
        if name in self._strangers:
            self._strangers[name] += 1
            if self._strangers[name] > 1:
                raise Violation(f"{self.who} is told twice of {name}")
        elif code == "resume_gap":
            shown = self._stream_of(fields)
            self._check_gap(shown)
            shown.gap(msgspec.convert(fields["firstSeq"], int))
        elif code in REFUSALS and name in self.shown and self.shown[name].epoch is None:
            self.shown[name].refused = True
        elif code not in (*REFUSALS, "stream_not_found", "reconnect_failed"):
            raise Violation(f"{self.who} gets {fields}")

    def _check_gap(self, shown: Shown) -> None:
        """What may not have arrived is kept: little was on its way, so nothing may be missing."""
        asks_for_whole = self.kind.reconnect == "whole" or shown.asked_anew
        if self._mode is not Mode.WEBSOCKET or asks_for_whole or shown.epoch is None:
            return
        named = shown.name in (self._asked_streams or {})
        if named is not bool(self._candidates):
            return  # a transfer without a cursor, or one that was old when it arrived
        lost = sum(pipe.down.pushed - pipe.read for pipe in self._lost_pipes)
        if lost + UNTAKEN < CONFIG.unconfirmed_bytes:
            raise Violation(f"a gap in {shown.script.key}: {lost} bytes had not arrived")

    def _acknowledged(self, number: int, answer: Fields) -> None:
        event, about = self._acks.pop(number)
        ok = answer["ok"] is True
        match event:
            case "forged":
                if ok:
                    raise Violation(f"{self.who} has taken over {about}")
            case "ai:reconnect" if not ok and answer["code"] == "reconnect_failed":
                self._refused_a_session(about)
            case "ai:reconnect" if not ok:
                self.loop.later(1_000, self._again)
            case "ai:cancel" if ok:
                self._check_model_is_over(about)
            case "ai:heartbeat" if self._beat is not None:
                raise Violation(self._beat)
            case _:
                pass

    def _again(self) -> None:
        if self._connected and not self.settled:
            self.reconnect(cursors=self.kind.reconnect == "cursors")

    def _refused_a_session(self, client_id: str) -> None:
        if client_id == self.client_id:
            raise Violation(f"{self.who} is refused its own session")
        self._candidates.remove(client_id)
        if self._candidates:
            self.reconnect(cursors=self.kind.reconnect == "cursors")
            return
        self._give_up("no clientId is good")
        self._settle()

    def worthless(self) -> list[str]:
        """Return clientIds that it had, and that are good for nothing any more."""
        return [used for at, used in self.burnt if at < self.loop.now - CONFIG.reconnect_timeout]

    def _check_model_is_over(self, name: str) -> None:
        """A stream has ended: of its models at most the newest, asked for again, may speak."""
        shown = self.shown[name]
        models = self._node.models_of(shown.script.key)
        if not shown.asked_anew and any(model.over_at is None for model in models):
            raise Violation(f"{shown.script.key} has ended, and its model is read")

    # -- what must hold ----------------------------------------------------------------------------

    def check_pause(self, model: Model) -> None:
        """One of its models is paused. If nothing waits for this client, that is wrong."""
        transport = self._transport
        if transport is None or not self.settled or not transport.idle():
            return
        shown = self.shown[model.script.name]
        if not model.over and shown.excused is None:
            raise Violation(f"the model of {model.script.key} waits for nothing")

    def check_unread(self, model: Model) -> None:
        """One of its models has said something. It must not say much more than is read."""
        shown = self.shown[model.script.name]
        unread = model.said - shown.script.ends[shown.furthest]
        # What comes when it has let go of a connection is thrown away.
        unread -= sum(pipe.down.passed - pipe.read for pipe in self._pipes)
        if unread > MOST_UNREAD and not shown.asked_anew:
            raise Violation(f"{unread} bytes of {shown.script.key} are not read, its model goes on")

    def check_rest(self) -> None:
        """Nothing goes wrong any more: everything that was asked for must have come."""
        for shown in self.shown.values():
            models = self._node.models_of(shown.script.key)
            if any(model.over_at is None for model in models):
                raise Violation(f"the model of {shown.script.key} is read for ever")
            if self.gone or shown.settled or shown.pardoned or not models:
                continue
            raise Violation(f"the end of {shown.script.key} is lost")
        if self.gone:
            return
        if not self.settled:
            raise Violation(f"{self.who} is not connected")
        for name in self._heard:
            if self.kind.keeps_pid and self._strangers[name] != 1:
                raise Violation(f"{self.who} was not told of {name}")


def _request(script: Script) -> Fields:
    return {"streamId": script.name, "prompt": script.key, "useOrchestrator": False}
