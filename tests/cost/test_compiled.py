"""Compiled, a token runs nothing of the core that is still in Python.

Rules of this file: it runs on both builds. A module that defines a struct is not compiled
(`hatch_build.py`): one that is put beside what a token runs would take all of that out.
"""

from core.builds import COMPILED
from cost.gate import cost_of_token


def test_where_the_core_is_compiled_a_token_calls_no_function_in_python() -> None:
    assert (cost_of_token("1 token a write").functions == 0) is COMPILED
