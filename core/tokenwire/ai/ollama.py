"""Ollama's API: the request that starts a stream, the lines that it answers with.

Rules of this file: `done: true` is the only proper end; a line with `error`, or one that is neither
text nor an end, is a failure. Facts from ollama/ollama `docs/api.md` and `api/types.go`.
"""

import msgspec

from tokenwire.ai.answers import Line, Models
from tokenwire.ai.errors import Code
from tokenwire.errors import RemoteProtocolError
from tokenwire.types import UpstreamRequest
from tokenwire.wire import json

LIST_MODELS = UpstreamRequest("GET", "/api/tags", headers=())


def chat_request(
    *,
    model: str,
    prompt: str,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    think: bool | None,
) -> UpstreamRequest:
    """Return the request for one answer to `prompt`, streamed."""
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    options: dict[str, float] = {}
    if temperature is not None:
        options["temperature"] = temperature
    if max_tokens is not None:
        options["num_predict"] = max_tokens
    body: dict[str, object] = {"model": model, "messages": messages, "stream": True}
    if options:
        body["options"] = options
    if think is not None:
        body["think"] = think
    return UpstreamRequest("POST", "/api/chat", json.encode(body))


_line = msgspec.json.Decoder(Line).decode


def decode_line(data: bytes) -> Line:
    """Return one line.

    Raises:
        RemoteProtocolError: it is no line of Ollama's stream.
    """
    try:
        line = _line(data)
        if line.message is not None and line.message.tool_calls:
            data.decode()  # msgspec does not look into what it leaves raw
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError("a line of the model's stream cannot be read") from error
    if line.done is None and line.error is None:
        # ollama#11781: an old server reported an error under a key of its own.
        raise RemoteProtocolError("a line of the model's stream is neither text nor an end")
    return line


def said(line: Line) -> tuple[str, str, list[msgspec.Raw] | None]:
    """Return the text, the thinking, and the tool calls of a line."""
    message = line.message
    if message is None:
        return line.response, line.thinking, None
    return message.content, message.thinking, message.tool_calls


def status_code(status: int) -> Code:
    """Return the error code for an answer that is not 200."""
    match status:
        case 404:
            return Code.MODEL_NOT_FOUND
        case 429 | 503:
            return Code.UPSTREAM_BUSY
        case 502 | 504:
            return Code.UPSTREAM_UNAVAILABLE
        case _:
            return Code.UPSTREAM_ERROR


_models = msgspec.json.Decoder(Models).decode


def decode_models(body: bytes) -> frozenset[str]:
    """Return the canonical names of the models of an answer to LIST_MODELS.

    Raises:
        RemoteProtocolError: it is no such answer.
    """
    try:
        found = _models(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError("the model server's list of models cannot be read") from error
    return frozenset(canonical_name(model.name) for model in found.models)


def canonical_name(model: str) -> str:
    """Return the name under which two spellings of one model are equal (name.go)."""
    name = model.lower()
    if ":" not in name.rpartition("/")[2]:
        name += ":latest"
    for prefix in ("registry.ollama.ai/", "library/"):
        name = name.removeprefix(prefix)
    return name
