"""What Ollama's API means: requests validated, answers and lines built.

Rules of this file: pure. No I/O, no clock (`now` comes in as text), no logging, no HTTP framing.
A request that is wrong raises `ApiError`, which knows its status. Shapes, order of the fields and
wording follow Ollama 0.33; what this model cannot do is refused where ignoring it would mislead.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec

from tokenwire_ollama.model import Finish, Message, ModelInfo, Options

MODEL_NAME = "smollm2:135m"
API_VERSION = "0.33.0"
"""The Ollama whose API this is: clients look at it to learn what they may ask."""

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"

BUSY = "server busy, please try again.  maximum pending requests exceeded"
RUN_FAILED = "an error was encountered while running the model"

MAX_STOPS = 64
"""Stop strings per request: each is looked for after each token."""


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        allow: the methods that the path does have, with a 405 (RFC 9110 15.5.6).
    """

    def __init__(self, status: int, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.allow = allow

    def reply(self) -> "Reply":
        """Return the answer that says so."""
        headers = (("allow", self.allow),) if self.allow else ()
        return Reply(_encode({"error": str(self)}), status=self.status, headers=headers)


class Reply(msgspec.Struct, frozen=True):
    """One whole answer."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Job(msgspec.Struct, frozen=True):
    """A request that the model has to run for."""

    kind: Literal["chat", "generate"]
    model: str
    """As the client spelled it."""
    messages: tuple[Message, ...]
    options: Options
    stream: bool
    fell_back: bool
    """True: the client asked for another model than there is."""

    def piece(self, text: str, *, now: str) -> bytes:
        """Return the line that carries a piece of text."""
        return self._answer(text, now) + b"\n"

    def last(self, finish: Finish, *, text: str, now: str, total_ns: int) -> bytes:
        """Return the last object, without a line feed.

        Args:
            text: all of it where nothing is streamed, "" after a stream.
            total_ns: since the request came.
        """
        return self._answer(
            text,
            now,
            done_reason=finish.reason,
            total_duration=total_ns,
            # Ollama: how long the request waited for its model.
            load_duration=max(0, total_ns - finish.prompt_ns - finish.eval_ns),
            prompt_eval_count=finish.prompt_tokens,
            prompt_eval_duration=finish.prompt_ns,
            eval_count=finish.eval_tokens,
            eval_duration=finish.eval_ns,
        )

    def idle(self, reason: Literal["load", "unload"], *, now: str) -> Reply:
        """Answer a request that has nothing to generate from: one object even for a stream."""
        return Reply(self._answer("", now, done_reason=reason))

    def _answer(self, text: str, now: str, **ending: int | str) -> bytes:
        said: dict[str, Any] = {"response": text}
        if self.kind == "chat":
            said = {"message": {"role": "assistant", "content": text}}
        head = {"model": self.model, "created_at": now, **said, "done": bool(ending)}
        # Go's `omitempty`: a zero is absent.
        return _encode(head | {name: value for name, value in ending.items() if value})


def answer(
    method: str, path: str, body: bytes, *, info: ModelInfo, fallback: bool, now: str
) -> Reply | Job:
    """Decide what a request gets.

    Args:
        path: without the query.
        fallback: whether a model of another name is answered by this one.
        now: RFC 3339, for `created_at`.

    Raises:
        ApiError: it gets an error.
    """
    routes = _ROUTES.get(path)
    if routes is None:
        raise ApiError(404, "404 page not found")
    handler = routes.get(method)
    if handler is None:
        raise ApiError(405, "405 method not allowed", allow=", ".join(routes))
    return handler(_Call(body=body, info=info, fallback=fallback, now=now))


def timestamp(unix_ns: int) -> str:
    """Write an instant as Go does: RFC 3339 in UTC, up to nine digits, no trailing zeros."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def error_line(message: str) -> bytes:
    """Return the last line of a stream that failed: nothing but the error."""
    return _encode({"error": message}) + b"\n"


# -- requests ----------------------------------------------------------------------------------


class _Call(msgspec.Struct, frozen=True):
    """A request with what is needed to answer it."""

    body: bytes
    info: ModelInfo
    fallback: bool
    now: str


class _Request(msgspec.Struct, kw_only=True):
    """What the requests have in common. None is JSON's null, which Go takes for absent."""

    model: str = ""
    stream: bool | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    format: Any = None
    think: bool | str | None = None
    logprobs: bool | None = None


class _RequestMessage(msgspec.Struct):
    role: str
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[Any] | None = None


class _ChatRequest(_Request):
    messages: list[_RequestMessage] | None = None
    tools: list[Any] | None = None


class _GenerateRequest(_Request):
    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None
    images: list[str] | None = None


class _ShowRequest(msgspec.Struct):
    model: str = ""
    name: str = ""
    """The old spelling of `model`, which clients still send."""


def _chat(call: _Call) -> Reply | Job:
    request = _decode(call.body, _ChatRequest)
    messages = request.messages or []
    unsupported = {
        "tools": request.tools or any(m.tool_calls for m in messages),
        "images": any(m.images for m in messages),
    }
    return _job(call, "chat", request, tuple(_message(m) for m in messages), unsupported)


def _generate(call: _Call) -> Reply | Job:
    request = _decode(call.body, _GenerateRequest)
    unsupported = {
        "insert": request.suffix,
        "templates": request.template,
        "raw prompts": request.raw,
        "context": request.context,
        "images": request.images,
    }
    messages: tuple[Message, ...] = ()
    if request.prompt:
        messages = (Message("user", request.prompt),)
        if request.system:
            messages = (Message("system", request.system), *messages)
    return _job(call, "generate", request, messages, unsupported)


def _job(
    call: _Call,
    kind: Literal["chat", "generate"],
    request: _Request,
    messages: tuple[Message, ...],
    unsupported: Mapping[str, object],
) -> Reply | Job:
    fell_back = _resolve(request.model, call.fallback)
    asked = {
        **unsupported,
        "structured outputs": request.format,
        "thinking": request.think,
        "logprobs": request.logprobs,
    }
    for feature, value in asked.items():
        if value:
            raise ApiError(400, f'"{request.model}" does not support {feature}')
    job = Job(
        kind=kind,
        model=request.model,
        messages=messages,
        options=_options(request.options or {}),
        stream=request.stream is not False,
        fell_back=fell_back,
    )
    if messages:
        return job
    return job.idle("unload" if request.keep_alive in (0, "0", "0s") else "load", now=call.now)


def _message(message: _RequestMessage) -> Message:
    if message.role not in ("system", "user", "assistant"):
        raise ApiError(400, "invalid role: must be one of system, user, assistant")
    return Message(message.role, message.content or "")


_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    rf"(([A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(:{_PART})?"
)
_SPELLINGS = ("smollm2", "smollm2:latest", MODEL_NAME)


def _resolve(name: str, fallback: bool) -> bool:
    """Return whether another model was asked for; raise where that is not allowed."""
    if not name:
        raise ApiError(400, "model is required")
    if not _NAME.fullmatch(name):
        raise ApiError(400, "invalid model name")
    short = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    if short in _SPELLINGS:
        return False
    if not fallback:
        raise ApiError(404, f"model '{name}' not found")
    return True


def _options(given: Mapping[str, Any]) -> Options:
    """Take the options that are known; the rest is ignored, as Ollama does.

    A wrong type is a 500: so it is in Ollama, whose scheduler reports it.
    """
    known: dict[str, Any] = {}
    for field in msgspec.structs.fields(Options):
        value = given.get(field.name)
        if value is None:
            continue
        if field.name == "stop":
            if not isinstance(value, list) or not all(isinstance(s, str) for s in value):
                raise ApiError(500, 'option "stop" must be of type array')
            if len(value) > MAX_STOPS:
                raise ApiError(400, f'option "stop" may have {MAX_STOPS} strings')
            known["stop"] = tuple(s for s in value if s)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            kind = "integer" if field.type is int else "float32"
            raise ApiError(500, f'option "{field.name}" must be of type {kind}')
        else:
            # A float is cut to an integer (Go does it too). The engine counts in 32 bits.
            known[field.name] = field.type(min(max(value, -(2**31)), 2**31 - 1))
    return Options(**known)


_T = TypeVar("_T")


def _decode(body: bytes, type_: type[_T]) -> _T:
    if not body.strip():
        raise ApiError(400, "missing request body")
    try:
        return msgspec.json.decode(body, type=type_)
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid UTF-8 in request body") from error
    except RecursionError as error:
        raise ApiError(400, "request body is nested too deeply") from error
    except msgspec.DecodeError as error:
        raise ApiError(400, str(error)) from error


# -- answers -----------------------------------------------------------------------------------


def _root(call: _Call) -> Reply:
    return Reply(b"Ollama is running", content_type="text/plain; charset=utf-8")


def _version(call: _Call) -> Reply:
    return Reply(_encode({"version": API_VERSION}))


def _tags(call: _Call) -> Reply:
    entry = _entry(call.info) | {
        "modified_at": call.info.modified_at,
        "capabilities": _CAPABILITIES,
    }
    return Reply(_encode({"models": [entry]}))


def _ps(call: _Call) -> Reply:
    entry = _entry(call.info) | {
        "expires_at": "9999-12-31T23:59:59Z",  # it is never unloaded
        "size_vram": 0,
        "context_length": call.info.context_tokens,
    }
    return Reply(_encode({"models": [entry]}))


def _show(call: _Call) -> Reply:
    request = _decode(call.body, _ShowRequest)
    _resolve(request.model or request.name, call.fallback)
    return Reply(
        _encode(
            {
                "license": "Apache-2.0",
                "template": _TEMPLATE,
                "details": _DETAILS,
                "model_info": {
                    "general.architecture": "llama",
                    "general.parameter_count": 134_515_008,
                    "llama.context_length": call.info.context_tokens,
                },
                "capabilities": _CAPABILITIES,
                "modified_at": call.info.modified_at,
            }
        )
    )


def _embed(call: _Call) -> Reply:
    raise ApiError(400, "this model does not support embeddings")


def _entry(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": MODEL_NAME,
        "model": MODEL_NAME,
        "size": info.size,
        "digest": info.digest,
        "details": _DETAILS,
    }


_CAPABILITIES = ["completion"]
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_1",
}
_TEMPLATE = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def _encode(value: object) -> bytes:
    """Encode as Go does, which escapes what HTML and JavaScript could trip over.

    These characters can only stand inside strings, so replacing them afterwards is safe.
    """
    encoded = msgspec.json.encode(value)
    for character, escape in _ESCAPES:
        encoded = encoded.replace(character, escape)
    return encoded


_ESCAPES = tuple((c.encode(), f"\\u{ord(c):04x}".encode()) for c in "<>&\u2028\u2029")

_Handler = Callable[[_Call], Reply | Job]
_ROUTES: Mapping[str, Mapping[str, _Handler]] = {
    "/": {"GET": _root, "HEAD": _root},
    "/api/version": {"GET": _version, "HEAD": _version},
    "/api/tags": {"GET": _tags, "HEAD": _tags},
    "/api/ps": {"GET": _ps},
    "/api/show": {"POST": _show},
    "/api/chat": {"POST": _chat},
    "/api/generate": {"POST": _generate},
    "/api/embed": {"POST": _embed},
    "/api/embeddings": {"POST": _embed},
}
