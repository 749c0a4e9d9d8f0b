"""Runs the public protocol suites of the Socket.IO project against `suite_servers.py`.

    make conformance SUITES=<the folder docs/ of a checkout of socketio/socket.io>

Rules of this file: the suites are not part of this repository. They are taken from outside, must be
the ones that `PINNED` names, and are run in a copy, so that nothing is written where they came
from. Every case must pass, and there must be as many as there were.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMMIT = "d2d753fed4435015c2d83fe62e676b44e07fa3f7"  # of socketio/socket.io
PINNED = {
    "engine.io": (
        "engine.io-protocol/v4-test-suite",
        "3f4b32add9837659dcf48af0bb5b8b203b636784d856134046d85f391b15bc88",
        25,
    ),
    "socket.io": (
        "socket.io-protocol/v5-test-suite",
        "79d6cebaec1e367da5c441e67d4364686bc26937698f644194ddc9e34456dd11",
        32,
    ),
}
"""The suite's folder, the SHA-256 of its test-suite.js, the number of its cases."""

_SERVERS = Path(__file__).with_name("suite_servers.py")
_LIMIT = 120  # seconds for a suite


class Wrong(Exception):
    """What is wrong, in a sentence."""


def main(suites: str) -> int:
    """Run both suites. Return the process's exit status."""
    if not suites:
        print("say where they are: make conformance SUITES=<docs/ of socketio/socket.io>")
        return 2
    try:
        for protocol in PINNED:
            print(f"{protocol}: {run(protocol, Path(suites))}", flush=True)
    except Wrong as wrong:
        print(wrong)
        return 1
    return 0


def run(protocol: str, suites: Path) -> str:
    """Run one suite. Return how it went.

    Raises:
        Wrong: it is not the pinned one, cannot be run, or a case failed.
    """
    folder, sha256, cases = PINNED[protocol]
    source = suites / folder
    try:
        found = hashlib.sha256((source / "test-suite.js").read_bytes()).hexdigest()
    except OSError as error:
        raise Wrong(f"there is no suite in {source}") from error
    if found != sha256:
        raise Wrong(f"{source} is not the suite of commit {COMMIT}: its hash is {found}")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / protocol
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("node_modules"))
        install = ["npm", "ci", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(install, cwd=copy, check=True)
        server = subprocess.Popen(
            [sys.executable, str(_SERVERS), protocol], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            if server.stdout.readline() != "ready\n":
                raise Wrong("the server did not start: is port 3000 free?")
            mocha = ["npx", "mocha", "test-suite.js", "--reporter", "json", "--exit"]
            done = subprocess.run(
                mocha, cwd=copy, capture_output=True, text=True, timeout=_LIMIT, check=False
            )
        finally:
            server.terminate()
            server.wait()
    return _judge(done.stdout, done.stderr, cases)


def _judge(report: str, errors: str, cases: int) -> str:
    try:
        result = json.loads(report[report.index("{") :])
    except ValueError as error:
        raise Wrong(f"the suite did not run: {errors or report}") from error
    failures = [
        f"  {case['fullTitle']}: {case['err'].get('message')}" for case in result["failures"]
    ]
    passed = result["stats"]["passes"]
    if failures or passed != cases:
        raise Wrong("\n".join([f"{passed} of {cases} passed", *failures]))
    return f"{passed} of {cases} passed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
