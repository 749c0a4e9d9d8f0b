"""Measures how slowly the stock JavaScript client may read and still stay connected.

    cd tests && ../.venv/bin/python -m interop.slowest_reader [--scale N] [RATE...]

Rules of this file: each client has a link of its own that takes so many bytes a second from the
server, in ten reads, and passes them on; the model never stops. What decides is how many bytes are
before a ping on its way, and how long they take: so all times are divided by the scale and all
rates multiplied by it, to come to a result in a minute. The rates are those of the real times.
"""

import argparse
import socket
import threading
import time
from contextlib import ExitStack, suppress

from interop.clients import Client, connect, running_node
from runtimes.scripted_ollama import Send, running_ollama, token
from runtimes.server_thread import running_server
from tokenwire import Config

RATES = (1_000, 2_000, 4_000, 6_000, 8_000, 12_000, 16_000, 24_000, 32_000)
INTERVAL, TIMEOUT = 30_000, 20_000  # ms; the defaults
PINGS = 8  # so many intervals are long enough
_READS = 10  # a second


class SlowLink:
    """Passes one connection on, slowly towards the client."""

    def __init__(self, host: str, port: int, rate: int) -> None:
        """
        Args:
            host: the server's.
            port: the server's.
            rate: bytes a second.
        """
        self._target, self._rate = (host, port), rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
        with suppress(OSError):
            while data := server.recv(self._rate // _READS):
                client.sendall(data)
                time.sleep(len(data) / self._rate)
        server.close()
        client.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    target.close()


def _lost(client: Client) -> str | None:
    """Return the client's reason for its loss."""
    for item in client.log:
        if item.name == "$disconnect":
            return str(item.args[0])
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rates", nargs="*", type=int, default=RATES, help="bytes a second")
    parser.add_argument("--scale", type=int, default=10)
    given = parser.parse_args()
    config = Config(
        heartbeat_interval=INTERVAL // given.scale,
        heartbeat_timeout=TIMEOUT // given.scale,
        slow_consumer_timeout=Config().slow_consumer_timeout // given.scale,
    )
    with ExitStack() as stack:
        ollama = stack.enter_context(running_ollama())
        ollama.default = [Send(token("some words ") * 50)] * 100_000
        server = stack.enter_context(running_server(ollama.url, config))
        node = stack.enter_context(running_node())
        clients: dict[int, Client] = {}
        for rate in given.rates:
            link = SlowLink(server.host, server.port, rate * given.scale)
            url = f"http://127.0.0.1:{link.port}"
            clients[rate] = connect(node, "js-websocket", url, {"reconnection": False})
            clients[rate].emit("ai:stream", {"prompt": "talk", "streamId": "s"})
        time.sleep(PINGS * INTERVAL / given.scale / 1_000)
        for rate, client in clients.items():
            print(f"{rate:7} bytes/s: {_lost(client) or 'connected'}")
        for client in clients.values():
            client.disconnect()
        node.wait_quiet()


if __name__ == "__main__":
    main()
