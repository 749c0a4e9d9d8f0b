"""The AI protocol's namespace, end to end in a virtual world: each event, each rule.

Rules of this file: clients, model server and clock are the world's; nothing is looked at but what a
client receives, what the model was asked, and the public getters. `text` reads as the seed's client
does: it empties at `ai:stream:start` and appends each token.
"""

import msgspec
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
    cancelled,
    config,
    line,
    metadata,
    new_world,
    only,
    paused,
    setting,
    stopped,
    text,
)
from core.clients import Polling
from tokenwire.ai.service import AiService
from tokenwire.outputs import Outputs
from tokenwire.testing import Model, SeededIds, World
from tokenwire.testing.world import masked_frame
from tokenwire.timers import Timer, Timers
from tokenwire.types import Millis, Peer

REPLAYED = ["ai:stream:start", "ai:token"]


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


# -- refusals --------------------------------------------------------------------------------------


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


# -- a streamId that was used before ---------------------------------------------------------------


def test_the_same_request_again_joins_the_stream_that_runs() -> None:
    world, client = setting()
    model = client.stream("s", "p", temperature=0.5)
    model.say("a", "b")
    client.take()
    answer = client.ask("ai:stream", {"prompt": "p", "streamId": "s", "temperature": 0.5})
    assert answer["ok"] is True
    model.say("c")
    model.done()
    said = client.take()
    assert [event.name for event in said] == [*REPLAYED, "ai:token", *ENDED]
    assert (said[0]["resumed"], said[0]["epoch"]) == (True, answer["epoch"])
    assert metadata(said[1])["replayed"] is True
    assert text(said) == "abc"
    assert metadata(said[-2])["resumes"] == 1
    assert len(world.models) == 1


@pytest.mark.parametrize("other", [{"prompt": "q"}, {"prompt": "p", "temperature": 1}])
def test_another_request_under_a_name_in_use_is_refused(other: Fields) -> None:
    world, client = setting()
    model = client.stream("s", "p")
    client.take()
    client.send("ai:stream", {"streamId": "s", **other})
    refused = client.one()
    assert (refused["code"], refused["field"]) == ("duplicate_stream", "streamId")
    assert refused["streamId"] == "s"
    model.done()
    assert client.names() == ENDED
    assert len(world.models) == 1


@pytest.mark.parametrize("prompt", ["p", "q"])
@pytest.mark.parametrize("how", ["done", "cancelled"])
def test_the_name_of_a_stream_that_has_ended_is_free(prompt: str, how: str) -> None:
    world, client = setting()
    model = client.stream("s", "p")
    if how == "done":
        model.done()
    else:
        client.send("ai:cancel", {"streamId": "s"})
    first = client.take()[0]["epoch"]
    client.stream("s", prompt).done()
    said = client.take()
    assert [event.name for event in said] == ["ai:stream:start", *ENDED]
    assert said[0]["epoch"] != first
    assert "resumed" not in said[0].fields
    at_rest(world)


@pytest.mark.parametrize("prompt", ["p", "q"])
def test_a_stream_that_ended_unread_is_told_of_before_the_next_of_its_name(prompt: str) -> None:
    world, client = setting()
    model = client.stream("s", "p")
    client.block()
    model.say("a")
    model.done()
    client.send("ai:stream", {"prompt": prompt, "streamId": "s"})
    assert len(world.models) == 2
    world.models[1].say("b")
    client.wire.unblock()
    said = client.take()
    names = [event.name for event in said]
    assert names == ["ai:stream:start", "ai:token", *ENDED, "ai:stream:start", "ai:token"]
    assert [event["data"] for event in said if event.name == "ai:token"] == ["a", "b"]


def test_a_cancel_and_the_same_name_again_in_one_read() -> None:
    world, client = setting()
    client.stream("s", "p")
    client.block()
    client.send("ai:cancel", {"streamId": "s"})
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    client.wire.unblock()
    assert client.names() == ["ai:stream:start", "ai:stream:cancelled", "ai:stream:start"]
    assert [model.cancelled for model in world.models] == [True, False]


def test_who_does_not_read_ended_streams_gets_no_more_of_them() -> None:
    world, client = setting(ended_streams_kept=3)
    client.block()
    for number in range(5):
        client.send("ai:stream", {"prompt": "p", "streamId": str(number)})
        if len(world.models) > number:
            world.models[number].fail(reached=False)
    assert len(world.models) == 3
    client.wire.unblock()
    codes = [event["code"] for event in client.take() if event.name == "ai:error"]
    assert codes == ["too_many_streams"] * 2
    client.stream("again")


def test_who_does_not_read_much_text_gets_no_more_of_it() -> None:
    world, client = setting(outbox_bytes=100)
    model = client.stream("s", "p")
    client.block()
    model.say("x" * 200)
    model.done()
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    assert len(world.models) == 1


def test_the_longest_absent_session_makes_room() -> None:
    world, client = setting(max_sessions=2)
    model = client.stream("s")
    client.wire.drop()
    for _ in range(2):
        Client(world).wire.drop()
    assert model.cancelled


def test_a_long_piece_of_text_counts_as_several_tokens() -> None:
    _, client = setting(token_chars=4)
    client.stream("s").say("aaaabbbbcc")
    said = client.take()
    assert text(said) == "aaaabbbbcc"
    assert said[-1]["seq"] == 3


def test_long_thinking_is_several_events() -> None:
    _, client = setting(token_chars=4)
    model = client.stream(think=True)
    client.take()
    model.send(line(message={"content": "", "thinking": "aaaabbbbcc"}, done=False))
    assert [event["data"] for event in client.take()] == ["aaaa", "bbbb", "cc"]


def test_a_refused_request_does_not_forget_the_stream_of_its_name() -> None:
    _, client = setting()
    client.stream("s").done()
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "s", "agent": "Nobody"})
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert client.names() == ["ai:error", "ai:reconnect:success", *ENDED]


def kept_streams(client: Client) -> list[str]:
    client.take()
    client.send("ai:heartbeat")
    return list(msgspec.convert(client.one()["streams"], dict[str, int]))


def test_only_so_many_ended_streams_of_a_client_are_kept() -> None:
    world, client = setting(ended_streams_kept=2, heartbeat_interval=1_000)
    for number in range(5):
        client.stream(str(number)).done()
    assert kept_streams(client) == ["0", "1", "2", "3", "4"]  # it may not have them
    world.advance(1_000)
    client.pong()
    client.stream("5").done()
    assert kept_streams(client) == ["3", "4", "5"]
    client.stream("running")
    assert kept_streams(client) == ["4", "5", "running"]
    at_rest(world)


def test_of_what_may_not_have_come_not_more_is_kept_than_a_limit() -> None:
    world, client = setting(ended_streams_kept=2, ended_streams_in_doubt=3)
    offset = client.offset
    client.stream("first").done()
    for number in range(4):
        client.stream(str(number)).done()
    assert kept_streams(client) == ["0", "1", "2", "3"]
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is False  # never a hole without a word
    at_rest(world)


# -- limits ----------------------------------------------------------------------------------------

WRONG_ID = "x" * 22 + "." + "y" * 22
CROWD = Peer("192.0.2.1")


def test_so_many_messages_at_once_and_so_many_a_second() -> None:
    world, client = setting()
    for _ in range(40):
        client.send("ai:heartbeat")
    assert client.names() == ["ai:heartbeat:ack"] * 40
    client.send("ai:cancel", {"streamId": "s"})
    assert client.one() == Said(
        "ai:error",
        {
            "error": "Too many messages.",
            "code": "rate_limited",
            "details": "try again in 50 ms",
            "retryable": True,
            "retryAfterMs": 50,
            "streamId": "s",
        },
    )
    world.advance(50)
    client.send("ai:heartbeat")
    assert client.names() == ["ai:heartbeat:ack"]


@pytest.mark.parametrize("name", ["ai:stream", "ai:cancel", "ai:heartbeat", "ai:reconnect", "no"])
def test_every_message_counts_and_a_refused_one_does_nothing(name: str) -> None:
    world, client = setting(messages_per_second=1, message_burst=2)
    for _ in range(2):
        client.send(name, {})
    assert len(client.take()) == 2
    client.send("ai:stream", {"prompt": "p"})
    assert client.error() == ("rate_limited", None)
    assert world.models == []


def test_who_goes_on_is_told_once_a_second_and_each_ack_still_comes() -> None:
    world, client = setting(messages_per_second=1, message_burst=20)
    for _ in range(20):
        client.send("ai:heartbeat")
    client.take()
    for _ in range(100):
        answer = client.ask("ai:heartbeat")
        assert answer == {"ok": False, "error": "Too many messages.", "code": "rate_limited"}
    assert client.error() == ("rate_limited", None)
    assert world.server.stats().errors == {"rate_limited": 100}
    world.advance(1_000)
    for _ in range(3):
        client.send("ai:heartbeat")
    assert client.names() == ["ai:heartbeat:ack", "ai:error"]


def test_a_flood_ends_the_connection_and_its_streams_wait() -> None:
    world, client = setting(messages_per_second=1, message_burst=2)
    other = Client(world)
    model = client.stream()
    model.say("a")
    client.take()
    flood = masked_frame(b'42/ai,["ai:heartbeat"]') * 20_000
    client.wire.send(flood)
    assert [event.name for event in client.take()] == ["ai:heartbeat:ack", "ai:error"]
    assert client.fenced
    assert world.server.stats().errors == {"rate_limited": 19}  # no more were looked at
    assert not model.cancelled
    again = Client(world)
    again.send("ai:reconnect", {"previousClientId": client.id})
    assert text(again.take()) == "a"
    other.send("ai:heartbeat")
    assert other.names() == ["ai:heartbeat:ack"]


def test_a_flood_in_one_body_ends_a_polling_client() -> None:
    world = new_world(messages_per_second=1, message_burst=1)
    polling = Polling(world)
    polling.post(b"40/ai,")
    polling.poll()
    body = b"\x1e".join([b'42/ai,["ai:heartbeat"]'] * 1_000)
    assert polling.post(body).body == b"ok"
    answer = polling.poll()
    assert answer is not None
    assert [packet[:10] for packet in answer.body.split(b"\x1e")] == [
        *(b'42/ai,["ai', b'42/ai,["ai', b"41/ai,", b"1")
    ]
    assert world.server.stats().errors == {"rate_limited": 10}


def test_so_many_streams_a_minute() -> None:
    world, client = setting(stream_starts_per_minute=2)
    client.stream("a")
    client.send("ai:stream", {"prompt": "tell me", "streamId": "a"})  # joins it
    client.send("ai:stream", {"prompt": "other", "streamId": "a"})
    client.send("ai:stream", {"prompt": ""})
    client.send("ai:stream", {"prompt": "p", "model": "unknown"})
    client.stream("b").done()
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "b"})
    assert client.one() == Said(
        "ai:error",
        {
            "error": "Too many streams were started.",
            "code": "rate_limited",
            "details": "try again in 30000 ms",
            "retryable": True,
            "retryAfterMs": 30_000,
            "streamId": "b",
        },
    )
    world.advance(29_999)
    client.send("ai:stream", {"prompt": "p"})
    assert client.error() == ("rate_limited", None)
    world.advance(1)
    client.stream("c")


def test_a_stream_that_was_refused_does_not_forget_the_one_of_its_name() -> None:
    _, client = setting(stream_starts_per_minute=1)
    client.stream("s").done()
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    client.send("ai:heartbeat")
    assert client.take()[-1]["streams"] == {"s": 0}


def test_the_buckets_are_the_sessions_and_not_the_connections() -> None:
    world, client = setting(messages_per_second=1, message_burst=2)
    client.send("ai:heartbeat")
    client.send("ai:heartbeat")
    client.take()
    client.leave()
    again = back(world, client)
    again.send("ai:heartbeat")
    assert again.error() == ("rate_limited", None)


def test_joining_anew_gives_more_only_so_often() -> None:
    world, client = setting(joins_per_minute=2)
    for joined in (True, False):
        client.wire.send_text("41/ai,")
        client.wire.send_text("40/ai,")
        assert bool(client.take()) is joined
    assert client.refusal == {
        "message": "Too many requests.",
        "data": {"code": "rate_limited", "retryable": True, "retryAfterMs": 30_000},
    }
    assert Client(world).hello
    world.advance(30_000)
    client.wire.send_text("40/ai,")
    assert client.names() == ["ai:connected"]


def test_the_fifth_wrong_id_ends_the_connection_behind_its_answer() -> None:
    world, client = setting()
    answers = []
    for _ in range(5):
        assert client.wire.open
        client.send("ai:reconnect", {"previousClientId": WRONG_ID})
        answers.append(client.take())
    assert all(answer == answers[0] for answer in answers)
    ((error,), *_) = answers
    assert (error["code"], error["retryable"]) == ("reconnect_failed", False)
    assert client.fenced
    client.wire.drop()
    assert not world.wires


@pytest.mark.parametrize("malformed", ["", "x", WRONG_ID + "x", WRONG_ID[:-1], "a.b", 5, None])
def test_what_cannot_be_an_id_is_answered_alike_and_is_no_guess(malformed: object) -> None:
    _, client = setting()
    client.send("ai:reconnect", {"previousClientId": WRONG_ID})
    wrong = client.one()
    for _ in range(9):
        client.send("ai:reconnect", {"previousClientId": malformed})
        assert client.one() == wrong
    client.send("ai:reconnect")
    assert client.one() == wrong
    assert not client.fenced


def test_an_id_that_was_once_right_is_no_guess() -> None:
    world, client = setting(reconnect_timeout=1_000)
    client.leave()
    world.advance(1_000)
    late = Client(world)
    for _ in range(9):
        late.send("ai:reconnect", {"previousClientId": client.id})
        assert late.error() == ("reconnect_failed", None)
    assert not late.fenced


def test_a_right_id_is_taken_after_wrong_ones() -> None:
    world, client = setting(guesses_per_minute=3)
    client.stream().say("a")
    client.leave()
    for guesses in (1, 1, 1, 2, 2):
        guesser = Client(world, peer=CROWD)
        for _ in range(guesses):
            assert not guesser.fenced
            guesser.send("ai:reconnect", {"previousClientId": WRONG_ID})
            assert guesser.error() == ("reconnect_failed", None)
        assert guesser.fenced is (guesses == 2)
    neighbour = Client(world, peer=CROWD)
    neighbour.send("ai:reconnect", {"previousClientId": WRONG_ID})
    neighbour.send("ai:reconnect", {"previousClientId": client.id})
    said = neighbour.take()
    assert [event.name for event in said[:2]] == ["ai:error", "ai:reconnect:success"]
    assert text(said) == "a"


def test_two_do_not_take_from_each_other_for_ever() -> None:
    world, client = setting(takeovers_per_minute=2)
    model = client.stream()
    model.say("a")
    holder = client
    for _ in range(2):
        thief = Client(world)
        thief.send("ai:reconnect", {"previousClientId": holder.id})
        assert text(thief.take()) == "a"
        holder.take()
        assert holder.fenced
        holder = thief
    thief = Client(world)
    assert thief.ask("ai:reconnect", {"previousClientId": holder.id})["code"] == "rate_limited"
    error = thief.one()
    assert (error["code"], error["retryAfterMs"]) == ("rate_limited", 30_000)
    model.say("b")
    assert [event.name for event in holder.take()] == ["ai:token"]
    assert not holder.fenced
    holder.leave()  # nothing is taken from anybody: that is not counted
    thief.send("ai:reconnect", {"previousClientId": holder.id})
    assert text(thief.take()) == "ab"


def test_the_id_is_good_after_the_wait() -> None:
    world, client = setting(takeovers_per_minute=1)
    first, second = Client(world), Client(world)
    first.send("ai:reconnect", {"previousClientId": client.id})
    second.send("ai:reconnect", {"previousClientId": first.id})
    assert second.error() == ("rate_limited", None)
    world.advance(60_000)
    second.send("ai:reconnect", {"previousClientId": first.id})
    assert second.names() == ["ai:reconnect:success"]


def test_two_with_one_pid_do_not_either() -> None:
    world, client = setting(takeovers_per_minute=1)
    client.take()
    again = back(world, client)
    assert again.hello["recovered"] is True
    other = back(world, again)
    assert other.hello["recovered"] is False
    assert again.wire.open
    again.leave()
    assert back(world, again).hello["recovered"] is True


def test_who_leaves_many_sessions_behind_pushes_out_none_of_others() -> None:
    world, client = setting(max_lost_per_address=2)
    model = client.stream()
    client.leave()
    left = []
    for _ in range(4):
        passer = Client(world, peer=CROWD)
        left.append(passer.stream())
        passer.leave()
    assert [one.cancelled for one in left] == [True, True, False, False]
    assert not model.cancelled
    at_rest(world)


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


# -- the log's bounds ------------------------------------------------------------------------------


def test_text_that_was_sent_is_evicted_when_the_log_is_full_and_not_before() -> None:
    world, client = setting(log_bytes=1_000)
    model = client.stream()
    kept = []
    empty = world.server.stats().bytes_held
    for _ in range(300):
        model.say("0123456")  # 11 bytes with their boundary, and an eighth of room
        kept.append(world.server.stats().bytes_held - empty)
    assert not paused(model)
    assert 980 < max(kept) * 8 / 9 < 1_001
    full = kept[100:]
    assert 850 < min(full) * 8 / 9 < 890  # an eighth is evicted at once
    client.take()
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 10}})
    gap, success, *tokens = client.take()
    first = only([success], "ai:reconnect:success")["streams"]
    assert isinstance(first, list)
    assert gap.name == "ai:error"
    assert (gap["code"], gap["retryable"], gap["streamId"]) == ("resume_gap", False, "s")
    assert gap["firstSeq"] == first[0]["firstSeq"] == first[0]["nextSeq"] > 200
    assert tokens[-1]["seq"] == 300
    assert world.server.stats().errors == {"resume_gap": 1}


def test_a_pause_for_a_slow_reader_evicts_nothing() -> None:
    world, client = setting(log_bytes=1_000)
    model = client.stream()
    model.say(*["0123456"] * 40)  # all sent
    client.block()
    model.say(*["x"] * 101)
    assert paused(model)
    client.wire.unblock()
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert text(back.take()) == "0123456" * 40 + "x" * 101


def test_the_streams_of_an_absent_client_go_on_until_their_log_is_full() -> None:
    world, client = setting(log_bytes=1_000)
    model = client.stream()
    model.say("sent ")
    client.take()
    client.leave()
    for number in range(80):
        model.say(f"{number:7}")
        assert not paused(model)
    while not paused(model):
        model.say("0123456")
    world.advance(20_000)  # a pause for a full log: nobody is there to be told
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 1}})
    assert not paused(model)
    model.say("on")
    said = back.take()
    assert text(said).startswith("      0      1")
    assert text(said).endswith("on")
    assert "ai:backpressure" not in [event.name for event in said]
    stats = world.server.stats()
    assert (stats.paused_ms, stats.backpressure_events) == (20_000, 0)


def test_who_comes_back_and_reads_slowly_is_told() -> None:
    world, client = setting(log_bytes=1_000, backpressure_threshold=50)
    model = client.stream()
    client.take()
    client.leave()
    while not paused(model):
        model.say("0123456")
    back = Client(world)
    back.block()
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    world.advance(500)
    back.wire.unblock()
    assert "ai:backpressure" in back.names()


def test_a_full_log_pauses_also_for_a_client_that_is_there() -> None:
    world, client = setting(log_bytes=100, replay_bytes=1)
    models = [client.stream(name) for name in "ab"]
    client.take()
    client.block()
    models[0].say(*["0123456"] * 10)
    models[1].say(*["0123456"] * 6)
    assert [paused(model) for model in models] == [True, False]
    client.wire.unblock(150)  # one token: the log is full still
    world.advance(1_000)
    assert paused(models[0])
    client.wire.unblock()
    assert not paused(models[0])
    assert world.server.stats().backpressure_events == 0
    assert "ai:backpressure" not in client.names()


def test_a_client_that_leaves_ends_its_episode() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    client.leave()
    assert not paused(model)
    world.advance(10_000)
    assert world.server.stats().backpressure_events == 0
    assert world.server.stats().paused_ms == 0
    at_rest(world)


def test_a_response_that_goes_on_behind_its_end_is_closed() -> None:
    world, client = setting()
    model = client.stream()
    model.send(line(**LAST_LINE))
    world.advance(999)
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)
    at_rest(world)


# -- pressure (all of it: test_pressure.py) --------------------------------------------------------


def test_the_timers_of_pressure_and_of_the_pace_are_taken() -> None:
    world, client = setting(backpressure_threshold=2, stream_rate_limit=20)
    model = client.stream()
    client.block()
    model.say(*"abcdef")
    world.advance(1_000)
    client.wire.unblock()
    assert text(client.take()) == "abcdef"
    assert world.server.stats().backpressure_events == 1
    at_rest(world)


# -- memory ----------------------------------------------------------------------------------------


def test_above_80_percent_no_stream_starts() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream("a")
    model.say(*["x" * 16_000] * 5)
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "b"})
    refused = client.one()
    assert (refused["code"], refused["retryable"]) == ("node_overloaded", True)
    client.leave()
    world.advance(30_000)
    assert cancelled(model)
    other = Client(world)
    other.stream("b")
    assert other.one().name == "ai:stream:start"
    at_rest(world)


def test_above_95_percent_the_longest_absent_sessions_go() -> None:
    world, first = setting(memory_bytes=100_000)
    second, empty, present = Client(world), Client(world), Client(world)
    models = [client.stream() for client in (first, second)]
    model = present.stream()
    for kept in models:
        kept.say("x" * 14_000, "y" * 14_000)
    empty.leave()
    first.leave()
    world.advance(1)
    second.leave()
    models[0].say("x" * 10_000)  # nobody needs room yet
    assert world.server.stats().evictions == 0
    model.say("z" * 16_000)
    assert (cancelled(models[0]), cancelled(models[1])) == (True, False)
    stats = world.server.stats()
    assert (stats.evictions, stats.cancels) == (1, 1)
    assert stats.bytes_held <= stats.memory_bound == world.server.memory_bound()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": first.id})
    assert back.error() == ("reconnect_failed", None)
    back.send("ai:reconnect", {"previousClientId": second.id})
    assert text(back.take()) == "x" * 14_000 + "y" * 14_000
    assert not paused(model)
    at_rest(world)


def test_the_session_that_needs_the_room_may_be_the_one_that_goes() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream()
    client.leave()
    model.say(*["x" * 16_000] * 6)
    assert cancelled(model)
    assert world.server.stats().bytes_held == 0
    at_rest(world)


def test_a_node_without_room_pauses_all_models_and_loses_nothing() -> None:
    world, slow = setting(memory_bytes=200_000, outbox_bytes=1_000_000)
    quick, other = Client(world), Client(world)
    slow_model, quick_model, other_model = slow.stream(), quick.stream(), other.stream()
    slow.block()
    slow_model.say(*["s" * 10_000] * 9)
    quick_model.say("a")
    other_model.say(*["o" * 1_000] * 100)
    assert [paused(model) for model in world.models] == [False] * 3
    assert world.server.stats().bytes_held < 200_000  # text that was sent has made room
    slow_model.say(*["s" * 10_000] * 9)
    assert [paused(model) for model in world.models] == [True] * 3
    assert text(other.take()) == "o" * 100_000
    slow.wire.unblock()
    assert [paused(model) for model in world.models] == [False] * 3
    assert text(slow.take()) == "s" * 180_000
    quick_model.say("b")
    assert text(quick.take()) == "ab"
    at_rest(world)


def test_who_leaves_a_node_without_room_makes_room() -> None:
    world, leaving = setting(memory_bytes=100_000, outbox_bytes=1_000_000)
    staying = Client(world)
    models = [leaving.stream(), staying.stream()]
    leaving.block()
    models[0].say(*["x" * 10_000] * 9)
    assert [paused(model) for model in models] == [True, True]
    leaving.leave()
    assert cancelled(models[0])
    assert not paused(models[1])
    at_rest(world)


def test_the_unfinished_line_of_a_model_counts() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream()
    before = world.server.stats().bytes_held
    model.send(b'{"message":{"content":"' + b"x" * 50_000)
    assert world.server.stats().bytes_held == before + 50_023
    model.send(b"y" * 60_000)
    assert paused(model)
    model.send(b'"},"done":false}\n')
    assert not paused(model)
    assert text(client.take()) == "x" * 50_000 + "y" * 60_000
    at_rest(world)


def test_text_that_was_handed_over_makes_room_before_a_model_is_paused() -> None:
    """Prompts alone take most of the memory; the logs are small, and read."""
    world, first = setting(memory_bytes=1_000_000)
    clients = [first, *(Client(world) for _ in range(20))]
    models = [client.stream("s", "x" * 30_000) for client in clients]
    for _ in range(300):
        for model in models:
            model.say("y" * 200)
        for client in clients:
            client.take()
    assert [paused(model) for model in models] == [False] * len(models)
    at_rest(world)


def test_ended_streams_that_are_read_make_room() -> None:
    world, hog = setting(memory_bytes=400_000)
    client = Client(world)
    model = client.stream()
    for number in range(9):
        ended = hog.stream(f"s{number}")
        ended.say(*["x" * 10_000] * 3)
        ended.done()
        hog.take()
    for _ in range(200):
        model.say("y" * 1_000)
        client.take()
        assert not paused(model)
    other = Client(world)
    other.stream()  # there is room again, and no refusal
    at_rest(world)


def test_room_does_not_help_who_does_not_read() -> None:
    world, slow = setting(memory_bytes=200_000, outbox_bytes=10_000, slow_consumer_timeout=10**6)
    hog, quick = Client(world), Client(world)
    models = [client.stream() for client in (slow, hog, quick)]
    slow.block()
    hog.block()
    models[0].say(*["s" * 5_000] * 3)
    assert [paused(model) for model in models] == [True, False, False]
    models[1].say(*["h" * 10_000] * 18)
    assert [paused(model) for model in models] == [True, True, True]
    hog.send("ai:cancel", {"streamId": "s"})
    assert [paused(models[0]), paused(models[2])] == [True, False]
    at_rest(world)


def test_a_start_makes_room_of_what_has_ended() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream("a")
    model.say(*["x" * 10_000] * 8)
    model.done()
    assert world.server.stats().bytes_held > 80_000
    client.take()
    client.stream("b")
    assert world.server.stats().bytes_held < 20_000
    assert client.one().name == "ai:stream:start"
    at_rest(world)


def test_an_unfinished_line_may_be_what_is_too_much() -> None:
    world, client = setting(memory_bytes=100_000)
    model = client.stream()
    client.leave()
    model.send(b'{"message":{"content":"' + b"y" * 120_000)
    assert cancelled(model)
    assert world.server.stats().bytes_held == 0
    at_rest(world)


def test_who_joins_a_stream_whose_beginning_is_gone_is_told() -> None:
    world, client = setting(log_bytes=1_000, unconfirmed_bytes=1)
    model = client.stream("s", "p")
    model.say(*["x" * 50] * 40)
    client.take()
    client.send("ai:stream", {"prompt": "p", "streamId": "s"})
    gap, *tokens = client.take()
    assert gap["code"] == "resume_gap"
    assert {event.name for event in tokens} == {"ai:token"}
    at_rest(world)


def test_a_node_without_room_looks_again_whether_anybody_has_read() -> None:
    world, hog = setting(memory_bytes=200_000, outbox_bytes=1_000_000, slow_consumer_timeout=10**6)
    client = Client(world)
    model = client.stream()
    ended = hog.stream()
    hog.block()
    ended.say(*["x" * 10_000] * 18)
    ended.done()
    assert paused(model)
    world.advance(5_000)
    assert paused(model)
    hog.wire.unblock()
    world.advance(1_000)
    assert not paused(model)
    model.say("y")
    assert text(hog.take()) == "x" * 180_000
    assert text(client.take()) == "y"
    at_rest(world)


def test_who_is_dropped_by_what_a_reconnect_says_may_go_for_want_of_room() -> None:
    world, client = setting(
        memory_bytes=90_000,
        log_bytes=4_096,
        unconfirmed_bytes=256,
        outbox_bytes=1_500,
        outbox_burst_bytes=1_500,
    )
    models = [client.stream(f"s{number}") for number in range(10)]
    for model in models * 100:
        if world.server.stats().bytes_held < 88_000:
            model.say("z" * 40)
    client.take()
    back = Client(world)
    back.block()
    back.send("ai:reconnect", {"previousClientId": client.id})
    at_rest(world)


def test_what_is_told_of_a_stream_before_its_next_start_counts() -> None:
    world, client = setting(outbox_bytes=1_000_000)
    model = client.stream()
    client.block()
    model.say(*["\x01" * 10_000] * 5)  # each takes six characters of JSON
    model.done()
    client.stream()
    assert world.server.stats().bytes_held > 300_000
    at_rest(world)


def test_a_line_that_is_whole_counts_once() -> None:
    world, away = setting(memory_bytes=1_000_000)
    client = Client(world)
    away.stream().say("x" * 10_000)
    away.leave()
    model = client.stream()
    model.send(b'{"message":{"content":"' + b"y" * 500_000)
    model.send(b'"},"done":false}\n')
    assert world.server.stats().evictions == 0
    at_rest(world)


def test_one_request_may_be_what_is_too_much() -> None:
    world, away = setting(memory_bytes=100_000)
    kept = away.stream()
    kept.say(*["x" * 10_000] * 6)
    away.leave()
    Client(world).stream("s", "y" * 30_000)
    assert cancelled(kept)
    at_rest(world)


def test_sessions_that_were_taken_over_keep_nothing() -> None:
    world, client = setting()
    for _ in range(20):
        for _ in range(20):
            client.send("ai:reconnect", {})
        newer = Client(world)
        newer.send("ai:reconnect", {"previousClientId": client.id})
        client.leave()
        client = newer
        world.advance(1_000)
    assert world.server.stats().bytes_held < 20_000
    at_rest(world)


def test_a_flood_of_thinking_pauses_the_model_of_who_does_not_read() -> None:
    world, client = setting(outbox_bytes=10**7, log_bytes=20_000, lane_bytes=1_000)
    model = client.stream(think=True)
    client.block()
    thought = line(message={"content": "", "thinking": "hm" * 100}, done=False)
    sent = 0
    while not paused(model):
        model.send(thought)
        sent += 1
    assert sent < 100
    client.wire.unblock()
    assert not paused(model)
    assert len([one for one in client.take() if one.name == "ai:token"]) == sent
    client.leave()
    while not paused(model):
        model.send(thought)
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    assert not paused(model)
    assert len(back.take()) > 50
    at_rest(world)


def test_an_ended_stream_is_kept_until_its_client_would_be_known_to_be_gone() -> None:
    world, client = setting(heartbeat_interval=20_000, heartbeat_timeout=10_000)
    model = client.stream()
    model.say("all of it")
    model.done()
    world.advance(29_000)  # the link is dead, and nobody knows
    world.advance(1_000)
    assert world.server.stats().total_sessions == 0
    world.advance(29_000)
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert text(back.take()) == "all of it"
    back.wire.send_text("3")
    for _ in range(5):
        assert world.server.stats().bytes_held > 4_000
        world.advance(10_000)
        back.wire.send_text("3")
    world.advance(10_001)
    back.wire.send_text("3")
    assert world.server.stats().bytes_held < 4_000
    at_rest(world)


# -- ai:reconnect ----------------------------------------------------------------------------------


def test_a_session_is_taken_over_with_its_streams() -> None:
    world, client = setting()
    running, over = client.stream("running"), client.stream("over")
    running.say("a", "b")
    over.say("x")
    over.done()
    epochs = [event["epoch"] for event in client.take() if event.name == "ai:stream:start"]
    client.leave()
    running.say("c")
    back = Client(world)
    answer = back.ask("ai:reconnect", {"previousClientId": client.id})
    assert answer == {"ok": True, "newClientId": back.id}
    running.say("d")
    running.done()
    said = back.take()
    assert said[0] == Said(
        "ai:reconnect:success",
        {
            "previousClientId": client.id,
            "newClientId": back.id,
            "streams": [
                {
                    "streamId": "running",
                    "state": "streaming",
                    "nextSeq": 1,
                    "firstSeq": 1,
                    "epoch": epochs[0],
                },
                {
                    "streamId": "over",
                    "state": "done",
                    "nextSeq": 1,
                    "firstSeq": 1,
                    "epoch": epochs[1],
                },
            ],
        },
    )
    assert text(said, "running") == "abcd"
    assert text(said, "over") == "x"
    own = [event for event in said[1:] if event["streamId"] == "running"]
    assert [event.name for event in own] == [*REPLAYED, "ai:token", *ENDED]
    assert [metadata(event).get("replayed") for event in own[1:3]] == [True, None]
    assert world.server.stats().resumes == 1
    at_rest(world)


def test_a_long_text_is_replayed_in_pieces() -> None:
    world, client = setting()
    model = client.stream()
    model.say(*["x" * 1_000] * 40)
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    said = back.take()
    sizes = [len(str(event["data"])) for event in all_named(said, "ai:token")]
    assert sizes == [16_000, 16_000, 8_000]
    assert text(said) == "x" * 40_000


@pytest.mark.parametrize(
    ("cursor", "shown", "started"),
    [
        (0, "abc", False),
        (2, "c", False),
        (3, "", False),
        ({"seq": 2}, "c", False),
        ({"seq": 2, "epoch": "the epoch"}, "c", False),
        ({"seq": 2, "epoch": "another"}, "abc", True),  # of an earlier stream of that name
        (4, "abc", True),  # so is what this stream does not have
    ],
)
def test_a_cursor_brings_exactly_what_is_missing(cursor: object, shown: str, started: bool) -> None:
    world, client = setting()
    model = client.stream()
    epoch = client.one()["epoch"]
    model.say("a", "b", "c")
    client.leave()
    if isinstance(cursor, dict) and cursor.get("epoch") == "the epoch":
        cursor = cursor | {"epoch": epoch}
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": cursor, "t": 5}})
    model.say("d")
    said = back.take()
    assert text(said) == shown + "d"
    assert ("ai:stream:start" in [event.name for event in said]) is started


def test_streams_that_a_cursor_client_does_not_name_come_whole() -> None:
    world, client = setting()
    a, b = client.stream("a"), client.stream("b")
    a.say("1", "2")
    b.say("3", "4")
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"a": 1}})
    said = back.take()
    assert (text(said, "a"), text(said, "b")) == ("2", "34")
    assert [event["streamId"] for event in all_named(said, "ai:stream:start")] == ["b"]


def test_a_connection_may_ask_again_with_its_own_id_and_burns_nothing() -> None:
    world, client = setting()
    model = client.stream("s")
    client.stream("t").say("other")
    model.say("a", "b", "c")
    client.take()
    for _ in range(2):
        client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 1}})
        success, tokens = client.take()
        assert success["newClientId"] == success["previousClientId"] == client.id
        assert (tokens["streamId"], tokens["data"], tokens["seq"]) == ("s", "bc", 3)
    client.send("ai:reconnect", {"previousClientId": client.id})
    assert client.names() == ["ai:reconnect:success"]  # it has all, and gets no token twice
    assert world.server.stats().total_sessions == 1


def test_a_request_that_arrives_when_its_client_is_elsewhere_takes_nothing() -> None:
    world, client = setting()
    model = client.stream()
    client.take()
    client.leave()
    given_up, back = Client(world), Client(world)
    request: Fields = {"previousClientId": client.id}
    back.send("ai:reconnect", request)
    given_up.send("ai:reconnect", request)  # was under way all the time
    assert given_up.error() == ("reconnect_failed", None)
    given_up.leave()
    model.say("a")
    assert text(back.take()) == "a"
    assert not back.fenced
    back.leave()
    again = Client(world)
    again.send("ai:reconnect", request)  # the answer to the first was lost
    assert text(again.take()) == "a"


def test_what_a_connection_got_before_it_reconnects_does_not_come_twice() -> None:
    world, client = setting()
    client.stream("old").say("a")
    client.leave()
    back = Client(world)
    back.stream("new").say("b")
    first = back.take()
    back.send("ai:reconnect", {"previousClientId": client.id})
    second = back.take()
    assert text(first, "new") == "b"
    assert [event.name for event in second] == ["ai:reconnect:success", *REPLAYED]
    assert text(second, "old") == "a"


@pytest.mark.parametrize("newer", ["the old session's", "the new connection's"])
@pytest.mark.parametrize("ended", [False, True])
def test_of_two_streams_of_one_name_the_newer_wins(newer: str, ended: bool) -> None:
    world, client = setting()
    if newer == "the old session's":
        back = Client(world)
        loser, winner = back.stream("s", "one"), client.stream("s", "two")
    else:
        loser = client.stream("s", "one")
        client.leave()
        back = Client(world)
        winner = back.stream("s", "two")
    loser.say("lost")
    if ended:
        loser.done()
    winner.say("kept")
    back.take()
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    assert cancelled(loser) is not ended
    assert not cancelled(winner)
    winner.done()
    said = back.take()
    success = only(said, "ai:reconnect:success")
    assert success["replaced"] == ["s"]
    assert isinstance(success["streams"], list)
    assert len(success["streams"]) == 1
    assert [event.name for event in said[1:]] == ["ai:token", *ENDED]
    assert text(said) == "kept"
    at_rest(world)


def test_replaced_streams_leave_the_others_whole() -> None:
    world, client = setting(ended_streams_kept=1)
    for name in "abcd":
        client.stream(name).done()
    client.stream("s")
    client.leave()
    back = Client(world)
    back.stream("s", "newer")
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert only(back.take(), "ai:reconnect:success")["replaced"] == ["s"]
    at_rest(world)


def test_a_paused_stream_moves_and_goes_on_with_its_new_reader() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say(*["x"] * 101)
    assert paused(model)
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert not paused(model)
    model.done()
    said = back.take()
    assert text(said) == "x" * 101
    world.advance(10_000)
    assert world.server.stats().backpressure_events == 0
    at_rest(world)


def test_limits_are_counted_after_the_transfer() -> None:
    world, client = setting(max_concurrent_streams=2)
    client.stream("a")
    client.stream("b")
    client.leave()
    back = Client(world)
    back.stream("c")
    back.send("ai:reconnect", {"previousClientId": client.id})
    back.take()
    back.send("ai:stream", {"prompt": "p"})
    assert back.error() == ("too_many_streams", None)


def test_a_session_that_still_seems_alive_is_fenced() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a")
    client.take()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    model.say("b")
    assert client.take() == []
    assert client.fenced
    assert client.wire.open
    back.take()
    client.leave()  # its late close changes nothing
    world.advance(40_000)
    model.say("c")
    assert text(back.take()) == "c"
    assert world.server.stats().total_sessions == 1
    at_rest(world)


def crowded(room: int, heartbeats: int) -> tuple[World, Client, int]:
    """Return a client that reads nothing, and how many of `heartbeats` it lived to send."""
    world, client = setting(outbox_bytes=room)
    client.stream()
    client.block()
    sent = 0
    while sent < heartbeats and client.wire.open:
        client.send("ai:heartbeat")
        sent += 1
    return world, client, sent


def test_a_session_that_reads_nothing_is_fenced_or_dropped_if_that_is_one_too_many() -> None:
    dropped = []
    for room in range(1_000, 1_100, 5):  # a DISCONNECT has 6 bytes
        _, _, too_many = crowded(room, 1_000)
        world, client, _ = crowded(room, too_many - 1)
        back = Client(world)
        back.send("ai:reconnect", {"previousClientId": client.id})
        world.models[0].done()
        assert back.names() == ["ai:reconnect:success", "ai:stream:start", *ENDED]
        dropped.append(client.wire.aborted)
        at_rest(world)
    assert set(dropped) == {True, False}


def test_the_old_id_stays_valid_until_the_answer_is_known_to_have_come() -> None:
    world, first = setting()
    model = first.stream()
    model.say("a")
    first.leave()
    chain = [first]
    for _ in range(3):  # the answer is lost again and again
        chain.append(Client(world))
        chain[-1].send("ai:reconnect", {"previousClientId": first.id})
        chain[-1].leave()
    last = Client(world)
    last.send("ai:reconnect", {"previousClientId": first.id})
    assert text(last.take()) == "a"
    last.send("ai:reconnect", {"previousClientId": chain[2].id})  # also on one connection
    said = last.take()
    assert [event.name for event in said] == ["ai:reconnect:success", *REPLAYED]
    last.send("ai:heartbeat")
    last.take()
    for client in chain:
        last.send("ai:reconnect", {"previousClientId": client.id})
        assert last.error() == ("reconnect_failed", None)
    model.done()
    assert last.names() == ENDED
    at_rest(world)


def test_a_pong_burns_the_old_id() -> None:
    world, client = setting(heartbeat_interval=1_000)
    client.leave()
    back = Client(world)
    world.advance(1_000)  # its first ping is on the way
    back.send("ai:reconnect", {"previousClientId": client.id})
    back.pong()  # answers a ping from before the answer
    again = Client(world)
    again.send("ai:reconnect", {"previousClientId": client.id})
    assert again.names() == ["ai:reconnect:success"]
    world.advance(1_000)
    again.pong()
    for asking in (again, Client(world)):
        asking.send("ai:reconnect", {"previousClientId": client.id})
        assert asking.error() == ("reconnect_failed", None)
    last = Client(world)
    last.send("ai:reconnect", {"previousClientId": again.id})
    assert last.names() == ["ai:reconnect:success"]
    at_rest(world)


def test_a_pong_before_the_answer_was_handed_over_burns_nothing() -> None:
    world, client = setting(heartbeat_interval=1_000)
    client.leave()
    back = Client(world)
    world.advance(990)
    back.block()
    back.send("ai:reconnect", {"previousClientId": client.id})
    world.advance(10)
    back.wire.unblock(1)  # the ping goes first, and then the answer
    back.pong()
    again = Client(world)
    again.send("ai:reconnect", {"previousClientId": client.id})
    assert again.names() == ["ai:reconnect:success"]
    at_rest(world)


def test_the_old_id_is_burnt_in_time_also_without_a_word() -> None:
    world, client = setting()
    client.leave()
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    world.advance(30_000)
    other = Client(world)
    other.send("ai:reconnect", {"previousClientId": client.id})
    assert other.error() == ("reconnect_failed", None)
    other.send("ai:reconnect", {"previousClientId": back.id})
    assert other.names() == ["ai:reconnect:success"]
    at_rest(world)


def test_an_id_in_the_middle_of_a_chain_is_burnt_with_it() -> None:
    world, first = setting()
    second = Client(world)
    second.send("ai:reconnect", {"previousClientId": first.id})
    world.advance(20_000)
    third = Client(world)
    third.send("ai:reconnect", {"previousClientId": second.id})
    world.advance(10_000)  # the first transfer's time is over: its id, and no other
    third.send("ai:reconnect", {"previousClientId": first.id})
    third.send("ai:reconnect", {"previousClientId": second.id})
    assert third.names() == ["ai:reconnect:success", "ai:error", "ai:reconnect:success"]
    at_rest(world)


def test_a_connection_may_take_over_two_sessions_and_both_are_burnt() -> None:
    world, one = setting()
    other = Client(world)
    one.stream("a").say("1")
    other.stream("b").say("2")
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": one.id})
    back.send("ai:reconnect", {"previousClientId": other.id})
    said = back.take()
    assert (text(said, "a"), text(said, "b")) == ("1", "2")
    back.send("ai:heartbeat")
    back.take()
    for client in (one, other):
        back.send("ai:reconnect", {"previousClientId": client.id})
        assert back.error() == ("reconnect_failed", None)
    at_rest(world)


@pytest.mark.parametrize(
    "forge",
    [
        lambda used, expired, own: used,
        lambda used, expired, own: expired,
        lambda used, expired, own: own.split(".")[0],
        lambda used, expired, own: own.split(".")[0] + "." + used.split(".")[1],
        lambda used, expired, own: "x" * 44,
        lambda used, expired, own: None,
        lambda used, expired, own: {"$ne": ""},
    ],
)
def test_unknown_used_expired_and_foreign_ids_get_one_answer(forge: object) -> None:
    world, expired = setting()
    expired.leave()
    world.advance(30_000)
    used = Client(world)
    owner = Client(world)
    owner.send("ai:reconnect", {"previousClientId": used.id})
    owner.send("ai:heartbeat")
    other = Client(world)
    assert callable(forge)
    other.send("ai:reconnect", {"previousClientId": forge(used.id, expired.id, owner.id)})
    assert other.one() == Said(
        "ai:error",
        {
            "error": "There is no session to take over with this previousClientId.",
            "code": "reconnect_failed",
            "details": "reconnect_failed",
            "retryable": False,
        },
    )
    assert not owner.fenced


def test_streams_of_who_does_not_come_back_are_cancelled_at_the_model() -> None:
    world, client = setting()
    model = client.stream()
    over, late = client.stream("over"), client.stream("late")
    over.done()
    client.leave()
    late.done()  # with nobody there to be told
    world.advance(29_999)
    model.say("a")
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)
    assert world.server.stats().cancels == 1
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert back.error() == ("reconnect_failed", None)
    at_rest(world)


def test_thinking_for_an_absent_client_is_not_kept() -> None:
    world, client = setting()
    model = client.stream(think=True)
    client.leave()
    model.send(line(message={"content": "", "thinking": "hm"}, done=False))
    model.say("a")
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id})
    assert text(back.take()) == "a"


def test_an_ended_stream_waits_for_an_absent_client() -> None:
    world, client = setting(reconnect_timeout=1_000)
    model = client.stream()
    model.say("a")
    client.take()
    world.advance(400)
    client.block()
    model.done()
    world.advance(700)
    client.leave()
    world.advance(900)  # the end is older than the grace period, the absence is not
    back = Client(world)
    back.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 1}})
    assert back.names() == ["ai:reconnect:success", *ENDED]
    at_rest(world)


def test_an_ended_stream_waits_for_its_client_as_long_as_the_session_does() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a")
    client.take()
    seen = client.offset
    model.say("b")
    model.done()
    world.advance(10_000)
    client.leave()
    world.advance(29_999)
    back = Client(world, {"pid": client.pid, "offset": seen})
    assert back.names() == ["ai:token", *ENDED]
    at_rest(world)


def test_an_ended_stream_waits_also_when_the_loss_was_noticed_late() -> None:
    world, client = setting(heartbeat_interval=25_000)
    model = client.stream()
    model.say("a")
    client.take()
    seen = client.offset
    model.say("b")
    model.done()
    world.advance(25_000 + 20_000 + 29_999)  # no pong has come
    back = Client(world, {"pid": client.pid, "offset": seen})
    assert back.names() == ["ai:token", *ENDED]
    at_rest(world)


def test_the_time_of_an_ended_stream_begins_when_its_client_was_handed_the_last_of_it() -> None:
    world, client = setting(heartbeat_interval=4_000, heartbeat_timeout=3_000)
    kept = 4_000 + 3_000 + 30_000
    stream, early = client.stream(), client.stream("early")
    early.done()
    stream.say("a")
    client.block()
    stream.done()
    for now in range(0, 100_000, 2_000):
        world.advance(2_000)
        if now == 50_000:
            client.wire.unblock()
        elif now < 50_000:
            client.wire.unblock(1)  # reads, very slowly
        client.wire.send_text("3")
        if now == 50_000 + kept - 3_000:
            client.send("ai:heartbeat")
            assert client.take()[-1]["streams"] == {"s": 1}
    client.send("ai:heartbeat")
    assert client.take()[-1]["streams"] == {}


def test_an_id_is_over_at_its_deadline_handled_or_not() -> None:
    world, client = setting()
    client.stream()
    other = Client(world)
    client.leave()
    world.now = Millis(world.now + 30_000)  # and nobody has called handle_timeout
    other.send("ai:reconnect", {"previousClientId": client.id})
    assert other.names() == ["ai:error"]


def test_a_used_id_is_over_at_its_deadline_handled_or_not() -> None:
    world, client = setting()
    client.stream()
    back, other = Client(world), Client(world)
    client.leave()
    back.send("ai:reconnect", {"previousClientId": client.id})
    world.now = Millis(world.now + 30_000)
    other.send("ai:reconnect", {"previousClientId": client.id})
    assert other.names() == ["ai:error"]
    assert not back.fenced
    other.send("ai:reconnect", {"previousClientId": back.id})
    assert other.names() == ["ai:reconnect:success", "ai:stream:start"]


def test_a_client_of_very_many_streams_is_recovered() -> None:
    world, client = setting(
        max_concurrent_streams=200, message_burst=1_000, stream_starts_per_minute=1_000
    )
    for number in range(200):
        client.stream(f"s{number}")
    client.take()
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    assert back.hello["recovered"]
    assert back.names() == []


# -- shutdown --------------------------------------------------------------------------------------


def shut_down(world: World) -> None:
    world.server.shut_down(world.now)
    world.pump()


def test_a_shutdown_lets_streams_finish_then_closes_the_transports() -> None:
    world, client = setting()
    idle = Client(world)
    model = client.stream()
    client.take()
    shut_down(world)
    assert idle.one() == Said(
        "ai:error",
        {
            "error": "The server is shutting down.",
            "code": "server_shutting_down",
            "details": "reconnect in a moment",
            "retryable": True,
        },
    )
    client.take()
    client.send("ai:stream", {"prompt": "p"})
    assert client.error() == ("server_shutting_down", None)
    shut_down(world)  # once more: nothing new
    world.advance(5_000)
    assert not stopped(world)
    model.say("a")
    model.done()
    world.advance(50)
    assert stopped(world)
    assert client.names() == ["ai:token", *ENDED]
    assert not client.fenced  # a DISCONNECT would keep a stock client away
    assert client.wire.frames() == []
    world.stopped = False
    shut_down(world)
    world.advance(100_000)
    assert not stopped(world)


def test_an_idle_server_stops_at_once() -> None:
    world, client = setting()
    shut_down(world)
    world.advance(0)
    assert stopped(world)
    assert client.names() == ["ai:error"]


def test_streams_that_do_not_finish_in_time_end_with_an_error_that_is_delivered() -> None:
    world, client = setting(shutdown_timeout=1_000)
    model = client.stream()
    client.take()
    shut_down(world)
    world.advance(999)
    assert not cancelled(model)
    world.advance(1)
    assert cancelled(model)
    assert not stopped(world)
    said = client.take()
    assert [event.name for event in said] == ["ai:error", "ai:stream:error"]
    assert said[1]["code"] == "server_shutting_down"
    world.advance(50)
    assert stopped(world)


def test_a_shutdown_does_not_wait_for_ever_for_a_slow_reader() -> None:
    world, client = setting(shutdown_timeout=1_000)
    model = client.stream()
    client.block()
    model.say("a")
    model.done()
    shut_down(world)
    world.advance(999)
    assert not stopped(world)
    world.advance(1)
    assert stopped(world)


def test_a_reader_that_catches_up_ends_the_wait() -> None:
    world, client = setting()
    model = client.stream()
    client.block()
    model.say("a")
    model.done()
    shut_down(world)
    client.wire.unblock()
    world.advance(50)
    assert stopped(world)
    assert client.names() == ["ai:stream:start", "ai:error", "ai:token", *ENDED]


def test_nobody_joins_while_the_server_shuts_down() -> None:
    world, client = setting()
    client.stream()
    wire = world.connect()
    wire.upgrade("/socket.io/?EIO=4&transport=websocket")
    shut_down(world)
    wire.send_text("40/ai,")
    assert wire.texts()[-1] == (
        '44/ai,{"message":"The server is shutting down.","data":{"code":"server_shutting_down"}}'
    )


def test_a_shutdown_survives_clients_that_are_dropped_by_its_own_words() -> None:
    world = new_world(outbox_bytes=1_000)
    clients = [Client(world) for _ in range(3)]
    clients[0].block()
    size = len('2/ai,["ai:heartbeat:ack",{"activeStreams":0,"queueSize":0,"streams":{}},"')
    size += len(f'{clients[0].offset}"]')
    for _ in range(1_000 // size):
        clients[0].send("ai:heartbeat")
    assert clients[0].wire.open
    shut_down(world)
    assert clients[0].wire.aborted
    assert [client.names() for client in clients[1:]] == [["ai:error"]] * 2


# -- statistics ------------------------------------------------------------------------------------


def test_the_statistics_count_what_happened() -> None:
    world, client = setting()
    idle = Client(world)
    a, b = client.stream("a"), client.stream("b")
    world.advance(100)
    before = world.server.stats().bytes_held
    a.say("1", "2")
    b.say("3")
    a.done()
    stats = world.server.stats()
    assert (stats.total_sessions, stats.active_sessions, stats.total_active_streams) == (2, 1, 1)
    assert (stats.total_streams, stats.total_tokens_streamed) == (2, 3)
    assert stats.average_stream_duration == 100
    text = (2 + 2 * 4) + (1 + 4) + (2 + 2 * 4) // 8
    assert before + text <= stats.bytes_held <= before + text + 1_000  # and two closing events
    world.advance(200)
    client.send("ai:cancel", {"streamId": "b"})
    assert world.server.stats().average_stream_duration == 200
    client.leave()
    idle.leave()
    stats = world.server.stats()
    assert (stats.total_sessions, stats.active_sessions, stats.cancels) == (0, 0, 1)
    at_rest(world)


def test_a_server_that_did_nothing_has_no_average() -> None:
    assert new_world().server.stats().average_stream_duration == 0


def test_a_timer_of_another_layer_is_not_taken() -> None:
    service = AiService(config(), Outputs(), Timers(), SeededIds())
    with pytest.raises(AssertionError):
        service.handle_timer(Timer.PING, "sid", Millis(0))


# -- connection state recovery ---------------------------------------------------------------------


def back(world: World, client: Client, offset: str | None = None, **auth: object) -> Client:
    payload: Fields = {"pid": client.pid, "offset": offset or client.offset, **auth}
    return Client(world, payload)


def test_a_client_comes_back_by_itself() -> None:
    world, client = setting()
    model = client.stream()
    model.say("a")
    client.take()
    client.leave()
    model.say("b")
    again = back(world, client)
    assert (again.sid, again.pid, again.id) == (client.sid, client.pid, client.id)
    assert again.hello["recovered"] is True
    assert [event["data"] for event in again.take()] == ["b"]
    assert world.server.stats().resumes == 1
    model.done()
    assert again.names() == ["ai:stream:complete", "ai:done"]


def test_it_replaces_a_connection_that_seems_alive() -> None:
    world, client = setting()
    client.stream().say("a")
    client.take()
    again = back(world, client)
    assert again.hello["recovered"] is True
    assert not client.wire.open
    assert again.take() == []


@pytest.mark.parametrize(
    ("offset", "auth"),
    [
        ("x.0.0", {"pid": "unknown"}),
        ("x.0.0", {"pid": 5}),
        ("{own}.9.0", {}),
        ("{own}.1.9", {}),
        ("{own}.1.1.1.9.1", {}),
        ("{own}.1.1.1.0.9", {}),
        ("{own}.1", {}),
    ],
)
def test_who_cannot_come_back_is_new(offset: str, auth: dict[str, object]) -> None:
    world, client = setting()
    client.stream()
    client.take()
    assert client.offset is not None
    own = client.offset.partition(".")[0]
    client.leave()
    again = back(world, client, offset.format(own=own), **auth)
    assert again.hello["recovered"] is False
    assert again.sid != client.sid


@pytest.mark.parametrize("how", ["time", "late timer", "transfer"])
def test_a_pid_that_is_over(how: str) -> None:
    world, client = setting(reconnect_timeout=1_000)
    client.take()
    client.leave()
    match how:
        case "time":
            world.advance(1_000)
        case "late timer":
            world.now = Millis(world.now + 1_000)
        case _:
            Client(world).send("ai:reconnect", {"previousClientId": client.id})
    again = back(world, client)
    assert again.sid != client.sid


def test_who_lacks_thoughts_alone_gets_no_text_again() -> None:
    world, client = setting(lane_bytes=1_000)
    model = client.stream(think=True)
    model.say("a", "b", "c")
    said = client.take()
    offset = client.offset
    for _ in range(20):
        model.send(line(message={"content": "", "thinking": "hm" * 50}, done=False))
    model.say("d")
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": offset})
    again = back.take()
    assert "ai:stream:start" not in [event.name for event in again]
    shown = [event for event in said + again if "seq" in event.fields]
    assert "".join(str(event["data"]) for event in shown) == "abcd"
    at_rest(world)


def test_an_offset_from_before_a_replay_that_was_cancelled_is_good() -> None:
    world, client = setting()
    model, other = client.stream("s"), client.stream("other")
    model.say(*"aaaa")
    other.say("x")
    client.take()
    offset = client.offset
    client.block()
    client.send("ai:stream", {"prompt": "tell me", "streamId": "s"})
    client.send("ai:cancel", {"streamId": "s"})
    client.leave()
    other.say("y")
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is True
    said = back.take()
    assert text(said, "other") == "y"
    assert said[-1].name == "ai:stream:cancelled" or "ai:stream:cancelled" in [
        event.name for event in said
    ]
    at_rest(world)


def test_an_ended_stream_is_kept_while_its_clients_death_is_not_known() -> None:
    """What other streams send goes into a dead link, and counts as a sign of life for a while."""
    world, client = setting(heartbeat_interval=25_000, heartbeat_timeout=20_000)
    ended, running = client.stream("a"), client.stream("b")
    running.say("x")
    client.take()
    offset = client.offset
    ended.say("all")
    ended.done()
    for _ in range(60):
        running.say("y")
        world.advance(2_000)
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is True
    said = back.take()
    assert text(said, "a") == "all"
    assert text(said, "b") == "y" * 60
    at_rest(world)


def test_what_was_not_read_of_an_earlier_stream_stays_before_the_start() -> None:
    world, client = setting()
    model = client.stream()
    client.take()
    client.block()
    model.say("old")
    model.done()
    newer = client.stream("s", "another")
    newer.say("new")
    client.send("ai:stream", {"prompt": "another", "streamId": "s"})
    client.wire.unblock()
    assert client.names() == ["ai:token", *ENDED, "ai:stream:start", "ai:token"]
    at_rest(world)


def test_stop_and_again_under_the_same_name_can_be_recovered() -> None:
    world, client = setting()
    model, other = client.stream(), client.stream("other")
    model.say("old")
    other.say("x")
    said = client.take()
    offset = client.offset
    client.send("ai:cancel", {"streamId": "s"})
    client.stream("s", "another").say("new")
    other.say("y")
    client.leave()  # nothing of that arrived
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert back.hello["recovered"] is True
    said += back.take()
    assert text(said) == "new"
    assert text(said, "other") == "xy"
    at_rest(world)


def test_a_gap_is_told_with_the_offset_of_before_it() -> None:
    world, client = setting(log_bytes=4_096, unconfirmed_bytes=256)
    model = client.stream()
    model.say(*["z" * 100] * 100)
    model.done()
    client.take()
    client.block()
    client.send("ai:reconnect", {"previousClientId": client.id, "streams": {"s": 0}})
    client.wire.unblock(330)
    (gap,) = client.take()
    assert gap["code"] == "resume_gap"
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    said = back.take()
    assert [event.name for event in said][-2:] == ENDED
    assert text(said).endswith("z" * 100)
    at_rest(world)


def test_what_was_handed_over_lately_may_not_have_arrived_and_is_kept() -> None:
    world, client = setting(log_bytes=4_000)
    model = client.stream()
    model.say(*["x" * 50] * 90)
    client.take()
    offset = client.offset
    model.say(*["y" * 50] * 15)  # within the last quarter of a log
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": offset})
    assert text(back.take()) == "y" * 750
    at_rest(world)


def test_a_recovered_client_stays() -> None:
    world, client = setting(reconnect_timeout=10_000, max_sessions=5, memory_bytes=100_000)
    model = client.stream()
    client.leave()
    back = Client(world, {"pid": client.pid, "offset": client.offset})
    world.advance(20_000)
    model.say(*["x" * 10_000] * 9)  # would evict who is away
    assert not cancelled(model)
    assert len(text(back.take())) == 90_000
    at_rest(world)


def test_a_cancelled_stream_is_told_after_the_end_of_the_earlier_one_of_its_name() -> None:
    world, client = setting()
    model = client.stream()
    client.take()
    client.block()
    model.say("old")
    model.done()
    client.stream("s", "another")
    client.send("ai:cancel", {"streamId": "s"})
    client.wire.unblock()
    names = client.names()
    assert names == ["ai:token", *ENDED, "ai:stream:start", "ai:stream:cancelled"]
    at_rest(world)


def test_events_that_name_no_stream_come_again_too_and_a_hole_is_said() -> None:
    world, client = setting(log_bytes=100)
    model = client.stream()
    client.take()
    before = client.offset
    client.send("ai:heartbeat")
    model.say(*["0123456789"] * 20)
    client.take()
    client.leave()
    names = [event.name for event in back(world, client, before).take()]
    assert names[:2] == ["ai:heartbeat:ack", "ai:error"]
    assert set(names[2:]) == {"ai:token"}


@pytest.mark.parametrize(
    ("recovery", "agent", "auth", "offered"),
    [
        ("auto", "", {}, True),
        ("auto", "Mozilla/5.0", {}, True),
        ("auto", "Python/3.11 aiohttp/3.9", {}, False),
        ("auto", "python-requests/2.3", {}, False),
        ("on", "python-requests/2.3", {}, True),
        ("on", "", {"recovery": False}, False),
        ("auto", "", {"recovery": True}, True),
        ("off", "", {}, False),
    ],
)
def test_to_whom_it_is_offered(
    recovery: str, agent: str, auth: dict[str, object], offered: bool
) -> None:
    world = new_world(recovery=recovery)
    wire = world.connect()
    wire.upgrade("/socket.io/?EIO=4&transport=websocket", {"User-Agent": agent})
    wire.send_text("40/ai," + msgspec.json.encode(auth).decode())
    _, reply, hello = wire.texts()
    assert ('"pid"' in reply) is offered
    assert (len(msgspec.json.decode(hello[6:])) == 3) is offered


def test_a_client_that_cannot_come_back_by_itself_is_not_told_what_it_misses() -> None:
    world = new_world(recovery="off")
    client = Client(world)
    model = client.stream(think=True)
    client.leave()
    model.say("a")
    again = back(world, client)
    assert again.hello["recovered"] is False
