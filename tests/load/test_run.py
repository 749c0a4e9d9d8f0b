"""The load generator sees what there is, and what is not whole."""

import asyncio
from typing import get_args

import pytest
from load import model, run
from load.model import Workload
from load.run import Seen, report
from tokenwire.client.config import Transport


@pytest.mark.parametrize("transport", get_args(Transport))
def test_every_stream_is_whole(transport: Transport) -> None:
    async def play() -> list[Seen]:
        async with run.server() as server:
            return await run.run(server.url, Workload(50, 0, 7), 4, (transport,))

    seen = asyncio.run(play())
    assert [(one.fault, one.tokens, len(one.waits)) for one in seen] == [(None, 50, 50)] * 4
    assert all(0 < one.first < 60_000 for one in seen)
    first, *_ = report(seen, 2.0)
    assert first.startswith("4 clients, 200 tokens in ")
    assert first.endswith("2.0 s: 100 tokens/s")


def test_a_workload_is_a_prompt() -> None:
    work = Workload(tokens=3, rate=0, batch=2)
    assert model.parse(work.prompt()) == work
    assert model.parse("hello") == Workload()


def test_what_failed_is_told() -> None:
    lines = report([Seen(tokens=1, events=1, waits=[1.0], fault=None), Seen()], 1.0)
    assert lines[1] == "latency of a token: p50 1.00 ms, p99 1.00 ms, most 1.00 ms"
    assert lines[-1] == "1 streams failed, the first: not begun"
