"""Long-polling: GETs that wait, POSTs, and bodies that are none.

Rules of this file: from bytes to bytes, in a virtual world; what stock clients see is what is
looked at.
"""

import pytest
from core.clients import (
    POLLING,
    Polling,
    plain_world,
)
from core.engineio.looks import ask, body, echo, error, reasons
from tokenwire.outputs import Event
from tokenwire.testing import Answer, Wire


def test_a_post_is_answered_with_ok() -> None:
    answer = Polling(plain_world()).post(b"40")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["cache-control"] == "no-store"


def test_a_poll_waits_until_there_is_something() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    waiting = client.hanging()
    assert waiting.answer() is None
    client.post(b'42["a",1]')
    echo(world)
    assert body(waiting) == b'42["a",1]'
    client.post(b'42["b"]')
    echo(world)
    assert client.poll() == Answer(
        200,
        {
            "content-type": "text/plain; charset=UTF-8",
            "cache-control": "no-store",
            "vary": "Origin",
            "content-length": "7",
        },
        b'42["b"]',
    )


def test_messages_that_wait_share_an_answer() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    client.post(b'42["a"]\x1e42["b"]')
    echo(world)
    assert body(client.hanging()) == b'42["a"]\x1e42["b"]'


def test_binary_goes_as_base64_both_ways() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    client.post(b'451-["a",{"_placeholder":true,"num":0}]\x1ebAQIDBA==')
    echo(world)
    assert body(client.hanging()) == b'451-["a",{"_placeholder":true,"num":0}]\x1ebAQIDBA=='


def test_polls_and_posts_may_share_a_connection() -> None:
    world = plain_world()
    client = Polling(world)
    wire = world.connect()
    for _ in range(3):
        answer = wire.request("POST", client.target, body=b"3")
        assert answer is not None
        assert answer.status == 200
    assert wire.open


def test_a_second_poll_ends_the_session() -> None:
    world = plain_world()
    client = Polling(world)
    first, second = client.hanging(), client.hanging()
    assert body(first) == b"1"
    answer = second.answer()
    assert answer is not None
    assert error(answer) == (400, 3)
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert reasons(world) == ["transport error"]


@pytest.mark.parametrize("how", [Wire.drop, Wire.eof])
def test_an_aborted_poll_ends_the_session(how: object) -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    assert callable(how)
    how(waiting)
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 1)
    assert reasons(world) == ["transport close"]


def half_post(client: Polling, headers: str = "") -> Wire:
    """Send a POST without the end of its body."""
    wire = client.world.connect()
    wire.send(
        f"POST {client.target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{headers}\r\n4".encode()
    )
    return wire


@pytest.mark.parametrize("whole", [False, True])
def test_a_post_inside_another_ends_the_session(whole: bool) -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    first = half_post(client)
    second = half_post(client)
    if whole:
        assert error(client.post(b"3")) == (400, 3)
    else:
        second.send(b"0")
        answer = second.answer()
        assert answer is not None
        assert error(answer) == (400, 3)
    assert body(waiting) == b"1"
    first.send(b"0")
    answer = first.answer()
    assert answer is not None
    assert error(answer) == (400, 1)
    assert reasons(world) == ["transport error"]


@pytest.mark.parametrize("how", ["whole", "drop", "timeout", "too large"])
def test_a_post_after_another_is_taken(how: str) -> None:
    world = plain_world(heartbeat_interval=1_000_000, max_payload=10)
    client = Polling(world)
    first = half_post(client)
    match how:
        case "whole":
            first.send(b"0")
        case "drop":
            first.drop()
        case "timeout":
            world.advance(30_000)
        case _:
            first.send(b"0")
            first.send(
                f"POST {client.target} HTTP/1.1\r\nHost: x\r\n".encode()
                + b"Transfer-Encoding: chunked\r\n\r\n"
            )
            first.send(b"b\r\n")
            assert first.open
    assert client.post(b"3").status == 200


def test_requests_that_are_no_posts_of_the_session_do_not_count() -> None:
    world = plain_world()
    client = Polling(world)
    half_post(client, "Origin: https://evil.example\r\n")
    for target in (client.target + "&sid=x", POLLING + "&sid=none", "/elsewhere"):
        world.connect().send(
            f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n4".encode()
        )
    world.connect().send(
        f"GET {client.target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n4".encode()
    )
    assert client.post(b"3").status == 200


def test_a_lost_connection_without_a_poll_ends_nothing() -> None:
    world = plain_world()
    client = Polling(world)
    wire = world.connect()
    wire.request("POST", client.target, body=b"3")
    wire.eof()
    assert wire.ended
    assert client.post(b"3").status == 200


def test_a_close_by_post_answers_the_poll_with_a_noop() -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    assert client.post(b"1").body == b"ok"
    assert body(waiting) == b"6"
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 1)


def test_nothing_after_a_close_packet_is_read() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    assert client.post(b'1\x1e42["late"]').body == b"ok"
    assert not any(isinstance(output, Event) for output in world.program)


BAD_BODIES = [
    b"",
    b"abc",
    b"0",
    b"2",
    b"2probe",
    b"7",
    b"4",
    b"4\xff",
    b"b====",
    b"3\x1e",
    b"\x1e".join([b"3"] * 16_385),
    b"47",
    b"bAQIDBA==",
]


@pytest.mark.parametrize("bad", BAD_BODIES)
@pytest.mark.parametrize("polled", [False, True])
def test_an_invalid_packet_ends_the_session(bad: bytes, polled: bool) -> None:
    world = plain_world()
    client = Polling(world)
    other = Polling(world)
    waiting = client.hanging() if polled else None
    assert error(client.post(bad)) == (400, 3)
    if waiting is not None:
        assert body(waiting) == b"1"
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert reasons(world) == ["parse error"]
    assert other.post(b"3").status == 200


@pytest.mark.parametrize("kind", ["application/octet-stream", "Application/Octet-Stream; a=b"])
def test_a_binary_post_ends_the_session(kind: str) -> None:
    world = plain_world()
    client = Polling(world)
    assert error(client.post(b"3", {"Content-Type": kind})) == (400, 3)
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_exactly_the_payload_limit_is_accepted_and_the_session_survives_one_more() -> None:
    world = plain_world(max_payload=200)
    client = Polling(world)
    client.join()
    fits = b'42["a","' + b"x" * 190 + b'"]'
    assert len(fits) == 200
    assert client.post(fits).body == b"ok"
    answer = client.post(fits + b" ")
    assert (answer.status, answer.body) == (413, b"")
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(fits), fits)
    wire = world.connect()
    wire.send(
        f"POST {client.target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + chunked
    )
    assert body(wire) == b"ok"
    assert sum(isinstance(output, Event) for output in world.program) == 2
