"""What a client asks for, and what it gets: each event.

Rules of this file: clients, model server and clock are the world's; nothing is looked at but what a
client receives, what the model was asked, and the public getters. `text` reads as the seed's client
does: it empties at `ai:stream:start` and appends each token.
"""

import pytest
from core.ai.client import (
    ENDED,
    LAST_LINE,
    NO_PINGS,
    Client,
    Fields,
    Said,
    all_named,
    at_rest,
    line,
    metadata,
    only,
    setting,
    text,
)
from tokenwire.testing import Model


def system_prompt(model: Model) -> str | None:
    messages = model.body["messages"]
    assert isinstance(messages, list)
    found = [message["content"] for message in messages if message["role"] == "system"]
    return found[0] if found else None


# -- connecting ------------------------------------------------------------------------------------


def test_a_client_is_told_its_id_and_the_limits() -> None:
    _, client = setting(max_concurrent_streams=7, backpressure_threshold=9, reconnect_timeout=11)
    assert client.hello == {
        "clientId": client.id,
        "maxConcurrentStreams": 7,
        "backpressureThreshold": 9,
        "heartbeatInterval": NO_PINGS,
        "reconnectTimeout": 11,
        "protocol": "1.0",
        "recovered": False,
    }


def test_each_client_gets_another_id() -> None:
    world, client = setting()
    assert Client(world).id != client.id


# -- one stream ------------------------------------------------------------------------------------


def test_a_whole_stream_with_every_field() -> None:
    world, client = setting()
    model = client.stream("s", "Explain this code", model="llama3.2:1b")
    start = client.one()
    epoch = start["epoch"]
    assert isinstance(epoch, str)
    assert start == Said(
        "ai:stream:start",
        {"streamId": "s", "epoch": epoch, "model": "llama3.2:1b"},
    )
    world.advance(200)
    model.say("Hel", "lo")
    world.advance(500)
    model.say(" there")
    world.advance(500)
    model.send(line(**LAST_LINE))
    model.eof()
    said = client.take()
    assert [event.name for event in said] == ["ai:token"] * 3 + ENDED
    assert [event["data"] for event in said[:3]] == ["Hel", "lo", " there"]
    assert [event["seq"] for event in said[:3]] == [1, 2, 3]
    assert [event["tokenCount"] for event in said[:3]] == [1, 2, 3]
    assert {event["agent"] for event in said[:3]} == {"Explainer"}
    routing = metadata(said[0])
    assert routing.keys() == {"model", "intent", "confidence", "runnersUp", "reasons"}
    assert metadata(said[1]) == metadata(said[2]) == {"model": "llama3.2:1b"}
    complete = said[3]
    assert complete.fields == {
        "streamId": "s",
        "agent": "Explainer",
        "intent": "explain",
        "confidence": routing["confidence"],
        "metadata": {
            "finishReason": "stop",
            "promptTokens": 26,
            "evalTokens": 259,
            "queueMs": 0,
            "routeMs": 0,
            "timeToFirstTokenMs": 200,
            "tokensPerSecond": 3.0,
            "mergedEvents": 0,
            "pausedMs": 0,
            "resumes": 0,
        },
    }
    assert said[4].fields == {"streamId": "s", "totalTokens": 3, "duration": 1_200}
    assert isinstance(said[4]["duration"], int)
    at_rest(world)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, {}),
        ({"temperature": 0.5, "maxTokens": 9}, {"options": {"temperature": 0.5, "num_predict": 9}}),
        ({"temperature": 0}, {"options": {"temperature": 0}}),
        ({"think": True}, {"think": True}),
        ({"think": False}, {"think": False}),
    ],
)
def test_what_the_model_is_asked(fields: Fields, asked: Fields) -> None:
    _, client = setting()
    model = client.stream("s", "p", useOrchestrator=False, **fields)
    assert model.body == {
        "model": "codellama",
        "messages": [{"role": "user", "content": "p"}],
        "stream": True,
        **asked,
    }


@pytest.mark.parametrize(
    ("fields", "agent", "intent"),
    [
        ({}, "Tester", "test"),
        ({"useOrchestrator": True}, "Tester", "test"),
        ({"agent": "debugger"}, "Debugger", "debug"),
        ({"useOrchestrator": False}, "DirectOllama", "direct"),
        # `useOrchestrator: false` means no system prompt, whoever is named beside it.
        ({"useOrchestrator": False, "agent": "Debugger"}, "DirectOllama", "direct"),
    ],
)
def test_who_answers(fields: Fields, agent: str, intent: str) -> None:
    _, client = setting()
    model = client.stream("s", "test this", **fields)
    assert (system_prompt(model) is None) is (intent == "direct")
    model.done()
    complete = only(client.take(), "ai:stream:complete")
    assert (complete["agent"], complete["intent"]) == (agent, intent)
    if intent == "direct":
        assert complete["confidence"] == 1


def test_the_context_reaches_the_agent_and_the_evidence() -> None:
    _, client = setting()
    model = client.stream("s", "go on", agentContext={"activeFile": "test_x.py"})
    assert '{"activeFile":"test_x.py"}' in str(system_prompt(model))
    model.say("a")
    assert "activeFile is a test" in str(metadata(client.take()[-1])["reasons"])


def test_a_stream_without_a_name_gets_one() -> None:
    world, client = setting()
    answers = [client.ask("ai:stream", {"prompt": "p"}) for _ in range(2)]
    names = [start["streamId"] for start in client._kept] + [answers[0]["streamId"]]
    assert len(set(names)) == 2
    assert len(world.models) == 2


def test_a_token_is_a_piece_of_text_in_one_line() -> None:
    _, client = setting()
    model = client.stream()
    model.say("", "a", "", "b")
    model.send(line(message={"content": "!"}, done=True))  # also on the last line
    said = client.take()
    assert [event.fields.get("seq") for event in all_named(said, "ai:token")] == [1, 2, 3]
    assert text(said) == "ab!"
    assert only(said, "ai:done")["totalTokens"] == 3


def test_an_answer_without_text_is_complete_too() -> None:
    _, client = setting()
    model = client.stream()
    model.send(line(**{**LAST_LINE, "done_reason": "load"})[:-1])  # one object, no newline
    model.eof()
    _, complete, done = client.take()
    assert metadata(complete)["finishReason"] == "load"
    assert metadata(complete)["timeToFirstTokenMs"] is None
    assert metadata(complete)["tokensPerSecond"] == 0
    assert (done.name, done["totalTokens"]) == ("ai:done", 0)


@pytest.mark.parametrize(
    ("think", "shown"), [(True, ["hm", "so ", "a"]), (False, ["a"]), (None, ["a"])]
)
def test_thinking_goes_out_only_to_who_asked_for_it(think: bool | None, shown: list[str]) -> None:
    _, client = setting()
    model = client.stream(think=think)
    model.send(line(message={"content": "", "thinking": "hm"}, done=False))
    model.send(line(message={"content": "a", "thinking": "so "}, done=False))  # both in one line
    model.done()
    said = client.take()
    tokens = all_named(said, "ai:token")
    assert [token["data"] for token in tokens] == shown
    assert tokens[-1]["seq"] == 1
    for token in tokens[:-1]:
        assert "seq" not in token.fields
        assert metadata(token) == {"model": "codellama", "thinking": True}
    assert only(said, "ai:done")["totalTokens"] == 1


def test_tool_calls_come_with_the_end_whatever_line_they_stood_in() -> None:
    _, client = setting(tool_call_bytes=100)
    first = {"function": {"name": "f", "arguments": {"city": "Tokyo"}}}
    second = {"function": {"name": "g", "arguments": {}}}
    large = {"function": {"name": "x" * 100}}
    model = client.stream()
    model.send(line(message={"content": "", "tool_calls": [first]}, done=False))
    model.send(line(message={"content": "", "tool_calls": [large]}, done=False))
    model.send(line(message={"content": "", "tool_calls": [second]}, done=True))
    assert metadata(only(client.take(), "ai:stream:complete"))["toolCalls"] == [first, second]


def test_streams_run_side_by_side_each_in_order() -> None:
    _, client = setting()
    models = {name: client.stream(name) for name in "abc"}
    for index in range(5):
        for name, model in models.items():
            model.say(f"{name}{index} ")
    for model in models.values():
        model.done()
    said = client.take()
    for name in models:
        own = [event for event in said if event["streamId"] == name]
        assert [event.name for event in own] == ["ai:stream:start"] + ["ai:token"] * 5 + ENDED
        assert text(said, name) == "".join(f"{name}{index} " for index in range(5))


def test_two_clients_may_use_one_stream_id_without_cross_talk() -> None:
    world, one = setting()
    other = Client(world)
    model, other_model = one.stream("s"), other.stream("s")
    model.say("mine")
    other_model.say("yours")
    other.send("ai:cancel", {"streamId": "s"})
    model.done()
    assert one.names() == ["ai:stream:start", "ai:token", *ENDED]
    assert other.names() == ["ai:stream:start", "ai:token", "ai:stream:cancelled"]


# -- ai:heartbeat ----------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [[], [{}], [None], ["x"], [1, 2]])
def test_a_heartbeat_with_any_payload_is_answered(payload: list[object]) -> None:
    _, client = setting()
    client.send("ai:heartbeat", *payload)
    assert client.one() == Said(
        "ai:heartbeat:ack", {"activeStreams": 0, "queueSize": 0, "streams": {}}
    )


def test_a_heartbeat_tells_how_far_each_stream_was_handed_over() -> None:
    _, client = setting()
    a, b = client.stream("a"), client.stream("b")
    client.stream("c")
    a.say("1", "2")
    b.say("1")
    b.done()
    client.take()
    client.block()
    a.say("3", "4", "5")
    client.send("ai:heartbeat")
    client.wire.unblock()
    said = client.take()
    assert said[0] == Said(  # it overtakes the tokens that wait
        "ai:heartbeat:ack",
        {"activeStreams": 2, "queueSize": 3, "streams": {"a": 2, "b": 1, "c": 0}},
    )
    assert [event["seq"] for event in said[1:]] == [5]
