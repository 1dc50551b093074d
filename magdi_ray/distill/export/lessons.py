"""The parts of a card that say what a student was taught: its data, and its training. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from magdi_ray.config.distil import train_of
from magdi_ray.config.recipes import HEADED
from magdi_ray.distill.export.markdown import plain, table
from magdi_ray.distill.export.record import Record
from magdi_ray.distill.watch.view import duration

LABELS = {
    "gold": "the gold answers",
    "vote": "the debates' own answers, which may be wrong",
    "judge": "the answers of the debates' judge, which may be wrong",
}
HELD_OUT = "graph of the split "
"""How the notes begin that tell of graphs that are held out (`magdi_ray.distill.tokenising`)."""
NOTES = {
    "no correct node: teaches no next token": "graphs without a correct reply",
    "one kind of node: no pair": "graphs of only correct or only incorrect replies, in which there is no pair to compare",
    "a single node": "graphs of a single reply",
    "node without next-token loss (incorrect)": "incorrect replies, of which no token is taught",
}
"""Notes on what was kept (`magdi_ray.distill.tokens`), and what a card calls them."""
PACKING = {
    "segments": "packed without padding, by attention over segments",
    "flex": "packed without padding, by FlexAttention",
    "padded": "padded, a row for each text",
}
UNITS = {"magdi": "graphs", "preference": "graphs", "replies": "replies", "solutions": "solutions"}
"""What a step holds whole."""


def data_part(record: Record) -> str:
    """What the student learned from, who wrote it, and what was left out."""
    config, questions = record.config, record.facts.get("questions", {})
    splits = [f"{plain(questions[split])} {split}" for split in ("train", "dev", "test", "ood") if questions.get(split)]
    lines = ["## Data", f"Task: `{config.task.name}`." + (f" Questions: {', '.join(splits)}." if splits else "")]
    if record.datasets:
        lines.append(
            "Question files: " + ", ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in record.datasets)
        )
    lines.append(_selection(record))
    if {"graphs", "nodes"} <= record.trained.keys():
        lines.append(_amount(record))
    lines += _debates(record)
    held, kept = _left_out(record), _notes(record)
    if held:
        lines.append("Held out or left out:\n\n" + table(("what", "count"), held))
    if kept:
        lines.append("Kept, but teaching less than the figures above suggest:\n\n" + table(("what", "count"), kept))
    if not held and not kept:
        known = {"questions", "graphs"} <= record.facts.keys() and {"skipped_nodes", "skipped_graphs"} <= record.trained.keys()
        lines.append("Nothing was left out." if known else "What was left out is unknown.")
    return "\n\n".join(lines)


def _selection(record: Record) -> str:
    nodes, labels = record.recipe.nodes, record.recipe.labels
    doubted = f" Debates in which agents agreed less than {labels.min_agreement:g} were left out." if labels.min_agreement else ""
    if record.kind == "solutions":
        text = "Learned from: the solutions published with the questions, not from any model's replies."
        return text + doubted.replace("Debates in", "Questions on", 1)
    agents = {"all": "all agents", "best": "the agent with the most correct first replies"}
    who = agents[nodes.agents] if isinstance(nodes.agents, str) else ", ".join(nodes.agents)
    when = "all rounds" if nodes.rounds == "all" else f"round {', '.join(map(str, nodes.rounds))} (counted from 0)"
    sources = record.labels if labels.source == "graph" else (labels.source,)
    against = " or ".join(LABELS.get(source, source) for source in sources) or "an unknown source"
    chosen = "correct" if record.active == {"next_token"} else nodes.correct
    text = f"Learned from: replies of {who}, {when}, in the role of {' or '.join(nodes.roles)}"
    text += "." if chosen == "both" else f", the {chosen} ones only."
    return f"{text} A reply's label, correct or incorrect, was measured against {against}.{doubted}"


def _amount(record: Record) -> str:
    graphs, nodes = (plain(record.trained[key]) for key in ("graphs", "nodes"))
    if record.kind == "solutions":
        return f"Trained on {nodes} published solutions."
    if record.kind == "replies":
        return f"Trained on {nodes} replies to {graphs} questions."
    return f"Trained on {nodes} replies of {graphs} graphs, one graph a debate."


def _debates(record: Record) -> list[str]:
    debate, source, lines = record.config.debate, record.config.graph.source, []
    if record.kind == "solutions":
        return [f"The questions are those of recorded debates, in the format `{source.format}`."] if source else []
    if debate is not None:
        rounds = getattr(debate.protocol, "rounds", None)
        lines.append(f"Debate protocol: `{debate.protocol.name}`" + (f", rounds: {rounds}." if rounds is not None else "."))
    elif source is not None:
        lines.append(f"The debates were not held in this run: they are recorded ones, in the format `{source.format}`.")
    known = record.teachers or (("unknown", "unknown"),)
    title = "Who debated" if record.debated else "Who replied"
    return [*lines, f"{title}:\n\n" + table(("name", "model"), [(name, f"`{model}`") for name, model in known])]


def _left_out(record: Record) -> list[tuple[str, str]]:
    """(what and why, how many), from the questions to the training set."""
    facts: Mapping[str, Mapping[str, Any]] = defaultdict(dict, record.facts)
    trained, solutions = record.trained, record.kind == "solutions"
    found = [(key, count) for key, count in facts["questions"].items() if key.startswith("rows left out: ")]
    found += [(f"recorded debates: {why}", n) for why, n in (facts["debates"].get("skipped_reasons") or {}).items()]
    failed = "questions whose debate failed" if solutions else "debates that failed"
    found.append((failed, facts["graphs"].get("failed debates left out", 0)))
    graphs, nodes = ("questions", "solutions") if solutions else ("graphs", "replies")
    found.append((f"{graphs} held out for dev", trained.get("dev_graphs") or 0))
    for note, count in (trained.get("notes") or {}).items():
        if note.startswith(HELD_OUT):
            split = note.removeprefix(HELD_OUT).partition(",")[0]
            found.append((f"{graphs} held out, of the split {split}", count))
    found += [(f"{graphs}: {why}", n) for why, n in (trained.get("skipped_graphs") or {}).items()]
    found += [(f"{nodes}: {why}", n) for why, n in (trained.get("skipped_nodes") or {}).items()]
    return [(what, plain(count)) for what, count in found if count]


def _notes(record: Record) -> list[tuple[str, str]]:
    notes = record.trained.get("notes") or {}
    return [(NOTES.get(note, note), plain(n)) for note, n in notes.items() if n and not note.startswith(HELD_OUT)]


def training_part(record: Record) -> str:
    """Which weights these are, the settings of the training, and what it took."""
    said = [text for text in (_chosen_weights(record), _early_end(record)) if text]
    rows = [*_settings(record), *_course(record), *_cost(record)]
    return "\n\n".join(["## Training", " ".join(said), table(("setting", "value"), rows)])


def _chosen_weights(record: Record) -> str:
    """Which weights of the training were exported."""
    facts = record.trained
    steps, best = facts.get("steps"), facts.get("best_step")
    if steps is None:
        return "After which step of the training these weights were taken is unknown."
    if facts.get("result") != "best" or best is None:
        why = " No dev loss was a finite number." if facts.get("result") == "best" else ""
        return f"These are the weights after the last step, {plain(steps)}.{why}"
    lowest = "the lowest dev loss of all that were measured"
    if best == 0:
        return f"These are the untrained weights: {lowest} was that before the first step. Training made the student worse."
    after = " Figures below count all steps, those after it too." if best != steps else " It is the last step."
    return f"These are the weights after step {plain(best)}, which had {lowest}.{after}"


def _early_end(record: Record) -> str:
    facts, dev = record.trained, record.config.distil.dev
    if not facts.get("stopped_early"):
        return ""
    why = "." if dev is None or dev.patience is None else f": no new lowest dev loss in {dev.patience} measurements in a row."
    return f"Training stopped early, after step {plain(facts['steps'])} of {plain(facts['planned_steps'])} planned{why}"


def _settings(record: Record) -> Iterator[tuple[str, str]]:
    train, student = train_of(record.config.distil, record.recipe), record.config.distil.student
    ending = "" if train.lr_scheduler_type == "constant" else f" to {train.min_lr_ratio:g} of it"
    heads = "" if train.heads_learning_rate is None else f"; training heads {train.heads_learning_rate:g}"
    limit = train.tokens_per_micro_batch
    yield "length", f"{train.epochs} epochs" if train.epochs is not None else f"at most {plain(train.max_steps)} steps"
    yield f"{_counted(record)} a step", f"at least {plain(train.tokens_per_step)}, in whole {UNITS[record.kind]}"
    yield "tokens a worker forwards at a time", "its whole share of a step" if limit is None else f"at most {plain(limit)}"
    yield "longest prompt and reply", f"{plain(student.max_length)} tokens"
    yield "learning rate", f"{train.learning_rate:g}{heads}"
    yield "schedule", f"{plain(train.warmup_steps)} warm-up steps, then {train.lr_scheduler_type}{ending}"
    yield "optimiser", f"AdamW, betas {', '.join(map(str, train.adam_betas))}, weight decay {train.weight_decay:g}"
    yield "gradient norm clipped at", f"{train.max_grad_norm:g}"
    yield "precision", "bfloat16, master weights in float32" if train.bf16 else "float32"


def _counted(record: Record) -> str:
    """What is counted as supervised: where no objective teaches tokens, all of a reply's are."""
    return "supervised tokens" if any(o.name == "next_token" for o in record.recipe.objectives) else "reply tokens"


def _course(record: Record) -> Iterator[tuple[str, str]]:
    """How the training went."""
    facts = record.trained
    if facts.get("steps") is not None:
        planned = facts.get("planned_steps")
        yield "optimiser steps", plain(facts["steps"]) + (f" of {plain(planned)} planned" if planned is not None else "")
    if facts.get("supervised_tokens") is not None:
        yield f"{_counted(record)}, repetitions counted", plain(facts["supervised_tokens"])
    if facts.get("tokens_forwarded") is not None:
        yield "tokens forwarded, padding included", plain(facts["tokens_forwarded"])
    if facts.get("trained_parameters") is not None and facts.get("parameters") is not None:
        # Of weights in 4 bits PyTorch counts the bytes that hold them: fewer than there are.
        whole = "" if record.quantised else f" of {plain(facts['parameters'])}"
        heads = any(objective.name in HEADED for objective in record.recipe.objectives)
        yield "parameters trained" + (", training heads included" if heads else ""), plain(facts["trained_parameters"]) + whole
    if facts.get("best_loss") is not None:
        yield "lowest dev loss", f"{plain(facts['best_loss'])}, after step {plain(facts['best_step'])}"
    if facts.get("dev_loss") is not None:
        yield "last dev loss", plain(facts["dev_loss"])
    if facts.get("dev_accuracy") is not None:
        yield "last dev accuracy", f"{100 * facts['dev_accuracy']:.1f} %"


def _cost(record: Record) -> Iterator[tuple[str, str]]:
    """What the training took, and the debates it learned from."""
    facts, debates = record.trained, record.facts.get("debates", {})
    gpus, resumed = facts.get("gpus"), facts.get("resumed")
    if facts.get("workers") is not None:
        on = "" if gpus is None else f", {plain(gpus)} GPUs" if gpus else ", on CPUs"
        yield "workers" + (" of the last attempt" if resumed else ""), plain(facts["workers"]) + on
    if facts.get("zero_stage") is not None:
        yield "ZeRO stage", plain(facts["zero_stage"])
    if facts.get("packing") is not None:
        yield "layout of a batch", PACKING.get(facts["packing"], facts["packing"])
    if peaks := facts.get("peak_memory"):
        where = "GPU memory" if gpus else "memory"
        yield "peak memory", f"{max(peaks) / 2**30:.3g} GiB of {where} on the worker that took most"
    if facts.get("flops") is not None:
        yield "arithmetic of the steps, estimated", f"{facts['flops']:.2g} FLOP"
    if facts.get("seconds") is not None:
        yield "wall-clock time of steps and dev measurements, all attempts", duration(facts["seconds"])
    if facts.get("worker_seconds") is not None:
        yield "the same, summed over workers", f"{facts['worker_seconds'] / 3600:.3g} {'GPU-hours' if gpus else 'worker-hours'}"
    if resumed:
        yield "taken up again from a checkpoint", "once" if resumed == 1 else f"{plain(resumed)} times"
    if record.kind == "solutions":
        return
    if debates.get("tokens_out"):
        yield "debates: tokens read / generated", f"{plain(debates.get('tokens_in', 0))} / {plain(debates['tokens_out'])}"
    if debates.get("usd"):
        yield "debates: paid for API calls", f"${debates['usd']:.2f}"
