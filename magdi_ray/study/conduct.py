"""A study from its configuration to its figures: runs like any other, one after the other, each resumable. The edge of this room.

OUT/world       the debates and graphs that all students share
OUT/tuning      students with every setting that is tried, measured on the dev questions
OUT/students    every recipe, the baseline at equal tokens beside each, measured once on the questions of `split`
OUT/study.json  what the page is made of
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from magdi_ray.config import RecipeConfig, RunConfig, load_config
from magdi_ray.config.load import parse_section
from magdi_ray.config.reading import read_mapping
from magdi_ray.config.study import BESIDE, StudyConfig, TuningConfig
from magdi_ray.evaluate.metrics import Difference, Score
from magdi_ray.evaluate.report.labelling import Labelling
from magdi_ray.graph.store import iter_mags
from magdi_ray.pipeline import load_results, run_pipeline
from magdi_ray.progress import console
from magdi_ray.runs import Run
from magdi_ray.stages import student_stage
from magdi_ray.study.conclude import rows, sentences
from magdi_ray.study.grid import Trial, best, candidates, compared, derived, pairs, rivals
from magdi_ray.tasks.load import load_task

RESULT = "study.json"


def load_study(path: Path) -> StudyConfig:
    """Read a study's configuration.

    Raises:
        ConfigError: it is missing or malformed, or a value breaks a rule.
    """
    data = read_mapping(
        path, kind="study", example="A ready-made one is configs/studies/structure.yaml.", holds="of a study (run, recipes, ...)"
    )
    return parse_section(data, str(path), StudyConfig)


def conduct(study: StudyConfig, folder: Path, out: Path) -> dict[str, Any]:
    """Run what is missing of a study and write what it comes to. `folder`: where its configuration lies.

    Raises:
        ConfigError, RunError, EngineError: as a run does.
    """
    base = load_config(folder / study.run, study.set)
    world = Run(out / "world")
    run_pipeline(base, world, until="graphs")
    graphs = str(world.path("graphs").resolve())
    tried = tune(study, study.tuning, base, graphs, out / "tuning") if study.tuning else []
    recipes = compared(study, best(tried))
    config, run, tokens, held = train(study, base, graphs, recipes, out / "students")
    run_pipeline(config, run)
    found = load_results(run)
    differences = [Difference(**row) for row in found["differences"]]
    table = rows(recipes, [Score(**row) for row in found["scores"]], differences, tokens, held)
    result = {
        "name": study.name,
        "world": {"run": study.run, "set": list(study.set)},
        "seeds": study.seeds,
        "split": study.split,
        "questions": table[-1].score.questions,
        "tuning": [asdict(trial) for trial in tried],
        "rows": [asdict(row) for row in table],
        "beside": _beside(found["scores"], tokens),
        "others": _others(found),
        "labelling": _labelling(run, base),
        "said": sentences(table, recipes, differences, study.comparisons),
        "recipes": [recipe.model_dump(mode="json") for recipe in recipes],
        "settings": {recipe.name: _told(recipe) for recipe in recipes},
    }
    (out / RESULT).write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def tune(study: StudyConfig, tuning: TuningConfig, base: RunConfig, graphs: str, out: Path) -> list[Trial]:
    """Every setting of every recipe that is tuned, measured on the dev questions."""
    *others, baseline = study.resolved
    tuned = [*(recipe for recipe in others if recipe.name in tuning.recipes), baseline]
    tried = {recipe.name: candidates(recipe, tuning) for recipe in tuned}
    settings = [setting for found in tried.values() for setting, _, _ in found.values()]
    config = derived(base, graphs, f"{base.name}-tuning", settings, seeds=tuning.seeds, split="dev", once=True)
    run = Run(out)
    run_pipeline(config, run)
    scores = {row["system"]: row for row in load_results(run)["scores"] if row["method"] == "single"}
    found = [
        Trial(recipe, rate, steps, scores[name]["accuracy"], scores[name]["questions"])
        for recipe, settings_of in tried.items()
        for name, (_, rate, steps) in settings_of.items()
    ]
    for name, trial in best(found).items():
        console.print(f"{name}: learning rate {trial.learning_rate:g}, {trial.max_steps} steps, {trial.accuracy:.1%} on dev")
    return found


def train(
    study: StudyConfig, base: RunConfig, graphs: str, recipes: Sequence[RecipeConfig], out: Path
) -> tuple[RunConfig, Run, dict[str, float], dict[str, str]]:
    """Train every recipe, and then the baseline for as many tokens as each of them read.

    Returns the configuration of the whole run, the run, the tokens read by each student (mean over its trainings), and the
    baseline that each recipe is held against at equal tokens.
    """
    run, baseline = Run(out), recipes[-1]
    common: dict[str, Any] = {"seeds": study.seeds, "split": study.split}
    first = derived(base, graphs, study.name, recipes, **common)
    run_pipeline(first, run, until="student")
    read, steps = _read(first, run, recipes), _steps(first, run, baseline)
    held, more = rivals(baseline, [recipe.name for recipe in recipes[:-1] if recipe.control == "none"], read, steps=steps)
    compare = pairs(study, held)
    whole = derived(base, graphs, study.name, [*recipes[:-1], *more, baseline], comparisons=compare, **common)
    run_pipeline(whole, run, until="student")
    return whole, run, read | _read(whole, run, more), held


def _read(config: RunConfig, run: Run, recipes: Sequence[RecipeConfig]) -> dict[str, float]:
    return {recipe.name: fmean(_facts(config, run, recipe, "tokens_forwarded")) for recipe in recipes}


def _steps(config: RunConfig, run: Run, recipe: RecipeConfig) -> int:
    return round(fmean(_facts(config, run, recipe, "steps")))


def _facts(config: RunConfig, run: Run, recipe: RecipeConfig, name: str) -> list[float]:
    stages = [student_stage(config, recipe, number) for number in range(config.distil.seeds)]
    return [run.require(stage).facts[name] for stage in stages]


def _beside(scores: Sequence[Mapping[str, Any]], tokens: Mapping[str, float]) -> list[dict[str, Any]]:
    """The baseline at the tokens of each recipe."""
    return [
        {"recipe": row["system"], "score": row, "tokens": tokens[row["system"]]}
        for row in scores
        if BESIDE in row["system"] and row["method"] == "single"
    ]


def _others(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The untaught student, the teachers and their vote, on the same questions."""
    titles = {row["name"]: row["title"] for row in found["systems"] if row["kind"] != "student"}
    rows = [row for row in found["scores"] if row["system"] in titles and row["method"] == "single"]
    return [{"what": titles[row["system"]], "score": row} for row in rows]


def _labelling(run: Run, base: RunConfig) -> list[dict[str, Any]]:
    """What the debates' own vote is worth as labels of the training questions; nothing where nobody knows the right answers."""
    labelling = Labelling(load_task(base.task))
    for mag in iter_mags(run.path("graphs")):
        if mag.question.split == "train":
            labelling.add(mag)
    return [asdict(row) for row in labelling.rows()]


def _told(recipe: RecipeConfig) -> str:
    """What a recipe says itself, as it would be written; nothing of what it leaves as it is."""
    said = recipe.model_dump(mode="json", exclude_defaults=True)
    del said["name"]
    return yaml.safe_dump(said, default_flow_style=True, sort_keys=False, width=10**6).strip()[1:-1]
