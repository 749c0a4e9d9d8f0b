"""The workloads: what is played, and the figures that are told of it.

Rules of this file: a workload is a row of the table at its end. It plays on a stage and returns its
figures by name; less is better unless `MORE_IS_BETTER` has the name. `scale` shortens the long ones.
"""

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
CONNECTIONS = "connections/s"
PER_GET = "tokens per GET"
CANCEL_P50 = "cancel to close p50, ms"
CANCEL_P99 = "cancel to close p99, ms"
GROWTH = "growth of memory, MB"
IDLE = "memory per connection, KB"
FIRST_P50 = "to the first token p50, ms"
FIRST_P99 = "to the first token p99, ms"
START = "start, ms"
MORE_IS_BETTER = frozenset({RATE, CONNECTIONS, PER_GET, CEILING})

Figures = dict[str, float]


class Workload(Struct, frozen=True):
    """One row of the table."""

    name: str
    title: str
    play: Callable[[Stage, float], tuple[Figures, Seen | None]]
    """From a stage and a scale to its figures, and all that was seen."""
    warm: bool = True
    """Whether the server is warmed up before."""
    ours_alone: bool = False


def _tokens(seen: Seen) -> Figures:
    return {
        CPU: seen.server_cpu_ns / seen.tokens / 1e3,
        RATE: seen.tokens / seen.ns * 1e9,
        P50: seen.latency.p50 / 1e6,
        P99: seen.latency.p99 / 1e6,
        MERGED: 100 * seen.merged / seen.tokens,
        CEILING: seen.tokens / (seen.load_cpu_ns + seen.model_cpu_ns) * 1e9,
    }


def _streams(
    clients: int, tokens: int, batch: int = 1, rate: int = 0, *options: str
) -> Callable[[Stage, float], tuple[Figures, Seen]]:
    def play(stage: Stage, scale: float) -> tuple[Figures, Seen]:
        prompt = f"tokens={max(1, round(tokens * scale))} batch={batch} rate={rate}"
        seen = stage.load("--clients", str(clients), "--prompt", prompt, *options)
        return _tokens(seen), seen

    return play


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "1 stream, 200,000 tokens, 100 in a write", _streams(1, 200_000, 100)),
        Workload("W2", "100 clients, 2,000 tokens each, 1 in a write", _streams(100, 2_000)),
        Workload("W3a", "100 clients, 20 tokens/s each", _streams(100, 200, 1, 20)),
        Workload("W3b", "1,000 clients, 20 tokens/s each", _streams(1_000, 200, 1, 20)),
    )
}
