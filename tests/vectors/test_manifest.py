"""The vectors as a whole: counted, named once, each with its requirements, each requirement shown.

Rules of this file: it reads `spec/` and plays nothing.
"""

import re
from collections import Counter
from typing import NamedTuple

from tokenwire.testing.vectors import Expect, Vector
from vectors import manifest
from vectors.replay import FILES, read


def test_the_manifest_lists_the_vectors_that_there_are() -> None:
    committed = manifest.committed()
    assert committed == manifest.build(frozenset(committed.retired))
    assert manifest.MANIFEST.read_bytes() == manifest.encode(committed)


def test_an_id_names_one_vector_for_ever() -> None:
    ids = Counter(item.id for items in manifest.files().values() for item in items)
    assert [one for one, count in ids.items() if count > 1] == []
    assert ids.keys() & set(manifest.committed().retired) == set()


def test_there_are_as_many_vectors_as_promised() -> None:
    bad = [
        vector
        for name in FILES
        for vector in read(name)
        if "malformed" in vector.flags or "hostile" in vector.flags
    ]
    assert manifest.committed().vectors >= 150
    assert len(bad) >= 80


def test_every_requirement_has_a_vector() -> None:
    shown = {
        number
        for items in manifest.files().values()
        for item in items
        for number in item.requirements
    }
    assert manifest.requirements() - shown == set()


def test_every_vector_names_requirements_that_there_are() -> None:
    known = manifest.requirements()
    unknown = {
        item.id: item.requirements
        for items in manifest.files().values()
        for item in items
        if not item.requirements or not set(item.requirements) <= known
    }
    assert unknown == {}


def test_the_schemas_are_those_of_the_code() -> None:
    for path, schema in manifest.SCHEMAS.items():
        assert path.read_bytes() == manifest.encode_schema(schema())


# -- the table of malformed input ------------------------------------------------------------------

_TABLE = (manifest.SPEC / "malformed-input.md").read_text()
_ID = re.compile(r"([AES])(\d{3})(?:-\1(\d{3}))?")
_CODE = re.compile(r"\b(?:[45]\d\d|1\d{3})\b|\b[a-z]+(?:_[a-z]+)+\b")
"""An HTTP status, a close code or a code of the AI protocol."""
_WORDS = {"error": {"400"}, "violation": {"1002", "400"}}
"""What the words of the table stand for."""


class _Row(NamedTuple):
    input: str
    gets: str
    ids: list[str]


def _rows() -> list[_Row]:
    rows = []
    for line in _TABLE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[-1] != "vectors":
            rows.append(_Row(cells[0], cells[1], _expand(cells[-1])))
    return rows


def _expand(cell: str) -> list[str]:
    ids: list[str] = []
    for name in cell.split():
        found = _ID.fullmatch(name)
        assert found, f"{name!r} in {cell!r}"
        letter, first, last = found.groups()
        ids += [f"{letter}{number:03}" for number in range(int(first), int(last or first) + 1)]
    return ids


def _codes(vector: Vector) -> set[str]:
    """Return all codes that a vector expects."""
    codes: set[str] = set()
    for step in vector.steps:
        if isinstance(step, Expect):
            codes |= {str(frame.close) for frame in step.frames or ()}
            codes |= {
                code for frame in step.frames or () for code in _CODE.findall(frame.text or "")
            }
            if step.response is not None:
                codes.add(str(step.response.status))
    return codes


def test_each_row_of_malformed_input_has_vectors_that_expect_it() -> None:
    vectors = {vector.id: vector for name in FILES for vector in read(name)}
    rows = _rows()
    assert len(rows) > 80
    for row in rows:
        assert row.ids, row.input
        wanted = set(_CODE.findall(row.gets))
        wanted |= {code for word, codes in _WORDS.items() if word in row.gets for code in codes}
        for one in row.ids:
            assert not wanted or wanted & _codes(vectors[one]), f"{row.input}: {row.gets}: {one}"


def test_each_malformed_vector_stands_in_a_row() -> None:
    shown = {one for row in _rows() for one in row.ids}
    malformed = {
        vector.id for name in FILES for vector in read(name) if "malformed" in vector.flags
    }
    assert malformed - shown == set()
