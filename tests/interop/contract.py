"""The AI streaming protocol as its clients see it: every field of every event, and their order.

Rules of this file: written from the contract alone, nothing of the server's code is imported. A
field that is missing, one that nobody promised, and one of another type are all failures.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from interop.clients import Received

Check = Callable[[object], bool]

CODES = frozenset(
    {
        "invalid_request",
        "unknown_event",
        "prompt_too_long",
        "context_too_large",
        "model_not_allowed",
        "model_not_found",
        "too_many_streams",
        "duplicate_stream",
        "stream_not_found",
        "rate_limited",
        "upstream_unavailable",
        "upstream_busy",
        "upstream_error",
        "upstream_truncated",
        "first_token_timeout",
        "idle_timeout",
        "stream_timeout",
        "reconnect_failed",
        "resume_gap",
        "session_expired",
        "node_overloaded",
        "server_shutting_down",
        "internal",
    }
)
INTENTS = frozenset(
    {
        "explain",
        "generate",
        "debug",
        "refactor",
        "test",
        "document",
        "review",
        "optimize",
        "operate",
        "query",
        "chat",
        "direct",
    }
)
STATES = frozenset({"waiting", "streaming", "done", "cancelled", "failed"})


# -- the types of fields -------------------------------------------------------------------------


def text(value: object) -> bool:
    return isinstance(value, str)


def word(value: object) -> bool:
    return isinstance(value, str) and value != ""


def stream_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,128}", value) is not None


def client_id(value: object) -> bool:
    # 128 random bits of each part, as base64url.
    return isinstance(value, str) and re.fullmatch(r"[\w-]{22}\.[\w-]{22}", value) is not None


def whole(value: object) -> bool:
    """A whole number, 0 or more."""
    return type(value) is int and value >= 0


def positive(value: object) -> bool:
    return type(value) is int and value > 0


def number(value: object) -> bool:
    return type(value) in (int, float) and value >= 0  # type: ignore[operator]


def share(value: object) -> bool:
    """0 to 1."""
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]


def flag(value: object) -> bool:
    return isinstance(value, bool)


def true(value: object) -> bool:
    return value is True


def one_of(values: Iterable[str]) -> Check:
    known = frozenset(values)
    return lambda value: value in known


def or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def counts(value: object) -> bool:
    """An object that maps streamIds to numbers."""
    return isinstance(value, dict) and all(stream_id(k) and whole(v) for k, v in value.items())


def shape(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """An object with these fields and no others. Raises AssertionError with what is wrong."""
    known = required | (optional or {})

    def check(value: object) -> bool:
        assert isinstance(value, dict), f"{value!r} is no object"
        assert value.keys() >= required.keys(), f"missing: {sorted(required.keys() - value.keys())}"
        assert value.keys() <= known.keys(), f"unknown: {sorted(value.keys() - known.keys())}"
        for name, item in value.items():
            assert known[name](item), f"{name} is {item!r}"
        return True

    return check


# -- the events ----------------------------------------------------------------------------------

ROUTING: dict[str, Check] = {
    "intent": one_of(INTENTS),
    "confidence": share,
    "runnersUp": list_of(
        shape({"agent": word, "intent": one_of(INTENTS), "confidence": share}),
    ),
    "reasons": list_of(word),
}

FAILURE: dict[str, Check] = {
    "error": word,
    "code": one_of(CODES),
    "details": word,
    "retryable": flag,
}

EVENTS: dict[str, Check] = {
    "ai:connected": shape(
        {
            "clientId": client_id,
            "maxConcurrentStreams": positive,
            "backpressureThreshold": positive,
            "heartbeatInterval": positive,
            "reconnectTimeout": positive,
            "protocol": one_of(["1.0"]),
            "recovered": flag,
        }
    ),
    "ai:stream:start": shape(
        {"streamId": stream_id, "epoch": word, "model": word}, {"resumed": true}
    ),
    "ai:stream:complete": shape(
        {
            "streamId": stream_id,
            "agent": word,
            "intent": one_of(INTENTS),
            "confidence": share,
            "metadata": shape(
                {
                    "finishReason": text,
                    "promptTokens": whole,
                    "evalTokens": whole,
                    "queueMs": whole,
                    "routeMs": whole,
                    "timeToFirstTokenMs": or_null(whole),
                    "tokensPerSecond": number,
                    "mergedEvents": whole,
                    "pausedMs": whole,
                    "resumes": whole,
                },
                {"toolCalls": list_of(lambda value: isinstance(value, dict))},
            ),
        }
    ),
    "ai:done": shape({"streamId": stream_id, "totalTokens": whole, "duration": whole}),
    "ai:stream:cancelled": shape({"streamId": stream_id}),
    "ai:stream:error": shape({"streamId": stream_id, **FAILURE}),
    "ai:error": shape(
        FAILURE,
        {"retryAfterMs": positive, "field": word, "streamId": stream_id, "firstSeq": positive},
    ),
    "ai:heartbeat:ack": shape({"activeStreams": whole, "queueSize": whole, "streams": counts}),
    "ai:reconnect:success": shape(
        {
            "previousClientId": client_id,
            "newClientId": client_id,
            "streams": list_of(
                shape(
                    {
                        "streamId": stream_id,
                        "state": one_of(STATES),
                        "nextSeq": positive,
                        "firstSeq": positive,
                        "epoch": word,
                    }
                )
            ),
        },
        {"replaced": list_of(stream_id)},
    ),
    "ai:backpressure": shape(
        {
            "message": word,
            "queueSize": whole,
            "streamId": stream_id,
            "policy": one_of(["merge", "pause", "skip"]),
        }
    ),
}


def _token(value: object) -> bool:
    assert isinstance(value, dict)
    common: dict[str, Check] = {
        "streamId": stream_id,
        "data": word,
        "agent": word,
        "tokenCount": whole,
    }
    metadata = value.get("metadata")
    assert isinstance(metadata, dict)
    if metadata.get("thinking") is True:
        return shape(common | {"metadata": shape({"model": word, "thinking": true})})(value)
    tokens = metadata.get("tokens", 1)
    first = value.get("seq") == tokens
    marks: dict[str, Check] = {
        "tokens": lambda count: whole(count) and count != 1,
        "replayed": true,
    }
    fields = {"model": word} | (ROUTING if first else {})
    shape(common | {"seq": positive, "metadata": shape(fields, marks)})(value)
    assert value["tokenCount"] == value["seq"]
    return True


EVENTS["ai:token"] = _token

ACKS: dict[str, Check] = {
    "ai:stream": shape({"ok": true, "streamId": stream_id, "epoch": word}),
    "ai:cancel": shape({"ok": true, "streamId": stream_id}),
    "ai:reconnect": shape({"ok": true, "newClientId": client_id}),
}
REFUSAL_ACK = shape(
    {"ok": lambda value: value is False, "error": word, "code": one_of(CODES)},
)


def check_event(item: Received, *, offsets: bool) -> None:
    """Check one event.

    Args:
        item: what a client's handler got.
        offsets: True: the client may get an offset of connection state recovery, too.

    Raises:
        AssertionError: it is not as the contract says.
    """
    assert item.name in EVENTS, f"an event that nobody promised: {item}"
    try:
        _, *offset = item.args
        assert not offset or (offsets and isinstance(offset[0], str)), "more than one object"
        assert len(offset) < 2, "more than one object and an offset"
        EVENTS[item.name](item.payload)
    except AssertionError as error:
        raise AssertionError(f"{item.name}: {error} in {item.args}") from None


# -- the order -----------------------------------------------------------------------------------


class _Progress:
    """Where one stream is, as its client sees it."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.completed = False


def check_order(log: Iterable[Received]) -> None:
    """Check that every stream has its events in order: start, tokens, complete, done, no gap.

    Raises:
        AssertionError: one has not.
    """
    open_now: dict[str, _Progress] = {}
    for item in log:
        payload: dict[str, Any] = item.args[0] if item.name.startswith("ai:") else {}
        name = payload.get("streamId", "")
        if item.name == "$connect":
            if not any(arg is True for arg in item.args):  # not recovered: all begins anew
                open_now.clear()
        elif item.name == "ai:reconnect:success":
            for stream in payload["streams"]:
                open_now[stream["streamId"]] = _Progress(stream["nextSeq"] - 1)
        elif item.name == "ai:stream:start":
            open_now[name] = _Progress(0)
        elif item.name in ("ai:token", "ai:stream:complete", "ai:done", "ai:stream:error"):
            assert name in open_now, f"{item} of a stream that is not open"
            _step(open_now, name, item)
        elif item.name == "ai:stream:cancelled":
            assert open_now.pop(name, None), f"{item} of a stream that is not open"


def _step(open_now: dict[str, _Progress], name: str, item: Received) -> None:
    stream, payload = open_now[name], item.payload
    assert not stream.completed or item.name == "ai:done", f"{item} after ai:stream:complete"
    match item.name:
        case "ai:token" if "seq" in payload:
            tokens = payload["metadata"].get("tokens", 1)
            assert payload["seq"] - tokens == stream.seq, f"{item} after seq {stream.seq}"
            stream.seq = payload["seq"]
        case "ai:stream:complete":
            stream.completed = True
        case "ai:done":
            assert stream.completed, "ai:done without ai:stream:complete"
            assert payload["totalTokens"] == stream.seq
            del open_now[name]
        case "ai:stream:error":
            del open_now[name]
        case _:
            pass  # thinking text: outside the numbers
