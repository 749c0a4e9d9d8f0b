"""Sessions of the AI protocol against a reference of what each secret is good for.

Rules of this file: the reference knows clientIds, pids, streams and times, and nothing of offsets,
logs or lanes. After every step each connected client shows, of each stream of its session, exactly
what its model has said and the one end that it had; every secret is good or not as the reference
says. Models of streams that are over are closed.
"""

import os
from collections.abc import Iterator

import msgspec
from core.ai.client import NO_PINGS, Client, Fields, Said, metadata
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from properties.inputs import repeatable
from tokenwire.config import Config
from tokenwire.testing import Model, World
from tokenwire.types import Millis

GRACE = 30_000
CONFIG = Config(
    heartbeat_interval=NO_PINGS,
    stream_timeout=NO_PINGS,
    first_token_timeout=NO_PINGS,
    idle_timeout=NO_PINGS,
    reconnect_timeout=GRACE,
    recovery="on",
)
NAMES = st.sampled_from(["a", "b"])
PIECES = st.lists(st.sampled_from(["x", "yy ", "\u00e9", "z" * 300]), min_size=1, max_size=3)
MOST_CLIENTS = 4
STEPS = 40
EXAMPLES = 3_000 if os.environ.get("TOKENWIRE_LONG") else 150
ENDS = {
    "done": ["ai:stream:complete", "ai:done"],
    "cancelled": ["ai:stream:cancelled"],
    "failed": ["ai:stream:error"],
}


class Stream:
    """A stream, by the reference."""

    def __init__(self, name: str, model: Model) -> None:
        self.name = name
        self.model = model
        self.pieces: list[str] = []
        self.state = "running"

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Session:
    """A session, by the reference."""

    def __init__(self, client_id: str, pid: str) -> None:
        self.client_id = client_id
        self.pid = pid
        self.streams: dict[str, Stream] = {}
        self.lost_at: Millis | None = None
        """None: it has a connection, as far as the server knows."""
        self.before: dict[str, Millis] = {}
        """clientIds of sessions that it took over, and when: they still name it."""


class View:
    """What a program shows of one stream."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, str]] = []
        self.ends: list[str] = []
        self.epoch = ""

    @property
    def seq(self) -> int:
        return self.pieces[-1][0] if self.pieces else 0

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    def go_back(self, next_seq: int) -> None:
        """What follows begins with this token, and the end comes again."""
        self.pieces = [piece for piece in self.pieces if piece[0] < next_seq]
        self.ends.clear()

    def take(self, event: Said) -> None:
        if event.name == "ai:stream:start":
            self.go_back(0)
            self.epoch = str(event["epoch"])
        elif event.name == "ai:token":
            seq = msgspec.convert(event["seq"], int)
            assert seq - self.seq == metadata(event).get("tokens", 1), "a hole, or twice"
            assert not self.ends, "a token after the end"
            self.pieces.append((seq, str(event["data"])))
        else:
            self.ends.append(event.name)


class Actor:
    """A program that comes back in any way, and what it shows."""

    def __init__(self, client: Client, session: Session) -> None:
        self.client = client
        self.session = session
        self.views: dict[str, View] = {}
        self.here = True
        self.asked_again: frozenset[str] | None = frozenset()
        """Of which streams an ai:reconnect asked; None: of all."""
        self.refusals: list[object] = []
        self.beats: list[Said] = []

    def read(self) -> None:
        """Take what has come, and show it."""
        for event in self.client.take():
            name = event.fields.get("streamId")
            if event.name == "ai:error":
                self.refusals.append(event["code"])
            elif event.name == "ai:heartbeat:ack":
                self.beats.append(event)
            elif event.name == "ai:reconnect:success":
                self._resume(msgspec.convert(event["streams"], list[Fields]))
            elif name is not None:
                self.views.setdefault(str(name), View()).take(event)

    def _resume(self, streams: list[Fields]) -> None:
        for stream in streams:
            name = str(stream["streamId"])
            if self.asked_again is None or name in self.asked_again:
                view = self.views.setdefault(name, View())
                view.go_back(msgspec.convert(stream["nextSeq"], int))

    def reconnect(self, client_id: str, cursors: Fields | None) -> None:
        """Send an ai:reconnect, and read what comes."""
        fields: Fields = {"previousClientId": client_id}
        if cursors is not None:
            fields["streams"] = cursors
        own = client_id == self.client.id
        self.asked_again = frozenset(cursors or ()) if own else None
        self.client.send("ai:reconnect", fields)
        self.read()


class Sessions(RuleBasedStateMachine):
    """All clients of one server."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(CONFIG)
        self.world.offered = ["codellama"]
        self.world.advance(0)
        self.actors: list[Actor] = []
        self.sessions: list[Session] = []
        self.streams: list[Stream] = []
        """All that there have been."""
        self.over_ids: list[str] = []
        self.over_pids: list[str] = []
        self.unnoticed: list[Client] = []
        """Connections that are lost, and the server does not know."""

    # -- the reference -----------------------------------------------------------------------------

    def owner(self, client_id: str) -> Session | None:
        """Return whose streams this clientId names."""
        for session in self.sessions:
            if client_id == session.client_id or client_id in session.before:
                return session
        return None

    def open(self, client: Client) -> Session:
        session = Session(client.id, client.pid)
        self.sessions.append(session)
        return session

    def speaks(self, session: Session) -> None:
        """Its client shows that it has its clientId: those before are over."""
        self.over_ids.extend(session.before)
        session.before.clear()

    def transfer(self, old: Session, new: Session) -> None:
        self.speaks(new)
        for name, stream in old.streams.items():
            if name in new.streams:  # begun on the new connection, so it is the newer one
                self.end(stream, "cancelled")
            else:
                new.streams[name] = stream
        new.before = {**old.before, old.client_id: self.world.now}
        self.sessions.remove(old)
        self.over_pids.append(old.pid)

    def end(self, stream: Stream, state: str) -> None:
        if stream.state == "running":
            stream.state = state

    def look_at_the_clock(self) -> None:
        for session in list(self.sessions):
            for client_id, since in list(session.before.items()):
                if self.world.now >= since + GRACE:
                    del session.before[client_id]
                    self.over_ids.append(client_id)
            if session.lost_at is not None and self.world.now >= session.lost_at + GRACE:
                for stream in session.streams.values():
                    self.end(stream, "cancelled")
                self.sessions.remove(session)
                self.over_ids.extend((*session.before, session.client_id))
                self.over_pids.append(session.pid)

    # -- steps of clients --------------------------------------------------------------------------

    def one(self, data: st.DataObject, *, here: bool) -> Actor:
        return data.draw(st.sampled_from([actor for actor in self.actors if actor.here is here]))

    @precondition(lambda self: len(self.actors) < MOST_CLIENTS)
    @rule(recovery=st.booleans())
    def connect(self, recovery: bool) -> None:
        client = Client(self.world, {} if recovery else {"recovery": False})
        self.actors.append(Actor(client, self.open(client)))

    @precondition(lambda self: any(actor.here for actor in self.actors))
    @rule(data=st.data(), name=NAMES)
    def stream(self, data: st.DataObject, name: str) -> None:
        """Begin a stream, or join the one that runs."""
        self.begin(self.one(data, here=True), name)

    def begin(self, actor: Actor, name: str) -> None:
        known = actor.session.streams.get(name)
        models = len(self.world.models)
        actor.client.send("ai:stream", {"prompt": "p", "streamId": name})
        self.speaks(actor.session)
        if known is None or known.state != "running":
            self.streams.append(Stream(name, self.world.models[models]))
            actor.session.streams[name] = self.streams[-1]
        assert len(self.world.models) - models == (known is None or known.state != "running")

    @precondition(lambda self: any(actor.here for actor in self.actors))
    @rule(data=st.data(), name=NAMES)
    def cancel(self, data: st.DataObject, name: str) -> None:
        actor = self.one(data, here=True)
        stream = actor.session.streams.get(name)
        actor.client.send("ai:cancel", {"streamId": name})
        actor.read()
        self.speaks(actor.session)
        if stream is None or stream.state != "running":
            assert actor.refusals.pop() == "stream_not_found"
        else:
            stream.state = "cancelled"

    @precondition(lambda self: any(actor.here for actor in self.actors))
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        actor = self.one(data, here=True)
        actor.client.send("ai:heartbeat")
        actor.read()
        self.speaks(actor.session)
        streams = actor.session.streams
        assert actor.beats[-1]["streams"] == {
            name: len(stream.pieces) for name, stream in streams.items()
        }
        running = sum(stream.state == "running" for stream in streams.values())
        assert actor.beats[-1]["activeStreams"] == running

    @precondition(lambda self: any(actor.here for actor in self.actors))
    @rule(data=st.data(), name=NAMES)
    def ask_again(self, data: st.DataObject, name: str) -> None:
        """Ask from a cursor, without reconnecting: where a piece ends, or behind all of them."""
        actor = self.one(data, here=True)
        pieces = actor.views[name].pieces if name in actor.views else []
        seq = data.draw(st.sampled_from([0, *(seq for seq, _ in pieces), 1_000]))
        actor.reconnect(actor.client.id, {name: seq})

    # -- losses ------------------------------------------------------------------------------------

    @precondition(lambda self: any(actor.here for actor in self.actors))
    @rule(data=st.data(), noticed=st.booleans(), cut=st.integers(0, 2_000), anew=st.booleans())
    def lose(self, data: st.DataObject, noticed: bool, cut: int, anew: bool) -> None:
        """Lose a connection. Of what its models say meanwhile so many bytes arrive.

        With `anew`, streams that have ended are begun again just before.
        """
        actor = self.one(data, here=True)
        for name, stream in list(actor.session.streams.items()):
            if anew and stream.state != "running":
                self.begin(actor, name)
        for stream in actor.session.streams.values():
            if stream.state == "running":
                self.tell(stream, data.draw(PIECES))
        wire = actor.client.wire
        wire.received = wire.received[:cut]
        actor.read()
        actor.here = False
        if noticed:
            actor.session.lost_at = self.world.now
            wire.drop()
        else:
            self.unnoticed.append(actor.client)

    @precondition(lambda self: self.unnoticed)
    @rule()
    def notice(self) -> None:
        """The server hears of the loss of a connection; maybe its client has long been back."""
        client = self.unnoticed.pop(0)
        for actor in self.actors:
            if actor.client is client:  # it is not back
                actor.session.lost_at = self.world.now
        if client.wire.open:
            client.wire.drop()

    # -- returns -----------------------------------------------------------------------------------

    @precondition(lambda self: any(not actor.here for actor in self.actors))
    @rule(data=st.data(), cursor=st.sampled_from(["none", "true", "behind", "beyond", "epoch"]))
    def take_over(self, data: st.DataObject, cursor: str) -> None:
        """Come back with ai:reconnect, with cursors right and wrong, or none."""
        actor = self.one(data, here=False)
        cursors: Fields | None = None
        if cursor != "none":
            cursors = {name: self.cursor(view, cursor) for name, view in actor.views.items()}
            cursors["unknown"] = 3
        self.show(actor, actor.session.client_id, cursors)

    @staticmethod
    def cursor(view: View, kind: str) -> object:
        if kind == "behind" and len(view.pieces) > 1:
            return view.pieces[-2][0]
        seq = {"beyond": view.seq + 1_000}.get(kind, view.seq)
        epoch = "other" if kind == "epoch" else view.epoch
        return {"seq": seq, "epoch": epoch} if view.epoch else seq

    @precondition(lambda self: any(not actor.here for actor in self.actors))
    @rule(data=st.data(), name=NAMES)
    def take_over_after_a_stream(self, data: st.DataObject, name: str) -> None:
        """Begin a stream on the new connection before the old session is taken over."""
        actor = self.one(data, here=False)
        previous = actor.session.client_id
        self.come_anew(actor)
        self.begin(actor, name)
        self.show_over(actor, previous, None)

    @precondition(lambda self: any(actor.session.before for actor in self.actors if actor.here))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """The answer to an ai:reconnect was lost: show the same clientId again."""
        able = [actor for actor in self.actors if actor.here and actor.session.before]
        actor = data.draw(st.sampled_from(able))
        actor.client.leave()
        actor.session.lost_at = self.world.now
        self.show(actor, data.draw(st.sampled_from(list(actor.session.before))), None)

    def show(self, actor: Actor, client_id: str, cursors: Fields | None) -> None:
        """Come over a new connection, and show a clientId."""
        self.come_anew(actor)
        self.show_over(actor, client_id, cursors)

    def come_anew(self, actor: Actor) -> None:
        actor.client = Client(self.world)
        actor.session = self.open(actor.client)
        actor.here = True

    def show_over(self, actor: Actor, client_id: str, cursors: Fields | None) -> None:
        owner = self.owner(client_id)
        begun = {name: actor.views.pop(name, View()) for name in actor.session.streams}
        if begun:  # what a program shows of a stream that it begins anew is empty
            actor.views.update({name: View() for name in begun})
        actor.reconnect(client_id, cursors)
        if owner is None:
            assert actor.refusals.pop() == "reconnect_failed"
            self.forget_views(actor)
        else:
            self.transfer(owner, actor.session)

    @staticmethod
    def forget_views(actor: Actor) -> None:
        """What a program shows of streams that are not its session's is of no interest."""
        actor.views = {
            name: view for name, view in actor.views.items() if name in actor.session.streams
        }

    @precondition(lambda self: any(not a.here and a.client.pid for a in self.actors))
    @rule(data=st.data(), ask=st.booleans())
    def recover(self, data: st.DataObject, ask: bool) -> None:
        """Come back as the stock client does by itself; the program may ask as well."""
        able = [actor for actor in self.actors if not actor.here and actor.client.pid]
        actor = data.draw(st.sampled_from(able))
        auth: Fields = {"pid": actor.client.pid}
        if actor.client.offset is not None:
            auth["offset"] = actor.client.offset
        good = actor.session in self.sessions
        actor.client = Client(self.world, auth)
        actor.here = True
        assert actor.client.hello["recovered"] is good
        if good:
            assert actor.client.id == actor.session.client_id
            actor.session.lost_at = None
            if ask:
                actor.reconnect(actor.client.id, None)
        else:
            actor.session = self.open(actor.client)
            actor.views.clear()

    # -- models and time ---------------------------------------------------------------------------

    def running(self) -> list[Stream]:
        return [
            stream
            for session in self.sessions
            for stream in session.streams.values()
            if stream.state == "running"
        ]

    def tell(self, stream: Stream, pieces: list[str]) -> None:
        stream.pieces += pieces
        stream.model.say(*pieces)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), pieces=PIECES)
    def say(self, data: st.DataObject, pieces: list[str]) -> None:
        self.tell(data.draw(st.sampled_from(self.running())), pieces)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), well=st.booleans())
    def finish(self, data: st.DataObject, well: bool) -> None:
        stream = data.draw(st.sampled_from(self.running()))
        if well:
            stream.model.done()
        else:
            stream.model.fail(reached=True)
        stream.state = "done" if well else "failed"

    @rule(span=st.sampled_from([1, 1_000, 15_000, GRACE - 1, GRACE]))
    def wait(self, span: int) -> None:
        self.world.advance(span)
        self.look_at_the_clock()

    # -- thieves -----------------------------------------------------------------------------------

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), where=st.integers(0, 44), letter=st.sampled_from("Aa0-_."))
    def forge(self, data: st.DataObject, where: int, letter: str) -> None:
        """Somebody shows a secret that is over, or a changed one."""
        true = data.draw(st.sampled_from(self.sessions)).client_id
        changed = true[:where] + letter + true[where + 1 :]
        ids = [forged for forged in (changed, *self.over_ids[-8:]) if forged != true]
        thief = Actor(Client(self.world, {"recovery": False}), Session("", ""))
        for forged in ids:
            thief.reconnect(forged, {"a": 0, "b": 0})
            assert thief.refusals.pop() == "reconnect_failed", forged
        assert not thief.views
        thief.client.leave()
        for pid in self.over_pids[-8:]:
            if pid:
                late = Client(self.world, {"pid": pid, "offset": "x.1.1"})
                assert not late.hello["recovered"]
                assert late.take() == []
                late.leave()

    # -- what holds --------------------------------------------------------------------------------

    def pairs(self) -> Iterator[tuple[Stream, View]]:
        for actor in self.actors:
            if actor.here:
                for name, stream in actor.session.streams.items():
                    yield stream, actor.views[name]

    @invariant()
    def everybody_shows_what_the_models_have_said(self) -> None:
        for actor in self.actors:
            if actor.here:
                actor.read()
                assert not actor.client.fenced
                assert actor.client.wire.open
                assert not actor.refusals
                assert set(actor.views) == set(actor.session.streams)
        for stream, view in self.pairs():
            assert view.text == stream.text
            assert view.ends == ENDS.get(stream.state, [])

    @invariant()
    def models_of_what_is_over_are_closed(self) -> None:
        for stream in self.streams:
            assert stream.model.cancelled is (stream.state == "cancelled")
        assert self.world.server.stats().total_active_streams == len(self.running())


def test_sessions_are_as_the_reference_says() -> None:
    run_state_machine_as_test(
        Sessions,
        settings=settings(repeatable(EXAMPLES), stateful_step_count=STEPS, phases=[Phase.generate]),
    )
