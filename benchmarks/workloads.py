"""The workloads: what is played, and the figures that are told of it.

Rules of this file: a workload is a row of the table at its end. It plays on a stage and returns its
figures by name; less is better unless `MORE_IS_BETTER` has the name. `scale` makes the long ones
shorter: fewer tokens, connections, cancels.
"""

import time
from collections.abc import Callable
from statistics import median

from msgspec import Struct

from benchmarks.stage import Seen, Stage

CPU = "CPU per token, us"
RATE = "tokens/s"
P50 = "latency p50, ms"
P99 = "latency p99, ms"
MERGED = "merged tokens, %"
CEILING = "ceiling of load and model, tokens/s"
IDLE = "memory per connection, KB"
GROWTH = "growth of memory, MB"
STALLED_P99 = "the others' p99 meanwhile, ms"
DRAINING_P99 = "the others' p99 while it drains, ms"
CANCEL_P50 = "cancel to close p50, ms"
CANCEL_MOST = "cancel to close most, ms"
CONNECTIONS = "connections/s"
PER_GET = "tokens per GET"
FIRST_P50 = "request to first token p50, ms"
FIRST_P99 = "request to first token p99, ms"
START = "start, ms"
OF_STREAMS = "CPU per token of {} streams, us"
TENTH = "CPU per token of the {} tenth, us"
SPREAD = "dearest to cheapest"
MORE_IS_BETTER = frozenset({RATE, CONNECTIONS, PER_GET, CEILING})

Figures = dict[str, float]
Play = Callable[[Stage, float], tuple[Figures, Seen | None]]
"""From a stage and a scale to its figures, and to all that was seen."""

_CLOSE_LIMIT = 3.0  # seconds that the model's connections have, after the last cancel
_CLOSE_LOOK = 0.01  # seconds between two looks at the model's log: nobody tells of it
_STREAMS = (10, 100, 1_000)


class Workload(Struct, frozen=True):
    """One row of the table."""

    name: str
    title: str
    play: Play
    warm: bool = True
    """Whether the server is warmed up before."""
    polling: bool = False


def _tokens(seen: Seen) -> Figures:
    return {
        CPU: seen.server_cpu_ns / seen.tokens / 1e3,
        RATE: seen.tokens / seen.ns * 1e9,
        P50: seen.latency.p50 / 1e6,
        P99: seen.latency.p99 / 1e6,
        MERGED: 100 * seen.merged / seen.tokens,
        CEILING: seen.tokens / (seen.load_cpu_ns + seen.model_cpu_ns) * 1e9,
    }


def _prompt(tokens: float, batch: int = 1, rate: int = 0) -> tuple[str, str]:
    return "--prompt", f"tokens={max(1, round(tokens))} batch={batch} rate={rate}"


def _streams(clients: int, tokens: int, batch: int = 1, rate: int = 0) -> Play:
    def play(stage: Stage, scale: float) -> tuple[Figures, Seen]:
        seen = stage.load("--clients", str(clients), *_prompt(tokens * scale, batch, rate))
        return _tokens(seen), seen

    return play


def _polling(stage: Stage, scale: float) -> tuple[Figures, Seen]:
    seen = stage.load("--polling", "--clients", "10", *_prompt(20_000 * scale))
    figures = _tokens(seen)
    del figures[MERGED]  # what waits for a GET may be merged
    return {**figures, PER_GET: seen.tokens / seen.gets}, seen


def _idle(stage: Stage, scale: float) -> tuple[Figures, Seen]:
    seen = stage.load("--clients", str(round(2_000 * scale)), "--hold-ms", "2000")
    return {IDLE: (seen.rss_after - seen.rss_before) / seen.clients / 1024}, seen


def _connecting(stage: Stage, scale: float) -> tuple[Figures, Seen]:
    seen = stage.load("--clients", str(round(3_000 * scale)))
    return {CONNECTIONS: seen.clients / seen.connect_ns * 1e9}, seen


def _stalled(stage: Stage, scale: float) -> tuple[Figures, Seen]:
    _, first = _prompt(200_000 * scale, batch=100)
    seen = stage.load(
        *("--clients", "51", *_prompt(1_000_000, rate=20)),
        *("--stall-ms", "6000", "--first-prompt", first),
    )
    figures = {
        GROWTH: (seen.rss_peak - seen.rss_before) / 1e6,
        STALLED_P99: seen.while_stalled.p99 / 1e6,
        DRAINING_P99: seen.while_draining.p99 / 1e6,
    }
    return figures, seen


def _cancels(clients: int, after: int, rate: int, *options: str) -> Play:
    def play(stage: Stage, scale: float) -> tuple[Figures, Seen]:
        prompt = _prompt(1_000_000_000, rate=rate)
        number = ("--clients", str(max(2, round(clients * scale))))
        seen = stage.load(*number, *prompt, "--cancel-after", str(after), *options)
        limit = time.monotonic() + _CLOSE_LIMIT
        while not (closes := stage.closes()).keys() >= dict(seen.cancels).keys():
            if time.monotonic() > limit:
                raise stage.server.error("has not closed the model's connection after a cancel")
            time.sleep(_CLOSE_LOOK)
        waits = sorted((closes[client] - at) / 1e6 for client, at in seen.cancels)
        return {CANCEL_P50: median(waits), CANCEL_MOST: waits[-1]}, seen

    return play


def _first(stage: Stage, scale: float) -> tuple[Figures, Seen]:
    seen = stage.load("--serial", "--clients", str(round(300 * scale)), *_prompt(2))
    return {FIRST_P50: seen.first.p50 / 1e6, FIRST_P99: seen.first.p99 / 1e6}, seen


def _start(stage: Stage, scale: float) -> tuple[Figures, None]:
    return {START: stage.start * 1e3}, None


def _cost(seen: Seen, first: int, last: int) -> float:
    """Return the CPU time per token between two marks, in microseconds."""
    (tokens, _, cpu), (tokens_then, _, cpu_then) = seen.marks[first], seen.marks[last]
    return (cpu_then - cpu) / (tokens_then - tokens) / 1e3


def _spread(figures: Figures) -> Figures:
    return {**figures, SPREAD: max(figures.values()) / min(figures.values())}


def _clients(stage: Stage, scale: float) -> tuple[Figures, Seen | None]:
    figures, seen = {}, None
    for count in _STREAMS:
        # The same rate in all, and without the tenths in which streams begin and end: what differs
        # is their number.
        rate = 5_000 // count
        seen = stage.load("--clients", str(count), *_prompt(rate * 8 * scale, rate=rate))
        figures[OF_STREAMS.format(count)] = _cost(seen, 2, 9)
    return _spread(figures), seen


def _million(stage: Stage, scale: float) -> tuple[Figures, Seen]:
    seen = stage.load("--clients", "1", *_prompt(1_000_000 * scale, batch=100))
    costs = {TENTH.format("first"): _cost(seen, 0, 1), TENTH.format("last"): _cost(seen, 9, 10)}
    return _spread(costs), seen


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "1 stream, 200,000 tokens, 100 in a write", _streams(1, 200_000, 100)),
        Workload("W2", "100 clients, 2,000 tokens each, 1 in a write", _streams(100, 2_000)),
        Workload("W3a", "100 clients, 20 tokens/s each", _streams(100, 200, rate=20)),
        Workload("W3b", "1,000 clients, 20 tokens/s each", _streams(1_000, 200, rate=20)),
        Workload("W4", "2,000 idle connections", _idle),
        Workload("W5", "1 of 51 clients stops reading for 6 s in 200,000 tokens", _stalled),
        Workload("W6a", "cancels at 50 tokens/s", _cancels(50, 10, 50)),
        Workload("W6b", "cancels of unpaced streams", _cancels(20, 2_000, 0, "--serial")),
        Workload("W7", "3,000 connections, 50 at a time", _connecting),
        Workload("W8", "10 clients by long-polling, 20,000 tokens each", _polling, polling=True),
        Workload("first", "300 requests, one after the other", _first),
        Workload("start", "from the command to the line that says that it listens", _start, False),
        Workload("clients", "5,000 tokens/s of 10, 100 and 1,000 streams", _clients),
        Workload("million", "1 stream, 1,000,000 tokens, 100 in a write", _million),
    )
}
