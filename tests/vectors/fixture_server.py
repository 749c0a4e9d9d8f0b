"""The fixture's program on the asyncio runtime: an example of a server for `vectors.replay`.

    python vectors/fixture_server.py OPTIONS MODEL_SERVER

OPTIONS is JSON (`ServerOptions` in `spec/schema/session-1.json`), MODEL_SERVER an address. It
writes its port, serves until SIGTERM, and then shuts down.
"""

import asyncio
import secrets
import signal
import sys
from contextlib import suppress

import msgspec
import tokenwire_asyncio
from tokenwire import Server
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import ProgramEvent
from tokenwire.testing.vectors import ServerOptions
from tokenwire.testing.worldnet import NOT_FOUND, config, fixture


class _Ids:
    def random_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


async def serve(options: ServerOptions, model_server: str) -> None:
    core = Server(config(options), ids=_Ids())

    def handle(output: ProgramEvent) -> None:
        with suppress(LocalProtocolError):  # who is to be answered may have gone meanwhile
            fixture(core, output, tokenwire_asyncio.now())

    runtime = tokenwire_asyncio.Runtime(
        core, upstream_url=model_server, handle=handle, respond=lambda request: NOT_FOUND
    )
    await runtime.start("127.0.0.1", 0)
    print(runtime.port, flush=True)
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await ending.wait()
    await runtime.shut_down()


if __name__ == "__main__":
    asyncio.run(serve(msgspec.json.decode(sys.argv[1], type=ServerOptions), sys.argv[2]))
