"""The tables of `docs/conformance.md`: each case of the public protocol suites has its vectors.

Rules of this file: it reads tables and names, and plays nothing.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from tokenwire.testing.vectors import load
from vectors import manifest

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
CASES = {"Engine.IO": 25, "Socket.IO": 32}
"""Suite -> how many cases it has."""
TITLES = {
    vector.id: vector.title
    for path in manifest.VECTORS.glob("session/*.json")
    for vector in load(path.read_bytes()).vectors
}
"""Of every session vector."""

_ROW = re.compile(r"\| (?P<suite>[A-Z]\w+\.IO) (?P<number>\d+) \| (?P<what>.+) \| (?P<ids>.*) \|")
_SUITE = re.compile(r"suite (\d+):")


class Row(NamedTuple):
    """A case, and the vectors that show it."""

    suite: str
    number: int
    vectors: tuple[str, ...]


ROWS = [
    Row(found["suite"], int(found["number"]), tuple(found["ids"].split(", ")))
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if (found := _ROW.fullmatch(line))
]


FAULTS = [
    found["ids"].split(", ")
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
    if (found := re.fullmatch(r"\| (?:h11|wsproto) \| .+ \| (?P<ids>.*) \|", line))
]
"""The vectors of what the libraries let through."""


def test_what_the_libraries_let_through_is_shown() -> None:
    assert len(FAULTS) == 17
    for ids in FAULTS:
        assert ids
        assert set(ids) - TITLES.keys() == set()


def test_every_case_has_a_row() -> None:
    expected = [(suite, number) for suite in CASES for number in range(1, CASES[suite] + 1)]
    assert [(row.suite, row.number) for row in ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.suite} {row.number}")
def test_a_row_names_vectors_that_there_are(row: Row) -> None:
    assert set(row.vectors) - TITLES.keys() == set()
    assert len(set(row.vectors)) == len(row.vectors) > 0


def test_vectors_that_name_a_case_stand_in_its_row() -> None:
    named = {(int(found[1]), id) for id, title in TITLES.items() if (found := _SUITE.match(title))}
    listed = {(row.number, id) for row in ROWS if row.suite == "Engine.IO" for id in row.vectors}
    assert len(named) >= CASES["Engine.IO"]
    assert named - listed == set()
