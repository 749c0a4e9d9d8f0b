"""Ollama's API: the requests byte for byte, the lines of every kind.

Rules of this file: the lines are those of ollama's docs/api.md where it shows them.
"""

import msgspec
import pytest
from tokenwire.ai import ollama
from tokenwire.ai.errors import Code
from tokenwire.errors import RemoteProtocolError

DEEP = b"[" * 100_000 + b"]" * 100_000


def body(
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    think: bool | None = None,
) -> object:
    request = ollama.chat_request(
        model="m",
        prompt="p",
        system=system,
        temperature=temperature,
        max_tokens=max_tokens,
        think=think,
    )
    assert (request.method, request.path) == ("POST", "/api/chat")
    assert request.headers == (("content-type", "application/json"),)
    return msgspec.json.decode(request.body)


def test_the_least_request_holds_model_and_prompt() -> None:
    messages = [{"role": "user", "content": "p"}]
    assert body() == {"model": "m", "messages": messages, "stream": True}


def test_the_system_prompt_comes_first() -> None:
    request = body(system="be brief")
    assert isinstance(request, dict)
    assert [message["role"] for message in request["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"temperature": 0}, {"options": {"temperature": 0}}),
        ({"temperature": 0.7}, {"options": {"temperature": 0.7}}),
        ({"max_tokens": 5}, {"options": {"num_predict": 5}}),
        ({"think": False}, {"think": False}),
        ({"think": True}, {"think": True}),
    ],
)
def test_what_is_given_is_passed_on(
    options: dict[str, float | bool], fields: dict[str, object]
) -> None:
    request = body(**options)  # type: ignore[arg-type]
    assert isinstance(request, dict)
    assert {key: request[key] for key in request.keys() - {"model", "messages", "stream"}} == fields


@pytest.mark.parametrize(
    ("line", "text", "thinking"),
    [
        (b'{"model":"gemma4","response":"That","done":false}', "That", ""),
        (b'{"message":{"role":"assistant","content":"Hi","images":null},"done":false}', "Hi", ""),
        (b'{"message":{"content":"","thinking":"hm"},"done":false}', "", "hm"),
        (b'{"response":"","thinking":"hm","done":false}', "", "hm"),
        ('{"message":{"content":"a\x85b\u2028"},"done":false}'.encode(), "a\x85b\u2028", ""),
        (rb'{"message":{"content":"\u003cb\u003e"},"done":false}', "<b>", ""),
        (b'{"message":{"content":"!"},"done":true}', "!", ""),
        (b'{"done":true}\r', "", ""),
    ],
)
def test_a_line_has_text_and_thinking(line: bytes, text: str, thinking: str) -> None:
    assert ollama.said(ollama.decode_line(line)) == (text, thinking, None)


def test_the_final_lines_counts_are_zero_where_they_are_left_out() -> None:
    line = ollama.decode_line(b'{"done":true,"done_reason":"stop","eval_count":259}')
    assert (line.done, line.done_reason) == (True, "stop")
    assert (line.prompt_eval_count, line.eval_count) == (0, 259)


@pytest.mark.parametrize(
    ("calls", "kept"),
    [
        (b"null", None),
        (b"[]", []),
        (b'[{"function":{"name":"f"}}, 5]', [b'{"function":{"name":"f"}}', b"5"]),
    ],
)
def test_tool_calls_are_kept_raw(calls: bytes, kept: list[bytes] | None) -> None:
    line = ollama.decode_line(b'{"message":{"content":"","tool_calls":%b},"done":false}' % calls)
    _, _, found = ollama.said(line)
    assert (None if found is None else [bytes(call) for call in found]) == kept


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  ",
        b"<html>",
        b"[]",
        b"{}",
        b'{"response":"x"}',
        b'{"error parsing tool call":"x"}',  # ollama#11781
        b'{"done":null}',
        b'{"done":"yes"}',
        b'{"done":false',
        b'{"done":false,"message":"text"}',
        b'{"done":false,"message":{"content":5}}',
        b'{"done":true,"eval_count":1.5}',
        b'{"done":true}{"done":true}',
        b'{"done":false,"message":{"content":"\xff"}}',
        b'{"done":false,"message":{"content":"\\ud800"}}',
        b'{"done":false,"message":{"content":"","tool_calls":["\xff"]}}',
        b'{"done":false,"message":{"content":"","tool_calls":'
        + b"[" * 10_000
        + b"]" * 10_000
        + b"}}",
        b'{"done":false,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ollama.decode_line(line)


@pytest.mark.parametrize("error", [b'"x"', b'""', b"5", b'{"message":"x"}', b"false"])
def test_an_error_is_one_whatever_it_says(error: bytes) -> None:
    assert ollama.decode_line(b'{"error":%b}' % error).error is not None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (204, Code.UPSTREAM_ERROR),
        (302, Code.UPSTREAM_ERROR),
        (400, Code.UPSTREAM_ERROR),
        (401, Code.UPSTREAM_ERROR),
        (403, Code.UPSTREAM_ERROR),
        (404, Code.MODEL_NOT_FOUND),
        (429, Code.UPSTREAM_BUSY),
        (499, Code.UPSTREAM_ERROR),
        (500, Code.UPSTREAM_ERROR),
        (502, Code.UPSTREAM_UNAVAILABLE),
        (503, Code.UPSTREAM_BUSY),
        (504, Code.UPSTREAM_UNAVAILABLE),
    ],
)
def test_each_status_has_its_code(status: int, code: Code) -> None:
    assert ollama.status_code(status) is code


def test_the_list_of_models_is_read_under_canonical_names() -> None:
    tags = b'{"models":[{"name":"CodeLlama:latest","size":1},{"name":"me/x:1b"}]}'
    assert ollama.decode_models(tags) == {"codellama:latest", "me/x:1b"}
    assert ollama.decode_models(b'{"models":[]}') == frozenset()


@pytest.mark.parametrize(
    "tags", [b"", b"{}", b'{"models":null}', b'{"models":[{}]}', b'{"models":[{"name":"\xff"}]}']
)
def test_a_list_of_models_that_is_none_is_refused(tags: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ollama.decode_models(tags)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("codellama", "codellama:latest"),
        ("CodeLlama:Latest", "codellama:latest"),
        ("library/codellama", "codellama:latest"),
        ("registry.ollama.ai/library/codellama:latest", "codellama:latest"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("me/codellama", "me/codellama:latest"),
        ("registry.ollama.ai/me/codellama:7b", "me/codellama:7b"),
        ("host:5000/me/model", "host:5000/me/model:latest"),  # a port is no tag
        ("host:5000/me/model:1b", "host:5000/me/model:1b"),
    ],
)
def test_spellings_of_one_model_have_one_name(spelling: str, name: str) -> None:
    assert ollama.canonical_name(spelling) == name
    assert ollama.canonical_name(name) == name
