"""Mutated messages of every layer, and what an attack on a server says when something is wrong.

Rules of this file: the 100,000 run as a command of their own, where no coverage slows them down.
"""

import os
import random
import subprocess
import sys

import pytest
from properties import fuzz, mutations
from properties.attack import CONFIGS, Attack, Broken, Do, Reader, Step, contents, empty
from properties.mutations import Mutator, request
from tokenwire.testing import World

GET = request(b"GET", mutations.POLLING)
HANDSHAKE = request(b"GET", mutations.WEBSOCKET, mutations.UPGRADE)
NO_ATTACKER = Step(Do.OPEN, who=99)
"""It fails by itself."""


def test_100_000_mutated_messages_break_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "properties.fuzz", "--inputs", "100000", "--seed", "7"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100000 of 100000 inputs" in done.stdout


def test_a_seed_decides_what_is_sent() -> None:
    def drawn(seed: int) -> list[object]:
        mutator = Mutator(random.Random(seed))
        kinds = (mutator.request, mutator.payload, mutator.frames, mutator.ai_event)
        return [kind() for kind in kinds * 10]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_case_plays_its_steps_again() -> None:
    first, second = fuzz.script(1, 2), fuzz.script(1, 2)
    first.play(60)
    second.play(60)
    assert first.steps == second.steps
    assert fuzz.again(first.config, first.steps) is None


def test_a_failing_case_is_made_small() -> None:
    script = fuzz.script(1, 3)
    script.play(20)
    steps = [*script.steps, NO_ATTACKER, Step(Do.SEND, data=GET)]
    found = fuzz.again(script.config, steps)
    assert found is not None
    failure, trace = found
    assert failure[0] == "IndexError"
    assert "list index out of range" in trace
    assert fuzz.smaller(script.config, steps, failure) == [NO_ATTACKER]


# -- what is wrong is seen -------------------------------------------------------------------------


def reader(sent: bytes, requests: int) -> Reader:
    """Return a reader on a socket of its own."""
    made = Reader(World(CONFIGS[0]).connect())
    made.sends(sent, requests)
    return made


ANSWER = b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok"
SWITCH = b"HTTP/1.1 101 \r\nupgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    "received",
    [
        ANSWER * 3,
        b"ok\r\n\r\n",
        ANSWER + b"ok\r\n\r\n",
        SWITCH + b"\x88\x00\x8a\x00",
        SWITCH + b"\x89\x00",
        SWITCH + b"\x81\x01\xff",
    ],
)
def test_wrong_answers_are_seen(received: bytes) -> None:
    made = reader(GET, 1)
    made.wire.received = received
    with pytest.raises((Broken, UnicodeDecodeError)):
        made.read()


def test_a_request_without_an_answer_is_seen() -> None:
    made = reader(GET + GET, 2)
    made.wire.received = ANSWER
    made.read()
    with pytest.raises(Broken, match="2 requests got 1 answers"):
        made.check_answers()


def test_what_is_left_is_seen() -> None:
    attack = Attack(0)
    for step in (Step(Do.OPEN), Step(Do.SEND, data=HANDSHAKE)):
        attack.play(step)
    held, nothing = contents(attack.world.server), empty(CONFIGS[0])
    assert held.entries > nothing.entries
    assert held.kinds["EngineSession"] == 3  # the healthy ones' too
    assert "EngineSession" not in nothing.kinds
    hidden = attack.world.connect()
    del attack.world.wires[hidden.conn]  # so that it is not closed
    with pytest.raises(Broken, match="left"):
        attack.finish()


def test_a_disturbed_client_is_seen() -> None:
    attack = Attack(0)
    attack.streaming.reader.wire.drop()
    with pytest.raises(Broken, match="disconnected"):
        attack.play(Step(Do.HEALTHY))
    attack = Attack(0)
    attack.world.server.shut_down(attack.world.now)
    attack.world.pump()
    with pytest.raises(Broken, match="got"):
        attack.play(Step(Do.HEALTHY))
