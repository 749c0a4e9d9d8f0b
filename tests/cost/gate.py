"""The gate: what a token costs now, against what is recorded.

Rules of this file: a figure may grow by 5 % before the gate shuts: the figures are exact, and one
more call into C for each token of a write of a hundred is as much. One that falls by more than 10 %
is to be recorded, too, or nobody would see that the gain is lost again. The same figures hold for
all versions of Python: between 3.11 and 3.13 they differ by 3 %.

    cd tests && ../.venv/bin/python -m cost.gate

records the figures of the code that there is (`make record-cost`).
"""

import argparse
from pathlib import Path

import msgspec
from cost import shapes
from cost.counts import Cost, measure
from cost.shapes import SHAPES, Flow

RECORDED = Path(__file__).with_name("recorded.json")
MOST_GROWTH = 5
MOST_FALL = 10  # percent
_WRITES = 50
_LONG_WRITES = 10  # of a hundred tokens


def cost_of_writes(flow: Flow, writes: int) -> Cost:
    """Return what one write of a model costs the core."""
    return measure(flow.write, writes, apart=shapes.__file__)


def cost_of_token(name: str) -> Cost:
    """Return what one token costs in a shape."""
    batch = SHAPES[name].batch
    return cost_of_writes(Flow(SHAPES[name]), _WRITES if batch == 1 else _LONG_WRITES).each(batch)


def read_recorded() -> dict[str, Cost]:
    return msgspec.json.decode(RECORDED.read_bytes(), type=dict[str, Cost])


def faults(recorded: Cost, now: Cost) -> list[str]:
    """Return what is beyond the limits, a line each."""
    found = []
    for name in Cost.__struct_fields__:
        before, after = getattr(recorded, name), getattr(now, name)
        percent = (after / before - 1) * 100
        if not -MOST_FALL <= round(percent, 2) <= MOST_GROWTH:
            limit = f"at most {MOST_GROWTH}" if percent > 0 else f"below {-MOST_FALL}"
            found.append(
                f"{name}: {after:g} a token, recorded: {before:g} ({percent:+.1f} %; {limit} %). "
                "If that is meant, record it: make record-cost"
            )
    return found


def main() -> None:
    argparse.ArgumentParser(prog="cost.gate", description=__doc__).parse_args()
    costs = {name: cost_of_token(name) for name in SHAPES}
    text = msgspec.json.format(msgspec.json.encode(costs), indent=2)
    RECORDED.write_bytes(text + b"\n")
    for name, cost in costs.items():
        print(f"{name}: {cost}")


if __name__ == "__main__":
    main()
