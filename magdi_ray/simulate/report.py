"""A plan of a run on a cluster, for a person (tables and sentences) and for a machine.

questions   stage     machines            GPUs   hours   GPU hours   machines $   API $   kept GB   moved GB   all $
1 000 000   debates   12 gpu-l4 (spot)      12    10.4         125           88       0       4.1        9.9      91
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from magdi_ray.config.cluster import Cluster
from magdi_ray.config.engines import ApiEngine, TransformersEngine
from magdi_ray.config.run import RunConfig
from magdi_ray.distill.forecast.prospect import Prospect
from magdi_ray.errors import ConfigError
from magdi_ray.simulate.build import build, fit_error
from magdi_ray.simulate.calibrate import Measured
from magdi_ray.simulate.cost import Basis, StageBill, bills
from magdi_ray.simulate.scale import DIRECT, Projected, Steady, project, steady
from magdi_ray.tasks.load import iter_questions

QUESTIONS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
"""Planned for unless others are named."""
SHIPPED = "pkg://magdi_ray/tiny/models/ada"
"""Weights that are always at hand."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number of questions."""

    questions: int
    """That are learned from; those held out are debated beside them."""
    debates: Projected
    stages: tuple[StageBill, ...]

    def usd(self, cluster: Cluster) -> float | None:
        """All stages; None where the hours of one are not known."""
        sums = [stage.usd(cluster) for stage in self.stages]
        known = [value for value in sums if value is not None]
        return sum(known) if len(known) == len(sums) else None


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What a run takes on a cluster, for several numbers of questions."""

    cluster: Cluster
    rows: tuple[Row, ...]
    error: float | None
    """The simulator's, on the run it was calibrated on; None where nothing was measured."""
    remarks: tuple[str, ...]


def unplaced(config: RunConfig) -> RunConfig:
    """The same run with local agents that any computer could hold: what `plan_run` is given, so that a fleet can be planned where
    there is no GPU, no vLLM and no weights. Which models answer changes nothing in what is forecast of distillation."""
    if config.debate is None:
        return config
    free = {"num_cpus": 0.01, "num_gpus": 0.0, "replicas": (1, 1)}
    agents = tuple(
        agent
        if isinstance(agent.engine, ApiEngine)
        else agent.model_copy(update=free | {"engine": TransformersEngine(type="transformers", model=SHIPPED)})
        for agent in config.debate.agents
    )
    return config.model_copy(update={"debate": config.debate.model_copy(update={"agents": agents})})


def cluster_plan(
    config: RunConfig,
    prospect: Prospect,
    cluster: Cluster,
    *,
    questions: Sequence[int] = QUESTIONS,
    measured: Measured | None = None,
    seed: int = 0,
) -> ClusterPlan:
    """Simulate the debates and bill every stage; `prospect` is `plan_run(unplaced(config), run).distil`. Seeded.

    Raises:
        ConfigError: a number of questions is below 1, the run holds no debates, or a replica fits no machine.
    """
    if low := [number for number in questions if number < 1]:
        raise ConfigError(f"--questions needs at least 1, found {', '.join(map(str, low))}.")
    scenario, said = build(config, cluster=cluster, measured=measured)
    held_out = sum(question.split != "train" for question in iter_questions(config.task, golds=config.needs_golds))
    basis = Basis(config, cluster, scenario, prospect, held_out, measured)
    found = steady(scenario, seed=seed)
    deadline = None if cluster.deadline_hours is None else 3600 * cluster.deadline_hours
    share = cluster.worker_vcpus / cluster.type_of(cluster.stages.workers).vcpus
    rows = []
    for number in questions:
        held = project(scenario, number + held_out, found=found, seed=seed, deadline_s=deadline, worker_share=share)
        rows.append(Row(number, held, bills(basis, held, number)))
    error = fit_error(measured, seed=seed) if measured else None
    return ClusterPlan(cluster, tuple(rows), error, tuple(_remarks(basis, found, rows, said, error)))


def _remarks(basis: Basis, found: Steady, rows: Sequence[Row], said: Sequence[str], error: float | None) -> list[str]:
    cluster, config, measured = basis.cluster, basis.config, basis.measured
    remarks = [f"Prices: {cluster.prices}"]
    if measured is None:
        remarks.append("Calibrated on no run: latencies and speeds are assumptions. --measured RUN takes them from one.")
    else:
        assert error is not None
        remarks.append(f"Calibrated on {measured.run}: on that run's own wall time the simulator is {error:+.1%} off.")
        remarks += measured.remarks
    remarks += said
    remarks.append(
        f"Up to {DIRECT} debates are simulated one by one; more follow from {found.outcome.questions} simulated ones, "
        f"{found.debates_per_s:.3g} debates a second once it runs steadily, less {_lost(found)} for preempted machines."
    )
    if not found.settled:
        remarks.append("Replicas were still starting when the simulation ended: its pace is too low for long runs.")
    remarks += dict.fromkeys(_scaling(basis, row) for row in rows if row.debates.multiple > 1 or row.debates.late)
    remarks.append(f"What sets the pace of the debates: {rows[-1].debates.bound}.")
    if basis.held_out:
        remarks.append(f"Beside the questions that are learned from, {basis.held_out} held-out ones are debated and evaluated.")
    remarks += _distillation(basis, rows)
    engines = [a.engine for a in config.debate.agents] if config.debate else []
    if any(isinstance(engine, ApiEngine) and engine.price is None for engine in engines):
        remarks.append("Some API agents have no engine.price: their dollars are missing.")
    remarks.append(
        "Not counted: the driver's machine while nothing runs, logs, requests to object storage, failed calls that are billed, "
        "and replies asked for again because no answer could be read. A limiter for thousands of workers was not measured."
    )
    return remarks


def _lost(found: Steady) -> str:
    return f"{found.lost_share / (1 + found.lost_share):.1%}"


def _distillation(basis: Basis, rows: Sequence[Row]) -> list[str]:
    distil, deadline = basis.config.distil, basis.cluster.deadline_hours
    said = []
    if distil.train.epochs is None:
        said.append(f"Distillation ends after {distil.train.max_steps} steps (distil.train.max_steps), whatever was debated.")
    if distil.scaling.use_gpu:
        assumed = distil.estimate
        said.append(
            f"Distillation is taken to reach {assumed.utilisation:.0%} of {assumed.gpu_tflops:g} TFLOP/s on each GPU "
            "(distil.estimate)."
        )
    elif basis.measured is None or basis.measured.flops_per_s is None:
        said.append("Distillation without GPUs: its hours are known from a measured run only (--measured).")
    workers = distil.scaling.workers[1]
    for row in rows:
        hours = next(stage.hours for stage in row.stages if stage.stage == "distil")
        if deadline is not None and hours is not None and hours > deadline:
            said.append(
                f"Distilling {_count(row.questions)} questions on {workers} workers takes {_short(hours)} hours: for "
                f"{deadline:g}, distil.scaling.num_workers would have to be about {_count(math.ceil(workers * hours / deadline))}"
                ", with distil.train.tokens_per_step large enough for all of them, or fewer epochs."
            )
    return said


def _scaling(basis: Basis, row: Row) -> str:
    debates = row.debates
    hours = basis.cluster.deadline_hours
    copies = ", ".join(f"{name} {most}" for name, most in debates.replicas.items())
    needs = f"workers: {debates.workers}, max_in_flight: {debates.max_in_flight}" + (f", replicas: {copies}" if copies else "")
    if debates.late:
        return f"{_count(row.questions)} questions cannot be debated within {hours:g} hours: held by {debates.bound} ({needs})."
    return f"{_count(row.questions)} questions within {hours:g} hours need debate.{needs} ({debates.multiple:.3g} times as much)."


def tables(plan: ClusterPlan) -> list[Table]:
    """One table: a row a number of questions and stage."""
    table = Table(title=f"On {plan.cluster.name}", title_justify="left")
    table.add_column("questions", justify="right", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("machines", overflow="fold", min_width=12)
    for column in ("GPUs", "hours", "GPU\nhours", "machines\n$", "API $", "kept\nGB", "moved\nGB", "all $"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in plan.rows:
        for place, stage in enumerate(row.stages):
            table.add_row(_count(row.questions) if place == 0 else "", *_cells(stage, plan.cluster))
        total = row.usd(plan.cluster)
        sums = [sum(getattr(s, name) for s in row.stages) for name in ("api_usd", "stored_gb", "out_gb", "inside_gb")]
        hours, gpu_hours, usd = (_sum(row.stages, name) for name in ("hours", "gpu_hours", "machine_usd"))
        cells = (_short(hours), _short(gpu_hours), _short(usd), *map(_short, (sums[0], sums[1], sums[2] + sums[3], total)))
        table.add_row("", "all", "", "", *cells, style="bold", end_section=True)
    return [table]


def markdown(plan: ClusterPlan) -> str:
    """The same table in Markdown, for documents."""
    lines = ["| questions | stage | machines | GPUs | hours | GPU hours | machines $ | API $ | kept GB | moved GB | all $ |"]
    lines.append("|---:|---|---|" + "---:|" * 8)
    for row in plan.rows:
        lines += [f"| {_count(row.questions)} | " + " | ".join(_cells(stage, plan.cluster)) + " |" for stage in row.stages]
    return "\n".join(lines)


def _cells(stage: StageBill, cluster: Cluster) -> tuple[str, ...]:
    moved = stage.out_gb + stage.inside_gb
    figures = (stage.hours, stage.gpu_hours, stage.machine_usd, stage.api_usd, stage.stored_gb, moved, stage.usd(cluster))
    return (stage.stage, stage.machines, str(stage.gpus), *map(_short, figures))


def _sum(stages: Sequence[StageBill], name: str) -> float | None:
    values = [getattr(stage, name) for stage in stages]
    return None if None in values else sum(values)


def as_json(plan: ClusterPlan) -> dict[str, Any]:
    """The same for a machine: hours, dollars, GB (10^9 bytes)."""
    rows = []
    for row in plan.rows:
        stages = [
            asdict(stage)
            | {
                "kept_usd": stage.kept_usd(plan.cluster),
                "moved_usd": stage.moved_usd(plan.cluster),
                "usd": stage.usd(plan.cluster),
            }
            for stage in row.stages
        ]
        rows.append({"questions": row.questions, "usd": row.usd(plan.cluster), "debates": asdict(row.debates), "stages": stages})
    return {
        "cluster": plan.cluster.name,
        "prices": plan.cluster.prices,
        "error": plan.error,
        "rows": rows,
        "remarks": list(plan.remarks),
    }


def _count(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _short(value: float | None) -> str:
    """Three significant digits, thousands apart; `?` where nothing is known."""
    if value is None:
        return "?"
    if value == 0:
        return "0"
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return _count(round(value / 10**digits) * 10**digits)
    if value < 0.001:
        return "<0.001"
    return f"{value:.3g}"
