"""What a person is shown of a training: one line while it runs, and what it cost when it has ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_PARTS = frozenset(
    (
        *("step", "steps", "time", "loss", "learning_rate", "grad_norm", "graphs", "nodes", "tokens", "tokens_forwarded"),
        *("seconds", "tokens_per_second", "graphs_per_second", "seconds_left"),
    )
)
"""Figures of a step's line that are no objective's; an objective's own are under its bare name."""


def progress_note(line: Mapping[str, Any]) -> str:
    """One step's line (see `steplog`) as the note beside a progress bar.

    "loss 2.310 (next_token 1.700, contrast 0.610), dev loss 2.400, dev accuracy 31%, 5.2k tokens/s, 3.1 graphs/s, 4 min left"

    What a line does not hold is left out.
    """
    said: list[str] = []
    if (loss := line.get("loss")) is not None:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in parts_of(line).items())
        said.append(f"loss {loss:.3f}" + (f" ({parts})" if parts else ""))
    dev = line.get("dev") or {}
    if dev.get("loss") is not None:
        said.append(f"dev loss {dev['loss']:.3f}")
    if dev.get("accuracy") is not None:
        said.append(f"dev accuracy {dev['accuracy']:.0%}")
    if (tokens := line.get("tokens_per_second")) is not None:
        said.append(f"{short(tokens)} tokens/s")
    if (graphs := line.get("graphs_per_second")) is not None:
        said.append(f"{graphs:.3g} graphs/s")
    if (left := line.get("seconds_left")) is not None and line.get("step", 0) + 1 < line.get("steps", 0):
        said.append(f"{duration(left)} left")
    return ", ".join(said)


def parts_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The unweighted losses of a step's line, by objective."""
    return {
        name: value
        for name, value in line.items()
        if isinstance(value, float) and name not in NOT_PARTS and "/" not in name  # "grad_norm/contrast" is no loss
    }


def rough_flops(tokens: float, *, parameters: int, trained: int) -> float:
    """`(4 N + 2 N_trained) T`: floating-point operations of forwarding T tokens through N weights, and back.

    Two a weight and token forward, two for the gradient of what the layer reads, two for the gradient of each weight that is
    trained: 6 N T where all are (Kaplan et al., arXiv 2001.08361, section 2.1), little more than 4 N T under LoRA. It stands in
    where a student's shape is not known (`forecast.cost.spent_flops`), and counts what that leaves out: the embedding table,
    and the LM head for tokens that are not supervised; but no second forward pass of gradient checkpointing.
    """
    return (4.0 * parameters + 2.0 * trained) * tokens


def cost_summary(facts: Mapping[str, Any]) -> list[str]:
    """What a training did and cost, a line each; what the facts do not hold is left out.

    steps, planned_steps, graphs, nodes        done; planned; learned from (each once, however many epochs)
    tokens_forwarded, supervised_tokens        over all steps
    seconds, worker_seconds, workers, gpus     in steps and measurements, all attempts; workers and GPUs of the last attempt
    parameters, trained_parameters             of student and heads
    flops                                      of the steps (`forecast.cost.spent_flops`); without it, `rough_flops`
    peak_memory                                bytes, one a worker (see `steplog.peak_memory`)
    resumed                                    how often the training was taken up again
    stopped_early                              by `dev.patience`
    best_step, best_loss, dev_loss, dev_accuracy, result   best measurement; the last one; "last" or "best" weights
    """
    lines = (_work(facts), _time(facts), _arithmetic(facts), _memory(facts), _interruptions(facts), _measured(facts))
    return [line for line in lines if line]


def _work(facts: Mapping[str, Any]) -> str:
    steps, planned = facts.get("steps"), facts.get("planned_steps")
    of = f" of {planned} planned" if planned is not None and planned != steps else ""
    said = [f"{_count(steps, 'step')}{of}"] if steps is not None else []
    said += [_count(facts[name], name[:-1]) for name in ("graphs", "nodes") if facts.get(name) is not None]
    if (tokens := facts.get("tokens_forwarded")) is not None:
        taught = facts.get("supervised_tokens")
        said.append(f"{short(tokens)} tokens forwarded" + (f", {short(taught)} of them supervised" if taught is not None else ""))
    return ", ".join(said)


def _time(facts: Mapping[str, Any]) -> str:
    seconds, busy = facts.get("seconds"), facts.get("worker_seconds")
    if not seconds:
        return ""
    said = [duration(seconds)]
    if busy is not None:
        workers = f" ({_count(facts['workers'], 'worker')} at the end)" if facts.get("workers") else ""
        said.append(f"{busy / 3600:.3g} {'GPU-hours' if facts.get('gpus') else 'worker-hours'}{workers}")
    if (tokens := facts.get("tokens_forwarded")) is not None:
        said.append(f"{short(tokens / seconds)} tokens/s")
    return ", ".join(said)


def _arithmetic(facts: Mapping[str, Any]) -> str:
    flops, tokens, parameters = (facts.get(name) for name in ("flops", "tokens_forwarded", "parameters"))
    if tokens is None or parameters is None:
        return ""
    trained = facts.get("trained_parameters") or parameters
    if flops is None:
        flops = rough_flops(tokens, parameters=parameters, trained=trained)
    return f"about {flops:.2g} FLOP over {short(parameters)} parameters, {short(trained)} of them trained"


def _memory(facts: Mapping[str, Any]) -> str:
    peaks = facts.get("peak_memory") or []
    if not peaks:
        return ""
    where = "GPU memory" if facts.get("gpus") else "memory"
    low, high = min(peaks) / 2**30, max(peaks) / 2**30
    return f"at most {high:.3g} GiB of {where} a worker" + (f" ({low:.3g} the least)" if low < 0.95 * high else "")


def _interruptions(facts: Mapping[str, Any]) -> str:
    times = facts.get("resumed") or 0
    return f"interrupted and resumed {'once' if times == 1 else f'{times} times'}" if times else ""


def _measured(facts: Mapping[str, Any]) -> str:
    said: list[str] = []
    if facts.get("stopped_early"):
        said.append("stopped early: the dev loss fell no more")
    if facts.get("best_step") is not None and facts.get("best_loss") is not None:
        said.append(f"lowest dev loss {facts['best_loss']:.3f} after step {facts['best_step']}")
    if facts.get("dev_loss") is not None:
        said.append(f"last {facts['dev_loss']:.3f}")
    if facts.get("dev_accuracy") is not None:
        said.append(f"dev accuracy {facts['dev_accuracy']:.1%}")
    if said and facts.get("result") == "best":
        said.append("the best weights are the result")
    return ", ".join(said)


def duration(seconds: float) -> str:
    """A time for people: "42 s", "12 min", "3 h 05 min", "2 d 4 h"."""
    whole = max(0, round(seconds))
    minutes = round(whole / 60)
    if whole < 120:
        return f"{whole} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(whole / 3600)
    return f"{hours // 24} d {hours % 24} h"


def short(number: float) -> str:
    """A large number for people: "950", "5.2k", "1.25M"."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
