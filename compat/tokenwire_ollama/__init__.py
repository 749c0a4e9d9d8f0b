"""A small real model behind Ollama's own HTTP API: the public names, nothing else.

`model` finds and runs the model, `api` decides what a request means (pure), `server` moves the
bytes, `python -m tokenwire_ollama` is the command.
"""

from tokenwire_ollama.model import (
    EmbeddedModel,
    Finish,
    Message,
    Model,
    ModelError,
    ModelInfo,
    ModelUnavailable,
    Options,
    load,
)
from tokenwire_ollama.server import Limits, OllamaServer

__all__ = [
    "EmbeddedModel",
    "Finish",
    "Limits",
    "Message",
    "Model",
    "ModelError",
    "ModelInfo",
    "ModelUnavailable",
    "OllamaServer",
    "Options",
    "load",
]
