"""The demo page in a real browser, over both names of this machine, with the embedded model.

Rules of this file: it starts the command that a newcomer starts and reads the address from what it
prints; what is looked at in the page stands in `page.mjs`. Without Chromium it fails:
`make test-browser` is for machines that have one.
"""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("page.mjs")
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
START_SECONDS = 60
DRIVE_SECONDS = 180

pytestmark = [pytest.mark.browser, pytest.mark.model]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running `tokenwire demo`: the port that it prints."""
    assert CHROMIUM.exists(), f"no browser at {CHROMIUM}: apt-get install chromium, or set CHROMIUM"
    folder = tmp_path_factory.mktemp("demo")
    with (folder / "stderr.txt").open("w+") as log:
        demo = subprocess.Popen(
            [sys.executable, "-m", "tokenwire_cli", "demo", "--port", "0"],
            cwd=folder,  # no configuration file of a developer's
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert demo.stdout is not None
        # A server that prints nothing and stays alive would hold the read below for ever.
        alarm = threading.Timer(START_SECONDS, demo.kill)
        alarm.start()
        try:
            printed = []
            for line in demo.stdout:
                printed.append(line)
                if found := re.search(r"Open http://localhost:(\d+)/", line):
                    alarm.cancel()
                    yield found[1]
                    break
            else:
                log.seek(0)
                pytest.fail(f"the demo did not start:\n{''.join(printed)}{log.read()[-4000:]}")
        finally:
            alarm.cancel()
            demo.terminate()
            try:
                demo.wait(timeout=20)
            except subprocess.TimeoutExpired:
                demo.kill()
                demo.wait()
            demo.stdout.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_two_streams_and_a_cancel(port: str, host: str, tmp_path: Path) -> None:
    screenshot = tmp_path / "page.png"
    driven = subprocess.run(
        ["node", str(DRIVER), f"http://{host}:{port}", str(screenshot)],
        capture_output=True,
        text=True,
        timeout=DRIVE_SECONDS,
        check=False,
    )
    print(driven.stdout)
    assert driven.returncode == 0, driven.stdout + driven.stderr
    assert screenshot.stat().st_size > 10_000
