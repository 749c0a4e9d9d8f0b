"""Plots as SVG: bars of medians with the least and the most, and lines of latency.

Rules of this file: a server has one colour everywhere. A plot is drawn only of what was measured.
Latency is drawn over the share of tokens that waited longer, both on logarithmic scales: how bad
the worst are is the question, and a mean hides it.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import median

from msgspec import Struct

from benchmarks.results import Results, number
from benchmarks.stage import Histogram
from benchmarks.workloads import CONNECTIONS, CPU, GROWTH, IDLE, RATE, WORKLOADS

COLOURS = {
    "tokenwire": "#c2410c",
    "tokenwire-fast": "#f97316",
    "node": "#2f855a",
    "bun": "#b7791f",
    "bun-stock": "#d69e2e",
    "uvicorn": "#2b6cb0",
    "aiohttp": "#63b3ed",
    "forward": "#a0aec0",
}
_WIDTH = 760
_LEFT, _RIGHT, _TOP = 110, 150, 44
_BAR, _GAP = 18, 8
_PANEL = 46  # height of a panel's title and the space behind it
_LINES = 380  # height of a plot of lines


class Panel(Struct, frozen=True):
    """Bars of one figure of one workload."""

    workload: str
    figure: str


BARS = {
    "cpu": ("CPU time per token", [Panel(name, CPU) for name in ("W1", "W2", "W3a", "W3b")]),
    "throughput": (
        "Throughput",
        [*(Panel(name, RATE) for name in ("W1", "W2", "W8")), Panel("W7", CONNECTIONS)],
    ),
    "memory": ("Memory", [Panel("W4", IDLE), Panel("W5", GROWTH)]),
}
LINES = ("W1", "W2", "W3a", "W3b")


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Write the plots of all that was measured, and return their files."""
    plots = {f"{name}.svg": _bars(results, *what) for name, what in BARS.items()}
    plots |= {f"latency-{name}.svg": _latency(results, name) for name in LINES}
    written = []
    for name, plot in plots.items():
        if plot is not None:
            (folder / name).write_text(plot)
            written.append(folder / name)
    return written


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _svg(height: float, title: str, body: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="sans-serif" fill="#1a202c">'
        '<rect width="100%" height="100%" fill="#ffffff"/>'
    )
    return "\n".join([head, _text(16, 26, title, size=17), *body, "</svg>"]) + "\n"


def _servers(results: Results, workload: str) -> list[str]:
    return list(dict.fromkeys(run.server for run in results.runs if run.workload == workload))


def _bars(results: Results, title: str, panels: list[Panel]) -> str | None:
    body: list[str] = []
    y = float(_TOP)
    for panel in panels:
        found = {
            server: list(results.values(panel.workload, server, panel.figure).values())
            for server in COLOURS
            if server in _servers(results, panel.workload)
        }
        rows = {server: values for server, values in found.items() if values}
        if rows:
            body.append(
                _text(16, y + 14, f"{panel.workload}: {WORKLOADS[panel.workload].title}", size=13)
            )
            body.append(_text(_WIDTH - 16, y + 14, panel.figure, anchor="end"))
            body += _panel(rows, y + 24)
            y += _PANEL + len(rows) * (_BAR + _GAP)
    return _svg(y, title, body) if body else None


def _panel(rows: dict[str, list[float]], y: float) -> Iterator[str]:
    width = _WIDTH - _LEFT - _RIGHT
    most = max(max(values) for values in rows.values()) or 1
    for server, values in rows.items():
        middle = y + _BAR / 2
        length = width * median(values) / most
        least, largest = (_LEFT + width * one / most for one in (min(values), max(values)))
        yield _text(_LEFT - 8, middle + 4, server, anchor="end")
        yield (
            f'<rect x="{_LEFT}" y="{y}" width="{max(length, 1):.1f}" height="{_BAR}" '
            f'fill="{COLOURS[server]}"/>'
        )
        yield (
            f'<path d="M{least:.1f} {middle}H{largest:.1f}M{least:.1f} {middle - 4}v8'
            f'M{largest:.1f} {middle - 4}v8" stroke="#1a202c" fill="none"/>'
        )
        yield _text(largest + 8, middle + 4, number(median(values)))
        y += _BAR + _GAP


def _latency(results: Results, workload: str) -> str | None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for server in COLOURS:
        seen = [
            run.seen.latency
            for run in results.runs
            if (run.workload, run.server) == (workload, server) and run.seen is not None
        ]
        if seen:
            lines[server] = _tail(seen)
    if not lines:
        return None
    values = [value for line in lines.values() for _, value in line]
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    rarest = math.ceil(max(-math.log10(share) for line in lines.values() for share, _ in line))
    body = [*_grid(low, high, rarest)]
    for server, line in lines.items():
        points = " ".join(
            f"{_x(share, rarest):.1f},{_y(value, low, high):.1f}" for share, value in line
        )
        body.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[server]}" '
            f'stroke-width="{3 if server == "tokenwire" else 2}"/>'
        )
    for row, server in enumerate(lines):
        y = _TOP + 20 + 20 * row
        body.append(
            f'<rect x="{_WIDTH - _RIGHT + 24}" y="{y - 10}" width="14" height="10" '
            f'fill="{COLOURS[server]}"/>'
        )
        body.append(_text(_WIDTH - _RIGHT + 44, y, server))
    title = f"Latency of a token, {workload}: {WORKLOADS[workload].title}"
    return _svg(_TOP + _LINES + 60, title, body)


def _tail(histograms: list[Histogram]) -> list[tuple[float, float]]:
    """Return the share of tokens that waited longer than each value, in milliseconds."""
    cells: dict[int, int] = {}
    for histogram in histograms:
        for value, count in histogram.cells:
            cells[value] = cells.get(value, 0) + count
    total = left = sum(cells.values())
    points = []
    for value in sorted(cells):
        points.append((left / total, max(value, 1) / 1e6))
        left -= cells[value]
    return points


def _x(share: float, rarest: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * -math.log10(share) / rarest


def _y(value: float, low: int, high: int) -> float:
    return _TOP + _LINES * (high - math.log10(value)) / (high - low)


def _grid(low: int, high: int, rarest: int) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _TOP + _LINES
    for power in range(low, high + 1):
        y = _y(10.0**power, low, high)
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e2e8f0"/>'
        yield _text(_LEFT - 8, y + 4, f"{10.0**power:g} ms", anchor="end")
    for power in range(rarest + 1):
        x = _x(10.0**-power, rarest)
        label = "all" if power == 0 else f"{100 - 100 / 10**power:.{max(0, power - 2)}f} %"
        yield f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e2e8f0"/>'
        yield _text(x, bottom + 18, label, anchor="middle")
    yield _text(_LEFT, bottom + 40, "so many of the tokens took less; all: the quickest of them")
