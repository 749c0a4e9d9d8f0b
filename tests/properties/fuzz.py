"""The long run of mutated messages, and one case of it again.

Rules of this file: the seed and the number of a case decide all of it, in any number of processes.
A case that fails is printed with as few steps and bytes as still fail in the same way.

    cd tests && ../.venv/bin/python -m properties.fuzz --inputs 5000000 --seed 1 --jobs 2
    cd tests && ../.venv/bin/python -m properties.fuzz --seed 1 --case 1234
"""

import argparse
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from properties.attack import Attack, Script, Step

CASE = 1_000
"""Mutated messages in a case."""
_PROGRESS = 30  # seconds
_TRIES = 3_000  # of making a case smaller

T = TypeVar("T")

Failure = tuple[str, ...]
"""What went wrong, and where: two cases that agree in it fail in the same way."""


def script(seed: int, case: int) -> Script:
    return Script(f"{seed}/{case}")


def failure_of(play: Callable[[], None]) -> tuple[Failure, str] | None:
    """Return how a case fails, and its traceback, or None."""
    try:
        play()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (type(error).__name__, last.filename, last.name), traceback.format_exc()
    return None


def again(config: int, steps: Sequence[Step]) -> tuple[Failure, str] | None:
    """Play steps in a fresh server, to the end. Return how that fails."""

    def play() -> None:
        attack = Attack(config)
        for step in steps:
            attack.play(step)
        attack.finish()

    return failure_of(play)


def smaller(config: int, steps: list[Step], failure: Failure) -> list[Step]:
    """Return fewer and shorter steps that fail in the same way."""
    tries = _TRIES

    def fails(candidate: list[Step]) -> bool:
        nonlocal tries
        tries -= 1
        found = again(config, candidate) if tries > 0 else None
        return found is not None and found[0] == failure

    steps = _without(steps, fails)
    for index in range(len(steps)):
        steps = _with_less_data(steps, index, fails)
    return steps


def _with_less_data(
    steps: list[Step], index: int, fails: Callable[[list[Step]], bool]
) -> list[Step]:
    def shortened(data: list[int]) -> list[Step]:
        return [*steps[:index], steps[index]._replace(data=bytes(data)), *steps[index + 1 :]]

    return shortened(_without(list(steps[index].data), lambda data: fails(shortened(data))))


def _without(items: list[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Leave out all that can be left out, in halves, then in ever smaller pieces."""
    size = max(1, len(items) // 2)
    while items:
        at = 0
        while at < len(items):
            candidate = items[:at] + items[at + size :]
            if fails(candidate):
                items = candidate
            else:
                at += size
        if size == 1:
            break
        size //= 2
    return items


def report(seed: int, case: int, inputs: int) -> str | None:
    """Play a case. Return what there is to say if it fails."""
    played = script(seed, case)
    found = failure_of(lambda: played.play(inputs))
    if found is None:
        return None
    failure, trace = found
    lines = [f"seed {seed}, case {case} failed:", trace]
    replayed = again(played.config, played.steps)
    if replayed is None or replayed[0] != failure:
        lines.append(
            f"The steps alone do not fail: play the case with --seed {seed} --case {case}."
        )
    else:
        steps = smaller(played.config, played.steps, failure)
        lines += [f"again({played.config}, ["] + [f"    {step}," for step in steps] + ["])"]
    return "\n".join(lines)


def _play(task: tuple[int, int, int]) -> str | None:
    return report(*task)


def run(seed: int, inputs: int, jobs: int) -> bool:
    """Play so many inputs and say how it goes. Return False at the first failure."""
    started = shown = time.monotonic()
    tasks = [
        (seed, case, min(CASE, inputs - case * CASE)) for case in range((inputs + CASE - 1) // CASE)
    ]
    done = 0
    with multiprocessing.Pool(jobs) as pool:
        for failed in pool.imap(_play, tasks, chunksize=4):
            if failed is not None:
                print(failed)
                return False
            done += tasks[done // CASE][2]
            now = time.monotonic()
            if now - shown > _PROGRESS or done == inputs:
                shown = now
                span = now - started
                print(f"seed {seed}: {done} of {inputs} inputs, {span:.0f} s, {done / span:.0f}/s")
                sys.stdout.flush()
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Attack a server with mutated messages.")
    parser.add_argument("--inputs", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--case", type=int, help="play this case alone")
    options = parser.parse_args()
    if options.case is None:
        return 0 if run(options.seed, options.inputs, options.jobs) else 1
    found = report(options.seed, options.case, CASE)
    print(found or f"seed {options.seed}, case {options.case}: nothing is wrong")
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main())
