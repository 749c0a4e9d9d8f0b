"""What a call costs.

Rules of this file: the best of a few runs counts, because other work on the machine must not fail
a test; a tracer (coverage) is switched off meanwhile.
"""

import contextlib
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Switch the tracer off for what is measured, or is long."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def cpu_time(call: Callable[[], object], runs: int = 10) -> float:
    """Return how many seconds of CPU time a call takes."""
    with untraced():
        spans = []
        for _ in range(runs):
            started = time.process_time()
            call()
            spans.append(time.process_time() - started)
        return min(spans)


def peak_memory(call: Callable[[], object]) -> int:
    """Return how many bytes a call has at its worst, on top of what there was."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
