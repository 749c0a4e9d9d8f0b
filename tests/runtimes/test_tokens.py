"""Tokens of a model on their way over every runtime, and the model's errors.

Rules of this file: those of `served.py`.
"""

import socket
import time

import pytest
from runtimes.scripted_ollama import (
    Answer,
    Cut,
    Gate,
    Head,
    Pause,
    Raw,
    Reset,
    Script,
    ScriptedOllama,
    Send,
    burst,
    cut_at,
    done,
    error_answer,
    error_line,
    say,
    thought,
    token,
    tool_calls,
)
from runtimes.served import Serve, connect, still_serves
from runtimes.server_thread import LIMIT, Control
from tokenwire import Config

_LOOK = 0.005  # seconds between two looks at what the server tells nobody

# -- tokens --------------------------------------------------------------------------------------


def test_tokens_arrive_one_by_one(server: Control, ollama: ScriptedOllama) -> None:
    gates = [Gate(), Gate()]
    ollama.default = [
        Send(token("one ")),
        gates[0],
        Send(token("two ")),
        gates[1],
        *say("three"),
    ]
    with connect(server) as client:
        client.stream("count")
        assert client.expect("ai:token")["data"] == "one "
        gates[0].open()
        assert client.expect("ai:token")["data"] == "two "
        gates[1].open()
        assert client.read_stream() == "three"


def test_tokens_with_pauses(server: Control, ollama: ScriptedOllama) -> None:
    ollama.default = [Send(token("a")), Pause(0.05), Send(token("b")), Pause(0.05), *say("c")]
    with connect(server) as client:
        client.stream("slowly")
        assert client.read_stream() == "abc"
    assert [payload["seq"] for name, payload in client.log if name == "ai:token"] == [1, 2, 3]


def test_a_burst_arrives_whole(server: Control, ollama: ScriptedOllama) -> None:
    texts = [f"{number} " for number in range(5_000)]
    ollama.default = burst(*texts)
    with connect(server) as client:
        client.stream("all at once")
        assert client.read_stream() == "".join(texts)
        assert not [name for name, _ in client.log if name == "ai:backpressure"]


ODD = ["\u0085", "\u2028", "👩\u200d💻", "\u200d", "e\u0301", "\\", '"', "\n", "\x00", "‮", "end"]


def test_odd_characters_are_kept(server: Control, ollama: ScriptedOllama) -> None:
    ollama.default = say(*ODD)
    with connect(server) as client:
        client.stream("odd")
        assert client.read_stream() == "".join(ODD)
    assert [payload["data"] for name, payload in client.log if name == "ai:token"] == ODD


def test_lines_split_after_every_byte(server: Control, ollama: ScriptedOllama) -> None:
    data = b"".join(map(token, ODD)) + done()
    ollama.default = cut_at(data, *range(1, len(data)))
    with connect(server) as client:
        client.stream("in crumbs")
        assert client.read_stream() == "".join(ODD)


def test_a_stream_cut_in_two_at_every_byte(serve: Serve, ollama: ScriptedOllama) -> None:
    server = serve(Config(stream_starts_per_minute=1_000, message_burst=1_000))
    data = (
        '{"message":{"content":"👩\u200d💻"},"done":false}\n'
        '{"message":{"content":"\u0085x"},"done":false}\n'
        '{"message":{"content":"!"},"done":true}\n'
    ).encode()
    for place in range(1, len(data)):
        ollama.scripts[f"at {place}"] = cut_at(data, place)
    with connect(server) as client:
        for place in range(1, len(data)):
            client.stream(f"at {place}")
            assert client.read_stream() == "👩\u200d💻\u0085x!", place


WHOLE_ENDS: dict[str, tuple[Script, str]] = {
    "text on the done line": ([Send(token("a")), Send(done("b"))], "ab"),
    "no newline at the end": ([Send(token("a")), Send(done("b").rstrip())], "ab"),
    "one object": ([Answer(200, done("all", "load").rstrip())], "all"),
    "blank lines": ([Send(b"\n" + token("a") + b"\n\n" + done())], "a"),
    "CR LF": ([Send(token("a").replace(b"\n", b"\r\n") + done())], "a"),
    "data after the end": ([Send(token("a") + done() + token("late"))], "a"),
    "no text at all": ([Send(done())], ""),
    "thinking that nobody asked for": ([Send(thought("hm")), *say("a")], "a"),
    "the end, then a reset": ([Send(token("a") + done()), Reset()], "a"),
    "the end, then silence": ([Send(token("a") + done()), Gate()], "a"),
}


@pytest.mark.parametrize("case", WHOLE_ENDS)
def test_whole_streams(server: Control, ollama: ScriptedOllama, case: str) -> None:
    ollama.default, text = WHOLE_ENDS[case]
    with connect(server) as client:
        client.stream("end well")
        assert client.read_stream() == text
    request = ollama.request()
    assert request.closed.wait(LIMIT), "the model's connection must not stay open"


def test_thinking_when_asked_for(server: Control, ollama: ScriptedOllama) -> None:
    ollama.default = [Send(thought("hm")), *say("a")]
    with connect(server) as client:
        client.stream("think", think=True)
        client.read_stream()
    assert ollama.request().body["think"] is True
    thinking, answer = [payload for name, payload in client.log if name == "ai:token"]
    assert (thinking["data"], thinking["metadata"]["thinking"]) == ("hm", True)
    assert "seq" not in thinking
    assert (answer["data"], answer["seq"]) == ("a", 1)


CALL: dict[str, object] = {"function": {"name": "get_weather", "arguments": {"city": "Tokyo"}}}


@pytest.mark.parametrize("apart", [False, True], ids=["in one read", "in reads of their own"])
def test_tool_calls_are_passed_on(server: Control, ollama: ScriptedOllama, apart: bool) -> None:
    gate = Gate()
    if apart:
        ollama.default = [Send(token("a") + tool_calls(CALL)), gate, Send(done())]
    else:
        ollama.default = [Send(token("a") + tool_calls(CALL) + done())]
    with connect(server) as client:
        client.stream("weather")
        client.expect("ai:token")
        gate.open()
        complete = client.expect("ai:stream:complete")
    assert complete["metadata"]["toolCalls"] == [CALL]


# -- the model's errors --------------------------------------------------------------------------

FAILURES: dict[str, tuple[Script, str, str]] = {
    "400": ([error_answer(400, "no")], "upstream_error", ""),
    "404": ([error_answer(404, "no such model")], "model_not_found", ""),
    "429": ([error_answer(429, "slow down")], "upstream_busy", ""),
    "500": ([error_answer(500, "Traceback /usr/bin/ollama")], "upstream_error", ""),
    "502": ([error_answer(502, "no")], "upstream_unavailable", ""),
    "503": ([error_answer(503, "server busy")], "upstream_busy", ""),
    "504": ([error_answer(504, "no")], "upstream_unavailable", ""),
    "500 without a body": ([Answer(500)], "upstream_error", ""),
    "204": ([Answer(204, headers=())], "upstream_error", ""),
    "an error line": (
        [Send(token("a")), Send(error_line("an error was encountered"))],
        "upstream_error",
        "a",
    ),
    "an error line without newline": ([Send(error_line("x").rstrip())], "upstream_error", ""),
    "an error under another key": (
        [Send(token("a") + b'{"error parsing tool call": "x"}\n')],
        "upstream_error",
        "a",
    ),
    "a line that is not JSON": ([Send(token("a") + b"oops\n")], "upstream_error", "a"),
    "a line that is not UTF-8": (
        [Send(token("a") + b'{"done":false,"response":"\xff"}\n')],
        "upstream_error",
        "a",
    ),
    "a line of another shape": ([Send(token("a") + b"[1]\n")], "upstream_error", "a"),
    "the end is missing": ([Send(token("a"))], "upstream_truncated", "a"),
    "no line at all": ([Head()], "upstream_truncated", ""),
    "half a line": ([Send(token("a") + token("b")[:20])], "upstream_truncated", "a"),
    "closed in the body": ([Send(token("a")), Cut()], "upstream_truncated", "a"),
    "reset after a line": ([Send(token("a")), Gate(), Reset()], "upstream_truncated", "a"),
    "reset in a line": (
        [Send(token("a") + token("b")[:20]), Gate(), Reset()],
        "upstream_truncated",
        "a",
    ),
    "broken chunks": ([Send(token("a")), Raw(b"zz\r\n")], "upstream_truncated", "a"),
    "closed before the head": ([Cut()], "upstream_unavailable", ""),
    "reset before the head": ([Reset()], "upstream_unavailable", ""),
    "no HTTP": ([Raw(b"SSH-2.0-OpenSSH\r\n"), Cut()], "upstream_unavailable", ""),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_of_the_model(server: Control, ollama: ScriptedOllama, case: str) -> None:
    script, code, text = FAILURES[case]
    script = [Gate() if isinstance(step, Gate) else step for step in script]
    ollama.default = script
    with connect(server) as client:
        client.stream("fail")
        parts = []
        while True:
            name, payload = client.read_event()
            if name == "ai:token":
                parts.append(payload["data"])
                for step in script:
                    if isinstance(step, Gate):
                        step.open()
            elif name == "ai:stream:error":
                break
            else:
                assert name == "ai:stream:start"
        assert (payload["code"], "".join(parts)) == (code, text)
        assert ollama.request().closed.wait(LIMIT)
        still_serves(server, ollama)
        ollama.scripts["again"] = say("fine")
        client.stream("again")
        assert client.read_stream() == "fine"


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed(server: Control, ollama: ScriptedOllama, status: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        target = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/api/chat"
        ollama.default = [Answer(status, b"", (("location", target),))]
        with connect(server) as client:
            client.stream("go away")
            assert client.expect("ai:stream:error")["code"] == "upstream_error"
        elsewhere.settimeout(0)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_the_model_down_then_up(server: Control, ollama: ScriptedOllama) -> None:
    ollama.stop()
    with connect(server) as client:
        for _ in range(2):
            client.stream("anybody?")
            failed = client.expect("ai:stream:error")
            assert (failed["code"], failed["retryable"]) == ("upstream_unavailable", True)
        ollama.start()
        client.stream("anybody?")
        assert client.read_stream() == "Hello, world"
        gate = Gate()
        ollama.scripts["and now"] = [Send(token("a")), gate]
        client.stream("and now")
        client.expect("ai:token")
        ollama.stop()
        assert client.expect("ai:stream:error")["code"] == "upstream_truncated"
        ollama.start()
        client.stream("anybody?")
        assert client.read_stream() == "Hello, world"


def test_health_follows_the_model(serve: Serve, ollama: ScriptedOllama) -> None:
    server = serve(Config(upstream_probe_interval=30))

    def becomes(status: str) -> bool:
        until = time.monotonic() + LIMIT
        while server.call(server.core.upstream_status) != status:
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK)
        return True

    assert becomes("ok")
    ollama.stop()
    assert becomes("down")
    ollama.start()
    assert becomes("ok")
    ollama.models = None
    assert becomes("down")
