"""Fuzz one target, guided by coverage (atheris).

    cd tests && ../.venv/bin/python -m fuzz.run wire.json -runs=100000

The options behind the target are libFuzzer's, a folder for what it finds among them.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tokenwire"]):
    from fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(
            f"usage: python -m fuzz.run TARGET [OPTION...], TARGET one of {', '.join(TARGETS)}"
        )
    program, target, *options = sys.argv
    atheris.Setup([program, *options, str(SEEDS / target)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
