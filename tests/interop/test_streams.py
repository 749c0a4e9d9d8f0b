"""Streams, from the request to the last event, with every stock client.

Rules of this file: the model waits at gates where the order of things matters. What all clients
received is checked once more at the end of each test (`scene.py`).
"""

import pytest
from interop.clients import Client, settle
from interop.conftest import Play
from interop.contract import ACKS, REFUSAL_ACK
from interop.scene import Scene
from runtimes.raw_client import http
from runtimes.scripted_ollama import (
    Gate,
    Pause,
    Send,
    Step,
    done,
    error_answer,
    error_line,
    say,
    thought,
    token,
)
from runtimes.server_thread import LIMIT

EXPLAIN = "Explain this code"


def names(client: Client, stream_id: str) -> list[str]:
    return [item.name for item in client.events(stream_id)]


def still_streams(client: Client, scene: Scene) -> None:
    """A good stream on the same connection."""
    scene.ollama.scripts["still?"] = say("still ", "here")
    stream_id = client.stream("still?")
    client.take("ai:done", streamId=stream_id)
    assert client.text(stream_id) == "still here"


# -- one stream ----------------------------------------------------------------------------------


def test_the_hello(scene: Scene) -> None:
    client = scene.connect()
    hello = dict(client.hello)
    assert hello.pop("clientId")
    assert hello == {
        "maxConcurrentStreams": 10,
        "backpressureThreshold": 100,
        "heartbeatInterval": 30_000,
        "reconnectTimeout": 30_000,
        "protocol": "1.0",
        "recovered": False,
    }


def test_the_default_client_upgrades_in_the_middle_of_a_stream(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.default = [Send(token("polled ")), gate, *say("pushed")]
    client = scene.connect()
    stream_id = client.stream("upgrade")
    client.take("ai:token")
    if scene.kind == "js-default":
        assert client.take("$upgrade") == "websocket"
    gate.open()
    client.take("ai:done")
    assert client.text(stream_id) == "polled pushed"


def test_the_whole_sequence(scene: Scene) -> None:
    gates = [Gate(), Gate(), Gate()]
    texts = ["Hello", ", ", "wörld 👩\u200d💻\u0085"]
    steps: list[Step] = []
    for text, gate in zip(texts, gates, strict=True):
        steps += [Send(token(text)), gate]
    scene.ollama.default = [*steps, Send(done())]
    client = scene.connect()
    answer = client.call(
        "ai:stream", {"prompt": "greet", "useOrchestrator": False, "streamId": "mine:1"}
    )
    assert ACKS["ai:stream"](answer)
    for gate in gates:
        client.take("ai:token")
        gate.open()
    client.take("ai:done")
    start, *tokens, complete, end = [dict(item.payload) for item in client.events("mine:1")]
    assert names(client, "mine:1") == [
        "ai:stream:start",
        "ai:token",
        "ai:token",
        "ai:token",
        "ai:stream:complete",
        "ai:done",
    ]
    assert start == {"streamId": "mine:1", "epoch": answer["epoch"], "model": "codellama"}
    routing = {"intent": "direct", "confidence": 1, "runnersUp": [], "reasons": []}
    assert tokens == [
        {
            "streamId": "mine:1",
            "data": text,
            "agent": "DirectOllama",
            "tokenCount": seq,
            "seq": seq,
            "metadata": {"model": "codellama", **(routing if seq == 1 else {})},
        }
        for seq, text in enumerate(texts, 1)
    ]
    metadata = dict(complete.pop("metadata"))
    assert complete == {
        "streamId": "mine:1",
        "agent": "DirectOllama",
        "intent": "direct",
        "confidence": 1,
    }
    for timing in ("queueMs", "routeMs", "timeToFirstTokenMs", "tokensPerSecond"):
        assert metadata.pop(timing) >= 0
    assert metadata == {
        "finishReason": "stop",
        "promptTokens": 26,
        "evalTokens": 7,
        "mergedEvents": 0,
        "pausedMs": 0,
        "resumes": 0,
    }
    duration = end.pop("duration")
    assert 0 <= duration < LIMIT * 1000
    assert end == {"streamId": "mine:1", "totalTokens": 3}


def test_without_an_ack_the_events_say_all(scene: Scene) -> None:
    client = scene.connect()
    client.emit("ai:stream", {"prompt": "no callback", "useOrchestrator": False})
    start = client.take("ai:stream:start")
    client.take("ai:done", streamId=start["streamId"])
    assert client.text(start["streamId"]) == "Hello, world"
    assert not [item for item in client.log if item.name == "$ack"]


def test_direct_mode_asks_the_model_for_the_prompt_alone(scene: Scene) -> None:
    client = scene.connect()
    client.stream("plain")
    client.take("ai:done")
    plain = scene.ollama.request()
    assert (plain.method, plain.path) == ("POST", "/api/chat")
    assert plain.headers["content-type"] == "application/json"
    assert plain.body == {
        "model": "codellama",
        "messages": [{"role": "user", "content": "plain"}],
        "stream": True,
    }
    context = {"activeFile": "App.js", "projectType": "React"}
    client.stream(
        "with all",
        model="llama3.2:1b",
        temperature=0.7,
        maxTokens=2048,
        agentContext=context,
        think=False,
    )
    client.take("ai:done")
    assert scene.ollama.request().body == {
        "model": "llama3.2:1b",
        "messages": [{"role": "user", "content": "with all"}],
        "stream": True,
        "options": {"temperature": 0.7, "num_predict": 2048},
        "think": False,
    }


def test_the_limits_are_part_of_what_is_allowed(scene: Scene) -> None:
    client = scene.connect()
    deep: object = "bottom"
    for _ in range(7):
        deep = {"k": deep}
    keys = {f"k{number}": number for number in range(63 - 7)}
    stream_id = client.stream(
        "p" * 32_768,
        temperature=2,
        maxTokens=8_192,
        streamId="a" * 128,
        agentContext={**keys, "deep": deep},
    )
    client.take("ai:done", streamId=stream_id)
    assert scene.ollama.request().body["options"] == {"temperature": 2, "num_predict": 8_192}
    client.stream("again", temperature=0, maxTokens=1, streamId="-")
    client.take("ai:done", streamId="-")
    assert scene.ollama.request().body["options"] == {"temperature": 0, "num_predict": 1}


def test_unknown_fields_and_null_are_ignored(scene: Scene) -> None:
    client = scene.connect()
    stream_id = client.stream("x", model=None, temperature=None, streamId=None, nobody="knows")
    client.take("ai:done", streamId=stream_id)
    assert "options" not in scene.ollama.request().body


def test_orchestrated_mode_routes_to_an_agent(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.default = [Send(token("It ")), gate, *say("adds")]
    client = scene.connect()
    answer = client.call(
        "ai:stream",
        {"prompt": EXPLAIN, "agentContext": {"activeFile": "App.js", "projectType": "React"}},
    )
    first = client.take("ai:token")
    gate.open()
    client.take("ai:done")
    complete = client.take("ai:stream:complete")
    assert first["metadata"]["intent"] == "explain"
    assert 0 < first["metadata"]["confidence"] <= 1
    for item in client.events(answer["streamId"]):
        if item.name == "ai:token":
            assert item.payload["agent"] == first["agent"] != "DirectOllama"
    assert complete["agent"] == first["agent"]
    assert complete["intent"] == first["metadata"]["intent"]
    assert complete["confidence"] == first["metadata"]["confidence"]
    system, user = scene.ollama.request().body["messages"]
    assert system["role"] == "system"
    assert "App.js" in system["content"]
    assert user == {"role": "user", "content": EXPLAIN}


def test_an_agent_can_be_named(scene: Scene) -> None:
    client = scene.connect()
    client.stream(EXPLAIN, agent="Tester", useOrchestrator=True)
    assert client.take("ai:token")["agent"] == "Tester"
    complete = client.take("ai:stream:complete")
    assert (complete["agent"], complete["intent"]) == ("Tester", "test")
    client.take("ai:done")


def test_thinking_comes_only_when_asked_for(scene: Scene) -> None:
    scene.ollama.default = [Send(thought("hm")), *say("a")]
    client = scene.connect()
    quiet = client.stream("x")
    client.take("ai:done", streamId=quiet)
    assert [item.payload["data"] for item in client.events(quiet) if item.name == "ai:token"] == [
        "a"
    ]
    aloud = client.stream("x", think=True)
    client.take("ai:done", streamId=aloud)
    tokens = [item.payload for item in client.events(aloud) if item.name == "ai:token"]
    assert [item["data"] for item in tokens] == ["hm", "a"]
    assert tokens[0]["metadata"]["thinking"] is True


def test_a_long_burst_comes_whole_and_is_no_pressure(scene: Scene) -> None:
    texts = [f"{number} " for number in range(3_000)]
    scene.ollama.default = [Send(b"".join(map(token, texts)) + done())]
    client = scene.connect()
    stream_id = client.stream("all")
    end = client.take("ai:done")
    assert end["totalTokens"] == 3_000
    assert client.text(stream_id) == "".join(texts)
    assert not [item for item in client.log if item.name == "ai:backpressure"]


def test_the_heartbeat(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.default = [Send(token("one")), gate, Send(done())]
    client = scene.connect()
    client.emit("ai:heartbeat", {})
    assert client.take("ai:heartbeat:ack") == {"activeStreams": 0, "queueSize": 0, "streams": {}}
    stream_id = client.stream("beat")
    client.take("ai:token")
    payloads: list[tuple[object, ...]] = [(), ({},), (None,), ("any",), ({"t": 1},)]
    for payload in payloads:
        client.emit("ai:heartbeat", *payload)
        ack = client.take("ai:heartbeat:ack")
        assert ack == {"activeStreams": 1, "queueSize": 0, "streams": {stream_id: 1}}
    gate.open()
    client.take("ai:done")


# -- cancel --------------------------------------------------------------------------------------


def test_cancel_closes_the_models_connection(scene: Scene) -> None:
    chatter: list[Step] = []
    for number in range(2_000):
        chatter += [Send(token(f"{number} ")), Pause(0.002)]
    scene.ollama.default = chatter
    client = scene.connect()
    stream_id = client.stream("chatter")
    for _ in range(5):
        client.take("ai:token")
    request = scene.ollama.request()
    answer = client.call("ai:cancel", {"streamId": stream_id})
    assert answer == {"ok": True, "streamId": stream_id}
    assert client.take("ai:stream:cancelled") == {"streamId": stream_id}
    request.wait_closed()
    client.emit("ai:heartbeat", {})
    assert client.take("ai:heartbeat:ack")["activeStreams"] == 0
    assert names(client, stream_id)[-1] == "ai:stream:cancelled"
    still_streams(client, scene)


def test_cancel_before_the_first_token(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.default = [gate]
    client = scene.connect()
    stream_id = client.stream("nothing")
    assert gate.reached.wait(LIMIT)
    client.emit("ai:cancel", {"streamId": stream_id})
    client.take("ai:stream:cancelled")
    scene.ollama.request().wait_closed()
    assert names(client, stream_id) == ["ai:stream:start", "ai:stream:cancelled"]
    still_streams(client, scene)


def test_cancel_stops_one_stream_of_two(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.scripts["goes"] = [Send(token("goes ")), gate, *say("on")]
    scene.ollama.scripts["stops"] = [Send(token("stops")), Gate()]
    client = scene.connect()
    goes, stops = client.stream("goes"), client.stream("stops")
    client.take("ai:token", streamId=goes)
    client.take("ai:token", streamId=stops)
    client.call("ai:cancel", {"streamId": stops})
    client.take("ai:stream:cancelled", streamId=stops)
    scene.ollama.request_for("stops").wait_closed()
    gate.open()
    client.take("ai:done", streamId=goes)
    assert client.text(goes) == "goes on"


# -- many streams --------------------------------------------------------------------------------


def test_ten_parallel_streams_and_the_eleventh_is_refused(scene: Scene) -> None:
    gates = [Gate() for _ in range(10)]
    texts = [[f"{number}:{step} " for step in range(20)] for number in range(10)]
    for number, gate in enumerate(gates):
        first, *rest = texts[number]
        paced: list[Step] = [Send(token(first)), gate]
        for text in rest:
            paced += [Send(token(text)), Pause(0.001)]
        scene.ollama.scripts[f"stream {number}"] = [*paced, Send(done())]
    client = scene.connect()
    streams = [client.stream(f"stream {number}") for number in range(10)]
    for stream_id in streams:
        client.take("ai:token", streamId=stream_id)
    answer = client.call("ai:stream", {"prompt": "one more", "streamId": "eleventh"})
    assert REFUSAL_ACK(answer)
    assert answer["code"] == "too_many_streams"
    error = client.take("ai:error")
    assert (error["code"], error["streamId"]) == ("too_many_streams", "eleventh")
    for gate in gates:
        gate.open()
    for number, stream_id in enumerate(streams):
        client.take("ai:done", streamId=stream_id)
        assert client.text(stream_id) == "".join(texts[number])
    assert len(scene.ollama.requests) == 10
    still_streams(client, scene)


def test_another_client_has_its_own_limit(play: Play) -> None:
    scene = play(max_concurrent_streams=1)
    gate = Gate()
    scene.ollama.scripts["long"] = [Send(token("long")), gate, Send(done())]
    first, second = scene.connect(), scene.connect()
    first.stream("long")
    assert first.call("ai:stream", {"prompt": "more"})["code"] == "too_many_streams"
    still_streams(second, scene)
    gate.open()
    first.take("ai:done")
    still_streams(first, scene)


def test_one_stream_id_of_two_clients(scene: Scene) -> None:
    gates = {"left": Gate(), "right": Gate()}
    for side, gate in gates.items():
        scene.ollama.scripts[side] = [Send(token(f"{side} 1 ")), gate, *say(f"{side} 2")]
    left, right = scene.connect(), scene.connect()
    for client, side in ((left, "left"), (right, "right")):
        client.stream(side, streamId="client_1700000000000")
        client.take("ai:token")
    gates["right"].open()
    right.take("ai:done")
    gates["left"].open()
    left.take("ai:done")
    assert left.text("client_1700000000000") == "left 1 left 2"
    assert right.text("client_1700000000000") == "right 1 right 2"


def test_cancel_of_one_stream_id_leaves_the_other_client_alone(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.scripts["mine"] = [Send(token("mine")), Gate()]
    scene.ollama.scripts["yours"] = [Send(token("yours ")), gate, *say("still")]
    mine, yours = scene.connect(), scene.connect()
    mine.stream("mine", streamId="same")
    yours.stream("yours", streamId="same")
    mine.take("ai:token")
    yours.take("ai:token")
    mine.call("ai:cancel", {"streamId": "same"})
    scene.ollama.request_for("mine").wait_closed()
    gate.open()
    yours.take("ai:done")
    assert yours.text("same") == "yours still"


def test_a_stream_asked_for_twice_is_joined(scene: Scene) -> None:
    gate = Gate()
    scene.ollama.default = [Send(token("one ")), gate, *say("two")]
    client = scene.connect()
    client.stream("join", streamId="s")
    client.take("ai:token")
    client.stream("join", streamId="s")
    assert client.take("ai:stream:start", resumed=True)["streamId"] == "s"
    assert client.take("ai:token")["metadata"]["replayed"] is True
    gate.open()
    client.take("ai:done")
    assert client.text("s") == "one two"
    assert len(scene.ollama.requests) == 1


# -- the model fails -----------------------------------------------------------------------------


def test_ollama_down_then_up(scene: Scene) -> None:
    client = scene.connect()
    still_streams(client, scene)
    scene.ollama.stop()
    for _ in range(2):
        stream_id = client.stream("anybody?")
        failed = client.take("ai:stream:error")
        assert failed["streamId"] == stream_id
        assert (failed["code"], failed["retryable"]) == ("upstream_unavailable", True)
        assert names(client, stream_id) == ["ai:stream:start", "ai:stream:error"]
    scene.ollama.start()
    still_streams(client, scene)


SECRETIVE = "Traceback: /work/model.py at http://127.0.0.1 port "


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503])
def test_an_error_status_tells_nothing_of_the_model(scene: Scene, status: int) -> None:
    scene.ollama.default = [error_answer(status, f"{SECRETIVE}{scene.ollama.port}")]
    client = scene.connect()
    stream_id = client.stream("fail")
    client.take("ai:stream:error", streamId=stream_id)
    still_streams(client, scene)


def test_an_error_in_the_stream_tells_nothing_of_the_model(scene: Scene) -> None:
    error = error_line(f"{SECRETIVE}{scene.ollama.port}")
    scene.ollama.default = [Send(token("half ")), Send(error)]
    client = scene.connect()
    stream_id = client.stream("fail")
    failed = client.take("ai:stream:error", streamId=stream_id)
    assert failed["code"] == "upstream_error"
    assert client.text(stream_id) == "half "
    still_streams(client, scene)


def test_a_cut_stream_is_an_error(scene: Scene) -> None:
    scene.ollama.default = [Send(token("half"))]
    client = scene.connect()
    stream_id = client.stream("cut")
    assert client.take("ai:stream:error", streamId=stream_id)["code"] == "upstream_truncated"
    assert names(client, stream_id)[-1] == "ai:stream:error"
    still_streams(client, scene)


def test_a_lost_client_closes_the_models_connection(play: Play) -> None:
    scene = play(reconnect_timeout=200)
    scene.ollama.default = [Send(token("a")), Gate()]
    client = scene.connect()
    client.stream("leave")
    client.take("ai:token")
    client.disconnect()
    scene.ollama.request().wait_closed()
    settle(
        lambda: scene.server.call(scene.server.core.stats).total_sessions == 0,
        "the session is still there",
    )
    assert http(scene.server.host, scene.server.port, "GET", "/nothing")[0] == 404
