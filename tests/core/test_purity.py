"""The core is pure: importing it brings in nothing that could do I/O, wait, draw or log.

Rules of this file: a fresh, isolated interpreter, compared with what h11, wsproto and msgspec bring
in themselves.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import tokenwire

LIBRARIES = ("h11", "wsproto.connection", "wsproto.events", "msgspec", "msgspec.json")
PURE = {
    "array", "base64", "binascii", "bisect", "collections", "codecs", "dataclasses", "enum",
    "functools", "hashlib", "_hashlib", "_blake2", "_bisect", "heapq", "_heapq", "hmac",
    "itertools", "ipaddress", "re", "struct", "types", "typing", "urllib", "math", "_struct",
    "unicodedata",
}  # fmt: skip
FORBIDDEN = {
    "_asyncio", "_random", "_socket", "_ssl", "_thread_local", "asyncio", "concurrent", "datetime",
    "logging", "multiprocessing", "os.urandom", "pathlib", "queue", "random", "sched", "secrets",
    "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading", "uuid",
}  # fmt: skip
BANNED_IN_SOURCE = FORBIDDEN | {"os", "io", "time"}


def imported(*modules: str) -> set[str]:
    """Return the modules of a fresh interpreter that has imported `modules`."""
    program = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, check=True, text=True
    )
    return set(json.loads(done.stdout))


def test_importing_the_core_imports_nothing_impure_of_its_own() -> None:
    of_libraries = imported(*LIBRARIES)
    ours = imported("tokenwire") - of_libraries
    outside = {name.partition(".")[0] for name in ours} - {"tokenwire"}
    assert outside <= PURE
    assert not outside & FORBIDDEN


def test_the_libraries_bring_in_no_event_loop_and_no_log() -> None:
    everything = imported("tokenwire")
    for name in (
        "asyncio",
        "socket",
        "ssl",
        "select",
        "logging",
        "random",
        "secrets",
        "subprocess",
    ):
        assert name not in everything, name


def test_no_module_of_the_core_names_an_impure_one() -> None:
    root = Path(tokenwire.__file__).parent
    sources = sorted(root.rglob("*.py"))
    assert len(sources) > 30
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] not in BANNED_IN_SOURCE, f"{source}: {name}"
