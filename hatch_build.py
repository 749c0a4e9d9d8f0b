"""Build hook: brings the browser's Socket.IO client, and compiles the core if that is asked for.

Rules of this file: the bundle in `runtimes/tokenwire_cli/page/vendor/` is not in git; it comes from
the npm package socket.io-client, in exactly the version that `tests/interop/package.json` pins, and
nothing of another version is ever packed. A release build (TOKENWIRE_RELEASE=1) fails without it;
any other build goes on, and the server then answers 404 and says why. Editable installs are filled
in place.

With TOKENWIRE_COMPILE=1 a wheel has the core as mypyc makes it, beside the same modules in Python.
The sources are compiled elsewhere, unchanged: nothing of it is left in the tree.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Without the source maps: they would be three quarters of the wheel.
SCRIPTS = ("socket.io.js", "socket.io.min.js", "socket.io.esm.min.js")
LICENSE = "LICENSE"

Bundle = dict[str, bytes]
"""Name in the vendor folder -> content."""


class Unusable(Exception):
    """This source has no bundle, or none of the pinned version."""


class BuildHook(BuildHookInterface[BuilderConfig]):
    """Is called before hatchling collects the files of a wheel or an sdist, and after."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what a build needs besides hatchling."""
        if not self._compiles:
            return []
        pins = (Path(self.root) / "requirements" / "constraints.txt").read_text().splitlines()
        tools = [pin for pin in pins if pin.startswith(("mypy==", "setuptools=="))]
        # The core is checked on its way, with the types of what it imports.
        return [*tools, *self.metadata.core.dependencies]

    @property
    def _compiles(self) -> bool:
        return self.target_name == "wheel" and _is_set("TOKENWIRE_COMPILE")

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill the folder, or say what is missing; compile the core, if that is asked for."""
        self._fill_vendor(Path(self.root))
        if self._compiles and version == "editable":
            self.app.display_warning("An editable install runs the sources: nothing is compiled")
        elif self._compiles:
            self._scratch = tempfile.TemporaryDirectory()
            compiled = compile_core(Path(self.root) / "core", Path(self._scratch.name))
            build_data["force_include"].update(compiled)
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: it is in the wheel."""
        if not build_data.get("pure_python", True):
            self._scratch.cleanup()

    def _fill_vendor(self, root: Path) -> None:
        interop = root / "tests" / "interop"
        vendor = root / "runtimes" / "tokenwire_cli" / "page" / "vendor"
        release = _is_set("TOKENWIRE_RELEASE")
        package = json.loads((interop / "package.json").read_bytes())
        pinned: str = package["dependencies"]["socket.io-client"]

        sources: dict[str, Callable[[], Bundle]] = {
            "tests/interop/node_modules": lambda: from_node_modules(interop),
            "page/vendor": lambda: from_vendor(vendor),
        }
        if release:  # only a release may reach for the network
            sources["the npm registry"] = lambda: from_registry(interop, pinned)

        refused: list[str] = []
        for name, read in sources.items():
            try:
                bundle = read()
                check_version(bundle, pinned)
            except Unusable as problem:
                refused.append(f"{name}: {problem}")
                continue
            vendor.mkdir(parents=True, exist_ok=True)
            for file, content in bundle.items():
                _write(vendor / file, content)
            return

        # What is there is of another version (or half of one): it must not be packed.
        shutil.rmtree(vendor, ignore_errors=True)
        message = (
            f"socket.io-client {pinned} for the browser was not found ({'; '.join(refused)}); "
            "run `npm ci --prefix tests/interop` and build again"
        )
        if release:
            raise RuntimeError(f"TOKENWIRE_RELEASE is set, but {message}")
        self.app.display_warning(f"Building without the browser's client: {message}")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


# mypyc makes classes of its own, and so does msgspec: a module that defines structs stays as it is.
STRUCTS = re.compile(r"^class .*\bStruct\b", re.MULTILINE)
NOT_COMPILED = (
    "ai/errors.py",  # an enumeration whose members have an `__init__`
    "testing/*",
    "client/*",  # not on a server's way
    "*__init__.py",
)
# The empty --config-file: mypy would look for one in all folders above, and run its plugins.
SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup

arguments = ["--config-file=", *sys.argv[2:]]
modules = mypycify(arguments, group_name="tokenwire", opt_level="3", debug_level="0")
script = ["-q", "build_ext", "--build-lib", sys.argv[1]]
setup(name="tokenwire", packages=[], ext_modules=modules, script_args=script)
"""


def compile_core(core: Path, scratch: Path) -> dict[str, str]:
    """Compile what of the core can be compiled.

    Args:
        core: the folder that has the package `tokenwire`.
        scratch: an empty folder, which is filled.

    Returns:
        The files that came of it, and where in the wheel they belong.

    Raises:
        RuntimeError: mypyc or the C compiler has refused; they have said why.
    """
    package = scratch / "tokenwire"
    shutil.copytree(core / "tokenwire", package, ignore=shutil.ignore_patterns("__pycache__"))
    modules = [
        str(path.relative_to(scratch))
        for path in sorted(package.rglob("*.py"))
        if not any(path.relative_to(package).match(pattern) for pattern in NOT_COMPILED)
        and not STRUCTS.search(path.read_text())
    ]
    out = scratch / "out"
    command = [sys.executable, "-c", SETUP, str(out), *modules]
    if subprocess.run(command, cwd=scratch, check=False).returncode:  # noqa: S603 - a fixed command
        raise RuntimeError(
            "the core could not be compiled: that needs a C compiler and Python's headers; "
            "without TOKENWIRE_COMPILE nothing is compiled"
        )
    return {str(path): str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def from_node_modules(interop: Path) -> Bundle:
    """Read what `npm ci` installed for the tests."""
    package = interop / "node_modules" / "socket.io-client"
    return _read(
        {**{name: package / "dist" / name for name in SCRIPTS}, LICENSE: package / LICENSE}
    )


def from_vendor(vendor: Path) -> Bundle:
    """Read what an earlier build left, or what an sdist brought along."""
    return _read({name: vendor / name for name in (*SCRIPTS, LICENSE)})


def from_registry(interop: Path, pinned: str) -> Bundle:
    """Download the package with npm and check it against the hash in package-lock.json."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unusable("npm is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        ran = subprocess.run(  # noqa: S603 - a fixed command
            [npm, "pack", f"socket.io-client@{pinned}", "--silent", "--pack-destination", scratch],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        archives = list(Path(scratch).glob("*.tgz"))
        if ran.returncode != 0 or len(archives) != 1:
            raise Unusable(f"npm pack failed: {ran.stderr.strip()[-300:] or ran.returncode}")
        packed = archives[0].read_bytes()

    lock = json.loads((interop / "package-lock.json").read_bytes())
    expected = lock["packages"]["node_modules/socket.io-client"]["integrity"]
    found = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    if found != expected:
        raise Unusable(f"the package's hash is {found}, package-lock.json has {expected}")

    bundle: Bundle = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for name in (*SCRIPTS, LICENSE):
            member = f"package/{name}" if name == LICENSE else f"package/dist/{name}"
            content = archive.extractfile(member)
            assert content is not None
            bundle[name] = content.read()
    return bundle


def check_version(bundle: Bundle, pinned: str) -> None:
    """Look into the scripts themselves: each says its version in its first comment."""
    for name in SCRIPTS:
        banner = re.search(rb"Socket\.IO v(\S+)", bundle[name][:200])
        found = banner[1].decode() if banner else "unknown"
        if found != pinned:
            raise Unusable(f"{name} is of version {found}")


def _write(path: Path, content: bytes) -> None:
    """Write a file, unless it is as it should be: a server that runs from here may be reading."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def _read(files: dict[str, Path]) -> Bundle:
    try:
        return {name: path.read_bytes() for name, path in files.items()}
    except FileNotFoundError as error:
        raise Unusable(f"{Path(error.filename).name} is not there") from None


def get_build_hook() -> type[BuildHook]:
    """Tell hatchling which class is the hook."""
    return BuildHook
