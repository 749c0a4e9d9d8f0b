"""The fuzz targets, over their seeds and some mutations of them: so that they do not rot.

Rules of this file: no atheris here (`make atheris` has it).
"""

import random
from pathlib import Path

import pytest
from fuzz.targets import TARGETS
from properties.mutations import FRAME_TOKENS, HTTP_TOKENS, SOCKET_TOKENS, Mutator

SEEDS = Path(__file__).parent / "seeds"
TOKENS = (*HTTP_TOKENS, *SOCKET_TOKENS, *FRAME_TOKENS)


def test_each_target_has_seeds() -> None:
    assert {folder.name for folder in SEEDS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_over_its_seeds(name: str) -> None:
    mutator = Mutator(random.Random(name))
    seeds = sorted((SEEDS / name).iterdir())
    assert len(seeds) >= 3
    for seed in seeds:
        data = seed.read_bytes()
        TARGETS[name](data)
        for _ in range(150):
            TARGETS[name](mutator.edit(data, TOKENS))
