"""The vectors as a whole: counted, named once, each with its requirements, each requirement shown.

Rules of this file: it reads `spec/` and plays nothing.
"""

from collections import Counter

from tokenwire.testing.vectors import load
from vectors import manifest

_SHOWN = ("EIO-", "HTTP-", "WS-", "SIO-")
"""The kinds of requirements that vectors show. Others are shown by tests alone."""


def test_the_manifest_lists_the_vectors_that_there_are() -> None:
    committed = manifest.committed()
    assert committed == manifest.build(frozenset(committed.retired))
    assert manifest.MANIFEST.read_bytes() == manifest.encode(committed)


def test_an_id_names_one_vector_for_ever() -> None:
    ids = Counter(item.id for items in manifest.files().values() for item in items)
    assert [one for one, count in ids.items() if count > 1] == []
    assert ids.keys() & set(manifest.committed().retired) == set()


def test_there_are_as_many_vectors_as_promised() -> None:
    sessions = [load(path.read_bytes()) for path in manifest.VECTORS.glob("session/*.json")]
    bad = [
        vector
        for file in sessions
        for vector in file.vectors
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
    wanted = {number for number in manifest.requirements() if number.startswith(_SHOWN)}
    assert wanted - shown == set()


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
