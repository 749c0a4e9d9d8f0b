"""How many sessions, and how fast: in all, and of one address."""

from tokenwire.config import Config
from tokenwire.engineio.admission import Admission
from tokenwire.outputs import Notice, Output
from tokenwire.queue import Outputs
from tokenwire.types import Millis

HERE = None
ONE, OTHER = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"


def setting(**changes: object) -> tuple[Admission, Outputs]:
    outputs = Outputs()
    return Admission(Config(**changes), outputs), outputs  # type: ignore[arg-type]


def limits_told(outputs: Outputs) -> list[str]:
    told: list[Output] = []
    while (output := outputs.poll()) is not None:
        told.append(output)
    limits = []
    for notice in told:
        assert isinstance(notice, Notice)
        assert (notice.level, notice.event) == ("warning", "handshake_refused")
        ((name, value),) = notice.fields
        assert name == "limit"
        limits.append(str(value))
    return limits


def test_sessions_in_all() -> None:
    admission, outputs = setting(max_sessions=2)
    admission.opened(HERE)
    admission.opened(ONE)
    for address in (HERE, ONE, OTHER):
        assert admission.take_handshake(address, Millis(0)) == 1
    assert limits_told(outputs) == ["MAX_SESSIONS"]
    admission.closed(ONE)
    assert admission.take_handshake(OTHER, Millis(0)) == 0


def test_sessions_of_one_address() -> None:
    admission, outputs = setting(max_sessions_per_address=2)
    for _ in range(2):
        assert admission.take_handshake(ONE, Millis(0)) == 0
        admission.opened(ONE)
    assert admission.take_handshake(ONE, Millis(0)) == 1
    assert limits_told(outputs) == ["MAX_SESSIONS_PER_ADDRESS"]
    assert admission.take_handshake(OTHER, Millis(0)) == 0
    admission.closed(ONE)
    assert admission.take_handshake(ONE, Millis(0)) == 0
    admission.closed(ONE)
    for _ in range(2):
        assert admission.take_handshake(ONE, Millis(0)) == 0
        admission.opened(ONE)
    assert admission.take_handshake(ONE, Millis(0)) == 1


def test_an_address_without_sessions_is_forgotten() -> None:
    admission, _ = setting()
    for address in (HERE, ONE, ONE, OTHER):
        admission.opened(address)
    assert len(admission) == 2
    for address in (HERE, ONE, OTHER):
        admission.closed(address)
    assert len(admission) == 1
    admission.closed(ONE)
    assert len(admission) == 0


def test_handshakes_of_one_address() -> None:
    admission, outputs = setting(handshakes_per_second=1, handshake_burst=3)
    assert [admission.take_handshake(ONE, Millis(0)) for _ in range(4)] == [0, 0, 0, 1]
    assert admission.take_handshake(OTHER, Millis(0)) == 0
    assert limits_told(outputs) == ["handshakes of one address"]
    assert [admission.take_handshake(ONE, Millis(1_000)) for _ in range(2)] == [0, 1]


def test_whole_seconds_are_told_and_are_enough() -> None:
    admission, _ = setting(handshakes_per_second=1, handshake_burst=1)
    assert admission.take_handshake(ONE, Millis(0)) == 0
    assert admission.take_handshake(ONE, Millis(999)) == 1
    assert admission.take_handshake(ONE, Millis(1_999)) == 0


def test_this_machine_is_not_counted_by_address() -> None:
    admission, outputs = setting(max_sessions_per_address=1, handshake_burst=1)
    for _ in range(1_000):
        assert admission.take_handshake(HERE, Millis(0)) == 0
        admission.opened(HERE)
    admission.closed(HERE)
    assert limits_told(outputs) == []


def test_a_flood_is_told_once_a_second() -> None:
    admission, outputs = setting(max_sessions=1)
    admission.opened(ONE)
    for now in range(0, 2_500, 10):
        assert admission.take_handshake(ONE, Millis(now)) == 1
    assert len(limits_told(outputs)) == 3
