"""A plan: what a debate stage is going to cost, worked out before anything is sent.

The protocol itself is played on a sample of the questions with made-up replies of the assumed length, or of an agent's
`sampling.max_tokens` where that is less, so that the prompts are those that would be sent. What cannot be known beforehand (how
often agents agree, how long and how slow replies are) is taken from `debate.estimate`, and said beside the result.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from magdi_ray.agents.base import Reply
from magdi_ray.agents.budget import Spend
from magdi_ray.agents.completion import SCHEMA_TOKENS
from magdi_ray.agents.estimate import estimate_prompt, estimate_tokens
from magdi_ray.config.engines import ApiEngine, TransformersEngine
from magdi_ray.config.sections import AgentConfig, DebateConfig
from magdi_ray.debate.transcript import Ask, Debate, DebateProtocol
from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Question

SAMPLE = 150
"""Questions the protocol is played on; beyond them every so-and-so-many-th stands for its neighbours."""

PLAYS = 2
"""Debates played on each of them."""

FALLBACK_ANSWERS = ("1", "2", "3", "4", "A", "B", "C", "yes", "no")
"""Answers to make up where no gold answers are at hand; the task decides which of them it can read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is expected of a whole debate stage."""

    questions: int
    calls: int
    calls_at_most: int
    """If no debate stopped early."""
    agents: dict[str, Spend]
    """Agent -> expected calls, tokens and money."""
    seconds: float
    """Of debating, engines being deployed."""
    bound: str
    """What sets the time: the limit that is reached first."""
    unpriced: tuple[str, ...] = field(default=())
    """API agents whose price is not configured."""

    @property
    def total(self) -> Spend:
        """All agents together."""
        return sum(self.agents.values(), Spend())


def plan_debates(
    config: DebateConfig, protocol: DebateProtocol, questions: Iterable[Question], *, count: int, seed: int = 0
) -> Plan:
    """The plan for `count` questions, of which `questions` streams all.

    Raises:
        ConfigError: there is no question, or the task reads no answer that could be made up.
    """
    sample = list(islice(questions, 0, None, max(1, -(-count // SAMPLE))))[:SAMPLE]
    if not sample:
        raise ConfigError("There is no question to plan for. Check task.path and task.limit.")
    made_up = Rehearsal(config, protocol, _answers(protocol, sample), random.Random(seed))
    spent: dict[str, Spend] = {agent.name: Spend() for agent in config.agents}
    rounds = 0
    for question in sample:
        for _ in range(PLAYS):
            rounds += made_up.play(question, spent)
    factor = count / (len(sample) * PLAYS)
    agents = {agent.name: _priced(agent, _scaled(spent[agent.name], factor)) for agent in config.agents}
    seconds, bound = _time(config, agents, debates=count, rounds=rounds / (len(sample) * PLAYS))
    return Plan(
        questions=count,
        calls=sum(spend.calls for spend in agents.values()),
        calls_at_most=count * protocol.most_calls(len(config.agents)),
        agents=agents,
        seconds=seconds,
        bound=bound,
        unpriced=tuple(a.name for a in config.agents if isinstance(a.engine, ApiEngine) and a.engine.price is None),
    )


class Rehearsal:
    """Plays debates with made-up replies: in each round all agents agree with the assumed probability, or no two do."""

    def __init__(self, config: DebateConfig, protocol: DebateProtocol, answers: Sequence[str], random: random.Random) -> None:
        self.config, self.protocol, self.answers, self.random = config, protocol, answers, random
        assumed = config.estimate.reply_tokens
        self.lengths = {a.name: min(assumed, a.sampling.max_tokens) for a in config.agents}
        self.system = {a.name: getattr(a.engine, "system_prompt", None) or "" for a in config.agents}
        self.schema = {a.name: SCHEMA_TOKENS if _structured(a) else 0 for a in config.agents}

    def play(self, question: Question, spent: dict[str, Spend]) -> int:
        """Play one debate, adding what it costs to `spent`; returns its rounds."""
        debate = self.protocol.start(question, [agent.name for agent in self.config.agents])
        while asks := self.protocol.next_asks(debate):
            replies = self._replies(debate, asks)
            for ask, reply in zip(asks, replies, strict=True):
                spent[ask.agent] = spent[ask.agent] + Spend(1, reply.tokens_in, reply.tokens_out)
            debate = self.protocol.advance(debate, asks, replies)
        return debate.rounds

    def _replies(self, debate: Debate, asks: Sequence[Ask]) -> list[Reply]:
        first = self.random.randrange(len(self.answers))
        agreed = self.random.random() < self.config.estimate.agreement
        last = debate.turns[-1].answer if debate.turns and asks[0].role == "critic" else None
        chosen = [self.answers[(first + (0 if agreed else place)) % len(self.answers)] for place in range(len(asks))]
        if last is not None and agreed:
            chosen = [last] * len(asks)
        return [self._reply(ask, answer) for ask, answer in zip(asks, chosen, strict=True)]

    def _reply(self, ask: Ask, answer: str) -> Reply:
        closing = f"{self.protocol.task.state(answer)}\nConfidence: 0.8"
        length = self.lengths[ask.agent]
        text = "so " * max(0, length - estimate_tokens(closing)) + closing
        system = self.system[ask.agent]
        prompt = estimate_prompt(ask.messages) + (estimate_tokens(system) + 4 if system else 0) + self.schema[ask.agent]
        return Reply(text, prompt, length, None, "stop", "made up")


def _structured(agent: AgentConfig) -> bool:
    return isinstance(agent.engine, ApiEngine) and agent.engine.structured != "never"


def _answers(protocol: DebateProtocol, sample: Sequence[Question]) -> list[str]:
    """Several answers, no two the same, that the task can read."""
    task, found = protocol.task, list[str]()
    for candidate in (*(q.gold for q in sample if q.gold is not None), *FALLBACK_ANSWERS):
        read = task.extract(sample[0], task.state(candidate))
        if read is not None and not any(task.same(read, other) for other in found):
            found.append(read)
        if len(found) == len(FALLBACK_ANSWERS):
            break
    if not found:
        raise ConfigError(
            f"The task {task.name!r} reads no answer that could be made up, so that no debate can be rehearsed. "
            "Run it on a few questions instead (task.limit)."
        )
    return found


def _scaled(spend: Spend, factor: float) -> Spend:
    return Spend(round(spend.calls * factor), round(spend.tokens_in * factor), round(spend.tokens_out * factor), 0.0)


def _priced(agent: AgentConfig, spend: Spend) -> Spend:
    price = agent.engine.price if isinstance(agent.engine, ApiEngine) else None
    return replace(spend, usd=price.usd(spend.tokens_in, spend.tokens_out)) if price else spend


def _time(config: DebateConfig, agents: dict[str, Spend], *, debates: int, rounds: float) -> tuple[float, str]:
    """The slowest of everything that is limited, and its name."""
    latency = config.estimate.seconds_per_reply
    waves = debates * rounds * latency / min(config.max_in_flight, debates)
    times = {f"{config.max_in_flight} debates in flight (debate.max_in_flight)": waves}
    for agent in config.agents:
        engine = agent.engine
        if isinstance(engine, ApiEngine):
            # Agents of one provider share its limits.
            users = [a for a in config.agents if isinstance(a.engine, ApiEngine) and a.engine.provider == engine.provider]
            spend = sum((agents[user.name] for user in users), Spend())
            limits = engine.limits
            times[f"{limits.concurrency} concurrent requests to {engine.base_url}"] = spend.calls * latency / limits.concurrency
            if limits.rpm:
                times[f"{limits.rpm} requests/min of {engine.base_url}"] = 60 * spend.calls / limits.rpm
            if limits.tpm:
                times[f"{limits.tpm} tokens/min of {engine.base_url}"] = 60 * (spend.tokens_in + spend.tokens_out) / limits.tpm
        else:
            places = agent.replicas[1] * (engine.max_batch_size if isinstance(engine, TransformersEngine) else 64)
            times[f"{places} places of {agent.name} (replicas x batch)"] = agents[agent.name].calls * latency / places
    bound = max(times, key=lambda name: times[name])
    return times[bound], bound
