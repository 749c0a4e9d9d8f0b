"""A Socket.IO client: namespaces, events, acks, reconnection, recovery."""

from typing import Any

import pytest
from core.client.net import (
    Link,
    Net,
    frame,
    handshake,
    polling_net,
    rejoin_websocket,
    websocket_net,
)
from tokenwire.client import (
    Acknowledged,
    AckTimedOut,
    ConnectFailed,
    Event,
    Joined,
    Left,
    Reconnecting,
    Refused,
)
from tokenwire.errors import LocalProtocolError


def joined(**settings: Any) -> tuple[Net, Link]:
    """A client whose namespace `/` is joined over a WebSocket; all that was told is taken."""
    net, link = websocket_net(**settings)
    net.told()
    return net, link


def lose(net: Net, link: Link) -> None:
    """Lose the transport, and let the time until the next attempt pass."""
    link.drop()
    net.advance(5_000)


# -- namespaces ----------------------------------------------------------------------------------


def test_each_namespace_is_joined_with_its_auth() -> None:
    net = Net(transports=("websocket",))
    net.join("/a", {"token": "t"})
    link = net.next()
    net.join("/b")
    link.accept(frame(handshake()))
    net.join("/")
    assert link.texts() == ['40/a,{"token":"t"}', "40/b,", "40"]
    link.say('40/b,{"sid":"1"}', '40{"sid":"2"}', '40/a,{"sid":"3"}')
    assert net.told() == [
        Joined("/b", "1", recovered=False),
        Joined("/", "2", recovered=False),
        Joined("/a", "3", recovered=False),
    ]


@pytest.mark.parametrize(
    ("name", "auth"),
    [
        ("", None),
        ("chat", None),
        ("/a,b", None),
        ("/\ud800", None),
        ("/a", {"x": object()}),
        ("/a", {"x": "\ud800"}),
    ],
)
def test_a_namespace_that_cannot_be_joined(name: str, auth: dict[str, object] | None) -> None:
    net = Net()
    with pytest.raises(LocalProtocolError):
        net.join(name, auth)
    assert net.quiet
    assert net.over()


def test_misuse_changes_nothing() -> None:
    net, link = joined()
    with pytest.raises(LocalProtocolError, match="joined already"):
        net.join("/")
    with pytest.raises(LocalProtocolError, match="was not joined"):
        net.leave("/x")
    with pytest.raises(LocalProtocolError, match="was not joined"):
        net.emit("a", namespace="/x")
    circle: list[object] = []
    circle.append(circle)
    for value in (object(), "\ud800", circle):
        with pytest.raises(LocalProtocolError, match="cannot be sent"):
            net.emit("a", value)
        with pytest.raises(LocalProtocolError, match="cannot be sent"):
            net.acknowledge(1, value)
    for name in ("connect", "disconnect", "newListener"):
        with pytest.raises(LocalProtocolError, match="the protocol's own"):
            net.emit(name)
    assert link.texts() == []
    assert net.emit("a", want_ack=True) == 0
    assert net.told() == []


@pytest.mark.parametrize("error", ['{"message":"no","data":{"code":7}}', '"no"'])
def test_a_namespace_that_is_refused(error: str) -> None:
    net, link = joined()
    net.join("/a", {"token": "wrong"})
    net.emit("waits", namespace="/a", want_ack=True, ack_timeout=100)
    link.texts()
    link.say(f"44/a,{error}")
    lost, refused = net.told()
    assert lost == AckTimedOut("/a", 0)
    assert isinstance(refused, Refused)
    assert refused.error == (
        {"message": "no", "data": {"code": 7}} if error.startswith("{") else "no"
    )
    net.advance(1_000)
    assert net.told() == []
    lose(net, link)
    rejoin_websocket(net)
    assert net.names() == ["Left", "Reconnecting", "Joined"], "it is not asked for again"


def test_the_connection_ends_with_the_last_refusal() -> None:
    net = Net(transports=("websocket",))
    net.join()
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ["40"]
    link.say('44{"message":"no"}')
    assert net.told() == [Refused("/", {"message": "no"})]
    link.close()
    assert net.over()


def test_leaving() -> None:
    net, link = joined()
    net.join("/a")
    net.leave("/a")
    assert link.texts() == ["40/a,"], "who was not in yet has nothing to leave"
    net.leave("/")
    assert link.frames() == [(1, b"41"), (8, b"\x03\xe8")]
    assert net.told() == [Left("/a", "io client disconnect"), Left("/", "io client disconnect")]
    link.say('42["late"]')
    link.close()
    assert net.told() == []
    assert net.over()


def test_what_comes_for_a_namespace_that_was_left_is_ignored() -> None:
    net, link = joined()
    net.join("/a")
    link.say('40/a,{"sid":"a"}')
    net.leave("/a")
    link.say('42/a,["late"]', "41/a,", "43/a,0[]", '44/a,"no"', '40/a,{"sid":"a"}', '42["a"]')
    assert net.told()[2:] == [Event("/", "a", (), None)]


def test_the_server_disconnects() -> None:
    net, link = joined()
    net.join("/a")
    link.say('40/a,{"sid":"a"}', "41/a,")
    assert net.told() == [
        Joined("/a", "a", recovered=False),
        Left("/a", "io server disconnect"),
    ]
    link.say("41")
    assert net.told() == [Left("/", "io server disconnect")]
    link.close()
    assert net.over(), "the client does not come back by itself"
    net.join("/")
    rejoin_websocket(net)
    assert net.names() == ["Joined"], "unless the program wants it"


def test_joining_while_the_last_words_are_said() -> None:
    net, (_, post) = polling_net()
    net.leave("/")
    net.join("/")
    assert net.names() == ["Left"]
    assert not net.over()
    while not post.ended:
        post.asked()
        post.answer(b"ok")
    get = net.next()
    assert "sid" not in get.asked().query, "a new session"
    get.answer(handshake(upgrades=[]))
    assert net.next().asked().body == b"40"
    get.answer(b'40{"sid":"2"}')
    assert net.told() == [Joined("/", "2", recovered=False)]


@pytest.mark.parametrize(
    "reply",
    ["40", "40{}", '40{"sid":1}', '40{"sid":"x","pid":7}', "40[]", "40null", '40"x"', "41{}"],
)
def test_an_answer_to_connect_that_cannot_be_read(reply: str) -> None:
    net = Net(transports=("websocket",))
    net.join()
    net.next().accept(frame(handshake()) + frame(reply.encode()))
    failed, _ = net.told()
    assert isinstance(failed, ConnectFailed)
    assert failed.reason == "parse error"


def test_a_second_answer_to_connect() -> None:
    net, link = joined()
    link.say('40{"sid":"again"}')
    left, _ = net.told()
    assert isinstance(left, Left)
    assert (left.reason, left.detail) == ("parse error", "the answer to CONNECT cannot be read")


# -- events --------------------------------------------------------------------------------------


def test_events_both_ways() -> None:
    net, link = joined()
    net.emit("a", 1, "é", None, {"b": [True]})
    net.emit(7)
    net.emit("bytes", b"1", {"x": [bytearray(b"2")]})
    assert link.frames() == [
        (1, '42["a",1,"é",null,{"b":[true]}]'.encode()),
        (1, b"42[7]"),
        (1, b'452-["bytes",{"_placeholder":true,"num":0},{"x":[{"_placeholder":true,"num":1}]}]'),
        (2, b"1"),
        (2, b"2"),
    ]
    link.say('42["a",1,null]', "42[7]", '451-["bytes",{"_placeholder":true,"num":0}]')
    link.send(frame(b"\x00\xff", 2))
    link.say('42["ask",5]'.replace("42", "423"))
    assert net.told() == [
        Event("/", "a", (1, None), None),
        Event("/", 7, (), None),
        Event("/", "bytes", (b"\x00\xff",), None),
        Event("/", "ask", (5,), 3),
    ]


@pytest.mark.parametrize(
    "said",
    [
        frame(b"stray", 2),
        frame(b'451-["a",{"_placeholder":true,"num":0}]') + frame(b'42["between"]'),
        frame(b'451-["a",{"_placeholder":true,"num":1}]') + frame(b"x", 2),
        frame(b'4511-["too many"]'),
        frame(b'42["a",' + b"[" * 65 + b"]" * 65 + b"]"),
        frame(b'42["a",' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"]"),
    ],
)
def test_messages_that_break_a_rule(said: bytes) -> None:
    net, link = joined()
    link.send(said)
    left, _ = net.told()
    assert isinstance(left, Left)
    assert left.reason == "parse error"
    net.advance(5_000)
    link = rejoin_websocket(net)
    link.say('42["a"]')
    assert net.told()[-1] == Event("/", "a", (), None), "the next session begins anew"


def test_what_the_program_sends_while_there_is_no_connection_waits() -> None:
    net = Net(transports=("websocket",))
    net.join()
    net.emit("a", b"1")
    assert net.emit("b", want_ack=True) == 0
    link = net.next()
    link.accept(frame(handshake()))
    net.emit("c")
    assert link.texts() == ["40"]
    link.say('40{"sid":"s"}')
    sent = ["451-", "1", '420["b"]', '42["c"]']
    assert [
        text[: len(s)].decode() for (_, text), s in zip(link.frames(), sent, strict=True)
    ] == sent
    lose(net, link)
    net.emit("d")
    link = rejoin_websocket(net)
    assert link.texts() == ['42["d"]']


def test_what_waits_is_bounded_without_a_connection() -> None:
    net = Net(transports=("websocket",), send_buffer=1_000)
    net.join()
    net.emit("a", "x" * 5_000)  # one may be larger, alone
    with pytest.raises(LocalProtocolError, match="too much waits"):
        net.emit("b", want_ack=True)
    link = rejoin_websocket(net)
    assert len(link.texts()) == 1
    assert net.emit("b", want_ack=True) == 0


def test_what_waits_is_bounded_with_a_connection() -> None:
    net, link = joined(send_buffer=1_000)
    link.room = 0
    net.emit("a", "x" * 900)
    with pytest.raises(LocalProtocolError, match="too much waits"):
        net.emit("b", "x" * 200)
    link.room = None
    link.flush()
    net.emit("b", "x" * 200)
    assert len(link.texts()) == 2


def test_what_waited_for_a_namespace_that_was_left_makes_room() -> None:
    net = Net(transports=("websocket",), send_buffer=1_000)
    net.join()
    net.join("/a")
    net.emit("a", "x" * 900, namespace="/a")
    net.leave("/a")
    net.emit("b", "x" * 900)


def test_an_event_after_the_heartbeat_was_missed_waits_for_the_next_session() -> None:
    net, link = joined()
    net.now = type(net.now)(net.now + 45_000)  # a machine that slept
    net.emit("a")
    assert link.aborted
    assert net.names() == ["Left", "Reconnecting"]
    net.advance(5_000)
    link = rejoin_websocket(net)
    assert link.texts() == ['42["a"]']


# -- acks ----------------------------------------------------------------------------------------


def test_acks_both_ways() -> None:
    net, link = joined()
    assert net.emit("a", want_ack=True) == 0
    assert net.emit("b", b"1", want_ack=True, ack_timeout=500) == 1
    assert [text for _, text in link.frames()] == [
        b'420["a"]',
        b'451-1["b",{"_placeholder":true,"num":0}]',
        b"1",
    ]
    link.say('431["late?"]', "430[]", '461-0[{"_placeholder":true,"num":0}]')
    link.send(frame(b"ignored: answered before", 2))
    assert net.told() == [Acknowledged("/", 1, ("late?",)), Acknowledged("/", 0, ())]
    net.advance(1_000)
    link.say('427["ask"]')
    net.acknowledge(7, "x", b"y")
    assert link.frames() == [(1, b'461-7["x",{"_placeholder":true,"num":0}]'), (2, b"y")]


def test_an_ack_with_bytes() -> None:
    net, link = joined()
    net.emit("a", want_ack=True)
    link.say('461-0[{"_placeholder":true,"num":0}]')
    link.send(frame(b"\xff", 2))
    assert net.told() == [Acknowledged("/", 0, (b"\xff",))]


def test_an_ack_that_comes_too_late() -> None:
    net, link = joined()
    net.emit("a", want_ack=True, ack_timeout=500)
    net.emit("b", want_ack=True)
    net.advance(499)
    assert net.told() == []
    net.advance(1)
    assert net.told() == [AckTimedOut("/", 0)]
    link.say("430[]", "431[]", "437[]")
    assert net.told() == [Acknowledged("/", 1, ())]


def test_an_event_whose_ack_timed_out_is_not_sent_any_more() -> None:
    net = Net(transports=("websocket",), send_buffer=100)
    net.join()
    net.join("/a/b")
    net.emit("a", "x" * 70, namespace="/a/b", want_ack=True, ack_timeout=500)
    net.emit("b", namespace="/a/b", want_ack=True)
    net.advance(500)
    assert net.told() == [AckTimedOut("/a/b", 0)]
    net.emit("c", "x" * 70, namespace="/a/b")
    link = net.next()
    link.accept(frame(handshake()))
    link.say('40/a/b,{"sid":"s"}')
    assert [text[:10] for text in link.texts()[2:]] == ['42/a/b,1["', '42/a/b,["c']


def test_acks_end_with_the_connection() -> None:
    net, link = joined()
    net.join("/a")
    net.emit("sent", want_ack=True, ack_timeout=500)
    net.emit("waits", namespace="/a", want_ack=True, ack_timeout=30_000)
    link.drop()
    told = net.told()
    assert told[:2] == [AckTimedOut("/", 0), Left("/", "transport close", told[1].detail)]  # type: ignore[union-attr]
    net.advance(5_000)
    assert net.told() == []
    link = net.next()
    link.accept(frame(handshake()))
    link.say('40{"sid":"s"}', '40/a,{"sid":"a"}')
    assert link.texts() == ["40", "40/a,", '42/a,0["waits"]'], "what was not sent is"
    assert net.names() == ["Joined", "Joined"]
    link.say("43/a,0[]")
    assert net.told() == [Acknowledged("/a", 0, ())]
    assert net.emit("again", want_ack=True) == 1, "an id is not used twice"


def test_acks_end_with_the_namespace() -> None:
    net, link = joined()
    net.emit("a", want_ack=True, ack_timeout=500)
    net.leave("/")
    assert net.told() == [AckTimedOut("/", 0), Left("/", "io client disconnect")]
    net.advance(1_000)
    net.acknowledge(0, "nobody is there")
    assert net.told() == []
    assert link.frames()[1:] == [(1, b"41"), (8, b"\x03\xe8")]


def test_an_acknowledgement_while_there_is_no_connection_is_not_kept() -> None:
    net, link = joined()
    link.say('421["ask"]')
    lose(net, link)
    net.acknowledge(1)
    assert rejoin_websocket(net).texts() == []


# -- reconnection --------------------------------------------------------------------------------


def attempts(count: int, **settings: Any) -> list[int]:
    """Return the delays before this many attempts that all fail."""
    net = Net(transports=("websocket",), **settings)
    net.join()
    delays = []
    for number in range(1, count + 1):
        net.dialled().drop()
        failed, again = net.told()
        assert isinstance(failed, ConnectFailed)
        assert isinstance(again, Reconnecting)
        assert again.attempt == number
        delays.append(again.delay)
        net.advance(again.delay - 1)
        assert net.quiet
        net.advance(1)
        assert not net.quiet
    return delays


def test_delays_grow_to_a_maximum() -> None:
    assert attempts(6, reconnect_jitter=0) == [1_000, 2_000, 4_000, 5_000, 5_000, 5_000]
    long = attempts(40, reconnect_jitter=0, reconnect_delay=1, reconnect_delay_max=2**31)
    assert long == [2**exponent for exponent in range(32)] + [2**31] * 8


def test_delays_are_moved_at_random_within_the_maximum() -> None:
    seen = [attempts(5, seed=seed) for seed in range(60)]
    ranges = [(500, 1_500), (1_000, 3_000), (2_000, 5_000), (2_500, 5_000), (2_500, 5_000)]
    for delays, (low, high) in zip(zip(*seen, strict=True), ranges, strict=True):
        assert low <= min(delays) < low + (high - low) / 5
        assert high - (high - low) / 5 < max(delays) <= high
    assert attempts(5, seed=3) == attempts(5, seed=3), "the ids decide"
    assert attempts(5, seed=3) != attempts(5, seed=4)


def test_a_connection_starts_the_delays_anew() -> None:
    net, link = joined(reconnect_jitter=0)
    for _ in range(3):
        link.drop()
        net.advance(1_000)
        net.dialled().drop()
        net.advance(2_000)
        link = rejoin_websocket(net)
        delays = [output.delay for output in net.told() if isinstance(output, Reconnecting)]
        assert delays == [1_000, 2_000]


def test_attempts_may_be_limited() -> None:
    net, link = joined(reconnect_attempts=2)
    net.emit("a", want_ack=True)
    link.drop()
    assert net.names() == ["AckTimedOut", "Left", "Reconnecting"]
    net.emit("b", want_ack=True, ack_timeout=60_000)
    for expected in (["ConnectFailed", "Reconnecting"], ["AckTimedOut", "ConnectFailed"]):
        net.advance(5_000)
        net.dialled().drop()
        assert sorted(net.names()) == sorted(expected)
    assert net.over()
    net.advance(100_000)
    assert net.quiet
    assert net.told() == []
    with pytest.raises(LocalProtocolError):
        net.emit("c")


@pytest.mark.parametrize("settings", [{"reconnect": False}, {"reconnect_attempts": 0}])
def test_no_reconnection(settings: dict[str, Any]) -> None:
    net, link = joined(**settings)
    link.drop()
    assert net.names() == ["Left"]
    assert net.over()
    net.join("/")
    net.dialled().drop()
    assert net.names() == ["ConnectFailed"]
    assert net.over()


def test_a_connection_lost_before_the_namespace_was_joined_is_a_failed_attempt() -> None:
    net = Net(transports=("websocket",))
    net.join()
    link = net.next()
    link.accept(frame(handshake()))
    link.drop()
    failed, _ = net.told()
    assert failed == ConnectFailed("transport close", "the server closed the connection")


def test_a_server_that_falls_silent_or_closes() -> None:
    net, link = joined()
    assert net.transport() == "websocket"
    net.advance(45_000)
    assert net.transport() is None
    assert net.told()[0] == Left("/", "ping timeout", "the server does not ping")
    net.advance(5_000)
    link = rejoin_websocket(net)
    net.told()
    link.eof()
    assert net.told()[0] == Left("/", "transport close", "the server closed the connection")


def test_closing_between_attempts() -> None:
    net, link = joined()
    link.drop()
    net.close()
    assert net.names() == ["Left", "Reconnecting", "Left"]
    assert net.over()
    assert net.client.next_timeout() is None


def test_joining_between_attempts_waits_for_the_next() -> None:
    net, link = joined()
    link.drop()
    net.join("/a")
    assert net.quiet
    net.advance(5_000)
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ["40", "40/a,"]


# -- connection state recovery -------------------------------------------------------------------


def test_recovery() -> None:
    net = Net(transports=("websocket",))
    net.join("/", {"token": "t"})
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ['40{"token":"t"}']
    link.say('40{"sid":"s","pid":"p"}', '42["a",1,"o1"]', '42["no offset",2]', '42["b","o2"]')
    lose(net, link)
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ['40{"pid":"p","offset":"o2","token":"t"}']
    link.say('42["missed","o3"]', '40{"sid":"s","pid":"p"}')
    assert net.told()[-2:] == [
        Event("/", "missed", ("o3",), None),
        Joined("/", "s", recovered=True),
    ]
    lose(net, link)
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ['40{"pid":"p","offset":"o3","token":"t"}']
    link.say('40{"sid":"new","pid":"q"}')
    assert net.told()[-1] == Joined("/", "new", recovered=False)
    lose(net, link)
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ['40{"pid":"q","token":"t"}'], "an old offset goes with its session"
    link.say('40{"sid":"newer"}', '42["a","no offset here"]')
    assert net.told()[-2] == Joined("/", "newer", recovered=False)
    lose(net, link)
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ['40{"token":"t"}']


def test_recovery_is_by_namespace() -> None:
    net, link = joined()
    net.join("/a")
    link.say('40/a,{"sid":"a","pid":"p"}', '42/a,["e","o1"]', '42["e","o2"]')
    lose(net, link)
    link = net.next()
    link.accept(frame(handshake()))
    assert link.texts() == ["40", '40/a,{"pid":"p","offset":"o1"}']
