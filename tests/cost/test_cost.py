"""What a token costs the core: as much as is recorded, the first or the last, alone or not.

Rules of this file: counts decide, which are the same in each run. Time is looked at only for what
they cannot see, work within one call into C, and only where it would grow many times.
"""

import gc

import pytest
from core.costs import cpu_time
from cost.counts import Cost, measure
from cost.gate import cost_of_token, cost_of_writes, faults, read_recorded
from cost.shapes import SHAPES, Flow, Shape
from tokenwire.testing.parse import take_answer, take_frames

FLAT = 20  # percent
CROOKED = 3  # so many times the CPU time is no noise


@pytest.mark.parametrize("name", SHAPES)
def test_a_token_costs_what_is_recorded(name: str) -> None:
    recorded = read_recorded()
    assert name in recorded, f"nothing is recorded for {name!r}: make record-cost"
    found = faults(recorded[name], cost_of_token(name))
    assert not found, "\n".join([f"the cost of a token ({name}) has changed:", *found])


def test_nothing_else_is_recorded() -> None:
    assert read_recorded().keys() <= SHAPES.keys(), "make record-cost"


@pytest.mark.parametrize("name", SHAPES)
def test_each_token_arrives_as_an_event(name: str) -> None:
    shape = SHAPES[name]
    flow = Flow(shape)
    data = b"".join(flow.write())
    if shape.polls:
        answer, rest = take_answer(data)
        assert answer is not None
        events = answer.body.split(b"\x1e")
    else:
        frames, rest = take_frames(data)
        events = [frame.payload for frame in frames]
    assert not rest
    assert len(events) == shape.batch
    assert all(b'["ai:token",{"streamId":"s0","data":" token"' in event for event in events)
    assert [b'"seq":%d,' % (2 + place) in event for place, event in enumerate(events)]
    assert all(event.endswith(b'"]' if shape.recovers else b"}}]") for event in events)


# -- flatness --------------------------------------------------------------------------------------


def assert_flat(before: Cost, after: Cost) -> None:
    for name in Cost.__struct_fields__:
        few, many = getattr(before, name), getattr(after, name)
        assert many <= few * (1 + FLAT / 100), f"{name}: {few:g}, later {many:g}"


def cpu_time_of_writes(flow: Flow) -> float:
    """Return the CPU time of a hundred writes of models."""

    def write() -> None:
        for _ in range(100):
            flow.write()

    return cpu_time(write, 5)


def test_the_hundred_thousandth_token_costs_what_the_first_did() -> None:
    flow = Flow(Shape())
    first, soon = cost_of_writes(flow, 10), cpu_time_of_writes(flow)
    flow.say(100_000)
    assert_flat(first, cost_of_writes(flow, 10))
    assert cpu_time_of_writes(flow) < soon * CROOKED


@pytest.mark.parametrize("batch", [1, 100])
def test_a_token_of_a_full_log_costs_what_the_first_did(batch: int) -> None:
    shape = Shape(batch=batch)
    first = cost_of_writes(Flow(shape), 10)
    full = Flow(shape, log_bytes=16 * 1024)  # an eighth is dropped at once, of some 200 tokens
    full.say(5_000)
    assert_flat(first, cost_of_writes(full, 400 if batch == 1 else 10))


@pytest.mark.parametrize("streams", [1, 10])
def test_a_thousand_streams_cost_what_ten_did(streams: int) -> None:
    few = Flow(Shape(clients=10 // streams, streams=streams))
    many = Flow(Shape(clients=1000 // streams, streams=streams))
    assert_flat(cost_of_writes(few, 50), cost_of_writes(many, 50))
    assert cpu_time_of_writes(many) < cpu_time_of_writes(few) * CROOKED


# -- the gate --------------------------------------------------------------------------------------

RECORDED = Cost(lines=100, functions=20, builtins=16, memory=500)


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (Cost(105, 21, 16.8, 525), 0),
        (Cost(90, 18, 14.4, 450), 0),
        (Cost(100, 20, 17, 500), 1),
        (Cost(106, 22, 17, 530), 4),
        (Cost(89, 20, 16, 500), 1),
    ],
)
def test_the_gate_shuts(now: Cost, found: int) -> None:
    assert len(faults(RECORDED, now)) == found


def test_the_gate_says_both_figures_and_what_to_do() -> None:
    (line,) = faults(RECORDED, Cost(100, 20, 17, 500))
    assert "17 a token, recorded: 16 (+6.2 %" in line
    assert "make record-cost" in line


def test_all_that_is_done_is_counted() -> None:
    kept = list(range(1000))

    def square() -> list[int]:
        len(kept)
        return list(map(int, kept))

    def call() -> None:
        [square() for _ in range(2)]

    cost = measure(call, 3, apart="")
    assert (cost.functions, cost.builtins) == (3, 2)
    assert 5 <= cost.lines <= 9  # a comprehension's are another number in each version
    assert 2 * 8_000 <= cost.memory < 3 * 8_000


def test_what_is_apart_is_not_counted() -> None:
    assert measure(lambda: len(""), 3, apart=__file__) == Cost(0, 0, 0, 0)
    assert gc.isenabled()
