"""A server in a process of its own, so that its memory is its own, too.

Rules of this file: it prints its port, and ends with its standard input.

    python -m runtimes.server_process RUNTIME MODEL_SERVER_URL
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtimes.server_thread import LIMIT, running_server
from tokenwire import Config


class ServerProcess:
    """What is known of it."""

    def __init__(self, pid: int, port: int) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self._folder = Path(f"/proc/{pid}")

    def resident(self) -> int:
        """Return the bytes of memory that it has now."""
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the server has ended")

    def descriptors(self) -> int:
        """Return how many files and sockets it has open now."""
        return sum(1 for _ in (self._folder / "fd").iterdir())


@contextmanager
def server_process(upstream_url: str, runtime: str) -> Iterator[ServerProcess]:
    """Run one that gives streams all the time that they need on a busy machine."""
    with subprocess.Popen(
        (sys.executable, "-m", "runtimes.server_process", runtime, upstream_url),
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            yield ServerProcess(process.pid, int(process.stdout.readline()))
            process.stdin.close()
            process.wait(LIMIT)
        finally:
            process.kill()


def main() -> None:
    runtime, upstream_url = sys.argv[1:]
    config = Config(stream_timeout=3_600_000)
    with running_server(upstream_url, config, runtime=runtime) as server:
        print(server.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
