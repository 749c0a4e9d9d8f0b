"""The list of all vectors: what stands in `spec/`, and how its manifest is written again.

Rules of this file: it knows of a vector only its id, its requirements and its flags, so that it
covers every format. An id that was in the manifest once is never given to another vector: it is
retired.

    cd tests && ../.venv/bin/python -m vectors.manifest

writes `spec/manifest.json` and the schemas of `spec/schema/` again.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
from tokenwire.testing import vectors, wire_vectors

SPEC = Path(__file__).parents[2] / "spec"
VECTORS = SPEC / "vectors"
MANIFEST = SPEC / "manifest.json"
PLAYED = ("session/", "stream/")
"""The folders of what a client, the model server and the clock do."""
SCHEMAS = {
    SPEC / "schema" / "session-1.json": vectors.schema,
    SPEC / "schema" / "wire-1.json": wire_vectors.schema,
}

_REQUIREMENT = re.compile(r"\*\*([A-Z]+-\d{3})\*\*")


class Item(msgspec.Struct, frozen=True):
    """What every vector has, whatever its format."""

    id: str
    requirements: tuple[str, ...]
    flags: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True):
    format: str
    vectors: tuple[Item, ...]


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How many vectors of a file of sessions a player over sockets plays."""

    movable_clock: int
    """Those that it can play if it moves the server's clock."""
    real_clock: int
    """Those that it can play anyway."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file of the manifest."""

    vectors: int
    ids: tuple[str, ...]
    sockets: Counts | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`spec/manifest.json`."""

    format: Literal["manifest-1"]
    vectors: int
    """In all files together."""
    sockets: Counts
    """The same."""
    files: dict[str, Entry]
    """By their path below `spec/vectors`."""
    retired: tuple[str, ...] = ()
    """Ids of vectors that there are no more."""


def files() -> dict[str, tuple[Item, ...]]:
    """Return the vectors of every file, by its path below `spec/vectors`."""
    paths = sorted(VECTORS.rglob("*.json"))
    return {
        path.relative_to(VECTORS).as_posix(): msgspec.json.decode(
            path.read_bytes(), type=_File
        ).vectors
        for path in paths
    }


def requirements() -> set[str]:
    """Return the numbers of all requirements in the prose."""
    prose = [path.read_text() for path in SPEC.glob("*.md")]
    return {number for text in prose for number in _REQUIREMENT.findall(text)}


def committed() -> Manifest:
    """Return the manifest as it stands."""
    return msgspec.json.decode(MANIFEST.read_bytes(), type=Manifest)


def build(retired: frozenset[str]) -> Manifest:
    """Return the manifest of the files that there are.

    Args:
        retired: ids that are not to be used any more.
    """
    entries: dict[str, Entry] = {}
    sessions: list[Item] = []
    for name, items in files().items():
        ids = tuple(item.id for item in items)
        if name.startswith(PLAYED):
            sessions += items
            entries[name] = Entry(len(items), ids, _counts(items))
        else:
            entries[name] = Entry(len(items), ids)
    total = sum(entry.vectors for entry in entries.values())
    return Manifest("manifest-1", total, _counts(sessions), entries, tuple(sorted(retired)))


def _counts(items: Iterable[Item]) -> Counts:
    movable = [item for item in items if "virtual-socket" not in item.flags]
    return Counts(len(movable), sum("virtual-time" not in item.flags for item in movable))


def encode(manifest: Manifest) -> bytes:
    """Return the text of a manifest: a line for each file."""
    lines = [f"    {_json(name)}: {_json(manifest.files[name])}" for name in sorted(manifest.files)]
    return (
        "{\n"
        f'  "format": {_json(manifest.format)},\n'
        f'  "vectors": {manifest.vectors},\n'
        f'  "sockets": {_json(manifest.sockets)},\n'
        '  "files": {\n' + ",\n".join(lines) + "\n  },\n"
        f'  "retired": {_json(manifest.retired)}\n'
        "}\n"
    ).encode()


def encode_schema(schema: dict[str, object]) -> bytes:
    """Return the text of a schema."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def main() -> None:
    """Write the manifest and the schemas again; what has gone is retired."""
    ids = {item.id for items in files().values() for item in items}
    before: set[str] = set()
    if MANIFEST.exists():
        old = committed()
        before = {*old.retired, *(one for entry in old.files.values() for one in entry.ids)}
    MANIFEST.write_bytes(encode(build(frozenset(before - ids))))
    for path, schema in SCHEMAS.items():
        path.write_bytes(encode_schema(schema()))


if __name__ == "__main__":
    main()
