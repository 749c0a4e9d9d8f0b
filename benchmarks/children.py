"""The processes of a measurement: each on one core, with a log, and gone when it is over.

Rules of this file: a child has a session of its own, so that a Ctrl-C reaches the harness alone;
`native/pin.c` lets the kernel end it if the harness is killed. One that does not start is an error
that shows the last lines of its log.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = HERE / ".build"
"""Where the native programs are, when `make` has built them."""

_START_LIMIT = 60.0  # seconds
_STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL
_LOOK = 0.0005  # seconds between two looks at a log: how soon a server starts is measured
_LOG_LINES = 15


class ChildError(Exception):
    """A child has not done what it is for. The text says what, with the end of its log."""


class Child:
    """A process that runs."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self._process = process
        self._started = time.perf_counter()

    def wait_for(self, pattern: str) -> tuple[str, float]:
        """Wait until its log has a line with the pattern.

        Returns:
            The pattern's first group, and the seconds from the start of the process.

        Raises:
            ChildError: it has ended, or it takes too long.
        """
        while True:
            ended = self._process.poll()
            found = re.search(pattern, self.log.read_text(errors="replace"))
            seconds = time.perf_counter() - self._started
            if found:
                return found[1], seconds
            if ended is not None:
                raise self.error(f"ended with status {ended} instead of starting")
            if seconds > _START_LIMIT:
                raise self.error(f"has not started within {_START_LIMIT:.0f} s")
            time.sleep(_LOOK)

    def error(self, what: str) -> ChildError:
        """Return an error that says so, with the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return ChildError("\n".join([f"{self.name} {what}", *(f"    {line}" for line in lines)]))

    def cpu(self) -> float:
        """Return the time that its threads have been on a core, in seconds."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def stop(self, limit: float) -> None:
        """End it and what it has started; after so many seconds by force."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(limit)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def child(
    name: str,
    command: Sequence[str],
    core: int,
    folder: Path,
    *,
    stop_limit: float = _STOP_LIMIT,
) -> Iterator[Child]:
    """Run a command on a core; its output goes to a file in the folder.

    Raises:
        ChildError: there is no such program.
    """
    log = folder / f"{name.replace('/', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PROGRAMS / "pin"), str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    running = Child(name, process, log)
    try:
        yield running
    finally:
        running.stop(stop_limit)
