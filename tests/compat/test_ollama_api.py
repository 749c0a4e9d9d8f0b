"""The pure part of the Ollama door: requests, answers, lines."""

import json
from typing import Any

import pytest
from tokenwire_ollama import api
from tokenwire_ollama.model import Finish, Message, ModelInfo, Options

NOW = "2026-11-24T06:00:00.5Z"
INFO = ModelInfo(
    size=98_362_432,
    digest="ab" * 32,
    modified_at="2026-11-24T06:00:00+00:00",
    context_tokens=2048,
)


def ask(
    path: str, body: object = b"", *, method: str = "POST", fallback: bool = True
) -> api.Reply | api.Job:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.answer(method, path, raw, info=INFO, fallback=fallback, now=NOW)


def job(path: str, body: object, *, fallback: bool = True) -> api.Job:
    answer = ask(path, body, fallback=fallback)
    assert isinstance(answer, api.Job)
    return answer


def reply(path: str, body: object = b"", *, method: str = "POST") -> Any:
    answer = ask(path, body, method=method)
    assert isinstance(answer, api.Reply)
    assert answer.status == 200
    assert answer.content_type == "application/json; charset=utf-8"
    return json.loads(answer.body)


def refusal(path: str, body: object = b"", *, method: str = "POST", fallback: bool = True) -> Any:
    with pytest.raises(api.ApiError) as caught:
        ask(path, body, method=method, fallback=fallback)
    answer = caught.value.reply()
    assert answer.content_type == "application/json; charset=utf-8"
    return answer.status, json.loads(answer.body)["error"]


CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}


# -- lines -------------------------------------------------------------------------------------


def test_lines_of_a_chat() -> None:
    chat = job("/api/chat", CHAT)
    assert chat.stream
    assert chat.piece("Hello", now=NOW) == (
        b'{"model":"smollm2","created_at":"2026-11-24T06:00:00.5Z",'
        b'"message":{"role":"assistant","content":"Hello"},"done":false}\n'
    )
    finish = Finish("stop", prompt_tokens=3, prompt_ns=10, eval_tokens=2, eval_ns=20)
    assert chat.last(finish, text="", now=NOW, total_ns=35) == (
        b'{"model":"smollm2","created_at":"2026-11-24T06:00:00.5Z",'
        b'"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
        b'"total_duration":35,"load_duration":5,"prompt_eval_count":3,"prompt_eval_duration":10,'
        b'"eval_count":2,"eval_duration":20}'
    )


def test_lines_of_a_generation() -> None:
    generation = job("/api/generate", {"model": "smollm2", "prompt": "hi", "stream": False})
    assert not generation.stream
    assert generation.piece("", now=NOW) == (
        b'{"model":"smollm2","created_at":"2026-11-24T06:00:00.5Z","response":"","done":false}\n'
    )
    # Zeros are absent, as Go's omitempty has it.
    assert generation.last(Finish("length"), text="all", now=NOW, total_ns=0) == (
        b'{"model":"smollm2","created_at":"2026-11-24T06:00:00.5Z","response":"all","done":true,'
        b'"done_reason":"length"}'
    )


def test_text_is_escaped_as_go_does() -> None:
    line = job("/api/chat", CHAT).piece("<b>&\u2028\u2029\u0085é\n", now=NOW)
    assert b"\\u003cb\\u003e\\u0026\\u2028\\u2029" in line
    assert "\u0085é\\n".encode() in line
    assert line.count(b"\n") == 1
    assert json.loads(line)["message"]["content"] == "<b>&\u2028\u2029\u0085é\n"


def test_error_line_has_only_the_error() -> None:
    assert api.error_line("x") == b'{"error":"x"}\n'


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_000_000_001, "1970-01-01T00:00:01.000000001Z"),
        (10_000_000_000, "1970-01-01T00:00:10Z"),
    ],
)
def test_timestamp(unix_ns: int, text: str) -> None:
    assert api.timestamp(unix_ns) == text


# -- what a request means ----------------------------------------------------------------------


def test_messages_and_system() -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "images": []},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    chat = job("/api/chat", {"model": "m", "messages": turns, "tools": [], "format": ""})
    assert chat.messages == (
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", ""),
    )
    generation = job("/api/generate", {"model": "m", "prompt": "hi", "system": "be brief"})
    assert generation.messages == chat.messages[:2]
    assert job("/api/generate", {"model": "m", "prompt": "hi"}).messages == chat.messages[1:2]


def test_options() -> None:
    given: dict[str, Any] = {
        "temperature": 0,
        "num_predict": 7.9,
        "seed": 2**70,
        "top_k": None,
        "stop": ["a", ""],
        "mirostat_of_tomorrow": {},
    }
    options = job("/api/chat", CHAT | {"options": given}).options
    assert options == Options(temperature=0.0, num_predict=7, seed=2**31 - 1, stop=("a",))
    assert job("/api/chat", CHAT | {"options": None}).options == Options()


@pytest.mark.parametrize(
    ("options", "status", "error"),
    [
        ({"seed": "1"}, 500, 'option "seed" must be of type integer'),
        ({"num_predict": True}, 500, 'option "num_predict" must be of type integer'),
        ({"temperature": []}, 500, 'option "temperature" must be of type float32'),
        ({"stop": "a"}, 500, 'option "stop" must be of type array'),
        ({"stop": [1]}, 500, 'option "stop" must be of type array'),
        ({"stop": ["a"] * 65}, 400, 'option "stop" may have 64 strings'),
    ],
)
def test_wrong_options(options: object, status: int, error: str) -> None:
    assert refusal("/api/chat", CHAT | {"options": options}) == (status, error)


@pytest.mark.parametrize(
    ("path", "extra", "feature"),
    [
        ("/api/chat", {"tools": [{}]}, "tools"),
        ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "tools"),
        ("/api/chat", {"messages": [{"role": "user", "images": ["aa"]}]}, "images"),
        ("/api/chat", {"format": "json"}, "structured outputs"),
        ("/api/chat", {"format": {"type": "object"}}, "structured outputs"),
        ("/api/chat", {"think": "high"}, "thinking"),
        ("/api/chat", {"logprobs": True}, "logprobs"),
        ("/api/generate", {"images": ["aa"]}, "images"),
        ("/api/generate", {"suffix": "x"}, "insert"),
        ("/api/generate", {"template": "x"}, "templates"),
        ("/api/generate", {"raw": True}, "raw prompts"),
        ("/api/generate", {"context": [1]}, "context"),
    ],
)
def test_what_it_cannot_do_is_refused(path: str, extra: dict[str, Any], feature: str) -> None:
    body = CHAT | {"prompt": "hi"} | extra
    assert refusal(path, body) == (400, f'"smollm2" does not support {feature}')


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
def test_embeddings_are_refused(path: str) -> None:
    assert refusal(path) == (400, "this model does not support embeddings")


@pytest.mark.parametrize(
    ("keep_alive", "reason"), [(None, "load"), ("5m", "load"), (0, "unload"), ("0", "unload")]
)
def test_nothing_to_say_loads_or_unloads(keep_alive: object, reason: str) -> None:
    body = {"model": "smollm2", "keep_alive": keep_alive}
    head = {"model": "smollm2", "created_at": NOW}
    end = {"done": True, "done_reason": reason}
    assert reply("/api/generate", body) == head | {"response": ""} | end
    message = {"role": "assistant", "content": ""}
    assert reply("/api/chat", body | {"messages": []}) == head | {"message": message} | end


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2:latest", "library/smollm2:135m"])
def test_own_names(name: str) -> None:
    chat = job("/api/chat", CHAT | {"model": name}, fallback=False)
    assert (chat.model, chat.fell_back) == (name, False)


def test_other_names() -> None:
    other = CHAT | {"model": "hf.co/org/llama3.2:1b"}
    assert job("/api/chat", other).fell_back
    assert job("/api/chat", other).model == "hf.co/org/llama3.2:1b"
    assert refusal("/api/chat", other, fallback=False) == (
        404,
        "model 'hf.co/org/llama3.2:1b' not found",
    )
    assert refusal("/api/show", {"model": "llama3"}, fallback=False)[0] == 404
    for wrong in ("a b", "-a", "a/b/c/d", "a:b:c", "a\n", "x" * 81):
        assert refusal("/api/chat", CHAT | {"model": wrong}) == (400, "invalid model name")
    assert refusal("/api/chat", {"messages": []}) == (400, "model is required")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b"{", "truncated"),
        (b"[]", "object"),
        (b'{"model":"m","stream":"yes"}', "$.stream"),
        (b'{"model":"m","messages":[{"role":7}]}', "$.messages[0].role"),
        (b'{"model":"m","messages":[{"role":"tool"}]}', "invalid role"),
        (b'{"model":"\xff"}', "UTF-8"),
        (b'{"model":"\\ud800","stream":false}', "surrogate"),
        (b'{"model":"m","options":' + b'{"a":' * 5_000, "deep"),
    ],
)
def test_wrong_bodies(body: bytes, part: str) -> None:
    status, error = refusal("/api/chat", body)
    assert status == 400
    assert part in error


def test_paths_and_methods() -> None:
    assert refusal("/api/pull") == (404, "404 page not found")
    assert refusal("/", method="POST") == (405, "405 method not allowed")
    with pytest.raises(api.ApiError) as caught:
        ask("/api/version", method="DELETE")
    assert caught.value.reply().headers == (("allow", "GET, HEAD"),)


# -- the rest ----------------------------------------------------------------------------------


def test_root_says_what_it_is() -> None:
    for method in ("GET", "HEAD"):
        answer = ask("/", method=method)
        assert isinstance(answer, api.Reply)
        assert answer.body == b"Ollama is running"
        assert answer.content_type == "text/plain; charset=utf-8"


def test_lists() -> None:
    assert reply("/api/version", method="GET") == {"version": api.API_VERSION}
    (entry,) = reply("/api/tags", method="GET")["models"]
    assert entry["name"] == entry["model"] == "smollm2:135m"
    assert (entry["size"], entry["digest"]) == (INFO.size, INFO.digest)
    (running,) = reply("/api/ps", method="GET")["models"]
    assert (running["name"], running["context_length"]) == ("smollm2:135m", 2048)


def test_show() -> None:
    shown = reply("/api/show", {"model": "smollm2"})
    assert shown == reply("/api/show", {"name": "smollm2"})
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"]["llama.context_length"] == 2048
