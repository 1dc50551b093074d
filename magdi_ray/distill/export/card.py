"""The model card of an exported student, written from the run's record. Pure: plain data in, the text of README.md out.

Nothing is invented: what the record does not hold is left out or called unknown. No key and no path of a machine is part of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from magdi_ray.config import RecipeConfig, RunConfig, recipes
from magdi_ray.config.distil import FullTuning
from magdi_ray.config.recipes import RECIPES, WeightSchedule

Form = Literal["adapter", "merged", "full"]


@dataclass(frozen=True, slots=True)
class Base:
    """The model a student started from."""

    name: str
    """A hub name, a `pkg://` name, or the last part of a directory's name: never a path of one machine."""
    kind: Literal["hub", "package", "local", "scratch"]


@dataclass(frozen=True, slots=True)
class Record:
    """What a card is written from."""

    config: RunConfig
    recipe: RecipeConfig
    form: Form
    dtype: str
    base: Base
    teachers: tuple[tuple[str, str], ...]
    """(name, model) of each debater."""
    labels: tuple[str, ...]
    """What the graphs' labels were measured against."""
    datasets: tuple[str, ...]
    facts: Mapping[str, Mapping[str, Any]]
    """Stage -> the facts of its manifest; "student" is the exported one, whatever its recipe."""
    finished: str
    seconds: float
    results: Mapping[str, Any] | None
    """`evaluation/metrics.json`, where the evaluation was of these weights."""
    identity: str
    config_hash: str
    content: str
    """Hash of the student's files in the run."""
    packages: Mapping[str, str]
    """Name -> version, at the time of the export."""
    prompt: str | None
    """How a question is put, `{question}` in its place; None where that is no fixed text around the question."""
    chat: bool
    repository: str | None

    @property
    def name(self) -> str:
        """What the student is called, here and by `magdi serve`."""
        return f"{self.config.name}-{self.recipe.name}"


OBJECTIVES = {
    "next_token": "mean token cross-entropy over the correct replies",
    "contrast": "margin loss over every pair of a correct and an incorrect reply to one question",
    "interaction": "a graph network predicts every reply's label from its embedding and from who was shown what",
    "preference": "direct preference optimisation (arXiv 2305.18290) over every pair of a correct and an incorrect reply",
}
LEVELS = {
    "level1": "level 1 of the paper's ablation: the correct first replies of the one best teacher",
    "level2": "level 2 of the paper's ablation: the correct replies of several teachers",
    "level3": "level 3 of the paper's ablation: the correct replies of several teachers, and the contrast to the incorrect ones",
    "level4": "level 4 of the paper's ablation, which is MAGDi itself: correct replies, contrast, and the interaction graph",
    "sft_gold": "a baseline: fine-tuning on the solutions published with the questions, without any debate",
    "dpo": "a baseline: preference optimisation on the debates' replies",
}
LABELS = {
    "gold": "the gold answers",
    "vote": "the debates' own answers, which may be wrong",
    "judge": "the answers of the debates' judge, which may be wrong",
}
TRAINED = {
    "steps": "optimiser steps",
    "supervised_tokens": "supervised tokens, repetitions counted",
    "tokens": "tokens forwarded, padding included",
    "workers": "workers",
    "zero_stage": "ZeRO stage",
    "dev_loss": "last dev loss",
    "best_loss": "lowest dev loss",
    "best_step": "step of the lowest dev loss",
    "dev_accuracy": "last dev accuracy",
    "worker_seconds": "seconds of work, summed over workers",
}
"""Facts of a student's stage that a card shows, and what it calls them."""


def model_card(record: Record) -> str:
    """The text of README.md: front matter for the hub, then the card."""
    front = yaml.safe_dump(front_matter(record), sort_keys=False, allow_unicode=True, width=1000)
    parts = (_what, _data, _training, _results, _limits, _usage, _provenance)
    return f"---\n{front}---\n\n" + "\n\n".join([f"# {record.name}", *(part(record) for part in parts)]) + "\n"


def front_matter(record: Record) -> dict[str, Any]:
    """What the hub indexes. A licence is never stated: that of the base, the teachers and the questions is not known here."""
    adapter = record.form == "adapter"
    front: dict[str, Any] = {}
    if record.base.kind == "hub":
        front |= {"base_model": record.base.name, "base_model_relation": "adapter" if adapter else "finetune"}
    front |= {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["magdi", "distillation", "multi-agent-debate", *(["lora"] if adapter else [])]
    if record.datasets:
        front["datasets"] = list(record.datasets)
    if scores := [row for row in _rows(record, "scores") if row["system"] == record.recipe.name]:
        front["model-index"] = [{"name": record.name, "results": [_index_entry(record, row) for row in scores]}]
    return front


def _index_entry(record: Record, row: Mapping[str, Any]) -> dict[str, Any]:
    name = f"accuracy ({row['questions']} questions, 95% interval {row['low']:.3f} to {row['high']:.3f})"
    return {
        "task": {"type": "text-generation"},
        "dataset": {
            "type": (record.datasets or (record.config.task.name,))[0],
            "name": record.config.task.name,
            "split": row["split"],
        },
        "metrics": [{"type": "accuracy", "name": name, "value": round(row["accuracy"], 4)}],
    }


def _what(record: Record) -> str:
    base, recipe = record.base, record.recipe
    origin = {
        "hub": f"[{base.name}](https://huggingface.co/{base.name})",
        "package": f"`{base.name}`, a model shipped inside a Python package",
        "local": f"a local model in a directory called `{base.name}`, which is not published with this card",
        "scratch": "a model of random weights, made for this run",
    }[base.kind]
    stored = {
        "adapter": "This directory holds the adapter only; the base model has to be had apart.",
        "merged": "The adapter has been merged into the base model: this directory is complete.",
        "full": "This directory is complete.",
    }[record.form]
    taught = LEVELS.get(recipe.name) if recipe == RECIPES.get(recipe.name) else None
    lines = [
        "## What it is",
        f"A language model taught by debates between several language models (MAGDi, arXiv 2402.01620), made with "
        f"magdi_ray. It started from {origin}.",
        f"Tuning: {_tuning(record)}. {stored} Weights are stored in {record.dtype}.",
        f"Recipe: `{recipe.name}`" + (f", {taught}." if taught else ", a recipe of this run's own."),
        _table(("objective", "weight", "what it is", "settings"), [_objective(objective) for objective in recipe.objectives]),
    ]
    if record.config.distil.student.tuning.type == "qlora" and record.form == "merged":
        lines.append(
            "The adapter was trained over base weights in 4 bits and is merged into the unquantised ones: logits differ slightly "
            "from those of training."
        )
    return "\n\n".join(lines)


def _tuning(record: Record) -> str:
    tuning = record.config.distil.student.tuning
    if isinstance(tuning, FullTuning):
        return "all weights"
    targets = tuning.target_modules if isinstance(tuning.target_modules, str) else ", ".join(tuning.target_modules)
    kind = {"lora": "LoRA", "qlora": "QLoRA (base weights in 4 bits)"}[tuning.type]
    return f"{kind} of rank {tuning.r}, alpha {tuning.alpha}, dropout {tuning.dropout:g}, on {targets}"


def _objective(objective: Any) -> tuple[str, ...]:
    settings = objective.model_dump(exclude={"name", "weight", "schedule"})
    said = [f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in settings.items()]
    if objective.schedule != WeightSchedule():
        said.append(
            "schedule: " + ", ".join(f"{k} {_plain(v)}" for k, v in objective.schedule.model_dump().items() if v is not None)
        )
    return f"`{objective.name}`", f"{objective.weight:g}", OBJECTIVES.get(objective.name, ""), "; ".join(said)


def _data(record: Record) -> str:
    config, recipe = record.config, record.recipe
    questions, student = record.facts.get("questions", {}), record.facts.get("student", {})
    splits = [f"{questions[split]} {split}" for split in ("train", "dev", "test", "ood") if questions.get(split)]
    lines = ["## Data", f"Task: `{config.task.name}`." + (f" Questions: {', '.join(splits)}." if splits else "")]
    if record.datasets:
        lines.append(
            "Question files: " + ", ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in record.datasets)
        )
    lines.append(_selection(record))
    if {"graphs", "nodes"} <= student.keys():
        lines.append(f"Trained on {_plain(student['nodes'])} replies of {_plain(student['graphs'])} graphs, one graph a debate.")
    if config.debate is not None:
        rounds = getattr(config.debate.protocol, "rounds", None)
        lines.append(
            f"Debate protocol: `{config.debate.protocol.name}`" + (f", rounds: {rounds}." if rounds is not None else ".")
        )
    elif config.graph.source is not None:
        lines.append(
            f"The debates were not held in this run: they are recorded ones, in the format `{config.graph.source.format}`."
        )
    if recipe.nodes.texts == "replies" or record.teachers:
        known = record.teachers or (("unknown", "unknown"),)
        lines.append("Who debated:\n\n" + _table(("name", "model"), [(name, f"`{model}`") for name, model in known]))
    rows = [(what, _plain(count)) for what, count in _left_out(record)]
    nothing = "Nothing was left out." if "skipped_nodes" in student else "What was left out is unknown."
    lines.append("Left out:\n\n" + _table(("what", "count"), rows) if rows else nothing)
    return "\n\n".join(lines)


def _selection(record: Record) -> str:
    nodes, labels = record.recipe.nodes, record.recipe.labels
    if nodes.texts == "gold_solutions":
        return "Learned from: the solutions published with the questions, not from replies."
    agents = {"all": "all agents", "best": "the agent with the most correct first replies"}
    who = agents[nodes.agents] if isinstance(nodes.agents, str) else ", ".join(nodes.agents)
    when = "all rounds" if nodes.rounds == "all" else f"round {', '.join(map(str, nodes.rounds))} (counted from 0)"
    sources = record.labels if labels.source == "graph" else (labels.source,)
    against = " or ".join(LABELS.get(source, source) for source in sources) or "an unknown source"
    text = f"Learned from: replies of {who}, {when}, in the role of {' or '.join(nodes.roles)}"
    text += "." if nodes.correct == "both" else f", the {nodes.correct} ones only."
    text += f" A reply's label, correct or incorrect, was measured against {against}."
    return text + (
        f" Debates in which agents agreed less than {labels.min_agreement:g} were left out." if labels.min_agreement else ""
    )


def _left_out(record: Record) -> list[tuple[str, int]]:
    """(what and why, how many), from the questions to the training set."""
    facts: Mapping[str, Mapping[str, Any]] = defaultdict(dict, record.facts)
    found = [(key, count) for key, count in facts["questions"].items() if key.startswith("rows left out: ")]
    found += [(f"recorded debates: {why}", n) for why, n in (facts["debates"].get("skipped_reasons") or {}).items()]
    found.append(("debates that failed", facts["graphs"].get("failed debates left out", 0)))
    for kind, what in (("skipped_graphs", "graphs"), ("skipped_nodes", "replies")):
        found += [(f"{what}: {why}", n) for why, n in (facts["student"].get(kind) or {}).items()]
    return [(what, count) for what, count in found if count]


def _training(record: Record) -> str:
    train, student = record.config.distil.train, record.facts.get("student", {})
    length = f"{train.epochs} epochs" if train.epochs is not None else f"at most {train.max_steps} steps"
    ending = "" if train.lr_scheduler_type == "constant" else f" to {train.min_lr_ratio:g} of it"
    heads = "" if train.heads_learning_rate is None else f"; heads {train.heads_learning_rate:g}"
    rows = [
        ("length", length),
        ("supervised tokens a step", _plain(train.tokens_per_step)),
        ("longest prompt and reply", f"{_plain(record.config.distil.student.max_length)} tokens"),
        ("learning rate", f"{train.learning_rate:g}{heads}"),
        ("schedule", f"{train.warmup_steps} warm-up steps, then {train.lr_scheduler_type}{ending}"),
        ("optimiser", f"AdamW, betas {', '.join(map(str, train.adam_betas))}, weight decay {train.weight_decay:g}"),
        ("gradient norm clipped at", f"{train.max_grad_norm:g}"),
        ("precision", "bfloat16, master weights in float32" if train.bf16 else "float32"),
        *((title, _plain(student[key])) for key, title in TRAINED.items() if student.get(key) is not None),
        ("wall-clock time", f"{record.seconds:.0f} s"),
    ]
    debates = record.facts.get("debates", {})
    if debates.get("tokens_out"):
        rows.append(
            ("debates: tokens read / generated", f"{_plain(debates.get('tokens_in', 0))} / {_plain(debates['tokens_out'])}")
        )
    if debates.get("usd"):
        rows.append(("debates: paid for API calls", f"${debates['usd']:.2f}"))
    return "## Training\n\n" + _table(("setting", "value"), rows)


def _results(record: Record) -> str:
    scores = _rows(record, "scores")
    if not scores:
        return "## Results\n\nThese weights were not evaluated: how good they are is unknown."
    sampling = record.config.evaluate.sampling
    decoding = "greedy decoding" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}"
    lines = [
        "## Results",
        f"On held-out questions of the run, {decoding}, at most {sampling.max_tokens} tokens. Intervals are at 95%.",
    ]
    for split in dict.fromkeys(row["split"] for row in scores):
        chosen = [row for row in scores if row["split"] == split]
        rows = [_score(record, row) for row in chosen]
        lines.append(f"Split `{split}`, {chosen[0]['questions']} questions:")
        lines.append(_table(("system", "accuracy %", "95% interval", "tokens generated / question", "no answer"), rows))
        compared = [r for r in _rows(record, "differences") if r["split"] == split and r["system"] == record.recipe.name]
        if compared:
            lines.append("Paired differences in points:")
            lines.append(
                _table(("comparison", "difference", "95% interval", "p (McNemar)"), [_difference(row) for row in compared])
            )
    return "\n\n".join(lines)


def _score(record: Record, row: Mapping[str, Any]) -> tuple[str, ...]:
    names = {recipe.name: f"{recipe.name} student" for recipe in recipes(record.config.distil)}
    names |= {"base": "base student, before training", "vote": "the debate's vote", record.recipe.name: "**this student**"}
    return (
        names.get(row["system"], f"{row['system']} (teacher, alone)"),
        f"{100 * row['accuracy']:.1f}",
        f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
        f"{row['tokens_out']:.1f}" if row["tokens_out"] else "unknown",
        str(row["unanswered"] + row["errors"]),
    )


def _difference(row: Mapping[str, Any]) -> tuple[str, ...]:
    reference = {"base": "the base student", "vote": "the debate's vote"}.get(row["reference"], row["reference"])
    interval = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    return f"this student - {reference}", f"{100 * row['difference']:+.1f}", interval, f"{row['p_value']:.2g}"


def _limits(record: Record) -> str:
    measured = [row["split"] for row in _rows(record, "scores")]
    domain = (
        "Out of domain it was measured on the split `ood` only." if "ood" in measured else "Nothing was measured out of domain."
    )
    return "\n".join(
        [
            "## Limits\n",
            f"- It was trained for questions of the task `{record.config.task.name}`, put as shown below. {domain}",
            "- Its answers and its reasoning may be wrong, and nothing in a reply says whether they are.",
            "- It had no safety training beyond whatever its base had. Faults of its teachers may have been learned.",
            "- No licence is stated, because none is known here. What its base, its teachers and its questions allow, and the "
            "terms of the teachers' providers on training with their replies, have to be checked before it is used or passed on.",
        ]
    )


def _usage(record: Record) -> str:
    where = record.repository or "."
    comment = "" if record.repository else "  # this directory"
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", f"student = {where!r}{comment}"]
    if record.form == "adapter":
        named = {"hub": repr(record.base.name), "scratch": "'path/to/the/base'  # the directory `base` of the run"}
        base = named.get(record.base.kind, f"'path/to/{record.base.name.rpartition('/')[2]}'  # where its base model lies")
        lines = ["from peft import PeftModel", lines[0], "", f"base = {base}", lines[2]]
        lines.append('model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), student)')
    else:
        lines.append('model = AutoModelForCausalLM.from_pretrained(student, dtype="auto")')
    lines += [
        "tokenizer = AutoTokenizer.from_pretrained(student)",
        "",
        'question = "Your question"',
        f"prompt = {_prompt(record)}",
    ]
    if record.chat:
        lines.append('messages = [{"role": "user", "content": prompt}]')
        lines.append("text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)")
        lines.append('inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)')
    else:
        lines.append('inputs = tokenizer(prompt + "\\n\\n", return_tensors="pt", return_token_type_ids=False)')
    tokens = record.config.evaluate.sampling.max_tokens
    lines += [
        f"reply = model.generate(**inputs, max_new_tokens={tokens}, do_sample=False)[0, inputs.input_ids.shape[1] :]",
        "print(tokenizer.decode(reply, skip_special_tokens=True))",
    ]
    code = "\n".join(lines)
    said = (
        ""
        if record.prompt
        else f"\n\nThe task `{record.config.task.name}` of magdi_ray writes a question's prompt in a form of its own."
    )
    return f"## How to use\n\n```python\n{code}\n```{said}"


def _prompt(record: Record) -> str:
    if record.prompt is None or record.prompt == "{question}":
        return "question"
    return f'{record.prompt!r}.replace("{{question}}", question)'


def _provenance(record: Record) -> str:
    rows = [
        ("run", record.config.name + (f" ({record.identity})" if record.identity else "")),
        ("training ended", record.finished),
        ("hash of what shaped the student", f"`{record.config_hash[:16]}`"),
        ("hash of the student's files in the run", f"`{record.content[:16]}`"),
        ("packages at export", ", ".join(f"{name} {version}" for name, version in record.packages.items())),
    ]
    return "## Provenance\n\nThis card was generated from the run's record.\n\n" + _table(("what", "value"), rows)


def _rows(record: Record, kind: str) -> Sequence[Mapping[str, Any]]:
    return record.results[kind] if record.results else ()


def _plain(value: Any) -> str:
    """A figure or word as a person writes it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", " ")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines)
