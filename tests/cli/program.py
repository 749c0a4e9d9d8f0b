"""Runs the program as an operator does: a process, its output, signals.

Rules of this file: no wait without a limit; the process and its pipes are closed in the end,
whatever the test found.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenwire_cli.settings import CONFIG_VARIABLE, SETTINGS

LIMIT = 20.0
"""Seconds after which a process that a test waits for is killed."""

Process = subprocess.Popen[str]


def environment(first_on_path: Path | None = None, **variables: str) -> dict[str, str]:
    """Return this process's environment without the program's settings, and with `variables`.

    Args:
        first_on_path: a folder whose modules win over the installed ones.
        variables: added.
    """
    ours = {setting.variable for setting in SETTINGS} | {CONFIG_VARIABLE}
    environ = {key: value for key, value in os.environ.items() if key not in ours}
    if first_on_path is not None:
        paths = (str(first_on_path), environ.get("PYTHONPATH", ""))
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environ | variables


@contextmanager
def taken_port(*, listening: bool) -> Iterator[int]:
    """A port of 127.0.0.1 that nobody else gets. Without `listening`, it refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen()
        yield held.getsockname()[1]


@contextmanager
def running(
    arguments: Sequence[str],
    environ: dict[str, str] | None = None,
    *,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Process]:
    """Run Python with these arguments, warnings as errors, its output in pipes."""
    with subprocess.Popen(
        (sys.executable, "-W", "error", *arguments),
        env=environment() if environ is None else environ,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        limit = threading.Timer(LIMIT, process.kill)
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            limit.join()
            process.kill()


def line(process: Process) -> str:
    """Return the next line on standard output; "" when the process has ended."""
    assert process.stdout is not None
    return process.stdout.readline().removesuffix("\n")


def rest(process: Process) -> tuple[int, str, str]:
    """Wait for the end; return the exit code and what is left on both outputs."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err
