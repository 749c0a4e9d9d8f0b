"""A scene for a scenario: the server under test, a scripted model, clients of one kind.

Rules of this file: at the end of each scene, whatever it was about, all that its clients received
is checked: every event against the contract, every stream's order, and that nothing tells where
the model server is or how the server is made.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from interop.clients import Client, Node, Received, Resume, connect
from interop.contract import check_event, check_order
from interop.link import Link, running_link
from runtimes.scripted_ollama import ScriptedOllama
from runtimes.server_thread import Control, running_server
from tokenwire import Config

_RANDOM = re.compile(r"[\w-]{22}\.[\w-]{22}")
"""clientIds: what looks like a file's name in one is chance."""


class Scene:
    """What a scenario plays with."""

    def __init__(
        self, node: Node, kind: str, ollama: ScriptedOllama, server: Control, stack: ExitStack
    ) -> None:
        self.kind = kind
        self.ollama = ollama
        self.server = server
        self.clients: list[Client] = []
        self._node = node
        self._stack = stack

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server.port}"

    def connect(
        self,
        url: str | None = None,
        options: dict[str, object] | None = None,
        resume: Resume | None = None,
    ) -> Client:
        """A new client that the server has said hello to."""
        client = connect(self._node, self.kind, url or self.url, options, resume)
        self.clients.append(client)
        self._stack.callback(client.disconnect)
        return client

    def link(self) -> Link:
        """A link to the server that can be cut."""
        return self._stack.enter_context(running_link(self.server.host, self.server.port))

    def check(self) -> None:
        """Check all that was received."""
        for client in self.clients:
            log = client.log
            for item in log:
                if item.name.startswith("ai:"):
                    check_event(item, offsets=self.kind != "py")
                self._check_secrets(item)
            check_order(log)
        assert self._node.faults == []

    def _check_secrets(self, item: Received) -> None:
        said = _RANDOM.sub("", json.dumps(item.args))
        forbidden = (str(self.ollama.port), self.ollama.host, "Traceback", "/work", ".py", "httpx")
        for secret in forbidden:
            assert secret not in said, f"{item} tells {secret!r}"


@contextmanager
def playing(
    node: Node,
    kind: str,
    ollama: ScriptedOllama,
    config: Config | None = None,
    *,
    runtime: str = "asyncio",
) -> Iterator[Scene]:
    """A scene for one scenario.

    Args:
        node: runs the JavaScript clients.
        kind: of the clients.
        ollama: the model server.
        config: the server's configuration.
        runtime: a name of RUNTIMES.
    """
    with running_server(ollama.url, config, runtime=runtime) as server, ExitStack() as stack:
        stack.callback(node.wait_quiet)
        scene = Scene(node, kind, ollama, server, stack)
        ollama.wait_probed()  # from now on the server knows which models there are
        yield scene
        scene.check()
