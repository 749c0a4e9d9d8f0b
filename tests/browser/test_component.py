"""The seed's React component, verbatim, in a real browser, over three drops.

Rules of this file: `seed_component.jsx` is the seed's, unchanged but for the export at its end, and
is never to be changed. What it shows is what stands in the DOM. It has no code for reconnections,
and lives from Socket.IO's recovery.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser.test_page import CHROMIUM, DRIVE_SECONDS
from interop.link import Fault, running_link
from runtimes.scripted_ollama import Gate, ScriptedOllama, Send, Step, say, token
from runtimes.server_thread import LIMIT, running_server

HERE = Path(__file__).parent
PROMPT = "Write a React component"
# No stall: a browser would dial again over a kept connection that has stalled as well, and wait for
# the stock client's own limit of 20 s.
FAULTS: tuple[Fault, ...] = ("cut", "reset", "cut")

PATIENCE = 30.0  # seconds; the stock client waits one before it dials

pytestmark = pytest.mark.browser


class Page:
    """The browser with the component."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def wait_for(self, **fields: str) -> dict[str, Any]:
        """Return what it shows as soon as that has these fields."""
        until = time.monotonic() + PATIENCE
        while True:
            shown: dict[str, Any] = self.ask("look")
            if fields.items() <= shown.items():
                return shown
            assert time.monotonic() < until, f"{fields} are not in {shown}"
            time.sleep(0.05)


@contextmanager
def component(port: int) -> Iterator[Page]:
    """Show the component, whose server is at this port."""
    assert CHROMIUM.exists(), f"no browser at {CHROMIUM}: apt-get install chromium, or set CHROMIUM"
    with subprocess.Popen(
        ("node", str(HERE / "component.mjs"), str(port)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        limit = threading.Timer(DRIVE_SECONDS, process.kill)
        limit.start()
        try:
            yield Page(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(PATIENCE)
        finally:
            limit.cancel()
            limit.join()
            process.kill()


def test_the_component_over_three_drops(ollama: ScriptedOllama) -> None:
    gates = [Gate() for _ in FAULTS]
    parts = [[f"{part}{number}\n" for number in range(5)] for part in "abcd"]
    steps: list[Step] = [Send(token(text)) for text in parts[0]]
    for gate, part in zip(gates, parts[1:], strict=True):
        steps += [gate, *(Send(token(text)) for text in part)]
    ollama.scripts[PROMPT] = [*steps, *say("end")]
    with (
        running_server(ollama.url) as server,
        running_link(server.host, server.port) as link,
        component(link.port) as page,
    ):
        page.wait_for(status="Status: Connected")
        page.ask("send")
        text = "".join(parts[0])
        page.wait_for(text=text)
        for fault, gate, part in zip(FAULTS, gates, parts[1:], strict=True):
            struck = link.fail(fault, after=200)
            gate.open()
            assert struck.wait(LIMIT)
            page.wait_for(status="Status: Disconnected")
            text += "".join(part)
            if part is parts[-1]:
                text += "end"
            page.wait_for(status="Status: Connected", text=text)
        shown = page.wait_for(streaming="Streaming: No")
        assert shown["text"] == "".join(map("".join, parts)) + "end"
        assert shown["problems"] == []
    assert len(ollama.requests) == 1


def test_the_seeds_code_has_only_an_export_more() -> None:
    text = (HERE / "seed_component.jsx").read_text(encoding="utf-8")
    assert text.startswith("import React, { useState, useEffect, useRef } from 'react';\n")
    assert text.endswith("  );\n};\n\nexport { AIStreamingComponent };\n")
