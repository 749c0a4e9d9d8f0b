"""One seeded run: clients, models, links and an adversary around the real core, in virtual time.

Rules of this file: for a while things go wrong; then nothing more does, and everything must come to
rest; then everybody leaves, and nothing may be left. What must hold at all times is checked where
it happens (`node.py`, `models.py`, `client.py`, `shown.py`), what must hold at rest here.
"""

from collections import Counter

from properties.attack import contents
from simulation.adversary import Adversary
from simulation.client import KINDS, Client
from simulation.links import Pipe
from simulation.loop import Loop, Violation
from simulation.models import Script
from simulation.node import Node
from simulation.settings import ACTIVE, ADDRESS_ENTRIES, CONFIG, EMPTY, LONGEST_STALL, SETTLE
from simulation.transport import Mode
from tokenwire.server import Server
from tokenwire.types import Millis

PROBE = "model server probe"
MODES = (Mode.WEBSOCKET, Mode.WEBSOCKET, Mode.POLLING, Mode.UPGRADE)


class Simulation:
    """A run. `play` it once."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.loop = Loop(seed)
        self.scripts: dict[str, Script] = {}
        self.active = True
        self.node = self._node(seed)
        draw = self.loop.draw
        kinds = list(KINDS)
        self.clients = [
            Client(self, number, draw.choice(kinds), draw.choice(MODES))
            for number in range(draw.randint(2, 4))
        ]
        self._adversary: Adversary | None = None
        if self.loop.chance(0.5):
            self._adversary = Adversary(self, len(self.clients), list(self.clients))
            self.clients.append(self._adversary)
        for client in self.clients:
            self._act_later(client)
        self.loop.later(draw.randint(500, 3_000), self._trouble)
        if self.loop.chance(0.2):
            self.loop.later(draw.randint(5_000, ACTIVE), self._shut_down)

    def _node(self, seed: int) -> Node:
        node = Node(self.loop, seed, self.scripts)
        node.on_said = lambda model: self.clients[model.script.owner].check_unread(model)
        return node

    def play(self) -> None:
        """Play it to the end.

        Raises:
            Violation: something that must hold does not.
        """
        self._pass(ACTIVE)
        self.active = False
        for pipe in self.node.pipes():
            pipe.heal()
        self._pass(SETTLE)
        for client in self.clients:
            client.check_rest()
        self._check_nothing_runs()
        for client in self.clients:
            client.leave()
        self._pass(EMPTY)
        self._check_nothing_is_left()

    # -- time --------------------------------------------------------------------------------------

    def _pass(self, span: int) -> None:
        """Let time pass."""
        loop, end = self.loop, self.loop.now + span
        while True:
            deadline = self.node.server.next_timeout()
            core = end + 1 if deadline is None else deadline.at
            world = loop.next()
            if world is not None and world < core:
                if world > end:
                    break
                loop.step()
            elif core > end:
                break
            else:
                loop.now = Millis(max(loop.now, core))
                self.node.tick()
            for model in self.node.paused.values():
                self.clients[model.script.owner].check_pause(model)
        loop.now = Millis(max(loop.now, end))

    # -- what is done ------------------------------------------------------------------------------

    def _act_later(self, client: Client) -> None:
        self.loop.later(self.loop.draw.randint(100, 2_000), lambda: self._act(client))

    def _act(self, client: Client) -> None:
        """Let a client do something."""
        if client.gone:
            return
        self._act_later(client)
        chance = self.loop.draw.random()
        if not self.active:
            if client.settled and chance < 0.3:
                client.beat()
        elif client.settled:
            self._do(client, chance)
        elif chance < 0.1:
            client.reload()

    def _do(self, client: Client, chance: float) -> None:
        if isinstance(client, Adversary) and chance < 0.5:
            client.attack()
        elif chance < 0.5:
            client.ask()
        elif chance < 0.6:
            client.cancel()
        elif chance < 0.7:
            client.ask_for_a_stranger()
        elif chance < 0.8:
            client.beat()
        elif chance < 0.86:
            client.ask_anew()
        elif chance < 0.92:
            client.reconnect(cursors=True)
            if self.loop.chance(0.2):
                client.cancel()
        elif chance < 0.98:
            client.reload()
        else:
            client.leave()

    def _trouble(self) -> None:
        """Let something go wrong with a link."""
        if not self.active:
            return
        draw = self.loop.draw
        self.loop.later(draw.randint(50, 2_500), self._trouble)
        pipes = [pipe for pipe in self.node.pipes() if pipe.client_open]
        if pipes:
            self._trouble_on(draw.choice(pipes))

    def _trouble_on(self, pipe: Pipe) -> None:
        draw = self.loop.draw
        kind = draw.choice(("stall", "stall", "half-open", "reset", "reset", "reset"))
        self.loop.note(f"pipe {pipe.conn}", kind)
        match kind:
            case "stall":
                way = draw.randrange(3)
                pipe.stall(draw.randint(10, LONGEST_STALL), up=way != 0, down=way != 1)
            case "half-open":
                pipe.reset(None, None)
            case _:
                spans = (0, 0, 5, 200, 2_000, None)
                pipe.reset(draw.choice(spans), draw.choice(spans))

    # -- a shutdown --------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        self.loop.note("operator", "shuts the server down")
        node = self.node
        node.stopping = True
        node.act(lambda: node.server.shut_down(self.loop.now))
        self.loop.later(CONFIG.shutdown_timeout + 1_000, self._restart)

    def _restart(self) -> None:
        """Another server takes over, and knows nobody."""
        node = self.node
        if not node.stopped:
            raise Violation("the server does not stop")
        if node.server.stats().total_active_streams or any(
            model.over_at is None for model in node.models.values()
        ):
            raise Violation("the server has stopped, and a stream runs")
        self.loop.note("operator", "starts another server")
        self.node = self._node(self.seed + 1_000_000)
        for pipe in node.pipes():
            pipe.reset(0, 0)

    # -- what must hold at rest --------------------------------------------------------------------

    def _check_nothing_runs(self) -> None:
        stats = self.node.server.stats()
        if stats.total_active_streams or stats.active_sessions:
            raise Violation(f"{stats.total_active_streams} streams run for ever")
        kept = contents(self.node.server).kinds.get("Stream", 0)
        if kept:
            raise Violation(f"{kept} streams that have ended are kept")

    def _check_nothing_is_left(self) -> None:
        server = self.node.server
        stats = server.stats()
        held = (stats.total_active_streams, stats.total_sessions, stats.bytes_held)
        if any(held):
            raise Violation(f"streams, sessions, bytes that are left: {held}")
        end = self.loop.now + EMPTY
        while (deadline := server.next_timeout()) is not None and deadline.at < end:
            if deadline.reason != PROBE:
                raise Violation(f"a timer of the dead: {deadline.reason}")
            self.loop.now = deadline.at
            self.node.tick()
        left, fresh = contents(server), FRESH
        if left.kinds != fresh.kinds:
            raise Violation(f"objects that are left: {Counter(left.kinds) - Counter(fresh.kinds)}")
        known = len(stats.errors) + ADDRESS_ENTRIES * (len(self.clients) + 1)
        if left.entries > fresh.entries + known:
            raise Violation(f"{left.entries - fresh.entries} entries are left")


def _fresh() -> Server:
    loop = Loop(0)
    node = Node(loop, 0, {})
    node.tick()
    return node.server


FRESH = contents(_fresh())
