"""What Ollama's API answers with: the lines of a stream, the list of models.

Rules of this file: what is not named here is not looked at; what it means, `ollama.py` says. Facts
from ollama/ollama `docs/api.md` and `api/types.go`.
"""

import msgspec


class Message(msgspec.Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: list[msgspec.Raw] | None = None


class Line(msgspec.Struct, gc=False):
    """One line of the stream of /api/chat or /api/generate."""

    done: bool | None = None
    message: Message | None = None
    response: str = ""
    thinking: str = ""
    done_reason: str = ""
    prompt_eval_count: int = 0
    eval_count: int = 0
    error: object = None


class Model(msgspec.Struct):
    name: str


class Models(msgspec.Struct):
    """The answer of /api/tags."""

    models: list[Model]
