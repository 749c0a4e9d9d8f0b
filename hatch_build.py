"""Build hook: puts the browser's Socket.IO client into `runtimes/tokenwire_cli/page/vendor/`.

Rules of this file: the bundle is not in git; it comes from the npm package socket.io-client, in
exactly the version that `tests/interop/package.json` pins, and nothing of another version is ever
packed. A release build (TOKENWIRE_RELEASE=1) fails without it; any other build goes on, and the
server then answers 404 and says why. Editable installs are filled in place.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
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


class BundleHook(BuildHookInterface[BuilderConfig]):
    """Fills the folder before hatchling collects the files of a wheel or an sdist."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill the folder, or say what is missing."""
        root = Path(self.root)
        interop = root / "tests" / "interop"
        vendor = root / "runtimes" / "tokenwire_cli" / "page" / "vendor"
        release = os.environ.get("TOKENWIRE_RELEASE", "") not in ("", "0")
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
                (vendor / file).write_bytes(content)
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


def _read(files: dict[str, Path]) -> Bundle:
    try:
        return {name: path.read_bytes() for name, path in files.items()}
    except FileNotFoundError as error:
        raise Unusable(f"{Path(error.filename).name} is not there") from None


def get_build_hook() -> type[BundleHook]:
    """Tell hatchling which class is the hook."""
    return BundleHook
