"""A prospect: all that a plan says of a run's distillation, for a person (tables and sentences) and for a machine.

recipe   graphs   nodes   steps   tokens forwarded   tokens learned    FLOPs           time
level4     1000    5200     430              6.6 M            3.4 M   1.9e17   54 s to 107 s
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.table import Table

from magdi_ray.config.distil import DistilConfig, FullTuning, QloraTuning, ScratchModel, train_of
from magdi_ray.config.recipes import RecipeConfig
from magdi_ray.distill.forecast.cost import Forecast, forecast, tokens_at_once
from magdi_ray.distill.forecast.memory import GIB, Memory, Trainee, head_parameters, memory_per_rank
from magdi_ray.distill.forecast.shapes import StudentShape, find_shape
from magdi_ray.distill.forecast.workload import Workload
from magdi_ray.distill.watch.view import duration
from magdi_ray.errors import ConfigError

NOT_COUNTED = "Not counted: checkpoints, loading, evaluation."


@dataclass(frozen=True, slots=True)
class Prospect:
    """What the distillation of a run is expected to take."""

    config: DistilConfig
    forecasts: tuple[Forecast, ...]
    """A recipe each, the product last."""
    shape: StudentShape | None
    trainee: Trainee | None
    """The product's student."""
    memory: dict[int, Memory] = field(default_factory=dict)
    """Workers -> what each of them holds; the fewest and the most that the configuration allows."""
    micro_batch: dict[int, int] = field(default_factory=dict)
    """Workers -> tokens that each forwards at once."""
    dev_questions: int = 0
    """What is measured on the way."""
    remarks: tuple[str, ...] = ()


def look_ahead(
    config: DistilConfig,
    work: Sequence[tuple[RecipeConfig, Workload]],
    *,
    origin: Sequence[str],
    worst: int | None = None,
    dev_questions: int = 0,
) -> Prospect:
    """The prospect of learning from some workloads, one a recipe, the product last.

    `origin`: sentences that say where they come from. `worst`: tokens the largest graph could have; None: they are counted.
    `dev_questions`: held out for measurements; they are taken to be like those that are learned from.

    Raises:
        ConfigError: a recipe finds nothing to learn from.
    """
    if empty := [recipe.name for recipe, workload in work if not workload.supervised]:
        raise ConfigError(
            f"Nothing to train on: {', '.join(empty)} would find no token to learn from. {' '.join(origin)} Look at the recipe's "
            "nodes and labels, at distil.dev.graphs and at distil.student.max_length."
        )
    shape, missing = None, None
    try:
        shape = find_shape(config.student.model)
    except ConfigError as reason:
        missing = f"FLOPs, memory and hours are unknown: {reason}"
    product, workload = work[-1]
    trainee = Trainee(shape, config.student.tuning, head_parameters(shape, product)) if shape else None
    forecasts = []
    for recipe, found in work:
        student = Trainee(shape, config.student.tuning, head_parameters(shape, recipe)) if shape else None
        held_out = found.of(dev_questions) if dev_questions else None
        forecasts.append(forecast(recipe, found, student, train_of(config, recipe), dev=config.dev, held_out=held_out))
    counts = sorted(set(config.scaling.workers))
    tokens = {count: tokens_at_once(workload, config.train, workers=count) for count in counts}
    memory = {count: _memory(config, trainee, workload, count, tokens[count]) for count in counts} if trainee else {}
    found_out = Prospect(config, tuple(forecasts), shape, trainee, memory, tokens, dev_questions)
    remarks = [missing or _student(found_out), *origin, *_assumptions(found_out), *_warnings(found_out, worst)]
    return replace(found_out, remarks=tuple(remarks))


def _memory(config: DistilConfig, trainee: Trainee, workload: Workload, workers: int, tokens: int) -> Memory:
    reread = workload.reread / max(1, workload.forwarded)
    settings = {"tokens": tokens, "reread": reread, "gpu": config.scaling.use_gpu}
    return memory_per_rank(trainee, config.train, config.deepspeed, workers=workers, **settings)  # type: ignore[arg-type]


def _student(found: Prospect) -> str:
    model, shape, trainee = found.config.student.model, found.shape, found.trainee
    assert shape is not None
    assert trainee is not None
    name = "from scratch" if isinstance(model, ScratchModel) else model
    kind = found.config.student.tuning.type
    trained = "all of them trained" if kind == "full" else f"frozen, with {_short(trainee.adapters)} of {kind} adapters"
    heads = f"; beside them {_short(trainee.heads)} of training heads" if trainee.heads else ""
    where = "" if isinstance(model, ScratchModel) else f" ({shape.source})"
    return f"Student {name}: {_figure(shape.parameters)} weights{where}, {trained}{heads}."


def _assumptions(found: Prospect) -> list[str]:
    """What time and memory rest on, and what they leave out."""
    assumed, product = found.config.estimate, found.forecasts[-1]
    if not found.config.scaling.use_gpu:
        said = f"Time is not estimated for training on CPUs (distil.scaling.use_gpu: false). {NOT_COUNTED}"
        tensors = "Memory is that of tensors alone: Python, PyTorch and Ray take about half a GiB more in every worker."
        return [said, *([tensors] if found.memory else []), *_measurements(found)]
    rate = f"{assumed.utilisation:.0%} of {assumed.gpu_tflops:g} TFLOP/s on every GPU"
    if not (times := _seconds(found, product)):
        return [f"Assumed (distil.estimate): {rate}, {assumed.gpu_memory_gib:g} GiB each. {NOT_COUNTED}", *_measurements(found)]
    spans = [
        f"{_span(seconds)} ({seconds / 3600:.2g} hours) on {count} GPU{'s' if count > 1 else ''}"
        for count, seconds in times.items()
    ]
    first = f"Time of {product.recipe} at {rate} (distil.estimate): {', '.join(spans)}. {NOT_COUNTED}"
    return [first, f"Assumed of every GPU: {assumed.gpu_memory_gib:g} GiB (distil.estimate).", *_measurements(found)]


def _measurements(found: Prospect) -> list[str]:
    """What is measured on the way. Answers are written token by token, as fast as weights are read and kernels are started, of
    which nothing is known here."""
    dev, times = found.config.dev, found.forecasts[-1].measurements
    if dev is None or not times:
        return []
    asked = min(dev.accuracy_questions, found.dev_questions)
    counted = ", counted in the time" if found.config.scaling.use_gpu and found.shape else ""
    said = f"Measured on the way (distil.dev): {times} times the loss on {found.dev_questions} questions{counted}"
    if not asked:
        return [f"{said}."]
    return [
        f"{said}; and each time {asked} answers of at most {dev.max_tokens} tokens, not counted: written token by token, they "
        "may take longer than a short training's steps."
    ]


def _warnings(found: Prospect, worst: int | None) -> list[str]:
    """What would surprise a person later."""
    config, product = found.config, found.forecasts[-1]
    train, (_, most), workload = config.train, config.scaling.workers, product.workload
    said = []
    if workload.pairwise is not None and workload.forwarded:
        ratio = workload.pairwise / workload.forwarded
        said.append(f"Pair by pair, {product.recipe} would forward at least {ratio:.1f} times as many tokens (padding aside).")
    if product.steps < 2 * train.warmup_steps:
        said.append(
            f"Only {product.steps} steps, {min(product.steps, train.warmup_steps)} of them warm-up: lower "
            "distil.train.warmup_steps, or lower tokens_per_step for more and smaller steps."
        )
    if product.steps and most > 1 and (graphs := product.epochs * workload.graphs / product.steps) < most:
        said.append(f"A step holds {graphs:.0f} graphs, fewer than {most} workers: some would wait. Raise tokens_per_step.")
    limit = train.tokens_per_micro_batch
    if limit is not None and workload.largest > limit:
        said.append(
            f"The largest graph has {'about ' if worst else ''}{_figure(workload.largest)} tokens, more than "
            f"tokens_per_micro_batch ({_figure(limit)}): it is forwarded alone."
        )
    if isinstance(config.student.tuning, QloraTuning) and config.deepspeed.zero_stage == 3:
        said.append("qlora cannot be combined with zero_stage 3: set it to 0, 1 or 2, or the tuning to lora.")
    return said + _fit(found, worst)


def _fit(found: Prospect, worst: int | None) -> list[str]:
    """Whether the student fits the GPUs, with what to do where it does not."""
    config = found.config
    if not config.scaling.use_gpu or not found.memory:
        return []
    workers = max(found.memory, key=lambda count: found.memory[count].total)
    room, needed = config.estimate.gpu_memory_gib * GIB, found.memory[workers]
    at_once, a_token = found.micro_batch[workers], needed.parts["activations"] / max(1, found.micro_batch[workers])
    fits = max(0, int((room - needed.total + needed.parts["activations"]) / a_token)) if a_token else at_once
    if needed.total > room:
        return [
            f"Does not fit: {needed.total / GIB:.0f} GiB of {config.estimate.gpu_memory_gib:g} on each of {workers} workers. "
            f"{_remedies(found, fits)}"
        ]
    if worst is not None and worst > fits:
        largest = f"A graph of {_figure(worst)} tokens, if every debate went on to its end in the longest replies, would not fit"
        return [f"{largest}; {_figure(fits)} do. {_remedies(found, 0)}"]
    return []


def _remedies(found: Prospect, fits: int) -> str:
    """What to change; `fits`: tokens of a micro-batch that would fit."""
    config, largest = found.config, found.forecasts[-1].workload.largest
    ways = []
    if not config.train.gradient_checkpointing:
        ways.append("train.gradient_checkpointing: true")
    if fits >= largest:
        ways.append(f"train.tokens_per_micro_batch: {fits // 256 * 256 or fits}")
    if config.deepspeed.zero_stage < 3 and not isinstance(config.student.tuning, QloraTuning):
        ways.append("a higher deepspeed.zero_stage")
    if config.deepspeed.offload_optimizer == "none" and isinstance(config.student.tuning, FullTuning):
        ways.append("deepspeed.offload_optimizer: cpu")
    ways.append("a smaller student.max_length" if not isinstance(config.student.tuning, FullTuning) else "tuning by lora")
    return f"Ways out (distil.): {', '.join(ways)}."


def recipe_table(found: Prospect) -> Table:
    """A recipe a row; what it takes over all its epochs."""
    low, high = found.config.scaling.workers
    unit = "GPU" if found.config.scaling.use_gpu else "worker"
    workers = f"{low} to {high} {unit}s" if low < high else f"{high} {unit}{'s' if high > 1 else ''}"
    train = found.config.train
    length = f"{train.max_steps} steps" if train.epochs is None else f"{train.epochs} epoch{'s' if train.epochs > 1 else ''}"
    table = Table(title=f"Distillation: {length} on {workers}", title_justify="left")
    table.add_column("recipe", overflow="fold", min_width=8)
    for column in ("graphs", "nodes", "steps", "tokens\nforwarded", "tokens\nlearned", "FLOPs"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("time", justify="right", min_width=7)
    for item in found.forecasts:
        work = item.workload
        counts = (_figure(work.graphs), _figure(work.nodes), _figure(item.steps), _short(item.forwarded), _short(item.supervised))
        flops = "unknown" if item.flops is None else f"{item.flops:.1e}".replace("e+", "e")
        table.add_row(item.recipe, *counts, flops, _time(found, item), style="bold" if item is found.forecasts[-1] else None)
    return table


def _seconds(found: Prospect, item: Forecast) -> dict[int, float]:
    """Workers -> seconds, most workers first; nothing where that is not known."""
    if not found.config.scaling.use_gpu:
        return {}
    times = {count: item.seconds(found.config.estimate, count) for count in sorted(found.micro_batch, reverse=True)}
    return {count: seconds for count, seconds in times.items() if seconds is not None}


def _hours(found: Prospect, item: Forecast) -> dict[str, float] | None:
    return {str(count): seconds / 3600 for count, seconds in _seconds(found, item).items()} or None


def _time(found: Prospect, item: Forecast) -> str:
    return " to ".join(dict.fromkeys(_span(seconds) for seconds in _seconds(found, item).values())) or "unknown"


def _span(seconds: float) -> str:
    return duration(seconds) if seconds >= 0.5 else "<1 s"


def memory_table(found: Prospect) -> Table | None:
    """What each rank of the product's training holds; None where the student's shape is not known."""
    if not found.memory:
        return None
    stage, where = found.config.deepspeed.zero_stage, "GPU" if found.config.scaling.use_gpu else "worker"
    unit, size = ("GiB", GIB) if max(memory.total for memory in found.memory.values()) >= GIB else ("MiB", GIB / 1024)
    table = Table(title=f"{unit} per rank ({where}), ZeRO stage {stage}", title_justify="left")
    table.add_column("")
    for count in found.memory:
        table.add_column(f"{count} worker{'s' if count > 1 else ''}", justify="right")
    table.add_row("tokens in a micro-batch", *(_figure(tokens) for tokens in found.micro_batch.values()), style="dim")
    parts = list(dict.fromkeys(part for memory in found.memory.values() for part in memory.parts))
    for part in parts:
        held = [memory.parts.get(part, 0.0) for memory in found.memory.values()]
        if any(held):
            table.add_row(NAMES[part], *(_part(value / size) for value in held))
    table.add_section()
    table.add_row("all", *(_part(memory.total / size) for memory in found.memory.values()), style="bold")
    if any(memory.host for memory in found.memory.values()):
        table.add_row("offloaded to host memory", *(_part(memory.host / size) for memory in found.memory.values()))
    return table


NAMES = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser (master copy, Adam)",
    "buffers": "gathered weights, gradients on their way",
    "activations": "activations",
    "logits": "logits of one chunk",
    "reserve": "CUDA and unusable rest",
}


def as_json(found: Prospect) -> dict[str, Any]:
    """The same for a machine: tokens and FLOPs over all epochs, hours (with measurements) and bytes by the number of workers."""
    recipes = {
        item.recipe: {
            **asdict(item.workload),
            "steps": item.steps,
            "epochs": round(item.epochs, 3),
            "tokens_forwarded": item.forwarded,
            "tokens_learned": item.supervised,
            "flops": item.flops,
            "measurements": item.measurements,
            "measuring_flops": item.measuring,
            "hours": _hours(found, item),
        }
        for item in found.forecasts
    }
    return {
        "parameters": found.shape.parameters if found.shape else None,
        "trained": found.trainee.trained if found.trainee else None,
        "recipes": recipes,
        "memory": {
            str(count): {"total": memory.total, "host": memory.host, **memory.parts} for count, memory in found.memory.items()
        },
        "zero_stage": found.config.deepspeed.zero_stage,
        "remarks": list(found.remarks),
    }


def _part(value: float) -> str:
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _figure(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _short(value: float) -> str:
    """12_345_678 -> "12.3 M"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value:.0f}"
