"""What a client asks for, and what it gets: each event, each refusal.

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
    only,
    paused,
    setting,
    text,
)
from tokenwire.testing import Model, World

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
