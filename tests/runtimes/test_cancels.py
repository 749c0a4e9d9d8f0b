"""The model's connection is closed soon, whatever its stream is at, with every runtime.

Rules of this file: the bound is for a machine that has much else to do; docs/testing.md has the
figures.
"""

import statistics

import pytest
from runtimes.cancels import CONFIG, ENDS, STATES, cancels
from runtimes.scripted_ollama import ScriptedOllama
from runtimes.server_thread import RUNTIMES, VARIATIONS, running_server

CANCELS = 5  # 125 of all states and runtimes
CLIENTS = 3
SOON = 0.25  # seconds, for most of them


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("runtime", [*RUNTIMES, *VARIATIONS])
def test_a_cancel_closes_the_models_connection_soon(
    ollama: ScriptedOllama, runtime: str, state: str
) -> None:
    with running_server(ollama.url, CONFIG, runtime=runtime) as server:
        assert statistics.median(cancels(server, ollama, STATES[state], CANCELS)) < SOON


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_ends_by_itself_is_closed_soon(ollama: ScriptedOllama, runtime: str, end: str) -> None:
    assert statistics.median(ENDS[end](ollama, runtime, CLIENTS)) < SOON
