"""Who wants what is not his: guessed, stolen and used clientIds and pids, streams of others.

Rules of this file: the adversary has seen what is no secret (the public part of a clientId), and
what was one and is worth nothing any more. Whatever it gets of that is a Violation.
"""

import msgspec
from simulation.client import Client, World
from simulation.links import HEALTHY
from simulation.loop import Violation
from simulation.shown import Fields
from simulation.transport import Mode, Transport


class Adversary(Client):
    """A client with streams of its own, of the same names as everybody's."""

    def __init__(self, world: World, number: int, victims: list[Client]) -> None:
        super().__init__(world, number, "the seed's snippet", Mode.WEBSOCKET)
        self._victims = victims

    def attack(self) -> None:
        draw = self.loop.draw
        victim = draw.choice(self._victims)
        match draw.randrange(4):
            case 0:
                self._break_in(victim)
            case 1:
                name = f"s{self._last_stream + draw.randint(1, 3)}"  # none of its own
                self._emit("ai:cancel", {"streamId": name}, name, forged=True)
            case 2:
                self._forge(victim)
            case _:  # with its own clientId, streams that it does not have
                streams = {name: 0 for name in victim.shown if name not in self.shown}
                if self.settled:
                    fields: Fields = {"previousClientId": self.client_id, "streams": streams}
                    self.settled = False
                    self._emit("ai:reconnect", fields, str(self.client_id))

    def _forge(self, victim: Client) -> None:
        if victim.client_id is None or self.client_id is None:
            return
        public, _, secret = victim.client_id.partition(".")
        _, _, own_secret = self.client_id.partition(".")
        forged = [
            public,
            f"{public}.",
            f"{public}.{own_secret}",
            f"{public}.{secret[:-1]}",
            f"{public}.{secret[::-1]}",
            *victim.worthless(),
        ]
        client_id = self.loop.draw.choice(forged)
        if client_id != victim.client_id:
            self._emit("ai:reconnect", {"previousClientId": client_id}, client_id, forged=True)

    def _told_to_leave(self) -> None:
        """It has guessed too often."""
        self.reload()

    def _break_in(self, victim: Client) -> None:
        """Come with a pid that is no good, over a connection of its own."""
        pid = self.loop.draw.choice(["0" * 24, *victim.dead_pids])

        def heard(message: str) -> None:
            if not message:
                auth = msgspec.json.encode({"pid": pid, "offset": "x"}).decode()
                transport.send(f"40/ai,{auth}")
            elif message.startswith("40") and pid in message:
                raise Violation(f"{victim.who} is robbed by its old pid")
            elif message.startswith("42") and '"streamId"' in message:
                raise Violation(f"somebody sees a stream of {victim.who}")

        node = self.world.node
        transport = Transport(
            self.loop,
            Mode.WEBSOCKET,
            lambda: node.connect(HEALTHY, "198.51.100.1"),
            heard,
            lambda: None,
        )
        self.loop.later(500, transport.close)
