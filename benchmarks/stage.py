"""One measurement: a model, a server before it, and what the load generator saw.

Rules of this file: the server has one core, load and model the other. Each measurement has a new
server, warmed up by the same short load. What the load generator refuses is no result.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.children import PROGRAMS, Child, ChildError, child
from benchmarks.servers import READY, Server

_REFUSED = 3  # the load generator's exit status
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM_UP = ("--clients", "20", "--prompt", "tokens=2000 batch=5")


class RefusedError(Exception):
    """The server has lost, doubled, reordered or damaged a token, or broken the protocol."""


class Histogram(Struct):
    """Values in nanoseconds; a cell is a value and its count."""

    count: int
    mean: float
    p50: int
    p90: int
    p99: int
    p999: int
    max: int
    cells: list[tuple[int, int]]


class Seen(Struct, kw_only=True):
    """What the load generator says of a run; see `native/load.c`. Times are in nanoseconds."""

    clients: int
    tokens: int
    events: int
    merged: int
    """Tokens that shared an event."""
    gets: int
    """GETs that brought tokens."""
    backpressures: int
    ns: int
    connect_ns: int
    server_cpu_ns: int
    load_cpu_ns: int
    rss_before: int
    rss_peak: int
    rss_after: int
    latency: Histogram
    first: Histogram
    """From a request to its first token."""
    while_stalled: Histogram
    while_draining: Histogram
    marks: list[tuple[int, int, int]]
    """Tokens so far, time, the server's CPU time."""
    cancels: list[tuple[int, int]]
    """Client and instant."""
    model_cpu_ns: int = 0
    foreign_cpu: float = 0.0
    """Share of the machine that other processes took."""


class Stage:
    """A model and a server that run."""

    def __init__(self, model: Child, server: Child, port: int, start: float, core: int) -> None:
        self.model = model
        self.server = server
        self.port = port
        self.start = start
        """Seconds from the server's exec to the line that says that it listens."""
        self._core = core
        self._log_read = 0

    def warm_up(self) -> None:
        self.load(*_WARM_UP)

    def load(self, *arguments: str) -> Seen:
        """Run the load generator.

        Raises:
            RefusedError: what came is not what the model sent.
            ChildError: it could not do its work; the text tells the end of the server's log.
        """
        self._log_read = self.model.log.stat().st_size
        models_cpu, servers_cpu = self.model.cpu(), self.server.cpu()
        busy, began = _busy(), time.perf_counter()
        command = (str(PROGRAMS / "load"), "--port", str(self.port), "--cpu", str(self._core))
        process = subprocess.Popen(
            (*command, "--server-pid", str(self.server.pid), *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, complaint = process.communicate()
        finally:
            process.kill()
            process.wait()
        sentence = complaint.decode(errors="replace").strip()
        if process.returncode == _REFUSED:
            raise RefusedError(sentence)
        if process.returncode:
            raise self.server.error(f"failed under load: {sentence or process.returncode}")
        seen = msgspec.json.decode(output, type=Seen)
        models_cpu = self.model.cpu() - models_cpu
        own = models_cpu + self.server.cpu() - servers_cpu + seen.load_cpu_ns / 1e9
        all_cores = (time.perf_counter() - began) * (os.cpu_count() or 1)
        seen.model_cpu_ns = round(models_cpu * 1e9)
        seen.foreign_cpu = max(0.0, (_busy() - busy - own) / all_cores)
        return seen

    def closes(self) -> dict[int, int]:
        """Return when the model saw which client's stream closed, of the last load, in ns."""
        log = self.model.log.read_text()[self._log_read :]
        found = re.findall(r"closed (\d+) (\d+) \d+\n", log)
        return {int(client): int(instant) for client, instant in found}


def _busy() -> float:
    """Return the seconds that all cores have not been idle."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS


@contextmanager
def stage(server: Server, cores: tuple[int, int]) -> Iterator[Stage]:
    """Start a model and the server.

    Args:
        server: the server that is measured.
        cores: the server's core, and that of load and model.

    Raises:
        ChildError: one of them does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        program = str(PROGRAMS / "model")
        if not Path(program).exists():
            raise ChildError(f"{program} is missing: make -C benchmarks")
        model = stack.enter_context(child("model", (program,), cores[1], folder))
        address, _ = model.wait_for(r"(http://127\.0\.0\.1:\d+)\n")
        command = server.command(address)
        running = stack.enter_context(child(server.name, command, cores[0], folder))
        port, start = running.wait_for(READY)
        yield Stage(model, running, int(port), start, cores[1])
