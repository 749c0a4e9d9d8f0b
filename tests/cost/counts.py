"""What a call costs, in figures that are the same in each run, on any machine, beside any load.

Rules of this file: events are counted, not time. Lines and calls are those of the code that is
called, not of who calls it (`apart`); they hardly depend on the version of Python, as bytecodes do.
What one call into C does is seen only by the memory that it takes. Frames of comprehensions are no
calls: from 3.12 on there are none.
"""

import gc
import statistics
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec

_COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>")


class Cost(msgspec.Struct, frozen=True):
    """What a call costs, on average."""

    lines: float
    """Lines of Python that are executed."""
    functions: float
    """Calls of functions and generators written in Python."""
    builtins: float
    """Calls of functions and methods written in C."""
    memory: float
    """Bytes that are allocated at the worst moment, beyond what there was: the median."""

    def each(self, count: int) -> "Cost":
        """Return the cost of one of so many."""
        return Cost(*(round(getattr(self, name) / count, 2) for name in self.__struct_fields__))


def measure(call: Callable[[], object], times: int, apart: str) -> Cost:
    """Return what a call costs.

    Args:
        call: is called so many times, and again as often.
        times: how often.
        apart: the name of a file whose own lines and calls do not count.
    """
    with _quiet():
        lines, functions, builtins = _count(call, times, (apart, __file__))
        return Cost(lines / times, functions / times, builtins / times, _memory(call, times))


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off what would count, too, or be counted: a tracer (coverage), the collector."""
    tracer, profiler, collects = sys.gettrace(), sys.getprofile(), gc.isenabled()
    sys.settrace(None)
    sys.setprofile(None)
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        sys.setprofile(profiler)
        sys.settrace(tracer)


def _count(call: Callable[[], object], times: int, apart: tuple[str, ...]) -> tuple[int, int, int]:
    lines = functions = builtins = 0

    def in_frame(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return in_frame

    def at_call(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal functions
        if frame.f_code.co_filename in apart:
            return None
        functions += frame.f_code.co_name not in _COMPREHENSIONS
        return in_frame

    def at_builtin(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal builtins
        builtins += event == "c_call" and frame.f_code.co_filename not in apart

    sys.setprofile(at_builtin)
    sys.settrace(at_call)
    try:
        for _ in range(times):
            call()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    return lines, functions, builtins


def _memory(call: Callable[[], object], times: int) -> float:
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(times):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            call()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return statistics.median(peaks)
