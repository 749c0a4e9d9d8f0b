"""How a stream ends: the model fails, is silent, takes too long; the client cancels it.

Rules of this file: those of `test_streams.py`.
"""

import pytest
from core.ai.client import (
    ENDED,
    Client,
    at_rest,
    cancelled,
    line,
    paused,
    setting,
)

# -- how a stream ends -----------------------------------------------------------------------------

SECRET = "http://10.0.0.7:11434/usr/share/ollama Traceback"


@pytest.mark.parametrize(
    ("status", "data", "code", "retryable"),
    [
        (400, line(error=SECRET), "upstream_error", True),
        (404, line(error=SECRET), "model_not_found", False),
        (429, b"", "upstream_busy", True),
        (500, b"x" * 1_000_000, "upstream_error", True),
        (502, line(error=SECRET), "upstream_unavailable", True),
        (503, line(error=SECRET), "upstream_busy", True),
        (200, line(error=SECRET), "upstream_error", True),
        (200, SECRET.encode() + b"\n", "upstream_error", True),
        (200, b"", "upstream_truncated", True),
        (200, line(done=True)[:-3], "upstream_truncated", True),
    ],
)
def test_a_failing_model_ends_the_stream_with_its_code_and_no_word_of_its_own(
    status: int, data: bytes, code: str, retryable: bool
) -> None:
    world, client = setting()
    model = client.stream()
    model.status(status)
    model.send(data)
    model.eof()
    received = client.wire.received
    said = client.take()
    assert [event.name for event in said] == ["ai:stream:start", "ai:stream:error"]
    error = said[-1].fields
    assert error.keys() == {"streamId", "error", "code", "details", "retryable"}
    assert (error["code"], error["retryable"]) == (code, retryable)
    assert not any(word in received for word in (b"10.0.0.7", b"11434", b"/usr", b"Traceback"))
    assert not any(SECRET in str(notice) for notice in world.notices)
    assert world.server.stats().errors == {code: 1}
    at_rest(world)


def test_the_tokens_before_an_error_come_before_it() -> None:
    _, client = setting()
    model = client.stream()
    model.send(line(message={"content": "a"}, done=False) + line(error="boom"))
    assert client.names() == ["ai:stream:start", "ai:token", "ai:stream:error"]
    assert cancelled(model)


@pytest.mark.parametrize("reached", [True, False])
def test_a_connection_that_fails_ends_the_stream(reached: bool) -> None:
    world, client = setting()
    client.stream().fail(reached=reached)
    code = "upstream_truncated" if reached else "upstream_unavailable"
    assert client.take()[-1]["code"] == code
    assert world.server.upstream_status() == ("ok" if reached else "down")


def test_streams_work_again_when_the_model_server_is_back() -> None:
    world, client = setting(upstream_probe_interval=1_000)
    world.offered = None
    world.advance(1_000)
    assert world.server.upstream_status() == "down"
    client.stream("a").fail(reached=False)
    world.offered = ["codellama"]
    world.advance(1_000)
    assert world.server.upstream_status() == "ok"
    client.stream("b").done()
    assert client.names() == ["ai:stream:start", "ai:stream:error", "ai:stream:start", *ENDED]


@pytest.mark.parametrize(
    ("begun", "span", "code"),
    [
        (False, 500, "first_token_timeout"),
        (True, 300, "idle_timeout"),
    ],
)
def test_a_silent_model_ends_the_stream(begun: bool, span: int, code: str) -> None:
    world, client = setting(first_token_timeout=500, idle_timeout=300)
    model = client.stream()
    if begun:
        model.say("a")
    world.advance(span - 1)
    assert "ai:stream:error" not in client.names()
    world.advance(1)
    error = client.one()
    assert (error.name, error["code"]) == ("ai:stream:error", code)
    assert cancelled(model)
    at_rest(world)


def test_a_stream_that_takes_too_long_is_ended() -> None:
    world, client = setting(stream_timeout=1_000)
    model = client.stream()
    for _ in range(10):
        world.advance(100)
        model.say("a")
    said = client.take()
    assert [event.name for event in said] == [
        "ai:stream:start",
        *["ai:token"] * 9,
        "ai:stream:error",
    ]
    assert (said[-1]["code"], said[-1]["details"]) == ("stream_timeout", "limit: 1000 ms")
    assert cancelled(model)
    at_rest(world)


def test_what_still_comes_for_a_stream_that_is_over_is_ignored() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a")
    model.done()
    client.take()
    model.send(line(message={"content": "late"}, done=False))
    model.eof()
    model.fail(reached=True)
    assert client.take() == []
    assert world.server.stats().errors == {}


# -- ai:cancel -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", ["asked", "answered", "streaming", "in mid-line", "paused", "blocked", "absent"]
)
def test_a_cancel_closes_the_model_and_is_the_streams_last_word(state: str) -> None:
    world, client = setting()
    if state == "blocked":
        client.block()
    model = client.stream()
    if state == "answered":
        model.status(200)
    if state in ("streaming", "in mid-line"):
        model.say("a")
    if state == "in mid-line":
        model.send(b'{"message":{"con')
    if state == "paused":
        client.block()
        model.say(*["a"] * 101)
        assert paused(model)
    if state == "blocked":
        model.say("a", "b")
    if state == "absent":
        client.leave()
        previous, client = client, Client(world)
        client.send("ai:reconnect", {"previousClientId": previous.id})
    client.send("ai:cancel", {"streamId": "s"})
    assert cancelled(model)
    model.say("late")
    model.done()
    client.wire.unblock()
    world.advance(1_000)
    names = [name for name in client.names() if name != "ai:reconnect:success"]
    tokens = ["ai:token"] if state in ("streaming", "in mid-line") else []
    assert names == ["ai:stream:start", *tokens, "ai:stream:cancelled"]
    assert world.server.stats().cancels == 1
    at_rest(world)


def test_cancelling_twice_is_harmless_and_says_so() -> None:
    world, client = setting()
    client.stream()
    client.send("ai:cancel", {"streamId": "s"})
    client.take()
    client.send("ai:cancel", {"streamId": "s"})
    error = client.one()
    assert (error["code"], error["error"]) == ("stream_not_found", "The stream has ended already.")
    assert (error["details"], error["streamId"]) == ("state: cancelled", "s")
    assert world.server.stats().cancels == 1


def test_a_stream_of_another_client_is_unknown() -> None:
    world, client = setting()
    model = client.stream("s")
    other = Client(world)
    other.send("ai:cancel", {"streamId": "s"})
    stranger = other.one()
    other.send("ai:cancel", {"streamId": "t"})
    nobody = other.one()
    assert stranger.fields | {"streamId": "t"} == nobody.fields
    assert not cancelled(model)
