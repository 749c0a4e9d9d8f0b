"""A session: the round of its streams, what waits for its client.

Rules of this file: the client is a stand-in that has room or has not; the service is a list of what
it was told. What a service does with that is in `test_recovery.py`.
"""

from typing import cast

import pytest
from core.ai.client import read
from tokenwire.ai import events
from tokenwire.ai.limits import Allowance, Rates
from tokenwire.ai.messages import StreamRequest
from tokenwire.ai.pace import Pace
from tokenwire.ai.routing import DIRECT
from tokenwire.ai.session import AiSession
from tokenwire.ai.stream import Input, Stream
from tokenwire.config import Config
from tokenwire.engineio.session import EngineSession, WebSocket
from tokenwire.queue import Outputs
from tokenwire.socketio.recovery import Journal
from tokenwire.socketio.socket import Carrier, Namespace, Socket
from tokenwire.timers import Timers
from tokenwire.types import ConnId, Millis, StreamId

NOW = Millis(0)
CONN = ConnId(1)


class Lead:
    """A client that leads nowhere (`socket.Carrier`), and its socket."""

    def __init__(self) -> None:
        self._outputs = Outputs()
        self.session = EngineSession("sid", "", None, self._outputs, Timers(), (1, 1))
        self.transport = self.session.ws = WebSocket(CONN, self.session)
        self.socket = Socket(cast(Carrier, self), "id", "/ai", cast(Namespace, None))
        self.sent: list[bytes] = []
        """The bodies of the events."""

    def send(self, messages: list[bytes], now: Millis) -> None:
        self.sent += [message.removeprefix(self.socket.head) for message in messages]

    def was_woken(self) -> bool:
        """Return True if it was, since this was last asked."""
        self._outputs.pulled_empty(CONN)
        return self._outputs.poll() is not None


class Told:
    """A service that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def refused(self, session: AiSession, now: Millis) -> None:
        self.told.append("refused")

    def drained(self, session: AiSession, now: Millis) -> None:
        self.told.append("drained")


class Rig:
    def __init__(self, control: Journal | None = None) -> None:
        self.lead, self.service = Lead(), Told()
        self.session = AiSession(
            "public", self.lead.socket, self.service, control, Allowance(Rates(Config()))
        )

    def stream(self, name: str, *tokens: str) -> Stream:
        """Add a stream whose client has its start."""
        number = StreamId(len(self.session.streams) + 1)
        stream = Stream(number, name, "e", StreamRequest("p", "m"), DIRECT, Config(), NOW)
        stream.pull([], b"", 1)
        self.session.adopt(stream)
        self.add(stream, *tokens)
        return stream

    def add(self, stream: Stream, *tokens: str) -> None:
        for token in tokens:
            stream.log.append(token.encode())
        self.session.take_turn(stream)

    def pull(self, budget: int) -> list[tuple[object, object]]:
        """Return the stream and the seq of each token."""
        out: list[bytes] = []
        self.session.pull_events(out, budget, NOW)
        return [(event["streamId"], event["seq"]) for event in (read(item[5:]) for item in out)]


def test_a_stream_that_has_something_wakes_the_socket_and_takes_one_turn() -> None:
    rig = Rig()
    stream = rig.stream("a", "1")
    assert rig.lead.was_woken()
    rig.add(stream, "2")
    assert rig.lead.was_woken()
    assert rig.session.has_events()
    assert rig.pull(10_000) == [("a", 1), ("a", 2)]
    assert not rig.session.has_events()
    assert rig.pull(10_000) == []


def test_a_stream_that_has_nothing_takes_no_turn() -> None:
    rig = Rig()
    rig.stream("a")
    assert not rig.session.has_events()


def test_streams_take_turns_by_bytes() -> None:
    rig = Rig()
    big = "x" * 5_000  # two of them are a turn
    rig.stream("a", *[big] * 4)
    rig.stream("b", *[big] * 2)
    rig.stream("c", "short")
    assert rig.pull(100_000) == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
        ("c", 1),
        ("a", 3),
        ("a", 4),
    ]


def test_a_turn_goes_on_across_pulls() -> None:
    rig = Rig()
    big = "x" * 5_000  # two of them are a turn
    rig.stream("a", *[big] * 3)
    rig.stream("b", "1", "2")
    assert [rig.pull(1) for _ in range(5)] == [
        [("a", 1)],
        [("a", 2)],
        [("b", 1)],
        [("b", 2)],
        [("a", 3)],
    ]


def test_what_an_event_takes_beyond_its_turn_the_next_turns_lack() -> None:
    rig = Rig()
    small = "x" * 2_000  # five of them are a turn
    rig.stream("a", "x" * 20_000, "1", "2")
    rig.stream("b", *[small] * 12)
    seen = [name for name, _ in rig.pull(100_000)]
    assert "".join(str(name) for name in seen) == "a" + "b" * 4 + "b" * 4 + "a" * 2 + "b" * 4
    assert not rig.session.has_events()


def test_a_stream_that_comes_back_has_not_paid_by_leaving() -> None:
    rig = Rig()
    stream = rig.stream("a", "x" * 20_000)
    rig.pull(100_000)
    rig.add(stream, "1")
    rig.stream("b", *["x" * 9_000] * 3)
    assert [name for name, _ in rig.pull(100_000)] == ["b", "a", "b", "b"]


def test_a_stream_that_is_taken_out_is_not_pulled() -> None:
    rig = Rig()
    stream = rig.stream("a", "1")
    rig.stream("b", "1")
    rig.session.drop_turn(stream)
    rig.session.drop_turn(stream)
    assert rig.pull(10_000) == [("b", 1)]


def test_what_is_held_waits_and_what_came_before_was_sent_does_not() -> None:
    rig = Rig()
    a = rig.stream("a", "1", "2", "3")
    rig.stream("b", "1")
    rig.pull(1)
    assert rig.session.waiting() == 0
    rig.session.hold()
    assert rig.session.waiting() == 3
    rig.add(a, "4")
    assert rig.session.waiting() == 3
    assert rig.pull(10_000) == [("a", 3), ("a", 4), ("b", 1)]  # merged
    assert rig.session.waiting() == 0


def test_bytes_are_those_of_all_streams() -> None:
    rig = Rig()
    rig.stream("a", "1", "22")
    rig.stream("b", "333")
    assert rig.session.unsent_bytes() == 6
    rig.pull(1)
    assert rig.session.unsent_bytes() == 5


def test_active_streams_are_those_that_run() -> None:
    rig = Rig()
    rig.stream("a")
    rig.stream("b").move(Input.CANCEL)
    assert rig.session.active_streams() == 1


@pytest.mark.parametrize(("connected", "room"), [(True, True), (True, False), (False, True)])
def test_a_turn_can_go_out_when_the_socket_takes_it(connected: bool, room: bool) -> None:
    rig = Rig()
    rig.lead.transport.blocked = not room
    stream = rig.stream("a")
    if not connected:
        rig.session.socket = None
    assert rig.session.take_turn(stream) is (connected and room)


def test_without_a_socket_turns_are_kept_for_the_next() -> None:
    rig = Rig()
    rig.session.socket = None
    rig.stream("a", "1")
    assert rig.session.has_events()
    assert not rig.lead.was_woken()


def test_the_service_hears_of_a_refusal_and_of_a_pull_while_a_model_is_paused() -> None:
    rig = Rig()
    stream = rig.stream("a", "1")
    rig.session.refused(NOW)
    rig.pull(10_000)
    assert rig.service.told == ["refused"]
    rig.session.paused["a"] = stream
    rig.pull(10_000)
    assert rig.service.told == ["refused", "drained"]


def test_events_of_a_stream_are_handed_over_with_the_namespace_before_them() -> None:
    rig = Rig()
    stream = rig.stream("a")
    stream.end(events.StreamCancelled("a"))
    rig.session.take_turn(stream)
    out: list[bytes] = []
    rig.session.pull_events(out, 1, NOW)
    assert out == [b'2/ai,["ai:stream:cancelled",{"streamId":"a"}]']


def test_an_event_of_the_sessions_own_goes_to_its_connection_or_to_nobody() -> None:
    rig = Rig()
    rig.session.send(events.Done("a", 1, 2), NOW)
    rig.session.socket = None
    rig.session.send(events.Done("a", 1, 2), NOW)
    assert rig.lead.sent == [b'["ai:done",{"streamId":"a","totalTokens":1,"duration":2}]']


# -- connection state recovery ---------------------------------------------------------------------

HELLO = events.StreamCancelled("hello")  # any event will do


def offset_in(body: bytes) -> str:
    return body.rpartition(b',"')[2].removesuffix(b'"]').decode()


def ended(rig: Rig, name: str, *tokens: str) -> Stream:
    stream = rig.stream(name, *tokens)
    stream.move(Input.DONE)
    stream.end(events.Done(name, len(tokens), 0))
    rig.session.take_turn(stream)
    return stream


def test_each_event_says_what_has_been_handed_over() -> None:
    rig = Rig(Journal("n", 10_000))
    rig.session.send(HELLO, NOW)
    rig.stream("a", "1", "2")
    ended(rig, "b", "1")
    rig.session.send(HELLO, NOW, keep=False)
    out: list[bytes] = []
    rig.session.pull_events(out, 10_000, NOW)
    assert [offset_in(body) for body in [*rig.lead.sent, *out]] == [
        "n.1.0",
        "n.1.2.1.0.1.2.0.1",
        "n.1.2.1.1.1.2.0.1",
        "n.1.2.1.2.1.2.0.1",
        "n.1.2.1.2.1.2.1.1",
        "n.1.2.1.2.1",  # the second is over
    ]


def test_what_is_kept_of_events_that_name_no_stream_is_held() -> None:
    plain, recovering = Rig(), Rig(Journal("n", 10_000))
    for rig in (plain, recovering):
        rig.session.send(HELLO, NOW)
    assert plain.session.bytes_held() == 0
    assert recovering.session.bytes_held() > len(HELLO.encode())


@pytest.mark.parametrize(
    ("offset", "known"),
    [
        ("n.1.2", True),
        ("n.0.0", True),
        ("other", True),
        ("n.1.2.1.2.1", True),
        ("n.1.2.9.9.9", False),  # of a stream that is forgotten, more than it has
        ("n.2.2", False),
        ("n.1.3", False),
        ("n.1.2.1.3.1", False),
        ("n.1.2.1.2.2", False),
        ("n", False),
    ],
)
def test_only_what_was_handed_over_is_known(offset: str, known: bool) -> None:
    rig = Rig(Journal("n", 10_000))
    rig.session.send(HELLO, NOW)
    rig.stream("a", "1", "2")
    rig.stream("b")
    assert (rig.session.parse(offset) is not None) is known
    assert Rig().session.parse(offset) is None


@pytest.mark.parametrize(
    ("offset", "known"), [("n.1.1.1.0.0", False), ("n.1.2", True), ("n.1.0", False)]
)
def test_a_stream_that_is_gone_and_was_not_seen_makes_an_offset_useless(
    offset: str, known: bool
) -> None:
    rig = Rig(Journal("n", 10_000))
    rig.session.send(HELLO, NOW)
    gone = rig.stream("a", "1")
    rig.stream("b")
    rig.session.drop(gone)
    assert (rig.session.parse(offset) is not None) is known


def test_a_stream_that_is_asked_for_again_after_a_recovery_is_named_in_offsets() -> None:
    """It was asked for before, too, and that had not been handed over when the client was lost."""
    rig = Rig(Journal("n", 10_000))
    stream = ended(rig, "a", "1", "2")
    rig.session.pull_events([], 10_000, NOW)
    stream.rewind(None)
    rig.session.take_turn(stream)
    offset = rig.session.parse("n.0.1")
    assert offset is not None
    assert rig.session.recover(offset, rig.lead.socket, HELLO, NOW) == []
    stream.rewind(None)
    rig.session.take_turn(stream)
    out: list[bytes] = []
    rig.session.pull_events(out, 1, NOW)
    assert [offset_in(body) for body in out] == [
        "n.0.1.1.0.5"
    ]  # nothing, and the third start behind two ends


def test_a_session_that_was_taken_over_keeps_nothing_and_knows_no_offset() -> None:
    rig = Rig(Journal("n", 10_000))
    rig.session.send(HELLO, NOW)
    rig.session.retire()
    assert rig.session.bytes_held() == 0
    assert rig.session.parse("n.1.0") is None


def test_so_many_superseded_streams_are_known() -> None:
    rig = Rig(Journal("n", 10_000))
    rig.session.send(HELLO, NOW)
    for number in range(1, 67):
        stream = rig.stream("a")
        rig.session.supersede(stream)
        rig.session.drop(stream)
        assert rig.session.parse(f"n.1.{number}.{number}.0.0") is not None, number
    assert rig.session.parse("n.1.66.3.0.0") is not None
    assert rig.session.parse("n.1.66.2.0.0") is None


def test_a_client_that_is_back_gets_what_it_lacks_and_the_hello_first() -> None:
    rig = Rig(Journal("n", 10_000))
    rig.session.send(HELLO, NOW)
    kept, gone = rig.stream("a", "1", "2"), rig.stream("b", "1", "2")
    ended(rig, "c", "1")
    rig.session.pull_events([], 10_000, NOW)
    rig.session.send(HELLO, NOW)
    gone.log.evict_before(3)
    rig.session.socket = None
    assert rig.session.is_heard()
    rig.session.send(HELLO, NOW)
    offset = rig.session.parse("n.1.3.1.1.1.2.0.1")
    assert offset is not None
    again = Lead()
    assert rig.session.recover(offset, again.socket, HELLO, NOW) == [gone]
    assert [offset_in(body).split(".")[1] for body in again.sent] == ["1", "2", "3"]
    assert rig.pull(10_000) == [("a", 2)]
    assert kept.in_turn is False


def test_a_client_is_owed_what_it_was_not_handed_also_what_may_not_go_yet() -> None:
    rig = Rig()
    stream = rig.stream("a", "1", "2")
    rig.pull(10_000)
    assert not rig.session.is_owed()
    stream.pace = Pace(1, NOW)
    stream.release(2)
    rig.add(stream, "3")
    assert not rig.session.has_events()
    assert rig.session.is_owed()


def test_what_a_client_has_whole_does_not_come_again() -> None:
    rig = Rig(Journal("n", 10_000))
    stream = ended(rig, "a", "1", "2", "3")
    rig.session.pull_events([], 10_000, NOW)
    assert stream.rewind(1)  # asked for from a cursor; of that nothing arrives
    rig.session.take_turn(stream)
    rig.session.pull_events([], 1, NOW)
    offset = rig.session.parse("n.0.1")
    assert offset is not None
    assert rig.session.recover(offset, Lead().socket, HELLO, NOW) == []
    assert rig.pull(10_000) == []


def test_a_stream_that_is_dropped_is_not_in_the_offsets() -> None:
    rig = Rig(Journal("n", 10_000))
    stream = rig.stream("a", "1")
    rig.session.drop(stream)
    rig.session.send(HELLO, NOW)
    assert offset_in(rig.lead.sent[0]) == "n.1.1"
    assert rig.session.streams == {}
