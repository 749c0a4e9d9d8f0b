"""tokenwire on asyncio: `asyncio.Protocol` below, httpx towards the model."""

from tokenwire_asyncio.server import Runtime, now

__all__ = ["Runtime", "now"]
