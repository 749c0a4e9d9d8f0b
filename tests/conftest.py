"""Fixtures for tests over loopback: a scripted model server.

Rules of this file: everything is closed at the end of its test, and a failure in the background is
the test's.
"""

from collections.abc import Iterator

import pytest
from runtimes.scripted_ollama import ScriptedOllama, running_ollama


@pytest.fixture
def ollama() -> Iterator[ScriptedOllama]:
    """A scripted model server that listens."""
    with running_ollama() as server:
        yield server
