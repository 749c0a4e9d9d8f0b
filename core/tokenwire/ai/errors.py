"""The closed list of error codes, each with its sentence.

Rules of this file: nothing of the model server's address, of a file or of a stack trace is ever
part of a sentence; what a client reads comes from this table and from the limits in `config.py`.
"""

import enum


class Code(enum.Enum):
    """An error code: its name on the wire, the sentence for people, whether a retry can help."""

    INVALID_REQUEST = ("invalid_request", "The request is not valid.", False)
    UNKNOWN_EVENT = ("unknown_event", "There is no such event.", False)
    PROMPT_TOO_LONG = ("prompt_too_long", "The prompt is too long.", False)
    CONTEXT_TOO_LARGE = ("context_too_large", "The agentContext is too large.", False)
    MODEL_NOT_ALLOWED = ("model_not_allowed", "This model is not allowed here.", False)
    MODEL_NOT_FOUND = ("model_not_found", "The model server does not have this model.", False)
    TOO_MANY_STREAMS = ("too_many_streams", "Too many streams at once.", True)
    DUPLICATE_STREAM = (
        "duplicate_stream",
        "A stream with this streamId runs already, for another request.",
        False,
    )
    STREAM_NOT_FOUND = ("stream_not_found", "There is no such stream.", False)
    RATE_LIMITED = ("rate_limited", "Too many requests.", True)
    UPSTREAM_UNAVAILABLE = (
        "upstream_unavailable",
        "The model server cannot be reached at the moment.",
        True,
    )
    UPSTREAM_BUSY = ("upstream_busy", "The model server is busy.", True)
    UPSTREAM_ERROR = ("upstream_error", "The model server reported an error.", True)
    UPSTREAM_TRUNCATED = (
        "upstream_truncated",
        "The model's stream ended before it was complete.",
        True,
    )
    FIRST_TOKEN_TIMEOUT = ("first_token_timeout", "The model did not begin in time.", True)
    IDLE_TIMEOUT = ("idle_timeout", "The model stopped sending.", True)
    STREAM_TIMEOUT = ("stream_timeout", "The stream took too long.", True)
    RECONNECT_FAILED = (
        "reconnect_failed",
        "There is no session to take over with this previousClientId.",
        False,
    )
    RESUME_GAP = ("resume_gap", "A part of the text is not kept any more.", False)
    NODE_OVERLOADED = ("node_overloaded", "The server has no room for more streams now.", True)
    SERVER_SHUTTING_DOWN = ("server_shutting_down", "The server is shutting down.", True)

    def __init__(self, text: str, sentence: str, retryable: bool) -> None:
        self.text = text
        self.sentence = sentence
        self.retryable = retryable


class Refusal(Exception):
    """A request that is answered with an `ai:error`. Never leaves the AI layer."""

    def __init__(
        self,
        code: Code,
        error: str | None = None,
        *,
        details: str | None = None,
        field: str | None = None,
        stream_id: str | None = None,
        retry_after_ms: int | None = None,
        quiet: bool = False,
    ) -> None:
        """
        Args:
            code: what is wrong.
            error: a sentence for people; None: the code's.
            details: a short string; None: the code.
            field: the one that is wrong.
            stream_id: the client's streamId, if it is about a stream.
            retry_after_ms: when a retry can help.
            quiet: only the acknowledgement says it, no event.
        """
        super().__init__(code.text)
        self.code = code
        self.error = error or code.sentence
        self.details = details
        self.field = field
        self.stream_id = stream_id
        self.retry_after_ms = retry_after_ms
        self.quiet = quiet
