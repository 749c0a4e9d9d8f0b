"""Runs the benchmarks: `python -m benchmarks --help`."""

import argparse
import sys
import time
from statistics import median

from benchmarks.children import ChildError
from benchmarks.servers import SERVERS
from benchmarks.stage import RefusedError, stage
from benchmarks.workloads import WORKLOADS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--servers", default="tokenwire,node")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--cores", default="0,1")
    options = parser.parse_args()
    names = options.servers.split(",")
    for key in options.workloads.split(","):
        workload = WORKLOADS[key]
        print(workload.name, workload.title, flush=True)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for repeat in range(options.repeats):
            for name in names if repeat % 2 == 0 else reversed(names):
                began = time.perf_counter()
                try:
                    with stage(SERVERS[name], tuple(map(int, options.cores.split(",")))) as one:
                        if workload.warm:
                            one.warm_up()
                        figures, seen = workload.play(one, options.scale)
                except (ChildError, RefusedError) as error:
                    print(name, error)
                    continue
                runs[name].append(figures)
                print("  ", name, f"{time.perf_counter() - began:.1f} s",
                      {k: round(v, 3) for k, v in figures.items()},
                      f"foreign {seen.foreign_cpu:.0%}" if seen else "", flush=True)
        for name in names:
            print("  median", name, {k: round(median(r[k] for r in runs[name]), 3) for k in runs[name][0]} if runs[name] else None)
    return 0


sys.exit(main())
