"""The model card of an exported student, written from the run's record. Pure: plain data in, the text of README.md out.

Nothing is invented: what the record does not hold is left out or called unknown. No key and no path of a machine is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from magdi_ray.config import recipes
from magdi_ray.config.distil import FullTuning
from magdi_ray.config.recipes import RECIPES, WeightSchedule
from magdi_ray.distill.export.lessons import data_part, training_part
from magdi_ray.distill.export.markdown import plain, table
from magdi_ray.distill.export.record import Record

OBJECTIVES = {
    "next_token": "mean token cross-entropy over the correct replies",
    "contrast": "margin loss over every pair of a correct and an incorrect reply to one question",
    "interaction": "a graph network predicts every reply's label from its embedding and from who was shown what",
    "verify": "a head tells of every reply by itself how likely it is correct",
    "preference": "direct preference optimisation (arXiv 2305.18290) over every pair of a correct and an incorrect reply",
    "simpo": "SimPO (arXiv 2405.14734), preference optimisation by mean log-probabilities, over the same pairs",
    "orpo": "the odds-ratio term of ORPO (arXiv 2403.07691) over the same pairs",
}
PREFERENCES = {"preference": "DPO", "simpo": "SimPO", "orpo": "ORPO"}
LEVELS = {
    "level1": "level 1 of the paper's ablation: the correct first replies of the one best teacher",
    "level2": "level 2 of the paper's ablation: the correct replies of several teachers",
    "level3": "level 3 of the paper's ablation: the correct replies of several teachers, and the contrast to the incorrect ones",
    "level4": "level 4 of the paper's ablation, which is MAGDi itself: correct replies, contrast, and the interaction graph",
    "paper": "the paper's recipe, MAGDi itself: correct replies, contrast, and the interaction graph (level 4 of its ablation)",
    "sft_gold": "a baseline: fine-tuning on the solutions published with the questions, without any debate",
    "dpo": "a baseline: preference optimisation (DPO) on the debates' replies",
    "simpo": "a baseline: preference optimisation (SimPO) on the debates' replies",
    "orpo": "a baseline: the correct replies and preference optimisation (ORPO) on the debates' replies",
}
TAGS = {
    "magdi": ("magdi", "distillation"),
    "preference": (),
    "replies": ("distillation",),
    "solutions": ("sft",),
}
MAGDI = {"next_token": "the loss on correct replies", "interaction": "the graph network", "contrast": "the contrast"}
"""The parts of MAGDi, for what a recipe does without."""


def model_card(record: Record) -> str:
    """The text of README.md: front matter for the hub, then the card."""
    front = yaml.safe_dump(front_matter(record), sort_keys=False, allow_unicode=True, width=1000)
    parts = (_what, data_part, training_part, _results, _limits, _usage, _provenance)
    return f"---\n{front}---\n\n" + "\n\n".join([f"# {record.name}", *(part(record) for part in parts)]) + "\n"


def front_matter(record: Record) -> dict[str, Any]:
    """What the hub indexes. A licence is never stated: that of the base, the teachers and the questions is not known here."""
    adapter = record.form == "adapter"
    front: dict[str, Any] = {}
    if record.base.kind == "hub":
        front |= {"base_model": record.base.name, "base_model_relation": "adapter" if adapter else "finetune"}
    front |= {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    preferred = [PREFERENCES[name].lower() for name in sorted(PREFERENCES) if name in record.active]
    about = [
        *TAGS[record.kind],
        *(preferred if record.kind == "preference" else []),
        *(["multi-agent-debate"] if record.debated else []),
    ]
    front["tags"] = [*about, *(["lora"] if adapter else [])]
    if record.datasets:
        front["datasets"] = list(record.datasets)
    if scores := [row for row in _rows(record, "scores") if row["system"] == record.recipe.name and _plain(row)]:
        front["model-index"] = [{"name": record.name, "results": [_index_entry(record, row) for row in scores]}]
    return front


def _index_entry(record: Record, row: Mapping[str, Any]) -> dict[str, Any]:
    name = f"accuracy ({row['questions']} questions, 95% interval {row['low']:.3f} to {row['high']:.3f})"
    own = _task(record, row) == record.config.task.name
    return {
        "task": {"type": "text-generation"},
        "dataset": {
            "type": record.datasets[0] if record.datasets and own else _task(record, row),
            "name": _task(record, row),
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
    known = (name for name, found in RECIPES.items() if recipe == found.model_copy(update={"name": recipe.name}))
    taught = LEVELS.get(next(known, "")) if record.debated or record.kind == "solutions" else None
    lines = [
        "## What it is",
        f"{_opening(record)} It was made with magdi_ray and started from {origin}.",
        f"Tuning: {_tuning(record)}. {stored} Weights are stored in {record.dtype}.",
        f"Recipe: `{recipe.name}`" + (f", {taught}." if taught else ", a recipe of this run's own."),
        table(("objective", "weight", "what it is", "settings"), [_objective(record, item) for item in recipe.objectives]),
    ]
    if record.quantised and record.form == "merged":
        lines.append(
            "The adapter was trained over base weights in 4 bits and is merged into the unquantised ones: logits differ slightly "
            "from those of training."
        )
    return "\n\n".join(lines)


def _opening(record: Record) -> str:
    """What was done, in one sentence."""
    nodes, kind = record.recipe.nodes, record.kind
    if kind == "solutions":
        return "A language model fine-tuned on the solutions published with questions."
    between = "debates between language models" if record.debated else "a language model's replies"
    preferred = ", ".join(name for objective, name in PREFERENCES.items() if objective in record.active)
    if kind == "magdi":
        missing = [what for name, what in MAGDI.items() if name not in record.active]
        without = f", without {' and '.join(missing)}" if missing else ""
        more = f", and by preference optimisation ({preferred}) on pairs of replies" if preferred else ""
        return f"A language model taught by {between}, with MAGDi (arXiv 2402.01620){without}{more}."
    if kind == "preference":
        more = " and by learning the correct ones" if "next_token" in record.active else ""
        return f"A language model trained by preference optimisation ({preferred}) on pairs of replies from {between}{more}."
    more = _beside_correct(record)
    if "next_token" not in record.active:
        return f"A language model with a head that rates replies, taught by {between}."
    if not record.debated:
        return f"A language model distilled from the correct replies that one language model gave alone{more}."
    several = nodes.agents == "all" or (nodes.agents != "best" and len(nodes.agents) > 1)
    who = "language models" if several else "one language model"
    when = "at the start of debates" if nodes.rounds == (0,) else "in debates"
    return f"A language model distilled from the correct replies that {who} gave {when}{'' if several else ' with others'}{more}."


def _beside_correct(record: Record) -> str:
    """What else than correct replies it was taught by, where its recipe is one of replies."""
    learned = record.recipe.next_token
    parts = ["from what follows the mistakes of incorrect ones"] if learned and learned.after_divergence else []
    parts += ["with a head that rates replies"] if "verify" in record.active else []
    return f", and {' and '.join(parts)}" if parts else ""


def _tuning(record: Record) -> str:
    tuning = record.config.distil.student.tuning
    if isinstance(tuning, FullTuning):
        return "all weights"
    targets = tuning.target_modules if isinstance(tuning.target_modules, str) else ", ".join(tuning.target_modules)
    kind = {"lora": "LoRA", "qlora": "QLoRA (base weights in 4 bits)"}[tuning.type]
    return f"{kind} of rank {tuning.r}, alpha {tuning.alpha}, dropout {tuning.dropout:g}, on {targets}"


def _objective(record: Record, objective: Any) -> tuple[str, ...]:
    settings = objective.model_dump(exclude={"name", "weight", "schedule"})
    said = [f"{name.replace('_', ' ')}: {plain(value)}" for name, value in settings.items()]
    if objective.schedule != WeightSchedule():
        said.append(
            "schedule: " + ", ".join(f"{k} {plain(v)}" for k, v in objective.schedule.model_dump().items() if v is not None)
        )
    what = OBJECTIVES.get(objective.name, "")
    if record.kind == "solutions":
        what = what.replace("correct replies", "published solutions")
    return f"`{objective.name}`", f"{objective.weight:g}", what, "; ".join(said)


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
    if record.kind == "solutions":
        lines.append("Debaters and their vote stand here for comparison: this student did not learn from them.")
    if trainings := max(row.get("seeds", 1) for row in scores) - 1:
        lines.append(
            f"Students are measured over {trainings + 1} trainings with different seeds; this is the first of its recipe."
        )
    for place in dict.fromkeys((_task(record, row), row["split"]) for row in scores):
        chosen = [row for row in scores if (_task(record, row), row["split"]) == place]
        rows = [_score(record, row) for row in chosen]
        lines.append(f"Task `{place[0]}`, split `{place[1]}`, {chosen[0]['questions']} questions:")
        lines.append(table(("system", "accuracy %", "95% interval", "tokens generated / question", "no answer"), rows))
        here = [row for row in _rows(record, "differences") if (_task(record, row), row["split"]) == place]
        if compared := [row for row in here if row["system"] == record.recipe.name and _plain(row)]:
            lines.append("Paired differences in points:")
            lines.append(table(("comparison", "difference", "95% interval", "p"), [_difference(row) for row in compared]))
    return "\n\n".join(lines)


def _score(record: Record, row: Mapping[str, Any]) -> tuple[str, ...]:
    names = {recipe.name: f"{recipe.name} student" for recipe in recipes(record.config.distil)}
    names |= {"base": "base student, before training", "vote": "the debate's vote", record.recipe.name: "**this student**"}
    name = names.get(row["system"], f"{row['system']} (debater, alone)")
    return (
        name if _plain(row) else f"{name}, {row['method']} of {row['samples']} replies",
        f"{100 * row['accuracy']:.1f}",
        f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
        f"{row['tokens_out']:.1f}" if row["tokens_out"] else "unknown",
        f"{row['unanswered'] + row['errors']:g}",
    )


def _difference(row: Mapping[str, Any]) -> tuple[str, ...]:
    reference = {"base": "the base student", "vote": "the debate's vote"}.get(row["reference"], row["reference"])
    interval = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    return f"this student - {reference}", f"{100 * row['difference']:+.1f}", interval, f"{row['p_value']:.2g}"


def _limits(record: Record) -> str:
    solutions = record.kind == "solutions"
    faults = "the published solutions" if solutions else "the models whose replies it learned from"
    known = (
        "What its base and its questions allow has"
        if solutions
        else "What its base, its questions and the models whose replies it learned from allow, and the terms of those models' "
        "providers on training with their replies, have"
    )
    scores = [(_task(record, row), row["split"]) for row in _rows(record, "scores")]
    outside = [f"`{task}`" for task, _ in dict.fromkeys(scores) if task != record.config.task.name]
    outside += ["the split `ood`"] if "ood" in [split for _, split in scores] else []
    domain = f"Out of domain it was measured on {', '.join(outside)} only." if outside else "Nothing was measured out of domain."
    return "\n".join(
        [
            "## Limits\n",
            f"- It was trained for questions of the task `{record.config.task.name}`, put as shown below. {domain}",
            "- Its answers and its reasoning may be wrong, and nothing in a reply says whether they are.",
            f"- It had no safety training beyond whatever its base had. Faults of {faults} may have been learned.",
            f"- No licence is stated, because none is known here. {known} to be checked before it is used or passed on.",
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
    return "## Provenance\n\nThis card was generated from the run's record.\n\n" + table(("what", "value"), rows)


def _plain(row: Mapping[str, Any]) -> bool:
    """Whether a figure is of one reply a question; evaluations from before there was anything else do not say."""
    return bool(row.get("method", "single") == "single")


def _task(record: Record, row: Mapping[str, Any]) -> str:
    return str(row.get("task") or record.config.task.name)


def _rows(record: Record, kind: str) -> Sequence[Mapping[str, Any]]:
    return record.results[kind] if record.results else ()
