"""The benchmarks count no stream that is not whole, and see what there is.

Rules of this file: the native programs are built here, by the benchmarks' own Makefile; nothing is
pinned to a core, and no figure is judged.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.children import HERE, ChildError, child
from benchmarks.machine import this_machine
from benchmarks.plots import write_plots
from benchmarks.results import Results, Run, goals, table
from benchmarks.servers import OURS, SERVERS
from benchmarks.stage import RefusedError, Stage, stage
from benchmarks.workloads import CPU, MERGED, WORKLOADS, Figures

ANYWHERE = (-1, -1)


@pytest.fixture(scope="module")
def programs() -> None:
    subprocess.run(["make", "--silent", "-C", str(HERE), "native"], check=True)


@pytest.fixture(scope="module")
def ours(programs: None) -> Iterator[Stage]:
    with stage(SERVERS[OURS[0]], ANYWHERE) as running:
        yield running


@pytest.fixture(scope="module", params=["tokenwire", "forward"])
def faulty(programs: None, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A server that forwards what a model with a fault says."""
    with stage(SERVERS[request.param], ANYWHERE) as running:
        yield running


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (1, "token 6 came where 5 was due"),  # lost
        (2, "token 5 came where 6 was due"),  # doubled
        (3, "token 6 came where 5 was due"),  # swapped
        (4, "done after 9 of 10 tokens"),  # the last one lost
    ],
)
@pytest.mark.parametrize("batch", [1, 10])
def test_a_stream_that_is_not_whole_is_refused(
    faulty: Stage, fault: int, sentence: str, batch: int
) -> None:
    with pytest.raises(RefusedError, match=sentence):
        faulty.load("--clients", "3", "--prompt", f"tokens=10 batch={batch} fault={fault}")


def test_so_it_is_over_polling(ours: Stage) -> None:
    with pytest.raises(RefusedError, match="token 6 came where 5 was due"):
        ours.load("--clients", "3", "--polling", "--prompt", "tokens=10 fault=1")


def test_what_the_server_refuses_is_no_result(ours: Stage) -> None:
    with pytest.raises(RefusedError, match="client 0: the server close"):
        ours.load("--clients", "1", "--prompt", 'no "JSON')


def test_a_small_w2_over_our_server(ours: Stage) -> None:
    figures, seen = WORKLOADS["W2"].play(ours, 0.005)
    assert seen is not None
    assert (seen.clients, seen.tokens) == (100, 1000)
    assert seen.latency.count == 1000
    assert seen.first.count == 100
    assert sum(count for _, count in seen.latency.cells) == 1000
    assert 0 < seen.latency.p50 <= seen.latency.p99 <= seen.latency.max < 60e9
    assert seen.events <= 1000
    assert seen.server_cpu_ns > 0
    assert seen.marks[-1][0] == 1000
    assert figures[CPU] == seen.server_cpu_ns / 1000 / 1e3


@pytest.mark.parametrize("workload", ["W3a", "W4", "W6a", "W6b", "W7", "W8", "first", "start"])
def test_each_short_workload_has_figures(ours: Stage, workload: str) -> None:
    figures, _ = WORKLOADS[workload].play(ours, 0.01)
    assert all(value >= 0 for value in figures.values())


def test_what_does_not_start_shows_its_log(programs: None, tmp_path: Path) -> None:
    command = ("sh", "-c", "echo no such model; exit 7")
    with (
        child("peer", command, -1, tmp_path) as started,
        pytest.raises(ChildError, match=r"peer ended with status 7.*\n    no such model"),
    ):
        started.wait_for("(ready)")


def test_no_child_is_left(programs: None, tmp_path: Path) -> None:
    command = ("sh", "-c", "trap '' TERM; sleep 1000 & echo pid $!; wait; wait")
    with child("stubborn", command, -1, tmp_path, stop_limit=0.1) as started:
        grandchild, _ = started.wait_for(r"pid (\d+)\n")
    limit = time.monotonic() + 10  # who is killed may take a moment to be gone
    while any(map(_lives, (started.pid, int(grandchild)))):
        assert time.monotonic() < limit
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _run(server: str, repeat: int, cpu: float, fault: str | None = None) -> Run:
    figures: Figures = {} if fault else {CPU: cpu, MERGED: 0.0}
    return Run("W1", server, repeat, figures, fault, None)


def test_results_are_medians_and_ratios_of_the_same_repeat(tmp_path: Path) -> None:
    runs = [
        _run(OURS[0], 0, 5.0),
        _run("node", 0, 10.0),
        _run("node", 1, 16.0),
        _run(OURS[0], 1, 4.0),
        _run(OURS[0], 2, 6.0),
        _run(OURS[1], 0, 2.5),
        _run("node", 2, 0.0, "token 6 came where 5 was due"),
    ]
    results = Results(this_machine(), {}, 1.0, ANYWHERE, "2026-01-01T00:00:00+00:00", runs)
    text = "\n".join(table(results, "W1"))
    assert "tokenwire      5.00 (4.00 .. 6.00)" in text
    assert "node           13.0 (10.0 .. 16.0)" in text
    assert "tokenwire / node 0.375 (0.250 .. 0.500)" in text
    assert "tokenwire-fast / node 0.250" in text
    assert "NOT COUNTED: node, repeat 3: token 6 came where 5 was due" in text
    assert [line.split()[0] for line in goals(results)] == ["met"] * 4
    assert [path.name for path in write_plots(results, tmp_path)] == ["cpu.svg"]
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results
