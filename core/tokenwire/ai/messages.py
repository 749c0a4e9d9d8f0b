"""What clients send: parsed, checked, typed.

Rules of this file: nothing is clamped or coerced; a field that is wrong is named, with what would
be right; a field that nobody knows is ignored. `null` counts as not given.
"""

import re
from typing import TypeVar

import msgspec

from tokenwire.ai.errors import Code, Refusal
from tokenwire.config import Config
from tokenwire.wire import json

_STREAM_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
# Ollama's names: [host/][namespace/]model[:tag] (its types/model/name.go), with one length for all.
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,255}")
_AGENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_TEMPERATURE = 2
_MAX_CURSORS = 256
_MAX_SEQ = 2**53
_CONTEXT_FACTOR = 8  # what built JSON takes, for each byte of its text

T = TypeVar("T")


class StreamRequest(msgspec.Struct, frozen=True):
    """A valid `ai:stream`, without its streamId: two are equal if they ask for the same."""

    prompt: str
    model: str
    temperature: float | None = None
    max_tokens: int | None = None
    use_orchestrator: bool = True
    agent_context: dict[str, object] | None = None
    agent: str | None = None
    think: bool | None = None

    def size(self) -> int:
        """Return how many bytes it takes at most: what is text may take 4 for a character."""
        context = (
            0
            if self.agent_context is None
            else _CONTEXT_FACTOR * len(json.encode(self.agent_context))
        )
        return 4 * len(self.prompt) + context


class Cursor(msgspec.Struct, frozen=True):
    """How far a client has a stream: all up to and with `seq`."""

    seq: int
    epoch: str | None = None


class ReconnectRequest(msgspec.Struct, frozen=True):
    previous_client_id: str
    streams: dict[str, Cursor] | None
    """None: the client names no cursor at all."""


def _invalid(field: str | None, error: str) -> Refusal:
    return Refusal(Code.INVALID_REQUEST, error, field=field, details=f"field: {field}")


def _object(args: list[object], event: str) -> dict[str, object]:
    if not args or not isinstance(args[0], dict):
        raise Refusal(
            Code.INVALID_REQUEST, f"{event} takes one object.", details="the payload is no object"
        )
    return args[0]


def _optional(fields: dict[str, object], name: str, kind: type[T], what: str) -> T | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _invalid(name, f"{name} must be {what}.")
    return value


def known_stream_id(args: list[object]) -> str | None:
    """Return the streamId of a payload if it has a valid one, for an answer that names it."""
    value = args[0].get("streamId") if args and isinstance(args[0], dict) else None
    return value if isinstance(value, str) and _STREAM_ID.fullmatch(value) else None


def stream_id(args: list[object], event: str) -> str:
    """Return the required streamId of a payload.

    Raises:
        Refusal: there is none, or it cannot be one.
    """
    value = _stream_id(_object(args, event))
    if value is None:
        raise _invalid("streamId", "streamId is required.")
    return value


def _stream_id(fields: dict[str, object]) -> str | None:
    what = "1 to 128 letters, digits or any of _ . : -"
    value = _optional(fields, "streamId", str, what)
    if value is not None and not _STREAM_ID.fullmatch(value):
        raise _invalid("streamId", f"streamId must be {what}.")
    return value


def parse_stream(args: list[object], config: Config) -> tuple[str | None, StreamRequest]:
    """Return the streamId, if one is given, and the request of an `ai:stream`.

    Raises:
        Refusal: a field is missing, has another type or is out of range.
    """
    fields = _object(args, "ai:stream")
    name = _stream_id(fields)
    request = StreamRequest(
        prompt=_prompt(fields, config),
        model=_model(fields) or config.default_model,
        temperature=_temperature(fields),
        max_tokens=_max_tokens(fields, config),
        use_orchestrator=_optional(fields, "useOrchestrator", bool, "true or false") is not False,
        agent_context=_agent_context(fields, config),
        agent=_agent(fields),
        think=_optional(fields, "think", bool, "true or false"),
    )
    return name, request


def _prompt(fields: dict[str, object], config: Config) -> str:
    prompt = _optional(fields, "prompt", str, "a string")
    if not prompt:
        raise _invalid("prompt", "prompt is required and must not be empty.")
    if len(prompt) > config.prompt_chars:
        raise Refusal(
            Code.PROMPT_TOO_LONG,
            f"prompt must have at most {config.prompt_chars} characters.",
            field="prompt",
            details=f"{len(prompt)} characters",
        )
    return prompt


def _model(fields: dict[str, object]) -> str | None:
    model = _optional(fields, "model", str, "the name of a model")
    if model is not None and not _MODEL.fullmatch(model):
        raise _invalid("model", "model must be the name of a model, such as llama3.2:1b.")
    return model


def _temperature(fields: dict[str, object]) -> float | None:
    what = f"a number from 0 to {_MAX_TEMPERATURE}"
    value = fields.get("temperature")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid("temperature", f"temperature must be {what}.")
    if not 0 <= value <= _MAX_TEMPERATURE:
        raise _invalid("temperature", f"temperature must be {what}.")
    return value


def _max_tokens(fields: dict[str, object], config: Config) -> int | None:
    what = f"a whole number from 1 to {config.max_tokens}"
    value = _optional(fields, "maxTokens", int, what)
    if value is not None and not 1 <= value <= config.max_tokens:
        raise _invalid("maxTokens", f"maxTokens must be {what}.")
    return value


def _agent(fields: dict[str, object]) -> str | None:
    agent = _optional(fields, "agent", str, "the name of an agent")
    if agent is not None and not _AGENT.fullmatch(agent):
        raise _invalid("agent", "agent must be the name of an agent.")
    return agent


def _agent_context(fields: dict[str, object], config: Config) -> dict[str, object] | None:
    context: dict[str, object] | None = _optional(fields, "agentContext", dict, "an object")
    if context is None:
        return None
    depth, keys = _measure(context)
    size = len(json.encode(context))
    for value, limit, unit in (
        (depth, config.context_depth, "levels"),
        (keys, config.context_keys, "keys"),
        (size, config.context_bytes, "bytes"),
    ):
        if value > limit:
            raise Refusal(
                Code.CONTEXT_TOO_LARGE,
                f"agentContext must have at most {limit} {unit}.",
                field="agentContext",
                details=f"{value} {unit}",
            )
    return context


def _measure(value: object) -> tuple[int, int]:
    """Return the depth of nested JSON and the number of keys of all its objects.

    Raises:
        Refusal: an attachment of the packet or an Unusable stands in it.
    """
    if isinstance(value, dict):
        below = [_measure(item) for item in value.values()]
        keys = len(value)
    elif isinstance(value, list):
        below = [_measure(item) for item in value]
        keys = 0
    elif isinstance(value, bytes | json.Unusable):
        raise _invalid(
            "agentContext",
            "agentContext must be plain JSON: no binary data, lone surrogates or huge integers.",
        )
    else:
        return 0, 0
    return 1 + max((d for d, _ in below), default=0), keys + sum(k for _, k in below)


def parse_reconnect(args: list[object]) -> ReconnectRequest:
    """Return an `ai:reconnect`.

    Raises:
        Refusal: no usable previousClientId (`reconnect_failed`), or a cursor that cannot be one.
    """
    fields = args[0] if args and isinstance(args[0], dict) else {}
    previous = fields.get("previousClientId")
    if not isinstance(previous, str) or not previous:
        raise Refusal(Code.RECONNECT_FAILED)
    streams: dict[str, object] | None = _optional(fields, "streams", dict, "an object")
    if streams is None:
        return ReconnectRequest(previous, None)
    if len(streams) > _MAX_CURSORS:
        raise _invalid("streams", f"streams must have at most {_MAX_CURSORS} entries.")
    return ReconnectRequest(previous, {name: _cursor(value) for name, value in streams.items()})


def _cursor(value: object) -> Cursor:
    epoch = None
    if isinstance(value, dict):
        epoch = value.get("epoch")
        value = value.get("seq")
    if type(value) is not int or not 0 <= value <= _MAX_SEQ:
        raise _invalid("streams", "streams must map each streamId to the last seq, 0 or more.")
    if epoch is not None and not isinstance(epoch, str):
        raise _invalid("streams", "an epoch in streams must be the string of ai:stream:start.")
    return Cursor(value, epoch)
