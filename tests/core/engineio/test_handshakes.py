"""Handshakes of the Engine.IO server, its errors, and whose pages may ask.

Rules of this file: from bytes to bytes, in a virtual world; what stock clients see is what is
looked at.
"""

import msgspec
import pytest
from core.clients import (
    ORIGIN,
    PATH,
    POLLING,
    WEBSOCKET,
    Polling,
    close_code,
    open_websocket,
    plain_world,
    sid_of,
)
from core.engineio.looks import FAST, ask, error, kept
from tokenwire.outputs import Notice
from tokenwire.testing import Answer, World
from tokenwire.types import Peer


def test_a_handshake_over_polling() -> None:
    answer = ask(plain_world(), "GET", POLLING)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.headers["cache-control"] == "no-store"
    opening = msgspec.json.decode(answer.body[1:], type=dict[str, object])
    assert opening == {
        "sid": opening["sid"],
        "upgrades": ["websocket"],
        "pingInterval": 30_000,
        "pingTimeout": 20_000,
        "maxPayload": 1_000_000,
    }


def test_a_handshake_over_websocket() -> None:
    wire = plain_world().connect()
    assert wire.upgrade(WEBSOCKET).status == 101
    (opening,) = wire.texts()
    assert msgspec.json.decode(opening[1:], type=dict[str, object])["upgrades"] == []


def test_each_session_has_another_id_of_120_bits() -> None:
    world = plain_world()
    ids = {Polling(world).sid for _ in range(50)}
    assert len(ids) == 50
    assert {len(sid) for sid in ids} == {20}


TRANSPORTS = ("", "transport=", "transport=flash", "transport=__proto__", "transport=Polling")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_unknown_transport_has_code_0(transport: str) -> None:
    world = plain_world()
    sid = Polling(world).sid
    for rest in ("", "&EIO=4", f"&EIO=4&sid={sid}"):
        for method in ("GET", "POST", "HEAD", "PUT"):
            answer = ask(world, method, f"/socket.io/?{transport}{rest}")
            assert answer.status == 400
            if method != "HEAD":
                assert error(answer) == (400, 0)


@pytest.mark.parametrize(
    ("method", "query", "expected"),
    [
        ("GET", "EIO=4&transport=polling&sid=unknown", (400, 1)),
        ("POST", "EIO=4&transport=polling&sid=", (400, 1)),
        ("GET", "EIO=4&transport=websocket&sid=__proto__", (400, 1)),
        ("POST", "EIO=4&transport=polling", (400, 2)),
        ("PUT", "EIO=4&transport=polling", (400, 2)),
        ("GET", "EIO=4&transport=websocket", (400, 3)),
        ("GET", "EIO=4&transport=polling&transport=polling", (400, 3)),
        ("GET", "EIO=4&transport=polling&sid=%ff", (400, 1)),
        ("GET", "EIO=4&EIO=4&transport=polling", (400, 3)),
        ("POST", "EIO=4&transport=polling&sid=a&s%69d=a", (400, 3)),
        (
            "GET",
            "EIO=4&transport=polling&" + "&".join("abcdefghijklmnopqrstuvwxyzABCDEFG"),
            (400, 3),
        ),
        ("GET", "transport=polling", (400, 5)),
        ("GET", "EIO=3&transport=polling", (400, 5)),
        ("GET", "EIO=&transport=polling", (400, 5)),
        ("GET", "EIO=4.0&transport=polling", (400, 5)),
    ],
)
def test_a_bad_request_has_its_code(method: str, query: str, expected: tuple[int, int]) -> None:
    assert error(ask(plain_world(), method, f"/socket.io/?{query}")) == expected


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (PATH + "flash", "Transport unknown"),
        (POLLING, "Bad request"),
        (WEBSOCKET + "&sid=unknown", "Session ID unknown"),
        (WEBSOCKET.replace("EIO=4", "EIO=3"), "Unsupported protocol version"),
    ],
)
def test_before_the_101_errors_are_plain_text(target: str, text: str) -> None:
    answer = plain_world().connect().upgrade(target)
    assert (answer.status, answer.body.decode()) == (400, text)
    assert answer.headers["content-type"] == "text/plain"


def test_a_request_of_a_session_must_fit_it() -> None:
    world = plain_world()
    client = Polling(world)
    assert error(ask(world, "GET", client.ws_target)) == (400, 3)
    assert error(ask(world, "GET", client.target.replace("EIO=4", "EIO=3"))) == (400, 3)
    assert world.connect().upgrade(client.target).status == 400
    assert world.connect().upgrade(client.ws_target.replace("EIO=4", "EIO=3")).status == 400
    answer = ask(world, "PUT", client.target)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST, OPTIONS")
    assert ask(world, "HEAD", client.target).status == 405
    without_version = client.target.replace("EIO=4&", "")
    assert error(ask(world, "POST", without_version, body=b"3")) == (400, 3)
    assert client.post(b"3").status == 200


def test_a_pages_own_fields_are_not_looked_at() -> None:
    assert ask(plain_world(), "GET", POLLING + "&a=1&a=2&b=%ff&&c").status == 200


def test_no_more_sessions_than_the_limit() -> None:
    world = plain_world(max_sessions=1)
    client = Polling(world)
    answer = ask(world, "GET", POLLING)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert world.connect().upgrade(WEBSOCKET).status == 503
    client.post(b"1")
    assert ask(world, "GET", POLLING).status == 200


def test_a_session_that_makes_room_ends_at_once_and_is_told_if_it_can_be() -> None:
    world = plain_world(max_sessions=10)  # one of which may have joined nothing
    unheard = Polling(world)
    heard = Polling(world)
    assert error(ask(world, "GET", unheard.target)) == (400, 1)
    waiting = heard.hanging()
    wire = open_websocket(world)
    assert waiting.received.endswith(b"\r\n\r\n1")
    assert error(ask(world, "GET", heard.target)) == (400, 1)
    Polling(world)
    assert close_code(wire) == 1000


def handshake(world: World, host: str | None, headers: dict[str, str] | None = None) -> Answer:
    """Ask for a session from an address."""
    answer = world.connect(Peer(host, 1)).request("GET", POLLING, headers)
    assert answer is not None
    return answer


def test_so_many_sessions_of_one_address() -> None:
    world = plain_world(max_sessions_per_address=2)
    first, second = (handshake(world, "2001:db8::1"), handshake(world, "2001:db8::2"))
    assert (first.status, second.status) == (200, 200)
    third = handshake(world, "2001:db8::3", {"Origin": ORIGIN})
    assert (third.status, third.headers["retry-after"], third.body) == (503, "1", b"")
    assert third.headers["access-control-allow-origin"] == ORIGIN
    assert world.connect(Peer("2001:db8::3")).upgrade(WEBSOCKET).status == 503
    assert handshake(world, "2001:db8:0:1::1").status == 200
    for host in ("127.0.0.1", "::1", None):
        assert [handshake(world, host).status for _ in range(5)] == [200] * 5
    session = f"{POLLING}&sid={sid_of(first.body)}"
    answer = world.connect(Peer("2001:db8::9")).request("POST", session, body=b"1")
    assert answer is not None
    assert answer.body == b"ok"
    assert handshake(world, "2001:db8::1").status == 200  # it counts for who opened it


def test_a_session_counts_until_it_is_gone() -> None:
    world = plain_world(max_sessions_per_address=1, heartbeat_interval=300, heartbeat_timeout=200)
    assert handshake(world, "192.0.2.1").status == 200
    world.advance(499)
    assert handshake(world, "192.0.2.1").status == 503
    world.advance(1)
    wire = open_websocket(world, peer=Peer("192.0.2.1"))
    assert handshake(world, "192.0.2.1").status == 503
    wire.drop()
    assert handshake(world, "192.0.2.1").status == 200


def test_so_many_handshakes_of_one_address() -> None:
    world = plain_world(handshakes_per_second=1, handshake_burst=2)
    statuses = [handshake(world, "192.0.2.1").status for _ in range(3)]
    assert statuses == [200, 200, 503]
    assert handshake(world, "192.0.2.2").status == 200
    world.advance(1_000)
    assert [handshake(world, "192.0.2.1").status for _ in range(2)] == [200, 503]
    assert [notice.fields for notice in world.notices if notice.event == "handshake_refused"] == [
        (("limit", "handshakes of one address"),)
    ] * 2
    assert not any("192" in str(notice) for notice in world.notices)


def test_a_wrong_handshake_does_not_count() -> None:
    world = plain_world(handshake_burst=1)
    for target in (POLLING.replace("EIO=4", "EIO=3"), "/socket.io/?EIO=4", WEBSOCKET):
        answer = world.connect(Peer("192.0.2.1")).request("GET", target)
        assert answer is not None
        assert answer.status == 400
    assert handshake(world, "192.0.2.1").status == 200


def test_behind_a_trusted_proxy_each_client_counts_for_itself() -> None:
    world = plain_world(max_sessions_per_address=1, trusted_proxies=("127.0.0.1",))
    for host in ("192.0.2.1", "192.0.2.2"):
        fields = {"X-Forwarded-For": f"198.51.100.1, {host}"}
        assert [handshake(world, "127.0.0.1", fields).status for _ in range(2)] == [200, 503]
        assert handshake(world, "198.51.100.7", fields).status == (
            200 if host == "192.0.2.1" else 503
        )


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_a_foreign_page_gets_nothing(origin: str) -> None:
    world = plain_world()
    client = Polling(world)
    before = kept()
    headers = {"Origin": origin}
    for method, target in (("GET", POLLING), ("GET", client.target), ("POST", client.target)):
        answer = ask(world, method, target, headers)
        assert error(answer) == (403, 4)
        assert "access-control-allow-origin" not in answer.headers
    for target in (WEBSOCKET, client.ws_target):
        answer = world.connect().upgrade(target, headers)
        assert (answer.status, answer.body) == (403, b"Forbidden")
    assert ask(world, "OPTIONS", POLLING, headers).status == 403
    assert kept() == before
    notice = Notice("warning", "origin_refused", (("origin", origin),))
    assert world.notices.count(notice) == 6


def test_a_listed_page_may_read_every_answer() -> None:
    world = plain_world()
    client = Polling(world, {"Origin": ORIGIN})
    waiting = client.hanging()
    answers = [client.post(b"40"), waiting.answer(), ask(world, "GET", PATH, {"Origin": ORIGIN})]
    answers.append(world.connect().upgrade(WEBSOCKET + "&sid=x", {"Origin": ORIGIN}))
    for answer in answers:
        assert answer is not None
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["vary"] == "Origin"
    assert world.connect().upgrade(WEBSOCKET, {"Origin": ORIGIN}).status == 101


def test_a_polls_answer_is_for_the_page_that_polls() -> None:
    world = plain_world(cors_origins=(ORIGIN, "http://other"))
    client = Polling(world)
    client.headers = {"Origin": "http://other"}
    waiting = client.hanging()
    client.post(b"40")
    answer = waiting.answer()
    assert answer is not None
    assert answer.headers["access-control-allow-origin"] == "http://other"


def test_a_preflight_touches_no_session() -> None:
    world = plain_world(**FAST)
    client = Polling(world)
    headers = {"Origin": ORIGIN, "Access-Control-Request-Headers": "content-type"}
    for target in (client.target, PATH + "x&sid=y", "/socket.io/"):
        answer = ask(world, "OPTIONS", target, headers)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-headers"] == "content-type"
    assert client.post(b"3").status == 200
