"""A server on each runtime, over both ways to the model.

Rules of this file: a module that wants other runtimes has a fixture of that name itself.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from runtimes.scripted_ollama import (
    ScriptedOllama,
)
from runtimes.served import Serve, respond
from runtimes.server_thread import RUNTIMES, VARIATIONS, Control, running_server
from tokenwire import Config


@pytest.fixture(params=[*RUNTIMES, *VARIATIONS])
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def serve(runtime: str, ollama: ScriptedOllama) -> Iterator[Serve]:
    """Starts a server with a configuration of the test's."""
    with ExitStack() as servers:

        def start(config: Config) -> Control:
            return servers.enter_context(
                running_server(ollama.url, config, runtime=runtime, respond=respond)
            )

        yield start


@pytest.fixture
def server(serve: Serve) -> Control:
    """A server with the default configuration."""
    return serve(Config())
