"""What was measured: medians, ratios, goals, and the table that tells of them.

Rules of this file: a ratio is one of ours to a peer's in the same repeat, the median of these with
the least and the most. A run that was refused or failed has no figures; it is told, never counted.
"""

from collections.abc import Iterator
from itertools import product
from statistics import median

from msgspec import Struct

from benchmarks.machine import Machine
from benchmarks.servers import OURS
from benchmarks.stage import Seen
from benchmarks.workloads import (
    CANCEL_P50,
    CONNECTIONS,
    CPU,
    DRAINING_P99,
    FIRST_P50,
    GROWTH,
    IDLE,
    MERGED,
    RATE,
    SPREAD,
    START,
    WORKLOADS,
    Figures,
)


class Run(Struct):
    """One workload on one server, once."""

    workload: str
    server: str
    repeat: int
    figures: Figures
    fault: str | None
    seen: Seen | None


class Results(Struct):
    """All that is kept of a measurement."""

    machine: Machine
    versions: dict[str, dict[str, str]]
    """Of each server, by the names of its parts."""
    scale: float
    cores: tuple[int, int]
    began: str
    runs: list[Run]

    def values(self, workload: str, server: str, figure: str) -> dict[int, float]:
        """Return a figure in each repeat that has it."""
        return {
            run.repeat: run.figures[figure]
            for run in self.runs
            if (run.workload, run.server) == (workload, server) and figure in run.figures
        }

    def ratios(self, workload: str, own: str, peer: str, figure: str) -> list[float]:
        """Return a server's of ours to the peer's, in each repeat that has both."""
        ours = self.values(workload, own, figure)
        theirs = self.values(workload, peer, figure)
        return [ours[at] / theirs[at] for at in ours if theirs.get(at)]

    def faults(self) -> list[Run]:
        return [run for run in self.runs if run.fault is not None]


class Goal(Struct, frozen=True):
    """A bound on a figure of ours, or on its ratio to a peer's."""

    workload: str
    figure: str
    bound: float
    peer: str | None = None
    at_least: bool = False


GOALS = (
    *(Goal(name, CPU, 0.5, "node") for name in ("W1", "W2")),
    *(Goal(name, CPU, 1, peer) for name in ("W1", "W2") for peer in ("bun", "bun-stock")),
    Goal("W3a", CPU, 1, "node"),
    *(Goal("W3b", CPU, 1, peer) for peer in ("bun", "bun-stock")),
    *(Goal(name, MERGED, 1) for name in ("W1", "W2", "W3a", "W3b")),
    Goal("W4", IDLE, 8),
    Goal("W5", GROWTH, 2),
    Goal("W5", DRAINING_P99, 20),
    Goal("W6a", CANCEL_P50, 1),
    Goal("W6b", CANCEL_P50, 10),
    Goal("W7", CONNECTIONS, 3_000, at_least=True),
    Goal("W8", RATE, 1, "node", at_least=True),
    Goal("first", FIRST_P50, 1),
    Goal("start", START, 300),
    *(Goal(name, SPREAD, 1.2) for name in ("clients", "million")),
)


def number(value: float) -> str:
    """Return a number with three digits that count, or whole."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def spread(values: list[float]) -> str:
    """Return the median, with the least and the most where they are several."""
    text = number(median(values))
    if len(values) > 1:
        text += f" ({number(min(values))} .. {number(max(values))})"
    return text


def table(results: Results, workload: str) -> Iterator[str]:
    """Return the lines that tell of a workload: for each figure each server."""
    yield f"{workload}: {WORKLOADS[workload].title}"
    runs = [run for run in results.runs if run.workload == workload]
    servers = list(dict.fromkeys(run.server for run in runs))
    for figure in dict.fromkeys(name for run in runs for name in run.figures):
        title = figure
        for server in sorted(servers, key=lambda name: name not in OURS):
            values = list(results.values(workload, server, figure).values())
            if not values:
                continue
            yield f"  {title:38} {server:14} {spread(values):28} ".rstrip()
            title = ""
            for own in OURS:
                ratios = results.ratios(workload, own, server, figure)
                if server not in OURS and ratios:
                    yield f"  {'':38} {'':14} {own} / {server} {spread(ratios)}"
    for run in runs:
        if run.fault is not None:
            yield f"  NOT COUNTED: {run.server}, repeat {run.repeat + 1}: {run.fault}"


def goals(results: Results) -> Iterator[str]:
    """Return a line for each goal and server of ours of which there is a figure."""
    for own, goal in product(OURS, GOALS):
        if goal.peer is None:
            values = list(results.values(goal.workload, own, goal.figure).values())
        else:
            values = results.ratios(goal.workload, own, goal.peer, goal.figure)
        if not values:
            continue
        value = median(values)
        met = value >= goal.bound if goal.at_least else value <= goal.bound
        what = f"{goal.workload}, {goal.figure}" + (f", to {goal.peer}" if goal.peer else "")
        bound = f"at {'least' if goal.at_least else 'most'} {number(goal.bound)}"
        yield f"  {'met    ' if met else 'NOT MET'} {own:14} {what:50} {spread(values):28} {bound}"
