"""What is counted as it happens, since the start. `stats.py` is how it is shown."""


class Counters:
    """The counters of one server."""

    __slots__ = (
        "backpressure_events",
        "cancels",
        "detaches",
        "ended",
        "ended_ms",
        "errors",
        "evictions",
        "merged_events",
        "paused_ms",
        "resumes",
        "skipped_tokens",
        "streams",
        "tokens",
    )

    def __init__(self) -> None:
        self.streams = self.tokens = 0
        self.ended = self.ended_ms = 0
        self.backpressure_events = self.merged_events = self.paused_ms = self.skipped_tokens = 0
        self.detaches = self.resumes = self.cancels = self.evictions = 0
        self.errors: dict[str, int] = {}
        """How often each code was told."""

    def error(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1
