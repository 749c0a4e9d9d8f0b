"""One Engine.IO session from the client's side: transports, upgrade, heartbeat, ends."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from core.client.net import Link, Net, frame, handshake, polling_net, websocket_net
from tokenwire.client import ConnectFailed, Event, Joined, Left, Reconnecting
from tokenwire.types import ConnId, Millis


def failure(net: Net) -> tuple[str, str]:
    """Take the failed attempt that the program was told of: reason and detail."""
    failed, again = net.told()
    assert isinstance(failed, ConnectFailed)
    assert isinstance(again, Reconnecting)
    return failed.reason, failed.detail


def loss(net: Net) -> tuple[str, str]:
    """Take the lost connection that the program was told of: reason and detail."""
    left, again = net.told()
    assert isinstance(left, Left)
    assert isinstance(again, Reconnecting)
    return left.reason, left.detail


# -- transports ----------------------------------------------------------------------------------


def test_websocket_alone() -> None:
    net = Net(
        transports=("websocket",),
        path="/x/",
        query=(("q", "a b"),),
        headers=(("x-token", "t"),),
    )
    assert net.transport() is None
    net.join()
    link = net.next()
    asked = link.accept()
    assert (asked.method, asked.path) == ("GET", "/x/")
    assert asked.query == {"EIO": "4", "transport": "websocket", "q": "a b"}
    assert asked.headers["host"] == "test"
    assert asked.headers["x-token"] == "t"
    link.say(handshake(upgrades=["websocket"]))
    assert link.texts() == ["40"]
    link.say('40{"sid":"s"}')
    assert net.told() == [Joined("/", "s", recovered=False)]
    assert net.transport() == "websocket"
    assert net.quiet, "nothing is left to upgrade to"


def test_polling_alone() -> None:
    net = Net(transports=("polling",), headers=(("x-token", "t"),))
    net.join()
    assert net.transport() == "polling"
    get = net.next()
    asked = get.asked()
    assert asked.kind == "GET polling"
    assert asked.query == {"EIO": "4", "transport": "polling"}
    get.answer(handshake())
    asked = get.asked()
    assert asked.query == {"EIO": "4", "transport": "polling", "sid": "S"}
    assert "content-type" not in asked.headers
    post = net.next()
    asked = post.asked()
    assert (asked.kind, asked.query["sid"], asked.body) == ("POST polling", "S", b"40")
    assert asked.headers["content-type"] == "text/plain;charset=UTF-8"
    assert asked.headers["x-token"] == "t"
    get.answer(b'40{"sid":"s"}\x1e42["a"]')
    assert get.asked().kind == "GET polling"
    assert net.names() == ["Joined", "Event"]
    assert net.quiet, "no WebSocket was asked for"


@pytest.mark.parametrize(
    ("settings", "upgrades"),
    [
        ({"transports": ("polling",)}, ["websocket"]),
        ({"upgrade": False}, ["websocket"]),
        ({}, []),
        ({}, ["webtransport"]),
        ({"transports": ("websocket", "polling")}, ["websocket"]),
    ],
)
def test_no_upgrade_where_one_side_does_not_want_it(
    settings: dict[str, Any], upgrades: list[str]
) -> None:
    net = Net(**settings)
    net.join()
    first = net.next()
    if net.transport() == "polling":
        first.asked()
        first.answer(handshake(upgrades=upgrades))
        assert net.next().asked().kind == "POST polling"
    else:
        first.accept(frame(handshake(upgrades=upgrades)))
    assert net.quiet


def test_a_server_that_closes_each_connection_is_dialled_again() -> None:
    net = Net()
    net.join()
    get = net.next()
    get.asked()
    get.answer(handshake(upgrades=[]), headers="Connection: close\r\n")
    assert get.ended
    post = net.next()
    assert post.asked().body == b"40"
    again = net.next()
    assert again.asked().query["sid"] == "S"
    post.answer(b"ok", headers="Connection: close\r\n")
    again.answer(b'40{"sid":"s"}')
    net.emit("a")
    assert net.next().asked().body == b'42["a"]'
    assert net.names() == ["Joined"]


@pytest.mark.parametrize("how", ["eof", "drop"])
def test_an_idle_connection_may_end(how: str) -> None:
    net, (_, post) = polling_net()
    getattr(post, how)()
    assert post.ended
    net.emit("a")
    assert net.next().asked().body == b'42["a"]'
    assert net.told() == []


def test_a_connection_that_was_idle_for_long_is_not_trusted_with_a_post() -> None:
    net, (_, post) = polling_net()
    net.advance(3_999)
    net.emit("a")
    assert post.asked().body == b'42["a"]'
    post.answer(b"ok")
    net.advance(4_000)
    net.emit("b")
    assert post.ended
    assert net.next().asked().body == b'42["b"]'


# -- sending -------------------------------------------------------------------------------------


def test_what_waits_goes_in_one_post_up_to_max_payload() -> None:
    net = Net(transports=("polling",))
    net.join()
    get = net.next()
    get.asked()
    get.answer(handshake(maxPayload=30))
    get.asked()
    post = net.next()
    assert post.asked().body == b"40"
    get.answer(b'40{"sid":"s"}')
    for argument in ("1234", "12345678", b"abcd", "123456"):
        net.emit("a", argument)
    bodies = []
    for _ in range(4):
        post.answer(b"ok")
        bodies.append(post.asked().body)
    assert bodies == [
        b'42["a","1234"]',
        b'42["a","12345678"]',
        b'451-["a",{"_placeholder":true,"num":0}]',  # more than all: alone, and without delay
        b'bYWJjZA==\x1e42["a","123456"]',  # 9 bytes, a separator, 16
    ]


@pytest.mark.parametrize(("max_payload", "counts"), [(15, [2, 2, 1]), (14, [1, 1, 1, 1, 1])])
def test_a_body_of_exactly_max_payload_is_used(max_payload: int, counts: list[int]) -> None:
    net = Net(transports=("polling",))
    net.join()
    get = net.next()
    get.asked()
    get.answer(handshake(maxPayload=max_payload))
    get.asked()
    post = net.next()
    post.asked()
    get.answer(b'40{"sid":"s"}')
    for _ in range(5):
        net.emit("a")
    for count in counts:
        post.answer(b"ok")
        assert post.asked().body == b"\x1e".join([b'42["a"]'] * count)


def test_a_max_payload_of_nothing_still_sends() -> None:
    net = Net(transports=("polling",))
    net.join()
    get = net.next()
    get.asked()
    get.answer(handshake(maxPayload=0))
    assert net.next().asked().body == b"40"


def test_one_post_at_a_time() -> None:
    net, (_, post) = polling_net()
    net.emit("a")
    net.emit("b")
    net.emit("c")
    assert post.asked().body == b'42["a"]'
    assert post.sent == b""
    post.answer(b"ok")
    assert post.asked().body == b'42["b"]\x1e42["c"]'
    assert net.quiet


def test_bytes_are_made_when_the_socket_has_room() -> None:
    net, link = websocket_net()
    link.room = 20
    net.emit("a", "x" * 100)
    net.emit("b", "y" * 100)
    assert len(link.sent) == 20
    link.say("2")
    link.room = None
    link.flush()
    assert link.texts() == [f'42["a","{"x" * 100}"]', "3", f'42["b","{"y" * 100}"]'], (
        "the pong goes before what waits"
    )


def test_large_messages_go_whole() -> None:
    net, link = websocket_net()
    net.emit("a", "x" * 200_000, b"y" * 200_000)
    opcodes = link.frames()
    assert [(opcode, len(payload)) for opcode, payload in opcodes] == [
        (1, len('451-["a","",{"_placeholder":true,"num":0}]') + 200_000),
        (2, 200_000),
    ]


# -- the upgrade ---------------------------------------------------------------------------------


@dataclass
class Links:
    """The connections of a session that upgrades."""

    get: Link
    post: Link
    probe: Link


def probing() -> tuple[Net, Links]:
    """A client that has joined over polling and dials its probe; its GET hangs."""
    net = Net()
    net.join()
    get = net.next()
    get.asked()
    get.answer(handshake())
    get.asked()
    post = net.next()
    assert post.asked().body == b"40"
    probe = net.dialled()
    post.answer(b"ok")
    get.answer(b'40{"sid":"s"}')
    get.asked()
    assert net.names() == ["Joined"]
    return net, Links(get, post, probe)


def test_an_upgrade() -> None:
    net, links = probing()
    asked = links.probe.open().accept()
    assert asked.query == {"EIO": "4", "transport": "websocket", "sid": "S"}
    assert links.probe.texts() == ["2probe"]
    links.probe.say("3probe")
    assert links.probe.texts() == [], "the poll has still to come back"
    assert net.transport() == "polling"
    net.emit("early")
    assert links.post.sent == b"", "nothing new over polling"
    links.get.answer(b'6\x1e42["a"]')
    assert links.probe.texts() == ["5", '42["early"]']
    assert links.get.ended
    assert links.post.ended
    assert net.transport() == "websocket"
    net.emit("late")
    links.probe.say('42["b"]')
    assert links.probe.texts() == ['42["late"]']
    assert [output.name for output in net.told() if isinstance(output, Event)] == ["a", "b"]
    net.advance(20_000)
    assert net.told() == []
    assert net.quiet


def test_an_upgrade_waits_for_the_post_too() -> None:
    net, links = probing()
    links.probe.open().accept()
    net.emit("a")
    assert links.post.asked().body == b'42["a"]'
    links.probe.say("3probe")
    net.emit("b")
    links.get.answer(b"6")
    assert links.probe.texts() == ["2probe"]
    links.post.answer(b"ok")
    assert links.probe.texts() == ["5", '42["b"]']


def test_an_upgrade_lets_go_of_a_poll_that_is_only_being_dialled() -> None:
    net, links = probing()
    links.probe.open().accept()
    links.get.answer(b"6", headers="Connection: close\r\n")
    again = net.dialled()
    links.probe.say("3probe")
    assert again.aborted
    assert links.probe.texts() == ["2probe", "5"]
    again.open()  # the runtime was about to say so
    assert again.sent == b""


def test_a_poll_that_is_dialled_while_the_post_is_awaited_does_not_begin() -> None:
    net, links = probing()
    links.probe.open().accept()
    net.emit("a")
    links.post.asked()
    links.get.answer(b"6", headers="Connection: close\r\n")
    again = net.dialled()
    links.probe.say("3probe")
    again.open()
    assert again.sent == b""
    links.post.answer(b"ok")
    assert links.probe.texts() == ["2probe", "5"]


FAILED_PROBES = ("unreachable", "refused", "wrong", "gone", "closed", "in time", "silent")


@pytest.mark.parametrize("how", FAILED_PROBES)
def test_a_probe_that_fails_leaves_polling_as_it_was(how: str) -> None:
    net, links = probing()
    probe = links.probe
    if how == "unreachable":
        probe.drop()
    elif how == "in time":
        net.advance(10_000)
        assert probe.aborted
    else:
        probe.open()
        if how == "refused":
            probe.asked()
            probe.answer(b"no", status=400)
        else:
            probe.accept()
        if how == "wrong":
            probe.say("3prob", "3probe", '42["not from a probe"]')
        elif how == "gone":
            probe.drop()
        elif how == "closed":
            probe.send(frame(b"\x03\xe8", 8))
        elif how == "silent":
            net.advance(9_999)
            assert not probe.ended
            net.advance(1)
        assert probe.ended
    assert net.told() == []
    assert net.transport() == "polling"
    net.emit("a")
    if how in ("in time", "silent"):
        assert links.post.ended
        links.post = net.next()
    assert links.post.asked().body == b'42["a"]'
    links.get.answer(b'42["b"]')
    assert links.get.asked().kind == "GET polling"
    assert net.names() == ["Event"]
    assert net.quiet


CLOSE = frame(b"\x03\xe8", 8)


@pytest.mark.parametrize("more", [CLOSE, frame(b"3probe") + CLOSE, frame(b"3probe") + b"\xff\xff"])
def test_a_probe_that_ends_with_its_first_bytes(more: bytes) -> None:
    net, links = probing()
    links.get.answer(b"6", headers="Connection: close\r\n")  # nothing but the probe is awaited
    again = net.dialled()
    links.probe.open().accept(more)
    assert links.probe.ended
    assert net.told() == []
    assert again.open().asked().kind == "GET polling"
    net.emit("a")
    assert links.post.asked().body == b'42["a"]'


@pytest.mark.parametrize("how", ["drop", "packet", "time"])
def test_an_upgrade_that_fails_while_polling_pauses(how: str) -> None:
    net, links = probing()
    links.probe.open().accept()
    net.emit("a")
    assert links.post.asked().body == b'42["a"]'
    links.probe.say("3probe")
    net.emit("b")
    links.get.answer(b'6\x1e42["c"]')
    assert links.get.sent == b""
    if how == "drop":
        links.probe.drop()
    elif how == "packet":
        links.probe.say('42["too early"]')
    else:
        net.advance(10_000)
        assert links.get.ended, "idle for too long"
        links.get = net.next()
    assert links.get.asked().kind == "GET polling", "polling goes on"
    links.post.answer(b"ok")
    assert links.post.asked().body == b'42["b"]'
    assert net.names() == ["Event"]
    assert net.transport() == "polling"


def test_an_upgrade_that_fails_while_the_poll_hangs_does_not_poll_twice() -> None:
    net, links = probing()
    links.probe.open().accept()
    links.probe.say("3probe")
    links.probe.drop()
    assert links.get.sent == b""
    assert net.quiet
    links.get.answer(b"6")
    assert links.get.asked().kind == "GET polling"


def test_the_probe_ends_with_its_session() -> None:
    net, links = probing()
    links.get.answer(b"1")
    assert loss(net) == ("transport close", "the server closed the session")
    assert links.probe.aborted
    links.probe.open()  # the runtime was about to say so
    links.probe.send(b"x")
    links.probe.eof()
    links.probe.drop()
    assert links.probe.sent == b""


# -- the handshake -------------------------------------------------------------------------------

WRONG_HANDSHAKES = [
    b"hello",
    b"",
    b"0",
    b"0{",
    b"0[]",
    b"0{}",
    b'0{"sid":"S"}',
    b"0\xff",
    b"2",
    b"6",
    b'42["a"]',
    handshake(sid=""),
    handshake(sid=7),
    handshake(pingInterval=-1),
    handshake(pingTimeout="20000"),
    handshake(upgrades="websocket"),
    handshake(maxPayload=None),
]


@pytest.mark.parametrize("packet", WRONG_HANDSHAKES)
def test_a_wrong_handshake_over_polling(packet: bytes) -> None:
    net = Net(transports=("polling",))
    net.join()
    link = net.next()
    link.answer(packet)
    assert failure(net)[0] == "parse error"
    assert link.ended


@pytest.mark.parametrize("packet", [packet for packet in WRONG_HANDSHAKES if b"\xff" not in packet])
def test_a_wrong_handshake_over_websocket(packet: bytes) -> None:
    net = Net(transports=("websocket",))
    net.join()
    link = net.next()
    link.accept(frame(packet))
    assert failure(net)[0] == "parse error"
    assert link.ended


def test_a_binary_message_is_no_handshake() -> None:
    net = Net(transports=("websocket",))
    net.join()
    net.next().accept(frame(handshake(), 2))
    assert failure(net) == ("parse error", "a packet before the handshake")


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_server_that_cannot_be_reached(transport: str) -> None:
    net = Net(transports=(transport,))
    net.join()
    net.dialled().drop()
    assert failure(net) == ("transport error", "the server cannot be reached")


@pytest.mark.parametrize(
    ("transport", "detail"),
    [
        ("polling", "the server answered with status 404"),
        ("websocket", "the server refused the WebSocket with status 404"),
    ],
)
def test_a_server_that_refuses(transport: str, detail: str) -> None:
    net = Net(transports=(transport,))
    net.join()
    net.next().answer(b"what?", status=404)
    assert failure(net) == ("transport error", detail)


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("opened", [True, False])
def test_a_server_that_does_not_answer_in_time(transport: str, opened: bool) -> None:
    net = Net(transports=(transport,), connect_timeout=500)
    net.join()
    link = net.next() if opened else net.dialled()
    net.advance(499)
    assert net.told() == []
    net.advance(1)
    assert failure(net) == ("timeout", "the server does not answer")
    assert link.aborted, "nobody waits for a dead server to take what was written"
    link.open()  # the runtime was about to say so


def test_the_connect_timeout_is_over_with_the_handshake() -> None:
    net, _ = websocket_net(connect_timeout=500)
    net.told()
    net.advance(10_000)
    assert net.told() == []


# -- what the server says ------------------------------------------------------------------------


def test_pings_are_answered_and_keep_the_session() -> None:
    net, link = websocket_net()
    net.told()
    for _ in range(5):
        net.advance(44_999)
        link.say("2")
        assert link.texts() == ["3"]
    assert net.told() == []
    net.advance(45_000)
    assert loss(net) == ("ping timeout", "the server does not ping")
    assert link.aborted


def test_a_ping_that_comes_with_the_end_is_not_answered() -> None:
    net, link = websocket_net()
    net.told()
    link.send(frame(b"2") + frame(b"\x03\xe8", 8))
    assert link.frames() == [(8, b"\x03\xe8")]
    assert loss(net)[0] == "transport close"


def test_pings_over_polling() -> None:
    net, (get, post) = polling_net()
    net.advance(3_000)
    get.answer(b"2")
    assert post.asked().body == b"3"
    post.answer(b"ok")
    net.advance(45_000)
    assert loss(net)[0] == "ping timeout"
    assert get.aborted


@pytest.mark.parametrize(
    "packet", ["", "3", "5", "7", "x", "0{}", "4", "49", "42", '42["connect"]']
)
def test_a_wrong_packet_closes(packet: str) -> None:
    net, link = websocket_net()
    net.told()
    link.say(packet, '42["not any more"]')
    assert loss(net)[0] == "parse error"
    assert link.ended
    assert link.frames() == [(8, b"\x03\xe8")]


@pytest.mark.parametrize("body", [b"", b"\x1e", b"b!", b"\xff", b"7", b"6\x1e" * 4_096 + b"6"])
def test_a_wrong_payload_closes(body: bytes) -> None:
    net, (get, post) = polling_net()
    get.answer(body)
    assert loss(net)[0] == "parse error"
    assert get.ended
    assert post.ended


def test_noop_and_binary() -> None:
    net, (get, _) = polling_net()
    get.answer(b'6\x1e451-["a",{"_placeholder":true,"num":0}]\x1ebYg==')
    assert net.told() == [Event("/", "a", (b"b",), None)]


def test_the_server_closes_a_polling_session() -> None:
    net, (get, post) = polling_net()
    get.answer(b'42["a"]\x1e1\x1e42["not any more"]')
    event, *rest = net.told()
    assert event == Event("/", "a", (), None)
    assert [type(output) for output in rest] == [Left, Reconnecting]
    assert get.ended
    assert post.ended


@pytest.mark.parametrize("how", ["eof", "drop", "close frame", "bad frame"])
def test_the_server_ends_the_websocket(how: str) -> None:
    net, link = websocket_net()
    net.told()
    if how == "eof":
        link.eof()
    elif how == "drop":
        link.drop()
    elif how == "close frame":
        link.send(frame(b'42["last words"]') + frame(b"\x03\xe9", 8))
        assert net.events.pop(0) == Event("/", "last words", (), None)
        assert link.frames() == [(8, b"\x03\xe9")]
    else:
        link.send(b"\xff\xff")
    assert loss(net)[0] == "transport close"
    assert link.ended


@pytest.mark.parametrize("role", ["get", "post"])
@pytest.mark.parametrize("how", ["eof", "drop", "status", "bytes"])
def test_a_request_that_fails_ends_the_session(role: str, how: str) -> None:
    net, polls = polling_net()
    link = getattr(polls, role)
    if role == "post":
        net.emit("a")
        link.asked()
    if how == "status":
        link.answer(b"", status=500)
    elif how == "bytes":
        link.send(b"not HTTP\r\n\r\n")
    else:
        getattr(link, how)()
    assert loss(net)[0] == "transport error"
    assert polls.get.ended
    assert polls.post.ended


def test_inputs_about_unknown_connections_are_harmless() -> None:
    net = Net()
    for conn in (ConnId(1), ConnId(77)):
        net.client.connected(conn, net.now)
        net.client.receive_data(conn, b"x", net.now)
        net.client.receive_eof(conn, net.now)
        net.client.connection_lost(conn, net.now)
        assert net.client.data_to_send(conn, 100, net.now).data == b""
    net.client.handle_timeout(Millis(10**9))
    assert net.client.poll() is None


# -- closing -------------------------------------------------------------------------------------


def test_closing_a_websocket_says_all_first() -> None:
    net, link = websocket_net()
    link.room = 0
    net.emit("a", "x" * 100_000)
    net.close()
    assert net.names() == ["Joined", "Left"]
    assert not net.over(), "the last words are still to be said"
    link.room = None
    link.flush()
    texts = link.frames()
    assert [len(payload) for _, payload in texts] == [100_000 + len('42["a",""]'), 2, 2]
    assert [opcode for opcode, _ in texts] == [1, 1, 8]
    assert texts[1:] == [(1, b"41"), (8, b"\x03\xe8")]
    assert not net.over(), "the server may have something to say, too"
    link.say('42["not looked at"]')
    link.close()
    assert net.names() == []
    assert net.over()
    assert net.client.next_timeout() is None


def test_closing_a_polling_session_says_all_first() -> None:
    net, (get, post) = polling_net()
    net.emit("a")
    net.emit("b")
    net.close()
    assert post.asked().body == b'42["a"]'
    get.answer(b"6")
    assert get.sent == b"", "no further poll"
    assert not net.over()
    post.answer(b"ok")
    assert post.asked().body == b'42["b"]\x1e41\x1e1'
    post.answer(b"ok")
    assert get.ended
    assert post.ended
    assert net.over()
    assert net.client.next_timeout() is None


@pytest.mark.parametrize("paused", [False, True])
def test_closing_during_an_upgrade_goes_over_polling(paused: bool) -> None:
    net, links = probing()
    links.probe.open().accept()
    if paused:
        links.probe.say("3probe")
    net.close()
    assert links.probe.ended
    links.get.answer(b"6")
    said = []
    while not net.over():
        said.append(links.post.asked().body)
        links.post.answer(b"ok")
    assert b"\x1e".join(said) == b"41\x1e1"


def test_closing_before_the_handshake_gives_the_dial_up() -> None:
    net = Net()
    net.join()
    link = net.dialled()
    net.close()
    assert link.aborted
    assert net.over()
    assert net.names() == ["Left"]


def test_a_server_that_does_not_take_the_last_words() -> None:
    net, link = websocket_net(close_timeout=700)
    link.room = 0
    net.close()
    net.advance(699)
    assert not net.over()
    net.advance(1)
    assert net.over()
    assert link.aborted


@pytest.mark.parametrize("how", ["eof", "drop", "silence"])
def test_a_server_that_does_not_answer_the_close(how: str) -> None:
    net, link = websocket_net()
    net.close()
    assert not net.over()
    if how == "silence":
        net.advance(2_000)
        assert link.aborted
    else:
        getattr(link, how)()
    assert net.over()
    assert net.names() == ["Joined", "Left"]


@pytest.mark.parametrize("how", ["drop", "answer", "timeout"])
def test_a_session_that_ends_while_it_is_closing(how: str) -> None:
    net, (get, post) = polling_net()
    net.close()
    post.asked()
    if how == "drop":
        get.drop()
    elif how == "answer":
        get.answer(b"x", status=400)
    else:
        net.advance(2_000)
    assert net.names() == ["Left"]
    assert net.over()
    assert post.ended or post.aborted


def test_a_client_that_closes_twice_is_closed_once() -> None:
    net, link = websocket_net()
    link.room = 0
    net.close()
    net.join("/again")
    net.leave("/again")
    link.room = None
    link.flush()
    assert link.frames() == [(1, b"41"), (8, b"\x03\xe8")]
    link.close()
    assert net.over()
    assert net.quiet


def test_the_handshake_is_read_as_json() -> None:
    packet = b"0" + json.dumps({"sid": "é", "upgrades": [], "pingInterval": 1, "pingTimeout": 2,
                                "more": {}}).encode()  # fmt: skip
    net = Net(transports=("polling",))
    net.join()
    get = net.next()
    get.asked()
    get.answer(packet)
    assert get.asked().query["sid"] == "é"
