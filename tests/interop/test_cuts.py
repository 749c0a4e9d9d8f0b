"""One random place for each client and way of `cuts.py`. `make test-cuts` has hundreds.

Rules of this file: the seed is fixed; what was played is printed, so that a failure shows it.
"""

import pytest
from interop.clients import Node
from interop.cuts import WHO, Case
from runtimes.scripted_ollama import ScriptedOllama

SEED = 4


@pytest.mark.parametrize("number", range(len(WHO)), ids=str)
def test_the_text_is_whole_after_a_fault(node: Node, ollama: ScriptedOllama, number: int) -> None:
    case = Case(SEED, number, places=1)
    print(f"seed {SEED}, case {number}: {case}")
    case.play(node, ollama)
