"""The error codes: closed, and each with a sentence that gives nothing away.

Rules of this file: CONTRACT is the list of spec/ai-streaming.md, written down once more.
"""

import pytest
from tokenwire.ai.errors import Code, Refusal

CONTRACT = (
    *("invalid_request", "unknown_event", "prompt_too_long", "context_too_large"),
    *("model_not_allowed", "model_not_found", "too_many_streams", "duplicate_stream"),
    *("stream_not_found", "rate_limited", "upstream_unavailable", "upstream_busy"),
    *("upstream_error", "upstream_truncated", "first_token_timeout", "idle_timeout"),
    *("stream_timeout", "reconnect_failed", "resume_gap", "session_expired"),
    *("node_overloaded", "server_shutting_down", "internal"),
)


@pytest.mark.parametrize("code", Code)
def test_a_code_stands_in_the_contract_and_has_a_sentence(code: Code) -> None:
    assert code.text in CONTRACT
    assert code.text == code.name.lower()
    assert code.sentence[0].isupper()
    assert code.sentence.endswith(".")
    assert not any(mark in code.sentence for mark in ("/", "http", "localhost", "Traceback"))


def test_no_two_codes_have_one_name() -> None:
    assert len({code.text for code in Code}) == len(Code)


def test_only_what_can_pass_by_itself_is_retryable() -> None:
    assert [code.text for code in Code if code.retryable] == [
        "too_many_streams",
        "rate_limited",
        "upstream_unavailable",
        "upstream_busy",
        "upstream_error",
        "upstream_truncated",
        "first_token_timeout",
        "idle_timeout",
        "stream_timeout",
        "node_overloaded",
        "server_shutting_down",
    ]


def test_a_refusal_says_its_codes_sentence_unless_it_has_a_better_one() -> None:
    plain = Refusal(Code.STREAM_NOT_FOUND)
    assert (plain.error, plain.details, plain.field, plain.stream_id) == (
        Code.STREAM_NOT_FOUND.sentence,
        None,
        None,
        None,
    )
    told = Refusal(Code.INVALID_REQUEST, "No.", details="d", field="f", stream_id="s")
    assert (told.error, told.details, told.field, told.stream_id) == ("No.", "d", "f", "s")
