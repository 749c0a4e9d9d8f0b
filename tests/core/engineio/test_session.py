"""One Engine.IO session alone: its table, its packets, its heartbeat."""

import itertools

import pytest
from core.clients import POLLING, WEBSOCKET, Polling, plain_world
from tokenwire.config import Config
from tokenwire.engineio.engine import Engine
from tokenwire.engineio.session import (
    ENDED,
    TRANSITIONS,
    EngineSession,
    Input,
    State,
    WebSocket,
)
from tokenwire.errors import RemoteProtocolError
from tokenwire.outputs import WantWrite
from tokenwire.queue import Outputs
from tokenwire.testing import SeededIds
from tokenwire.timers import Timer, Timers
from tokenwire.types import ConnId, Millis, Request
from tokenwire.wire import Binary

NOW = Millis(1_000)


class Echo:
    """A layer above that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.waiting: list[bytes] = []
        self.told = 0

    def receive(self, message: bytes, now: Millis) -> None:
        self.messages.append(message)

    def closed(self, reason: str, now: Millis) -> None: ...

    def has_output(self) -> bool:
        return bool(self.waiting)

    def has_queued(self) -> bool:
        return bool(self.waiting)

    def received(self) -> None:
        self.told += 1

    def pull(self, out: list[bytes], budget: int, now: Millis) -> None:
        while self.waiting and budget > 0:
            budget -= len(self.waiting[0])
            out.append(self.waiting.pop(0))

    def refused(self, now: Millis) -> None: ...

    def last_words(self) -> list[bytes]:
        words, self.waiting = self.waiting, []
        return words


class Setting:
    def __init__(self) -> None:
        self.outputs = Outputs()
        self.timers = Timers()
        self.session = EngineSession("sid", "", None, self.outputs, self.timers, (300, 200))
        self.echo = self.session.upper = Echo()


@pytest.mark.parametrize(("state", "what"), list(itertools.product(State, Input)))
def test_each_input_in_each_state_is_in_the_table_or_a_fault_of_ours(
    state: State, what: Input
) -> None:
    session = Setting().session
    session.state = state
    expected = TRANSITIONS.get((state, what))
    if expected is None:
        with pytest.raises(KeyError):
            session.move(what)
        assert session.state is state
    else:
        session.move(what)
        assert session.state is expected


def test_no_way_leads_back_from_an_end() -> None:
    for (state, _), target in TRANSITIONS.items():
        assert state is not State.CLOSED
        if state in ENDED:
            assert target is State.CLOSED


def test_every_state_can_be_reached_and_lost() -> None:
    assert {State.POLLING, *TRANSITIONS.values()} == set(State)
    for state in set(State) - {State.CLOSED}:
        assert TRANSITIONS[state, Input.LOSE] is State.CLOSED


@pytest.mark.parametrize(
    ("packet", "received"),
    [
        (b"4hello", [b"hello"]),
        (b"4", [b""]),
        (Binary(b"\x01"), [Binary(b"\x01")]),
        (b"3", []),
        (b"3probe", []),
        (b"5", []),
        (b"6", []),
    ],
)
def test_packets_of_a_client(packet: bytes, received: list[bytes]) -> None:
    setting = Setting()
    assert setting.session.receive_packet(packet, NOW)
    assert setting.echo.messages == received
    assert setting.echo.told == 0


@pytest.mark.parametrize("packet", [b"", b"0", b"2", b"2probe", b"7", b"b", b"\xc3\xa9", b" 4"])
def test_packets_that_a_client_must_not_send(packet: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Setting().session.receive_packet(packet, NOW)


def test_a_close_packet_says_so() -> None:
    assert not Setting().session.receive_packet(b"1", NOW)


def test_its_own_packets_go_first_and_the_rest_stays_above() -> None:
    setting = Setting()
    assert not setting.session.has_output()
    setting.echo.waiting = [b"first", Binary(b"\x01"), b"later"]
    setting.session.ping(NOW)
    assert setting.session.has_output()
    out: list[bytes] = []
    setting.session.pull(out, 6, NOW)
    assert out == [b"2", b"4first", b"\x01"]
    assert type(out[2]) is Binary
    assert setting.echo.waiting == [b"later"]


def test_last_words_are_packets() -> None:
    setting = Setting()
    setting.echo.waiting = [b"bye", Binary(b"\x01")]
    assert setting.session.last_words() == [b"4bye", b"\x01"]


def test_it_wakes_the_transport_that_it_has() -> None:
    setting = Setting()
    session = setting.session
    assert session.transport == "polling"
    session.wake()
    assert not session.writable()
    assert setting.outputs.poll() is None
    session.poll = ConnId(1)
    session.wake()
    assert session.writable()
    assert setting.outputs.poll() == WantWrite(ConnId(1))
    session.ws = WebSocket(ConnId(2), session)
    session.wake()
    assert session.transport == "websocket"
    assert session.writable()
    assert setting.outputs.poll() == WantWrite(ConnId(2))
    session.ws.blocked = True
    assert not session.writable()


def test_the_heartbeat_goes_from_ping_to_pong_to_ping() -> None:
    setting = Setting()
    session, timers = setting.session, setting.timers
    session.start_heartbeat(NOW)
    assert list(timers.due(Millis(1_300))) == [(Timer.PING, "sid")]
    session.ping(Millis(1_300))
    assert timers.is_due(Timer.PONG, "sid", Millis(1_500))
    session.receive_packet(b"3", Millis(1_400))
    assert not timers.is_set(Timer.PONG, "sid")
    assert timers.is_due(Timer.PING, "sid", Millis(1_700))


def test_a_pong_says_what_has_come() -> None:
    setting = Setting()
    session, echo = setting.session, setting.echo
    out: list[bytes] = []
    session.pull(out, 9, NOW)
    session.ping(NOW)
    session.pull(out, 9, Millis(1_100))
    assert session.received_until == 0
    session.receive_packet(b"3", Millis(1_200))
    assert session.received_until == 1_100
    assert echo.told == 1
    session.receive_packet(b"3", Millis(1_300))  # nobody has asked
    assert echo.told == 1


def test_a_pong_says_nothing_of_what_was_still_to_go_behind_the_ping() -> None:
    setting = Setting()
    session, echo = setting.session, setting.echo
    out: list[bytes] = []
    session.ping(NOW)
    echo.waiting = [b"one", b"two"]
    session.pull(out, 3, NOW)
    assert out == [b"2", b"4one"]
    session.receive_packet(b"3", Millis(1_200))
    assert session.received_until == 0
    session.pull(out, 3, Millis(1_200))
    session.ping(Millis(1_500))
    session.receive_packet(b"3", Millis(1_600))  # before the ping has gone: of the one before
    assert session.received_until == 0


def test_a_flood_of_unsolicited_pongs_moves_no_timer() -> None:
    setting = Setting()
    setting.session.start_heartbeat(NOW)
    for _ in range(1_000):
        setting.session.receive_packet(b"3", Millis(1_200))
    assert list(setting.timers.due(Millis(1_300))) == [(Timer.PING, "sid")]
    assert setting.timers.next() is None


def test_a_peer_that_still_takes_bytes_is_slow_and_not_gone() -> None:
    setting = Setting()
    setting.session.progress_at = Millis(1_100)
    assert not setting.session.pong_is_late(Millis(1_299))
    assert setting.timers.is_due(Timer.PONG, "sid", Millis(1_300))
    assert setting.session.pong_is_late(Millis(1_300))


@pytest.mark.parametrize(
    ("agent", "sizes"),
    [("Python/3.11 aiohttp/3.9", [16, 16, 8]), ("python-requests/2.3", [16, 16, 8]), ("", [40])],
)
def test_an_answer_has_no_more_packets_than_its_client_takes(agent: str, sizes: list[int]) -> None:
    world = plain_world()
    client = Polling(world, {"User-Agent": agent})
    socket = client.join()
    for number in range(40):
        world.server.emit(socket, "e", [number], world.now)
    answers = [client.poll() for _ in sizes]
    packets = [answer.body.split(b"\x1e") for answer in answers if answer is not None]
    assert [len(each) for each in packets] == sizes
    assert [*itertools.chain(*packets)] == [b'42["e",%d]' % number for number in range(40)]
    assert client.poll() is None


def test_such_an_answer_keeps_to_its_bytes_too() -> None:
    world = plain_world(poll_bytes=100)
    client = Polling(world, {"User-Agent": "Python"})
    socket = client.join()
    for _ in range(4):
        world.server.emit(socket, "e", ["x" * 60], world.now)
    answers = [client.poll() for _ in range(2)]
    assert [answer.body.count(b"\x1e") for answer in answers if answer is not None] == [1, 1]


def opened(target: str, *, upgrade: bool) -> tuple[Engine, EngineSession]:
    """Return an engine, and the session that it has opened."""
    sessions: list[EngineSession] = []

    def open_upper(session: EngineSession, now: Millis) -> Echo:
        sessions.append(session)
        return Echo()

    engine = Engine(Config(), Outputs(), Timers(), SeededIds(1), open_upper)
    path, _, query = target.partition("?")
    engine.receive_request(ConnId(1), Request("GET", path, query, upgrade=upgrade), NOW)
    (session,) = sessions
    return engine, session


def test_a_session_ends_once() -> None:
    engine, session = opened(WEBSOCKET, upgrade=True)
    engine.evict_session(session, "first", NOW)
    assert session.state is State.CLOSED
    engine.close_session(session, "again", NOW)
    engine.abort_session(session, "again", NOW)
    assert session.state is State.CLOSED


def test_a_session_that_is_over_knows_no_layer_above_it() -> None:
    engine, session = opened(POLLING, upgrade=False)
    assert hasattr(session, "upper")
    engine.close_session(session, "its client has still to hear it", NOW)
    assert session.state is State.CLOSING
    assert not hasattr(session, "upper")
