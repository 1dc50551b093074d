"""The bill of one number of questions, a row a stage: machines, hours, money, bytes kept and bytes moved.

Debates come from the simulation. Distillation is the forecast of `magdi plan`, its operations multiplied with the questions where
epochs say how long it lasts, over what its machines are assumed or measured to do. Evaluation asks the held-out questions of the
configuration, however many were debated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from magdi_ray.config.cluster import Cluster, EngineSpeed, Placed
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.run import RunConfig
from magdi_ray.distill.forecast.cost import Forecast
from magdi_ray.distill.forecast.prospect import Prospect
from magdi_ray.simulate.calibrate import Bytes, Measured
from magdi_ray.simulate.scale import Projected
from magdi_ray.simulate.scenario import Scenario

GB = 1e9
HTTP_BYTES = 900
"""Beside its words a call over HTTP carries about so much: headers and JSON, both ways together."""
GRAPH_S = 0.0006
"""Of building one graph, measured on the bundled offline run."""
KEPT_BYTES_A_WEIGHT = 16
"""Of a trained weight in a checkpoint: master copy and Adam's two moments at 4 bytes, gradients or weights at 4."""


@dataclass(frozen=True, slots=True)
class StageBill:
    """What one stage takes."""

    stage: str
    machines: str
    """Number, kind and market, in words."""
    gpus: int
    hours: float | None
    """Wall clock; None where it is not known."""
    gpu_hours: float | None
    machine_usd: float | None
    api_usd: float
    stored_gb: float
    """Added by the stage and kept."""
    out_gb: float
    """To providers."""
    inside_gb: float
    """Between machines."""

    def usd(self, cluster: Cluster) -> float | None:
        """All of it; None where the hours are not known."""
        if self.machine_usd is None:
            return None
        return self.machine_usd + self.api_usd + self.kept_usd(cluster) + self.moved_usd(cluster)

    def kept_usd(self, cluster: Cluster) -> float:
        """Of storage, for all months."""
        return self.stored_gb * cluster.storage.usd_per_gb_month * cluster.storage.months

    def moved_usd(self, cluster: Cluster) -> float:
        """Of the network."""
        return self.out_gb * cluster.network.out_usd_per_gb + self.inside_gb * cluster.network.inside_usd_per_gb


@dataclass(frozen=True, slots=True)
class Basis:
    """What all bills of a plan share."""

    config: RunConfig
    cluster: Cluster
    scenario: Scenario
    prospect: Prospect
    held_out: int
    """Questions of the configuration that are not learned from."""
    measured: Measured | None

    @property
    def sizes(self) -> Bytes:
        """Measured where a run was."""
        return self.measured.sizes if self.measured else Bytes()


def bills(basis: Basis, projected: Projected, questions: int) -> tuple[StageBill, ...]:
    """Every stage of a run that learns from `questions`; `projected` debates them and those held out."""
    return (
        _debates(basis, projected),
        _graphs(basis, projected.questions),
        _distil(basis, questions, projected.questions),
        _evaluate(basis),
    )


def _text(basis: Basis) -> float:
    """Bytes of a debate's replies, on average."""
    return sum(written for _, written in basis.scenario.tokens()) * basis.sizes.per_token


def _words(count: float, placed: Placed) -> str:
    return f"{math.ceil(count)} {placed.nodes} ({placed.market.replace('_', '-')})"


def _debates(basis: Basis, projected: Projected) -> StageBill:
    cluster, scenario, sizes = basis.cluster, basis.scenario, basis.sizes
    workers, agents = cluster.stages.workers, cluster.stages.agents
    hours = projected.seconds / 3600
    worker_machines = math.ceil(projected.workers * cluster.worker_vcpus / cluster.type_of(workers).vcpus)
    usd = worker_machines * hours * cluster.hourly(workers)
    said, gpus = [_words(worker_machines, workers)], worker_machines * cluster.type_of(workers).gpus
    gpu_hours = gpus * hours
    if agents is not None and projected.machines:
        usd += projected.machine_s / 3600 * cluster.hourly(agents)
        here = projected.machines * cluster.type_of(agents).gpus
        gpu_hours += projected.machine_s / 3600 * cluster.type_of(agents).gpus
        said, gpus = [_words(projected.machines, agents), *said], gpus + here
    calls, tokens, count = scenario.calls(), scenario.tokens(), projected.questions
    api_usd = out = inside = 0.0
    assert basis.config.debate is not None
    for agent, called, (read, written) in zip(basis.config.debate.agents, calls, tokens, strict=True):
        moved = count * (sizes.per_token * (read + written) + HTTP_BYTES * called)
        if isinstance(agent.engine, ApiEngine):
            out += count * (sizes.per_token * read + HTTP_BYTES / 2 * called)
            price = agent.engine.price
            api_usd += count * (read * price.input + written * price.output) / 1e6 if price else 0.0
        else:
            inside += moved
    stored = count * (sizes.question + sum(calls) * sizes.reply_line + _text(basis) * (1 + sizes.debates))
    return StageBill(
        "debates", " + ".join(said), gpus, hours, gpu_hours, usd, api_usd, stored / GB, out / GB, (inside + stored) / GB
    )


def _graphs(basis: Basis, debated: int) -> StageBill:
    cluster, measured = basis.cluster, basis.measured
    placed = cluster.stages.workers
    hours = debated * (measured.graph_s if measured and measured.graph_s else GRAPH_S) / 3600
    stored = debated * _text(basis) * basis.sizes.graphs
    read = debated * _text(basis) * basis.sizes.debates
    usd = hours * cluster.hourly(placed)
    return StageBill("graphs", _words(1, placed), 0, hours, 0.0, usd, 0.0, stored / GB, 0.0, (stored + read) / GB)


def _distil(basis: Basis, questions: int, debated: int) -> StageBill:
    cluster, prospect, distil = basis.cluster, basis.prospect, basis.config.distil
    placed = cluster.stages.distil
    node = cluster.type_of(placed)
    workers, gpu = distil.scaling.workers[1], distil.scaling.use_gpu
    each = workers / node.gpus if gpu and node.gpus else workers * distil.scaling.num_cpus / node.vcpus
    machines = math.ceil(each)
    times = [_seconds(basis, item, questions, workers) for item in prospect.forecasts]
    parallel = min(distil.parallel, len(times) * distil.seeds)
    together = machines * parallel if each >= 1 else math.ceil(each * parallel)
    hours: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None
    known = [seconds for seconds in times if seconds is not None]
    if len(known) == len(times):
        lost = cluster.lost_per_hour(placed) * machines / 3600 * (node.start_seconds + _redone_s(basis))
        total = distil.seeds * sum(known) * (1.0 + lost) / 3600
        hours = total / parallel + node.start_seconds / 3600
        gpu_hours = total * (workers if gpu else 0)
        usd = hours * together * cluster.hourly(placed)
    tokens = len(times) * debated * _text(basis) * basis.sizes.tokens
    trained = prospect.trainee.trained if prospect.trainee else 0
    weights = prospect.shape.parameters if prospect.shape else 0
    kept = distil.checkpoints.keep * trained * KEPT_BYTES_A_WEIGHT + (4 if not gpu else 2) * weights
    stored = tokens + len(times) * distil.seeds * kept
    steps = distil.seeds * sum(item.steps * _factor(item, questions, basis) for item in prospect.forecasts)
    exchanged = 2 * 2 * trained * steps * machines if machines > 1 else 0.0
    inside = distil.seeds * tokens * workers + stored + exchanged
    gpus = together * node.gpus if gpu else 0
    said = _words(together, placed)
    return StageBill("distil", said, gpus, hours, gpu_hours, usd, 0.0, stored / GB, 0.0, inside / GB)


def _redone_s(basis: Basis) -> float:
    """Training that is done again after a preemption: half of what lies between two checkpoints."""
    minutes = basis.config.distil.checkpoints.every_minutes
    return 30.0 * minutes if minutes else 300.0


def _factor(item: Forecast, questions: int, basis: Basis) -> float:
    """How many times the forecast's questions; a number of steps stays what it is."""
    return 1.0 if basis.config.distil.train.epochs is None else questions / max(1, item.workload.questions)


def _seconds(basis: Basis, item: Forecast, questions: int, workers: int) -> float | None:
    if item.flops is None:
        return None
    distil, measured = basis.config.distil, basis.measured
    if distil.scaling.use_gpu:
        rate = distil.estimate.gpu_tflops * 1e12 * distil.estimate.utilisation
    elif measured is not None and measured.flops_per_s is not None:
        rate = measured.flops_per_s
    else:
        return None
    return (item.flops * _factor(item, questions, basis) + item.measuring) / (rate * workers)


def _evaluate(basis: Basis) -> StageBill:
    config, cluster, measured = basis.config, basis.cluster, basis.measured
    placed, exam = cluster.stages.evaluate, config.evaluate
    node = cluster.type_of(placed)
    students = 1 + (1 + len(config.distil.ablations)) * config.distil.seeds
    systems = students + len(exam.agents)
    samples = exam.self_consistency.samples if exam.self_consistency else 0
    share = max(exam.num_cpus / node.vcpus, exam.num_gpus / node.gpus if node.gpus and exam.num_gpus else 0.0)
    at_once = max(1, min(systems, math.floor(1.0 / max(share, 1e-3))))
    if measured is not None and measured.asked_per_s is not None and not exam.num_gpus:
        seconds = basis.held_out * systems / measured.asked_per_s
        machines = 1
    else:
        speed = cluster.speeds.get("student", cluster.speed)
        machines = math.ceil(systems / at_once)
        seconds = (1 + samples) * _reply_s(basis, speed) * basis.held_out + speed.load_seconds
    hours = (seconds + node.start_seconds) / 3600
    stored = basis.held_out * (systems + samples) * (_reply_tokens(basis) * basis.sizes.per_token + basis.sizes.reply_line)
    gpus = machines * node.gpus if exam.num_gpus else 0
    usd = machines * hours * cluster.hourly(placed)
    said = _words(machines, placed)
    return StageBill("evaluation", said, gpus, hours, gpus * hours, usd, 0.0, stored / GB, 0.0, stored / GB)


def _reply_tokens(basis: Basis) -> float:
    debate = basis.config.debate
    assumed = basis.measured.reply_tokens if basis.measured else debate.estimate.reply_tokens if debate else 180
    return min(assumed, basis.config.evaluate.sampling.max_tokens)


def _reply_s(basis: Basis, speed: EngineSpeed) -> float:
    """Of one student, a reply of a full batch."""
    batch = basis.config.evaluate.max_batch_size
    return _reply_tokens(basis) * (speed.step_ms + speed.row_ms * batch) / 1000 / batch
