"""tokenwire on anyio: asyncio or trio below, httpx towards the model."""

from tokenwire_anyio.server import Runtime, now

__all__ = ["Runtime", "now"]
