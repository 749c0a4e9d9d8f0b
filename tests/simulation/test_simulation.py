"""The simulation finds nothing wrong with the core, and finds what is wrong with broken ones.

Rules of this file: a seed decides a run. `make simulate` plays more of them, or one again with its
trace.
"""

import os
import subprocess
import sys

import pytest
from simulation import run
from simulation.simulation import Simulation
from simulation.variants import VARIANTS, Patch

SEEDS = range(1, 201)
BATCH = 20


@pytest.mark.parametrize("first", SEEDS[::BATCH])
def test_nothing_is_wrong(first: int) -> None:
    for seed in range(first, first + BATCH):
        assert run.failure_of(seed) is None, f"make simulate SEEDS=1 SEED={seed}"


def test_there_are_broken_variants() -> None:
    assert len(VARIANTS) >= 15


@pytest.mark.parametrize("patch", VARIANTS.values(), ids=VARIANTS)
def test_what_is_wrong_is_found(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch)
    assert any(run.failure_of(seed) is not None for seed in SEEDS)


HAPPENINGS = (
    '"recovered":true',
    '"resumed":true',
    '"replayed":true',
    '"tokens":',
    "ai:reconnect:success",
    "ai:backpressure",
    "ai:stream:cancelled",
    "resume_gap",
    "reconnect_failed",
    "stream_not_found",
    "server_shutting_down",
    "stream_timeout",
    "first_token_timeout",
    "idle_timeout",
    "upstream_error",
    "upstream_truncated",
    "upstream_unavailable",
    "upstream_busy",
    "ping timeout",
    "aborted: replaced",
    "gives up",
    "half-open",
    "goes over to the WebSocket",
)
"""What has to happen in some of the runs, as it stands in their traces."""


def test_everything_happens() -> None:
    missing = list(HAPPENINGS)
    for seed in SEEDS[:40]:
        simulation = Simulation(seed)
        simulation.play()
        text = "\n".join(what for _, _, what in simulation.loop.trace)
        missing = [happening for happening in missing if happening not in text]
        if not missing:
            return
    pytest.fail(f"never seen: {missing}")


def digests() -> str:
    """Return what is the same in each run of the same seeds."""
    found = []
    for seed in (3, 4, 5):
        simulation = Simulation(seed)
        simulation.play()
        found.append(simulation.loop.digest())
    return " ".join(found)


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_a_seed_decides_the_trace(hash_seed: str) -> None:
    program = "from simulation.test_simulation import digests; print(digests())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == digests()


def test_a_seed_that_fails_is_printed_with_the_command_that_plays_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    VARIANTS["the end is said twice"](monkeypatch)
    assert run.main(["--seeds", "5", "--first", "1"]) == 1
    assert "make simulate SEEDS=1 SEED=1\n" in capsys.readouterr().out
    assert run.main(["--seeds", "1", "--first", "1"]) == 1
    out = capsys.readouterr().out
    assert "ai:stream:start" in out
    assert "behind its end" in out


def test_runs_say_how_they_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--seeds", "2", "--first", "2"]) == 0
    assert "2 seeds from 2 on, nothing wrong" in capsys.readouterr().out
    assert run.main(["--seeds", "1", "--first", "2"]) == 0
    assert "seed 2: nothing wrong, trace " in capsys.readouterr().out
