"""Fixtures for tests with stock clients.

Rules of this file: one Node process for all tests; a server, a model and clients for each.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from interop.clients import KINDS, Node, running_node
from interop.scene import Scene, playing
from runtimes.scripted_ollama import ScriptedOllama
from tokenwire import Config

Play = Callable[..., Scene]


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The process that runs the JavaScript clients."""
    with running_node() as process:
        yield process


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of stock client."""
    name: str = request.param
    return name


@pytest.fixture
def play(node: Node, kind: str, ollama: ScriptedOllama) -> Iterator[Play]:
    """Starts a scene: `play(max_concurrent_streams=2)`; the arguments are the Config's."""
    with ExitStack() as stack:

        def start(**settings: object) -> Scene:
            config = Config(**settings)  # type: ignore[arg-type]
            return stack.enter_context(playing(node, kind, ollama, config))

        yield start


@pytest.fixture
def scene(play: Play) -> Scene:
    """A scene with the default configuration."""
    return play()
