"""Which agent answers a prompt: a lexical score over the prompt and the agentContext.

Rules of this file: the score is what the words say and no more. A word counts once, for each agent
that lists it; the first words of a prompt count double, since requests begin with their verb. The
confidence is the winner's share of all evidence, damped while there is little; below
MIN_CONFIDENCE the general agent answers, and says how little was found. Time and memory are linear
in what is read, and only the first MAX_CHARS of a prompt are.
"""

import re

import msgspec

from tokenwire.wire import json

MAX_CHARS = 4_096
MIN_CONFIDENCE = 0.25
_LEADING_WORDS = 4
_DAMPING = 1.5  # evidence that a winner must outweigh to be sure of itself
_RUNNERS_UP = 2
_WORD = re.compile(r"[a-z][a-z+#']*")


class Agent(msgspec.Struct, frozen=True):
    """One agent of the roster."""

    name: str
    intent: str
    system: str
    words: dict[str, float]
    """Evidence: a word (or its beginning, if it ends in `*`) and its weight."""


class Candidate(msgspec.Struct, frozen=True):
    agent: str
    intent: str
    confidence: float


class Route(msgspec.Struct, frozen=True):
    """A decision and its grounds."""

    agent: str
    intent: str
    confidence: float
    """0 to 1."""
    system: str | None
    """The system prompt; None in direct mode."""
    runners_up: tuple[Candidate, ...] = ()
    reasons: tuple[str, ...] = ()


DIRECT = Route("DirectOllama", "direct", 1.0, None)


def _words(text: str, weight: float = 1.0) -> dict[str, float]:
    return dict.fromkeys(text.split(), weight)


AGENTS = (
    Agent(
        "Explainer",
        "explain",
        "You explain code and ideas. Say first what it does, then how, in plain words.",
        _words("explain* understand* clarif*", 2)
        | _words("how why mean* walk describe* works difference what's concept"),
    ),
    Agent(
        "Generator",
        "generate",
        "You write code. Give complete, working code first, then at most a short note on it.",
        _words("write create* generat* implement* build*", 2)
        | _words("make add new function component class script snippet scaffold code hello"),
    ),
    Agent(
        "Debugger",
        "debug",
        "You find faults. Name the most likely cause, how to confirm it, and the smallest fix.",
        _words("debug* fix* bug* crash* traceback exception", 2)
        | _words("error* fail* broken wrong issue stack undefined null nan throws hang* doesn't"),
    ),
    Agent(
        "Refactorer",
        "refactor",
        "You improve the structure of code without changing what it does. Show the new code.",
        _words("refactor* restructur* clean* simplif*", 2)
        | _words("rename* extract* duplicat* readab* split tidy modular* decouple*"),
    ),
    Agent(
        "Tester",
        "test",
        "You write tests. Cover the usual case, the edges and the failures; name each test well.",
        _words("test* unittest* pytest jest", 2)
        | _words("coverage mock* assert* fixture* edge cases spec vitest"),
    ),
    Agent(
        "Documenter",
        "document",
        "You write documentation: short, exact, with an example.",
        _words("document* docstring* readme jsdoc", 2)
        | _words("comment* docs changelog api annotate* guide"),
    ),
    Agent(
        "Reviewer",
        "review",
        "You review code. List what matters by severity: faults, risks, then style.",
        _words("review* critique* audit*", 2)
        | _words("feedback improve* quality smell* best practices pull request vulnerab* secur*"),
    ),
    Agent(
        "Optimizer",
        "optimize",
        "You make code faster or smaller. Say what costs most, how to measure it, what to change.",
        _words("optimi* faster performance profil* speed*", 2)
        | _words("slow* memory latency cache complexity efficient* bottleneck throughput"),
    ),
    Agent(
        "Operator",
        "operate",
        "You run systems. Give exact commands, what each does, and how to undo it.",
        _words("deploy* docker* kubernetes kubectl", 2)
        | _words("install* configur* server nginx command shell ci pipeline run start restart log"),
    ),
    Agent(
        "Researcher",
        "query",
        "You answer questions of fact, briefly. Say so when you do not know.",
        _words("who when where which", 1.5) | _words("what list many much find show is are does"),
    ),
)

GENERAL = Agent(
    "Assistant",
    "chat",
    "You are a helpful assistant. Answer clearly and briefly.",
    _words("hello hi hey thanks thank", 1.5) | _words("you chat talk story joke tell feel"),
)

BY_NAME = {agent.name.lower(): agent for agent in (*AGENTS, GENERAL)}

_EXACT: dict[str, list[tuple[int, float]]] = {}
_STEMS: dict[str, list[tuple[int, float]]] = {}
_ROSTER = (*AGENTS, GENERAL)
for _index, _agent in enumerate(_ROSTER):
    for _word, _weight in _agent.words.items():
        _table = _STEMS if _word.endswith("*") else _EXACT
        _table.setdefault(_word.rstrip("*"), []).append((_index, _weight))
_STEM_LENGTHS = tuple(sorted({len(stem) for stem in _STEMS}))


def named(agent: Agent, context: dict[str, object] | None) -> Route:
    """Return the route to an agent that the client named itself."""
    reasons = ("named by the client",)
    return Route(agent.name, agent.intent, 1.0, _system(agent, context), reasons=reasons)


def route(prompt: str, context: dict[str, object] | None) -> Route:
    """Choose an agent.

    Args:
        prompt: the client's prompt.
        context: the client's agentContext: evidence here, and context for the agent.
    """
    scores = [0.0] * len(_ROSTER)
    reasons: list[list[str]] = [[] for _ in _ROSTER]
    words = list(dict.fromkeys(_WORD.findall(prompt[:MAX_CHARS].lower())))
    for place, word in enumerate(words):
        factor = 2.0 if place < _LEADING_WORDS else 1.0
        for index, weight in _evidence(word):
            scores[index] += weight * factor
            reasons[index].append(f"word: {word}")
    if _is_test_file(context):
        tester = next(i for i, agent in enumerate(_ROSTER) if agent.intent == "test")
        scores[tester] += 1.0
        reasons[tester].append("activeFile is a test")
    total = sum(scores) + _DAMPING
    order = sorted(range(len(_ROSTER)), key=lambda index: -scores[index])
    best = order[0]
    confidence = round(scores[best] / total, 3)
    chosen, why = _ROSTER[best], tuple(reasons[best][:5])
    if confidence < MIN_CONFIDENCE:
        chosen, why = GENERAL, ("no agent stands out",)
    rivals = [index for index in order if _ROSTER[index] is not chosen and scores[index] > 0]
    runners_up = tuple(
        Candidate(_ROSTER[i].name, _ROSTER[i].intent, round(scores[i] / total, 3))
        for i in rivals[:_RUNNERS_UP]
    )
    return Route(chosen.name, chosen.intent, confidence, _system(chosen, context), runners_up, why)


def _evidence(word: str) -> list[tuple[int, float]]:
    found = list(_EXACT.get(word, ()))
    for length in _STEM_LENGTHS:
        if length <= len(word):
            found += _STEMS.get(word[:length], ())
    return found


def _is_test_file(context: dict[str, object] | None) -> bool:
    name = context.get("activeFile") if context else None
    if not isinstance(name, str):
        return False
    base = name.replace("\\", "/").rpartition("/")[2].lower()
    return base.startswith("test_") or "_test." in base or ".test." in base or ".spec." in base


def _system(agent: Agent, context: dict[str, object] | None) -> str:
    if not context:
        return agent.system
    return f"{agent.system}\n\nContext (JSON): {json.encode(context).decode()}"
