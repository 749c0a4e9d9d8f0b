"""From polling to WebSocket with messages under way, the connections cut at every place.

Rules of this file: what must hold is the client's own count of numbers (`Upgrade.check`). The short
run takes every seventh place, `TOKENWIRE_LONG=1` all of them: more than 10,000.
"""

import os

import pytest
from core.costs import untraced
from properties.upgrades import Upgrade, cuts

STRIDE = 1 if os.environ.get("TOKENWIRE_LONG") else 7
SEEDS = range(1, 7)


def test_there_are_more_than_10_000_places() -> None:
    assert sum(len(cuts(seed)) for seed in SEEDS) > 10_000


@pytest.mark.parametrize("seed", SEEDS)
def test_an_upgrade_cut_anywhere_loses_and_doubles_nothing(seed: int) -> None:
    lived = set()
    with untraced():
        for cut in cuts(seed)[seed % STRIDE :: STRIDE]:
            upgrade = Upgrade(seed, cut)
            upgrade.play()
            try:
                upgrade.check()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {cut}") from error
            lived.add(upgrade.alive)
    assert lived == {True, False}  # both ends of the story were seen


@pytest.mark.parametrize("seed", range(100))
def test_an_upgrade_without_a_cut_takes_everything_along(seed: int) -> None:
    upgrade = Upgrade(seed)
    upgrade.play()
    assert upgrade.alive
    upgrade.check()
