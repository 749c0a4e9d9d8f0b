"""What a client asks for and does not get: each refusal, and what it says.

Rules of this file: those of `test_streams.py`.
"""

import pytest
from core.ai.client import (
    ENDED,
    Client,
    Said,
    config,
    setting,
)
from tokenwire.testing import World


@pytest.mark.parametrize(
    ("name", "args", "code", "field"),
    [
        ("ai:stream", [], "invalid_request", None),
        ("ai:stream", ["prompt"], "invalid_request", None),
        ("ai:stream", [{}], "invalid_request", "prompt"),
        ("ai:stream", [{"prompt": 5}], "invalid_request", "prompt"),
        ("ai:stream", [{"prompt": "x" * 32_769}], "prompt_too_long", "prompt"),
        ("ai:stream", [{"prompt": "p", "model": "gpt-9"}], "model_not_found", "model"),
        ("ai:stream", [{"prompt": "p", "model": "../x"}], "invalid_request", "model"),
        ("ai:stream", [{"prompt": "p", "temperature": 3}], "invalid_request", "temperature"),
        ("ai:stream", [{"prompt": "p", "maxTokens": 0}], "invalid_request", "maxTokens"),
        ("ai:stream", [{"prompt": "p", "agent": "Nobody"}], "invalid_request", "agent"),
        (
            "ai:stream",
            [{"prompt": "p", "agent": "Nobody", "useOrchestrator": False}],
            "invalid_request",
            "agent",
        ),
        ("ai:stream", [{"prompt": "p", "streamId": ""}], "invalid_request", "streamId"),
        (
            "ai:stream",
            [{"prompt": "p", "agentContext": {str(n): n for n in range(65)}}],
            "context_too_large",
            "agentContext",
        ),
        ("ai:cancel", [], "invalid_request", None),
        ("ai:cancel", [{}], "invalid_request", "streamId"),
        ("ai:cancel", [{"streamId": "nobody"}], "stream_not_found", "streamId"),
        ("ai:reconnect", [], "reconnect_failed", None),
        ("ai:reconnect", [{"previousClientId": "x.y"}], "reconnect_failed", None),
        ("ai:nothing", [{}], "unknown_event", None),
        ("constructor", [], "unknown_event", None),
        (5, [], "unknown_event", None),
    ],
)
def test_bad_input_is_refused_with_its_code_and_harms_nobody(
    name: str | int, args: list[object], code: str, field: str | None
) -> None:
    world, client = setting()
    running = client.stream("running")
    client.take()
    client.send(name, *args)
    assert client.error() == (code, field)
    assert world.server.stats().errors == {code: 1}
    assert len(world.models) == 1
    running.say("on")
    client.stream("good").done()
    running.done()
    assert client.names() == ["ai:token", "ai:stream:start", *ENDED, *ENDED]


def test_a_refusal_says_all_that_it_knows() -> None:
    _, client = setting()
    client.send("ai:stream", {"prompt": "p", "streamId": "s", "temperature": 3})
    assert client.one() == Said(
        "ai:error",
        {
            "error": "temperature must be a number from 0 to 2.",
            "code": "invalid_request",
            "details": "field: temperature",
            "retryable": False,
            "field": "temperature",
            "streamId": "s",
        },
    )


def test_an_unknown_agent_is_answered_with_those_there_are() -> None:
    _, client = setting()
    client.send("ai:stream", {"prompt": "p", "agent": "Nobody"})
    assert str(client.one()["error"]).startswith("agent must be one of Explainer, Generator, ")


def test_an_attachment_in_a_request_is_refused() -> None:
    _, client = setting()
    client.wire.send_text(
        '451-/ai,["ai:stream",{"prompt":"p","agentContext":{"x":{"_placeholder":true,"num":0}}}]'
    )
    client.wire.send_frame(b"data", opcode=2)
    assert client.error() == ("invalid_request", "agentContext")


def test_acknowledgements_come_beside_the_events() -> None:
    _, client = setting()
    answer = client.ask("ai:stream", {"prompt": "p", "streamId": "s"})
    (start,) = client.take()
    assert answer == {"ok": True, "streamId": "s", "epoch": start["epoch"]}
    assert client.ask("ai:cancel", {"streamId": "s"}) == {"ok": True, "streamId": "s"}
    assert client.ask("ai:heartbeat") == {"ok": True}
    assert client.ask("ai:reconnect", {"previousClientId": client.id}) == {
        "ok": True,
        "newClientId": client.id,
    }
    assert client.ask("ai:stream", {}) == {
        "ok": False,
        "error": "prompt is required and must not be empty.",
        "code": "invalid_request",
    }
    assert client.names() == [
        "ai:stream:cancelled",
        "ai:heartbeat:ack",
        "ai:reconnect:success",
        "ai:error",
    ]


def test_an_acknowledgement_that_a_client_sends_unasked_does_nothing() -> None:
    _, client = setting()
    client.wire.send_text("43/ai,0[]")
    client.stream().done()
    assert client.names() == ["ai:stream:start", *ENDED]


def test_ten_streams_run_and_the_eleventh_is_refused_until_one_has_ended() -> None:
    world, client = setting()
    for number in range(10):
        client.stream(str(number))
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "more"})
    refused = client.one()
    assert (refused["code"], refused["retryable"]) == ("too_many_streams", True)
    assert refused["error"] == "At most 10 streams may run at once."
    assert refused["streamId"] == "more"
    Client(world).stream("other")  # each client has its own limit
    world.models[3].done()
    client.stream("more")


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "offered", "model", "code"),
    [
        ((), ["codellama"], "codellama", None),
        ((), ["codellama:latest"], "CodeLlama", None),
        ((), ["x"], "library/x:latest", None),
        ((), ["x:1b"], "x", "model_not_found"),
        ((), [], "x", "model_not_found"),
        ((), None, "x", None),  # the server is down: it is not refused by name
        (("x", "Y:1b"), ["z"], "X:latest", None),
        (("x", "Y:1b"), ["z"], "y:1b", None),
        (("x",), ["z"], "z", "model_not_allowed"),
        (("x",), None, "z", "model_not_allowed"),
        (("*",), ["z"], "anything", None),
    ],
)
def test_which_models_may_be_asked_for(
    allowed: tuple[str, ...], offered: list[str] | None, model: str, code: str | None
) -> None:
    world = World(config(allowed_models=allowed))
    world.offered = offered
    world.advance(0)
    client = Client(world)
    client.send("ai:stream", {"prompt": "p", "model": model})
    if code is None:
        assert client.one()["model"] == model  # as the client spells it
        assert world.models[0].body["model"] == model
    else:
        assert client.error() == (code, "model")


def test_the_offered_models_are_looked_up_again_and_again() -> None:
    world, client = setting(upstream_probe_interval=1_000)
    client.send("ai:stream", {"prompt": "p", "model": "new"})
    assert client.error() == ("model_not_found", "model")
    world.offered = ["new"]
    world.advance(1_000)
    client.stream(model="new")


def test_the_default_model_is_the_configurations() -> None:
    _, client = setting(default_model="llama3.2:1b")
    assert client.stream().body["model"] == "llama3.2:1b"
