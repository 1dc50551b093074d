"""From a configuration to a scenario: traces by rehearsing the protocol or from a measured run, speeds measured or assumed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice
from typing import Any

from magdi_ray.agents.base import Reply
from magdi_ray.agents.budget import Spend
from magdi_ray.config.cluster import Cluster, EngineSpeed
from magdi_ray.config.engines import ApiEngine, TransformersEngine
from magdi_ray.config.run import RunConfig
from magdi_ray.config.sections import AgentConfig, DebateConfig
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.plan import FALLBACK_ANSWERS, PLAYS, SAMPLE, Rehearsal
from magdi_ray.debate.transcript import Ask, Debate, DebateProtocol
from magdi_ray.errors import ConfigError
from magdi_ray.simulate.calibrate import Measured
from magdi_ray.simulate.scenario import Agent, Call, Latency, Nodes, Overheads, Pool, Provider, Scenario, Speed, Trace
from magdi_ray.tasks.load import count_questions, iter_questions, load_task

SPREAD = 0.4
"""Assumed where nothing was measured: standard deviation of the logarithm of an API agent's latency."""
FACTORS = 40


def build(config: RunConfig, *, cluster: Cluster | None = None, measured: Measured | None = None) -> tuple[Scenario, list[str]]:
    """The scenario of a run's debates, and what it assumes, in sentences. Without a cluster no machine starts or is lost.

    Raises:
        ConfigError: the run holds no debates, or its local agents have no machines that fit them.
    """
    debate = config.debate
    if debate is None:
        raise ConfigError(
            "There are no debates to simulate: the graphs come from a file (graph.source). Leave --cluster out to "
            "plan its training."
        )
    said: list[str] = []
    engines = [a.engine for a in debate.agents if isinstance(a.engine, ApiEngine)]
    names = list(dict.fromkeys(engine.provider for engine in engines))
    limits = {engine.provider: engine.limits for engine in engines}
    agents = tuple(_agent(a, debate, names, cluster, measured, said) for a in debate.agents)
    stages = cluster.stages if cluster else None
    overheads = Overheads() if measured is None else Overheads(fixed_s=measured.fixed_s)
    scenario = Scenario(
        agents=agents,
        traces=_traces(config, debate, measured, said),
        providers=tuple(Provider(name.partition("#")[0], limits[name]) for name in names),
        workers=debate.worker_range[1],
        max_in_flight=debate.max_in_flight,
        overheads=overheads,
        agent_nodes=_nodes(cluster, "agents") if stages and stages.agents else Nodes(),
        worker_nodes=_nodes(cluster, "workers") if stages else Nodes(),
    )
    return scenario, list(dict.fromkeys(said))


def _nodes(cluster: Cluster | None, stage: str) -> Nodes:
    assert cluster is not None
    placed = getattr(cluster.stages, stage)
    found = cluster.type_of(placed)
    return Nodes(found.start_seconds, found.max_nodes, cluster.lost_per_hour(placed))


def _agent(
    agent: AgentConfig,
    debate: DebateConfig,
    providers: Sequence[str],
    cluster: Cluster | None,
    measured: Measured | None,
    said: list[str],
) -> Agent:
    engine = agent.engine
    if isinstance(engine, ApiEngine):
        latency = _latency(agent, debate, measured, said)
        return Agent(agent.name, provider=providers.index(engine.provider), latency=latency, max_tokens=agent.sampling.max_tokens)
    known = cluster.speeds.get(agent.name, cluster.speed) if cluster else EngineSpeed()
    speed = _speed(agent, known, measured, said)
    batching = engine.batching if isinstance(engine, TransformersEngine) else "continuous"
    batch = engine.max_batch_size if isinstance(engine, TransformersEngine) else known.batch
    share = _share(agent, cluster) if cluster else 0.0
    pool = Pool(agent.replicas, batch, speed, batching, node_share=share, load_s=known.load_seconds)
    return Agent(agent.name, pool=pool)


def _latency(agent: AgentConfig, debate: DebateConfig, measured: Measured | None, said: list[str]) -> Latency:
    if measured is not None and measured.latency:
        if agent.name in measured.latency:
            return measured.latency[agent.name]
        said.append(f"{agent.name} was not measured in {measured.run}: its latency is taken for the average of those that were.")
        found = list(measured.latency.values())
        mean = sum(item.base_s for item in found) / len(found)
        factors = tuple(item.base_s * factor / mean for item in found for factor in item.factors)
        return Latency(mean, factors=factors)
    said.append(
        f"API agents are taken to answer in {debate.estimate.seconds_per_reply:g} s on average "
        f"(debate.estimate.seconds_per_reply), lognormal with a spread of {SPREAD:g}."
    )
    factors = _lognormal(SPREAD)
    return Latency(debate.estimate.seconds_per_reply, factors=factors)


def _lognormal(sigma: float) -> tuple[float, ...]:
    """Equally likely factors with mean 1."""
    from statistics import NormalDist

    normal = NormalDist()
    raw = [math.exp(sigma * normal.inv_cdf((k + 0.5) / FACTORS)) for k in range(FACTORS)]
    mean = sum(raw) / len(raw)
    return tuple(value / mean for value in raw)


def _speed(agent: AgentConfig, known: EngineSpeed, measured: Measured | None, said: list[str]) -> Speed:
    if measured is not None and agent.name in measured.speed:
        return measured.speed[agent.name]
    said.append(
        f"A replica of {agent.name} is taken to need {known.step_ms:g} ms a token and {known.row_ms:g} ms more for each row of "
        f"its batch, and to read {known.prefill_tokens_per_second:g} tokens a second (speed, speeds)."
    )
    return Speed(0.0, known.step_ms / 1000, known.row_ms / 1000, 1.0 / known.prefill_tokens_per_second)


def _share(agent: AgentConfig, cluster: Cluster) -> float:
    """Of a machine, that a replica takes: of its GPUs or of its vCPUs, whichever is more."""
    placed = cluster.stages.agents
    if placed is None:
        raise ConfigError(f"Agent {agent.name!r} is local, but the cluster file has no stages.agents: name its machines there.")
    node = cluster.type_of(placed)
    if agent.num_gpus > node.gpus or agent.num_cpus > node.vcpus:
        raise ConfigError(
            f"A replica of {agent.name!r} reserves {agent.num_cpus:g} CPUs and {agent.num_gpus:g} GPUs, a machine of "
            f"{placed.nodes!r} has {node.vcpus:g} and {node.gpus}: it never fits. Choose larger machines for stages.agents."
        )
    return max(agent.num_cpus / node.vcpus, agent.num_gpus / node.gpus if agent.num_gpus else 0.0)


def _traces(config: RunConfig, debate: DebateConfig, measured: Measured | None, said: list[str]) -> tuple[Trace, ...]:
    names = tuple(agent.name for agent in debate.agents)
    if measured is not None:
        held = measured.config.debate
        assert held is not None
        if names == measured.agents and held.protocol == debate.protocol and config.task.name == measured.config.task.name:
            said.append(f"Rounds and tokens are those of {len(measured.traces)} debates of {measured.run}.")
            return measured.traces
        estimate = debate.estimate.model_copy(update={"agreement": measured.agreement, "reply_tokens": measured.reply_tokens})
        debate = debate.model_copy(update={"estimate": estimate})
    source = f"measured in {measured.run}" if measured else "debate.estimate"
    said.append(
        f"Rounds and tokens are rehearsed: all agents agree in {debate.estimate.agreement:.0%} of the rounds, replies have "
        f"{debate.estimate.reply_tokens} tokens ({source})."
    )
    return rehearse(config, debate)


def rehearse(config: RunConfig, debate: DebateConfig) -> tuple[Trace, ...]:
    """Debates of the protocol, played with made-up replies on a sample of the questions."""
    golds = config.needs_golds
    count = count_questions(config.task, golds=golds)
    sample = list(islice(iter_questions(config.task, golds=golds), 0, None, max(1, -(-count // SAMPLE))))[:SAMPLE]
    if not sample:
        raise ConfigError("There is no question to plan for. Check task.path and task.limit.")
    recorder = _Recorder(load_protocol(debate.protocol, load_task(config.task)), [agent.name for agent in debate.agents])
    task, answers = recorder.task, list[str]()
    for candidate in (*(q.gold for q in sample if q.gold is not None), *FALLBACK_ANSWERS):
        read = task.extract(sample[0], task.state(candidate))
        if read is not None and not any(task.same(read, other) for other in answers):
            answers.append(read)
    if not answers:
        raise ConfigError(
            f"The task {task.name!r} reads no answer that could be made up, so that no debate can be rehearsed. "
            "Run it on a few questions instead (task.limit)."
        )
    made_up = Rehearsal(debate, recorder, answers[: len(FALLBACK_ANSWERS)], random.Random(config.seed))
    for question in sample:
        for _ in range(PLAYS):
            made_up.play(question, {agent.name: Spend() for agent in debate.agents})
    return tuple(recorder.traces)


class _Recorder:
    """A protocol that keeps what is asked of whom."""

    def __init__(self, protocol: DebateProtocol, names: Sequence[str]) -> None:
        self._protocol, self._names = protocol, list(names)
        self.traces: list[Trace] = []
        self.name, self.task = protocol.name, protocol.task

    def start(self, question: Any, agents: Sequence[str]) -> Debate:
        self.traces.append(())
        return self._protocol.start(question, agents)

    def most_calls(self, agents: int) -> int:
        return self._protocol.most_calls(agents)

    def next_asks(self, debate: Debate) -> tuple[Ask, ...]:
        return self._protocol.next_asks(debate)

    def advance(self, debate: Debate, asks: Sequence[Ask], replies: Sequence[Reply]) -> Debate:
        calls = tuple(
            Call(self._names.index(ask.agent), reply.tokens_in, reply.tokens_out)
            for ask, reply in zip(asks, replies, strict=True)
        )
        self.traces[-1] = (*self.traces[-1], calls)
        return self._protocol.advance(debate, asks, replies)


def predicted_s(scenario: Scenario, questions: int, *, seed: int = 0) -> float:
    """Seconds of the stage, deploying aside, as a run's manifest counts them (`seconds_debating`)."""
    from magdi_ray.simulate.debate import simulate

    outcome = simulate(scenario, questions, seed=seed)
    return scenario.overheads.fixed_s + outcome.seconds - outcome.first_s


def fit_error(measured: Measured, *, seed: int = 0) -> float:
    """How far the simulator is off on the very run it was calibrated on: predicted over measured, less 1."""
    scenario, _ = build(measured.config, measured=measured)
    return predicted_s(scenario, measured.questions, seed=seed) / measured.debating_s - 1.0
