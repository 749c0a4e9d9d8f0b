"""The servers that the public protocol suites are run against, as programs of tokenwire.

    python tests/interop/suite_servers.py engine.io|socket.io

Rules of this file: public names only, as any program would use them. What the programs do is what
the suites' own documents ask of a server under test: Engine.IO echoes; Socket.IO says `auth` on
joining, answers `message` with `message-back` and acknowledges `message-with-ack`.
"""

import asyncio
import secrets
import sys

from tokenwire import Config, Server
from tokenwire.outputs import Connected, Event, Message, ProgramEvent
from tokenwire_asyncio import Runtime, now

PORT = 3000  # the suites have it built in
CONFIGS = {
    "engine.io": Config(
        protocol="engine.io",
        ai_namespace=None,
        path="/engine.io/",
        heartbeat_interval=300,
        heartbeat_timeout=200,
    ),
    "socket.io": Config(
        ai_namespace=None,
        namespaces=("/", "/custom"),
        connect_timeout=1_000,
        heartbeat_interval=300,
        heartbeat_timeout=200,
    ),
}


class SystemIds:
    """Identifiers from the operating system."""

    def random_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


async def serve(protocol: str) -> None:
    """Serve one of CONFIGS, for ever."""
    core = Server(CONFIGS[protocol], ids=SystemIds())

    def handle(output: ProgramEvent) -> None:
        match output:
            case Message():
                core.send(output.session, output.data, now())
            case Connected():
                core.emit(output.socket, "auth", [output.auth], now())
            case Event(name="message"):
                core.emit(output.socket, "message-back", list(output.args), now())
            case Event(name="message-with-ack", ack_id=int(ack_id)):
                core.acknowledge(output.socket, ack_id, list(output.args), now())
            case _:
                pass

    await Runtime(core, handle=handle).start("localhost", PORT)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
