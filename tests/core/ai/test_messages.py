"""What clients send: every field right, at its edges, and wrong.

Rules of this file: a wrong field is refused with its name, and with what would be right; the
tables hold one wrong thing a line.
"""

import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire.ai import messages
from tokenwire.ai.errors import Code, Refusal
from tokenwire.ai.messages import Cursor, ReconnectRequest, StreamRequest
from tokenwire.config import Config
from tokenwire.wire import Binary

CONFIG = Config()


class Odd(dict[str, object]):
    """A dict that is not quite one."""


def parse(**fields: object) -> StreamRequest:
    return messages.parse_stream([{"prompt": "p", **fields}], CONFIG)[1]


def refusal(*args: object, config: Config = CONFIG) -> Refusal:
    with pytest.raises(Refusal) as caught:
        messages.parse_stream(list(args), config)
    return caught.value


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth - 1):
        value = {"k": value}
    return value


# -- ai:stream -------------------------------------------------------------------------------------


def test_a_prompt_is_enough() -> None:
    name, request = messages.parse_stream([{"prompt": "hi"}], CONFIG)
    assert name is None
    assert request == StreamRequest("hi", "codellama")


def test_every_field_is_read() -> None:
    context: dict[str, object] = {"activeFile": "App.js", "list": [1, None, {"x": 1.5}]}
    name, request = messages.parse_stream(
        [
            {
                "prompt": "hi",
                "model": "llama3.2:1b",
                "temperature": 0.5,
                "maxTokens": 7,
                "useOrchestrator": False,
                "agentContext": context,
                "agent": "Tester",
                "streamId": "client_1.2:3-4",
                "think": True,
                "unknown": "ignored",
                "__proto__": {"polluted": True},
            },
            "further arguments too",
        ],
        CONFIG,
    )
    assert name == "client_1.2:3-4"
    assert request == StreamRequest("hi", "llama3.2:1b", 0.5, 7, False, context, "Tester", True)


def test_null_is_not_given() -> None:
    optional = ("model", "temperature", "maxTokens", "useOrchestrator", "agentContext", "agent")
    fields: dict[str, object] = dict.fromkeys((*optional, "streamId", "think"))
    assert messages.parse_stream([{"prompt": "p", **fields}], CONFIG) == (
        None,
        StreamRequest("p", "codellama"),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x" * 32_768),
        ("prompt", "🎉" * 32_768),  # characters, not bytes
        ("prompt", " "),
        ("model", "a"),
        ("model", "registry.ollama.ai/library/x:latest"),
        ("temperature", 0),
        ("temperature", 0.0),
        ("temperature", -0.0),
        ("temperature", 2),
        ("temperature", 2.0),
        ("temperature", 5e-324),
        ("maxTokens", 1),
        ("maxTokens", 8_192),
        ("useOrchestrator", True),
        ("agentContext", {}),
        ("agentContext", Odd(x=1)),
        ("agentContext", nested(8)),
        ("agentContext", {str(key): None for key in range(64)}),
        ("agentContext", {"k": 10**400}),
        ("agentContext", {"k": "x" * (64 * 1024 - len('{"k":""}'))}),
        ("agent", "a" * 64),
        ("think", False),
    ],
)
def test_a_field_is_taken_up_to_its_edges(field: str, value: object) -> None:
    parse(**{field: value})


@pytest.mark.parametrize("name", ["a", "_", "A-b_c.d:9", "x" * 128, "__proto__"])
def test_a_stream_id_is_taken_up_to_its_edges(name: str) -> None:
    assert messages.parse_stream([{"prompt": "p", "streamId": name}], CONFIG)[0] == name


@pytest.mark.parametrize("args", [(), (None,), ("prompt",), (["prompt"],), (5,), (Binary(b"x"),)])
def test_a_payload_that_is_no_object_is_refused(args: tuple[object, ...]) -> None:
    refused = refusal(*args)
    assert (refused.code, refused.error) == (Code.INVALID_REQUEST, "ai:stream takes one object.")


WHOLE = "maxTokens must be a whole number from 1 to 8192."
WARM = "temperature must be a number from 0 to 2."
NAMED = "streamId must be 1 to 128 letters, digits or any of _ . : -."
NO_MODEL = "model must be the name of a model, such as llama3.2:1b."


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("prompt", None, "prompt is required and must not be empty."),
        ("prompt", "", "prompt is required and must not be empty."),
        ("prompt", 5, "prompt must be a string."),
        ("prompt", ["p"], "prompt must be a string."),
        ("prompt", Binary(b"p"), "prompt must be a string."),
        ("model", 5, "model must be the name of a model."),
        ("model", "", NO_MODEL),
        ("model", "../../etc/passwd", NO_MODEL),
        ("model", "a b", NO_MODEL),
        ("model", "a\n", NO_MODEL),
        ("model", "é", NO_MODEL),
        ("model", "a" * 257, NO_MODEL),
        ("temperature", "1", WARM),
        ("temperature", True, WARM),
        ("temperature", [], WARM),
        ("temperature", -0.1, WARM),
        ("temperature", 2.0000001, WARM),
        ("temperature", math.nan, WARM),
        ("temperature", math.inf, WARM),
        ("temperature", -math.inf, WARM),
        ("temperature", 10**400, WARM),
        ("temperature", -(10**400), WARM),
        ("maxTokens", 0, WHOLE),
        ("maxTokens", -1, WHOLE),
        ("maxTokens", 8_193, WHOLE),
        ("maxTokens", 10**400, WHOLE),
        ("maxTokens", 5.0, WHOLE),
        ("maxTokens", True, WHOLE),
        ("maxTokens", "5", WHOLE),
        ("useOrchestrator", 1, "useOrchestrator must be true or false."),
        ("useOrchestrator", "false", "useOrchestrator must be true or false."),
        ("agentContext", [], "agentContext must be an object."),
        ("agentContext", "App.js", "agentContext must be an object."),
        (
            "agentContext",
            {"file": [Binary(b"x")]},
            "agentContext must be plain JSON: no binary data, lone surrogates or huge integers.",
        ),
        ("agent", 5, "agent must be the name of an agent."),
        ("agent", "", "agent must be the name of an agent."),
        ("agent", "a b", "agent must be the name of an agent."),
        ("agent", "a" * 65, "agent must be the name of an agent."),
        ("streamId", 5, NAMED),
        ("streamId", "", NAMED),
        ("streamId", "a b", NAMED),
        ("streamId", "a\n", NAMED),
        ("streamId", "é", NAMED),
        ("streamId", "x" * 129, NAMED),
        ("think", "high", "think must be true or false."),
        ("think", 0, "think must be true or false."),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(
    field: str, value: object, error: str
) -> None:
    refused = refusal({"prompt": "p", field: value})
    assert (refused.code, refused.field, refused.error) == (Code.INVALID_REQUEST, field, error)
    assert refused.details == f"field: {field}"


@pytest.mark.parametrize(
    ("field", "value", "code", "error", "details"),
    [
        (
            "prompt",
            "x" * 32_769,
            Code.PROMPT_TOO_LONG,
            "prompt must have at most 32768 characters.",
            "32769 characters",
        ),
        (
            "agentContext",
            nested(9),
            Code.CONTEXT_TOO_LARGE,
            "agentContext must have at most 8 levels.",
            "9 levels",
        ),
        (
            "agentContext",
            {"a": [[[[[[[[1]]]]]]]]},  # arrays are levels too
            Code.CONTEXT_TOO_LARGE,
            "agentContext must have at most 8 levels.",
            "9 levels",
        ),
        (
            "agentContext",
            {"a": {str(key): None for key in range(64)}},  # keys of all objects together
            Code.CONTEXT_TOO_LARGE,
            "agentContext must have at most 64 keys.",
            "65 keys",
        ),
        (
            "agentContext",
            {"k": "x" * (64 * 1024 - len('{"k":""}') + 1)},
            Code.CONTEXT_TOO_LARGE,
            "agentContext must have at most 65536 bytes.",
            "65537 bytes",
        ),
    ],
)
def test_what_is_too_large_is_refused_with_the_limit(
    field: str, value: object, code: Code, error: str, details: str
) -> None:
    refused = refusal({"prompt": "p", field: value})
    assert (refused.code, refused.field) == (code, field)
    assert (refused.error, refused.details) == (error, details)


def test_as_deep_as_the_wire_lets_through_is_measured_without_harm() -> None:
    assert refusal({"prompt": "p", "agentContext": nested(32)}).details == "32 levels"


def test_limits_are_the_configurations() -> None:
    config = Config(max_tokens=10, prompt_chars=2, default_model="tiny")
    assert messages.parse_stream([{"prompt": "p"}], config)[1].model == "tiny"
    assert refusal({"prompt": "abc"}, config=config).code is Code.PROMPT_TOO_LONG
    error = refusal({"prompt": "p", "maxTokens": 11}, config=config).error
    assert error == "maxTokens must be a whole number from 1 to 10."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELD = st.sampled_from(
    ["prompt", "model", "temperature", "maxTokens", "agentContext", "agent", "streamId", "think"]
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(JSON | st.dictionaries(FIELD, JSON), max_size=2))
def test_any_json_gives_a_request_or_a_refusal(args: list[object]) -> None:
    for take in (
        lambda: messages.parse_stream(args, CONFIG),
        lambda: messages.parse_reconnect(args),
        lambda: messages.stream_id(args, "ai:cancel"),
    ):
        with suppress(Refusal):
            take()


# -- a streamId alone ------------------------------------------------------------------------------


def test_the_stream_id_of_a_cancel_is_required() -> None:
    assert messages.stream_id([{"streamId": "s"}], "ai:cancel") == "s"
    with pytest.raises(Refusal) as caught:
        messages.stream_id([{}], "ai:cancel")
    assert (caught.value.field, caught.value.error) == ("streamId", "streamId is required.")
    with pytest.raises(Refusal) as caught:
        messages.stream_id([], "ai:cancel")
    assert caught.value.error == "ai:cancel takes one object."


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ([{"streamId": "s"}], "s"),
        ([{"streamId": "a b"}], None),
        ([{"streamId": 5}], None),
        ([{}], None),
        (["s"], None),
        ([], None),
    ],
)
def test_an_answer_names_the_stream_if_the_payload_names_one(
    args: list[object], name: str | None
) -> None:
    assert messages.known_stream_id(args) == name


# -- ai:reconnect ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "streams"),
    [
        ({}, None),
        ({"streams": None}, None),
        ({"streams": {}}, {}),
        ({"streams": {"s": 0}}, {"s": Cursor(0)}),
        ({"streams": {"s": 2**53}}, {"s": Cursor(2**53)}),
        ({"streams": {"s": {"seq": 5}}}, {"s": Cursor(5)}),
        ({"streams": {"s": {"seq": 5, "epoch": None}}}, {"s": Cursor(5)}),
        (
            {"streams": {"s": {"seq": 5, "epoch": "e"}, "t": 1}},
            {"s": Cursor(5, "e"), "t": Cursor(1)},
        ),
        ({"streams": {str(n): n for n in range(256)}}, {str(n): Cursor(n) for n in range(256)}),
    ],
)
def test_a_reconnect_has_an_id_and_may_have_cursors(
    fields: dict[str, object], streams: dict[str, Cursor] | None
) -> None:
    request = messages.parse_reconnect([{"previousClientId": "a.b", **fields}])
    assert request == ReconnectRequest("a.b", streams)


@pytest.mark.parametrize(
    "args",
    [
        [],
        [None],
        ["a.b"],
        [{}],
        [{"previousClientId": None}],
        [{"previousClientId": ""}],
        [{"previousClientId": 5}],
        [{"previousClientId": ["a.b"], "streams": 5}],
    ],
)
def test_a_reconnect_without_an_id_has_failed(args: list[object]) -> None:
    with pytest.raises(Refusal) as caught:
        messages.parse_reconnect(args)
    assert (caught.value.code, caught.value.field) == (Code.RECONNECT_FAILED, None)


NO_EPOCH = "an epoch in streams must be the string of ai:stream:start."
NO_SEQ = "streams must map each streamId to the last seq, 0 or more."


@pytest.mark.parametrize(
    ("streams", "error"),
    [
        (5, "streams must be an object."),
        ([], "streams must be an object."),
        ({str(n): n for n in range(257)}, "streams must have at most 256 entries."),
        ({"s": -1}, NO_SEQ),
        ({"s": 2**53 + 1}, NO_SEQ),
        ({"s": 1.0}, NO_SEQ),
        ({"s": True}, NO_SEQ),
        ({"s": "1"}, NO_SEQ),
        ({"s": None}, NO_SEQ),
        ({"s": {}}, NO_SEQ),
        ({"s": {"seq": {"seq": 1}}}, NO_SEQ),
        (
            {"s": {"seq": 1, "epoch": 5}},
            "an epoch in streams must be the string of ai:stream:start.",
        ),
    ],
)
def test_a_cursor_that_is_none_is_refused(streams: object, error: str) -> None:
    with pytest.raises(Refusal) as caught:
        messages.parse_reconnect([{"previousClientId": "a.b", "streams": streams}])
    assert (caught.value.code, caught.value.field) == (Code.INVALID_REQUEST, "streams")
    assert caught.value.error == error
