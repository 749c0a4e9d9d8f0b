"""Runs the benchmarks: `python -m benchmarks --help`, or `make bench`.

Rules of this file: the order of the servers turns round from one repeat to the next. A server that
fails a run is told of, and the others go on. Ctrl-C ends all children, and tells what there is.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from benchmarks.children import HERE, ChildError
from benchmarks.machine import this_machine
from benchmarks.plots import write_plots
from benchmarks.results import Results, Run, goals, number, table
from benchmarks.servers import OURS, SERVERS, Server
from benchmarks.stage import RefusedError, stage
from benchmarks.workloads import WORKLOADS, Workload

QUICK = ("W1", "W2", "W3a", "W3b", "W6a", "W6b", "W7", "W8")
_BUSY = 0.1  # of the machine, by other processes: then a figure is doubtful


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def _cores(text: str) -> tuple[int, int]:
    server, load = map(int, text.split(","))
    return server, load


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures tokenwire and other Socket.IO servers at the same work.",
        epilog="Workloads: "
        + "; ".join(f"{one.name}: {one.title}" for one in WORKLOADS.values())
        + ". Servers: "
        + "; ".join(f"{one.name}: {one.title}" for one in SERVERS.values())
        + ".",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a short comparison: {','.join(QUICK)} of {OURS[0]} and node, twice, a fifth as long",
    )
    parser.add_argument(
        "--workloads",
        type=_names(WORKLOADS),
        metavar="W1,W2",
        help="which [all]",
    )
    parser.add_argument(
        "--servers",
        type=_names(SERVERS),
        metavar="A,B",
        help="which [all that are installed]",
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="how often [3]")
    parser.add_argument("--scale", type=float, metavar="X", help="how long, to the full length [1]")
    parser.add_argument(
        "--cores",
        type=_cores,
        default=(0, 1),
        metavar="S,L",
        help="the core of the server, that of load and model; -1: any [0,1]",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="where results.json and the plots go [benchmarks/results/<time>]",
    )
    return parser


def _play(workload: Workload, server: Server, repeat: int, options: argparse.Namespace) -> Run:
    run = Run(workload.name, server.name, repeat, {}, None, None)
    try:
        with stage(server, options.cores) as where:
            if workload.warm:
                where.warm_up()
            run.figures, run.seen = workload.play(where, options.scale)
    except (ChildError, RefusedError) as error:
        run.fault = str(error)
    return run


def _told(run: Run) -> str:
    if run.fault is not None:
        return f"NOT COUNTED: {run.fault}"
    first = list(run.figures.items())[:4]
    text = "; ".join(f"{name.rpartition(', ')[0] or name} {number(value)}" for name, value in first)
    if run.seen is not None and run.seen.foreign_cpu > _BUSY:
        text += f"; other processes took {run.seen.foreign_cpu:.0%} of the machine"
    return text


def _plan(options: argparse.Namespace) -> Iterator[tuple[Workload, Server, int]]:
    for name in options.workloads:
        workload = WORKLOADS[name]
        servers = [SERVERS[one] for one in options.servers]
        servers = [one for one in servers if one.polling or not workload.polling]
        for repeat in range(options.repeats):
            for server in servers if repeat % 2 == 0 else servers[::-1]:
                yield workload, server, repeat


def _complete(options: argparse.Namespace) -> None:
    """Fill in what was not said."""
    installed = [name for name, server in SERVERS.items() if server.is_installed()]
    if options.quick:
        options.workloads = options.workloads or list(QUICK)
        options.servers = options.servers or [OURS[0], "node"]
    options.workloads = options.workloads or list(WORKLOADS)
    options.servers = options.servers or installed
    options.repeats = options.repeats or (2 if options.quick else 3)
    options.scale = options.scale or (0.2 if options.quick else 1.0)
    missing = [name for name in options.servers if name not in installed]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; `make bench-install` does it")
    if left_out := [name for name in SERVERS if name not in installed]:
        print(f"Not installed, and left out: {', '.join(left_out)}")


def _end(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Measure, tell, and return the exit status: 1 if a run of ours did not count."""
    options = _parser().parse_args()
    _complete(options)
    signal.signal(signal.SIGTERM, _end)
    if options.cores[1] >= 0:
        os.sched_setaffinity(0, {options.cores[1]})  # the server's core is the server's
    results = Results(
        machine=this_machine(),
        versions={name: SERVERS[name].versions() for name in options.servers},
        scale=options.scale,
        cores=options.cores,
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=[],
    )
    machine = results.machine
    print(f"{machine.processor}, {machine.cores} cores, {machine.system}, Linux {machine.kernel}")
    for name, parts in results.versions.items():
        print(f"{SERVERS[name].title}: " + ", ".join(f"{k} {v}" for k, v in parts.items()))
    plan = list(_plan(options))
    status = 0
    began = time.monotonic()
    try:
        for at, (workload, server, repeat) in enumerate(plan):
            place = f"[{at + 1}/{len(plan)}] {workload.name} {server.name} {repeat + 1}"
            print(f"{place}: ", end="", flush=True)
            run = _play(workload, server, repeat, options)
            results.runs.append(run)
            print(_told(run), flush=True)
    except KeyboardInterrupt:
        print("stopped")
        status = 130
    print(f"\n{time.monotonic() - began:.0f} s; median (least .. most)\n")
    for name in dict.fromkeys(run.workload for run in results.runs):
        print("\n".join(table(results, name)), "\n")
    if lines := list(goals(results)):
        print("Goals:", *lines, sep="\n")
    _write(results, options.results)
    return status or int(any(run.server in OURS for run in results.faults()))


def _write(results: Results, folder: Path | None) -> None:
    if not results.runs:
        return
    latest = HERE / "results"
    folder = folder or latest / results.began.replace(":", "").replace("+0000", "Z")
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "results.json"
    kept.write_bytes(msgspec.json.encode(results))
    plots = write_plots(results, folder)
    print(f"\nWritten: {kept}" + "".join(f", {path.name}" for path in plots))


if __name__ == "__main__":
    sys.exit(main())
