"""Many seeds, with progress; or one again, with its trace.

Rules of this file: the first seed that fails ends the run, and is printed with the command that
plays it again. A run can be interrupted at any time.

    cd tests && ../.venv/bin/python -m simulation.run --seeds 2000 --first 1
    cd tests && ../.venv/bin/python -m simulation.run --seeds 1 --first 17
"""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence

from simulation.simulation import Simulation

_PROGRESS = 10  # seconds
_SHOWN = 300  # characters of a line of a trace


def failure_of(seed: int) -> str | None:
    """Play a seed. Return what is wrong, or None."""
    try:
        Simulation(seed).play()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def replay(seed: int) -> int:
    """Play a seed, and print its trace."""
    simulation = Simulation(seed)
    status = 0
    try:
        simulation.play()
    except Exception:
        status = 1
        failure = traceback.format_exc()
    for at, who, what in simulation.loop.trace:
        print(f"{at:>7} {who}: {what[:_SHOWN]}")
    print(failure if status else f"seed {seed}: nothing wrong, trace {simulation.loop.digest()}")
    return status


def many(first: int, count: int) -> int:
    """Play `count` seeds."""
    begun = told = time.monotonic()
    for seed in range(first, first + count):
        failure = failure_of(seed)
        if failure is not None:
            print(
                f"seed {seed}: {failure}\nagain, with its trace: make simulate SEEDS=1 SEED={seed}"
            )
            return 1
        now = time.monotonic()
        if now - told >= _PROGRESS:
            told = now
            done = seed - first + 1
            left = (now - begun) / done * (count - done)
            print(f"{done} of {count} seeds, about {left:.0f} s left", flush=True)
    print(f"{count} seeds from {first} on, nothing wrong, {time.monotonic() - begun:.0f} s")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many; 1: with its trace")
    parser.add_argument("--first", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        if options.seeds == 1:
            return replay(options.first)
        return many(options.first, options.seeds)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
