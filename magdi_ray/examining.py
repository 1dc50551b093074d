"""The evaluation stage: who answers which held-out questions, and what their answers come to."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from magdi_ray.agents.base import Sampling
from magdi_ray.agents.weights import base_and_adapter, model_directories, resolve_model
from magdi_ray.config import RunConfig, recipes
from magdi_ray.config.engines import ApiEngine, EngineConfig, Price, TransformersEngine
from magdi_ray.config.recipes import HEADED
from magdi_ray.config.sections import AgentConfig, EvaluateConfig, FileTask, MadeTask, TaskConfig
from magdi_ray.debate.store import failed_ids
from magdi_ray.errors import ConfigError
from magdi_ray.evaluate.answers import BASE, METHODS, VOTE, VOTES, Answer, Method, debate_answers, iter_answers, write_answers
from magdi_ray.evaluate.consistency import votes_over
from magdi_ray.evaluate.exam import Candidate, Examination, Paper, read_asked, write_asked
from magdi_ray.evaluate.metrics import Key, differences, grouped, scores
from magdi_ray.evaluate.ratings import Rated, key_of, rate
from magdi_ray.graph.store import iter_mags
from magdi_ray.runs import Run, file_hash
from magdi_ray.stages import Facts, base_model, located_store, payer, read_source, student_stage
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.checks import Digests, text_digest
from magdi_ray.tasks.load import BadRow, iter_questions, load_task
from magdi_ray.tasks.source import local_path
from magdi_ray.tasks.store import iter_stored

Pair = tuple[tuple[str, Method], tuple[str, Method]]

SCHEMA = 2
"""Of `metrics.json`; 1 had neither tasks nor methods nor seeds."""


def make_evaluation(config: RunConfig, run: Run, directory: Path) -> Facts:
    """Measure base, students, teachers, vote and whatever else is asked, on the same held-out questions."""
    from magdi_ray.evaluate.run import run_answers

    splits = config.evaluate.splits
    held_out = [question for question in iter_stored(run.path("questions")) if question.split in splits]
    held_out.sort(key=lambda question: splits.index(question.split))
    counts = Counter[str]()
    papers = [Paper(config.task, "in", with_gold(held_out)), *other_papers(config.evaluate, counts)]
    counts["without gold, left out"] += len(held_out) - len(papers[0].questions)
    asked = directory / "asked.parquet"
    rows = write_asked(asked, papers)
    exam = examination(config, run)
    seconds = run_answers(exam, questions=asked, out=directory / "answers", shared=run.place_of(directory))
    mags = (mag for mag in iter_mags(run.path("graphs")) if mag.question.split in splits)
    task = load_task(config.task)
    held = debate_answers(papers[0].questions, mags, task, failures=failed_debates(run), prices=prices(config))
    write_answers(directory / "debates.parquet", held)
    ratings = rate_replies(config, exam, directory)
    drawn = (
        replace(answer, merit=ratings.get(key_of(answer)))
        for answer in iter_answers(directory / "answers", texts=False)
        if answer.method == "sample"
    )
    write_answers(directory / "votes.parquet", self_consistent(papers, drawn))
    answers = [answer for answer in iter_answers(directory, texts=False) if answer.method != "sample"]
    metrics = measure(config, papers, answers, seconds)
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    return {"questions": rows, "systems": len({row["system"] for row in metrics["scores"]})} | dict(+counts)


def rate_replies(config: RunConfig, exam: Examination, directory: Path) -> dict[Rated, float]:
    """What students make of their own drawn replies; nothing where nobody asked for it."""
    settings = config.evaluate
    if settings.self_consistency is None or not settings.self_consistency.verifier:
        return {}
    drawn = (answer for answer in iter_answers(directory / "answers") if answer.method == "sample")
    return rate(
        exam,
        drawn,
        read_asked(directory / "asked.parquet"),
        out=directory,
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        dtype=settings.dtype,
        place=config.resources.evaluate,
    )


def failed_debates(run: Run) -> set[str]:
    """The questions whose debate failed; graphs that came finished have none."""
    return failed_ids(run.path("debates")) if run.read_manifest("debates") else set()


def with_gold(questions: Iterable[Question]) -> tuple[Question, ...]:
    """Those that can be judged."""
    return tuple(question for question in questions if question.gold is not None)


def other_papers(settings: EvaluateConfig, counts: Counter[str]) -> list[Paper]:
    """The questions of further tasks; `counts` gets what is left out."""
    papers = []
    for task in settings.tasks:
        found = list(asked_of(task, lambda bad: counts.update([f"{bad.fault}, left out"])))
        papers.append(Paper(task, "out", with_gold(found)))
        counts["without gold, left out"] += len(found) - len(papers[-1].questions)
    return papers


def asked_of(task: TaskConfig, skipped: Callable[[BadRow], object] = lambda _: None) -> Iterator[Question]:
    """The held-out questions of a further task; rows that are no question go to `skipped` where the task leaves them out."""
    wanted = ("test", "ood") if isinstance(task, MadeTask) else ("test",)
    found = iter_questions(task, golds=False, training=False, skipped=skipped)
    return (question for question in found if question.split in wanted)


def asked_files(config: RunConfig) -> list[str]:
    """Hashes of what an evaluation reads besides the run's own files: further tasks' questions, further systems' local models."""
    files = [local_path(task.test_path) for task in config.evaluate.tasks if isinstance(task, FileTask) and task.test_path]
    files += model_directories(path for agent in config.evaluate.agents for path in agent.engine.files())
    return [file_hash(resolve_model(path)) for path in files]


def check_asked(config: RunConfig, training: Iterable[Question]) -> None:
    """Refuse training questions as held-out ones, further tasks without questions to judge, and those the student learns from.

    Raises:
        ConfigError: names the task.
    """
    if "train" in config.evaluate.splits:
        raise ConfigError(
            "evaluate.splits names 'train', which is learned from: an evaluation on it says nothing. Name dev, test or ood."
        )
    _check_comparisons(config)
    _check_verifier(config)
    if not config.evaluate.tasks:
        return
    learned = Digests()
    for question in training:
        learned.add(text_digest(question), 0)
    for task in config.evaluate.tasks:
        questions = with_gold(asked_of(task))
        if not questions:
            raise ConfigError(
                f"evaluate.tasks names {task.name!r}, but it has no question with a gold answer. Name a file with some, or leave "
                "the task out."
            )
        if leaked := [question.id for question in questions if text_digest(question) in learned]:
            raise ConfigError(
                f"{len(leaked)} questions of evaluate.tasks' {task.name} are also training questions, the first is "
                f"{leaked[0]!r}. Remove them from one side: an evaluation on questions that were trained on says nothing."
            )


def _check_verifier(config: RunConfig) -> None:
    """Refuse ratings that no student could give whose replies are drawn."""
    several = config.evaluate.self_consistency
    if several is None or not several.verifier:
        return
    known = recipes(config.distil)
    drawn = known if several.systems != "product" else known[-1:]
    if not any(objective.name in HEADED for recipe in drawn for objective in recipe.objectives):
        raise ConfigError(
            "evaluate.self_consistency.verifier wants students to rate their replies, but none of "
            f"{', '.join(recipe.name for recipe in drawn)} is taught by an objective verify, contrast or interaction. Add one, "
            "or draw replies of other students too (self_consistency.systems: students)."
        )


def _check_comparisons(config: RunConfig) -> None:
    """Refuse comparisons of systems that the run will not have, where its teachers stand in a file."""
    source, pairs = config.graph.source, config.evaluate.comparisons
    if source is None or not pairs:
        return
    found = iter_mags(source.path) if source.format == "mag" else read_source(config).debates
    known = {agent for debate in found for agent in debate.agents} | {BASE, VOTE}
    known |= {recipe.name for recipe in recipes(config.distil)} | {agent.name for agent in config.evaluate.agents}
    if unknown := sorted({name for pair in pairs for name in pair} - known):
        raise ConfigError(
            f"evaluate.comparisons names {unknown}, but the systems are {', '.join(sorted(known))}. Name two of these."
        )


def examination(config: RunConfig, run: Run) -> Examination:
    """Whom the evaluation asks, and how."""
    settings = config.evaluate
    replies = located_store(settings.replies) or run.beside("evaluation-replies")
    return Examination(
        tasks=(config.task, *settings.tasks),
        candidates=(*students(config, run), *others(config)),
        seed=config.seed,
        replies=replies,
        run=payer(config, run),
        max_batch_size=settings.max_batch_size,
        max_failed_share=settings.max_failed_share,
        latency_questions=settings.latency_questions,
        times=str(run.root / "reply-times.json"),
    )


def students(config: RunConfig, run: Run) -> Iterator[Candidate]:
    """The untaught base, and every training of every recipe."""
    product = recipes(config.distil)[-1].name
    found = [(BASE, 0, base_model(config, run))]
    found += [
        (recipe.name, number, run.place(student_stage(config, recipe, number)))
        for recipe in recipes(config.distil)
        for number in range(config.distil.seeds)
    ]
    settings = config.evaluate
    for system, number, model in found:
        engine = TransformersEngine(
            type="transformers", model=model, dtype=settings.dtype, max_batch_size=settings.max_batch_size
        )
        sampled = _is_sampled(settings, "product" if system == product else "students")
        yield Candidate(
            system=system,
            seed=number,
            engine=engine,
            identity=weights_identity(model, settings.dtype),
            sampling=settings.sampling,
            **_drawn(settings, settings.sampling if sampled else None),
            price=settings.price,
            revises=settings.self_revision,
            own=True,
            size=weights_bytes(model),
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            place=config.resources.evaluate,
        )


def weights_identity(model: str, dtype: str) -> str:
    """What tells weights apart: their content, wherever they are; of a hub model its whole name."""
    content = file_hash(resolve_model(model))
    return f"{Path(model).name}@{content[:16]}-{dtype}" if content else f"{model}-{dtype}"


def weights_bytes(model: str) -> int:
    """Of a model and its adapter, on disk; 0 for one of a hub, which nobody has looked at."""
    places = [Path(resolve_model(place)) for place in base_and_adapter(model) if place is not None]
    if not all(place.is_dir() for place in places):
        return 0
    return sum(file.stat().st_size for place in places for file in place.glob("*.safetensors"))


def others(config: RunConfig) -> Iterator[Candidate]:
    """Further systems."""
    from magdi_ray.debate.operator import identity

    seen = Counter[tuple[str, Sampling]]()
    for agent in config.evaluate.agents:
        fingerprint = "".join(map(file_hash, model_directories(agent.engine.files())))
        name = identity(agent, fingerprint)
        seen[name, agent.sampling] += 1
        yield Candidate(
            system=agent.name,
            engine=agent.engine,
            identity=name,
            twin=seen[name, agent.sampling] - 1,
            sampling=agent.sampling,
            **_drawn(config.evaluate, agent.sampling if _is_sampled(config.evaluate, "all") else None),
            price=price_of(agent.engine),
            replicas=agent.replicas,
            num_cpus=agent.num_cpus,
            num_gpus=agent.num_gpus,
            place=config.resources.evaluate,
        )


def _is_sampled(settings: EvaluateConfig, kind: str) -> bool:
    """Whether replies are drawn of a system; who asks for students means the product too."""
    order = ("product", "students", "all")
    return settings.self_consistency is not None and order.index(kind) <= order.index(settings.self_consistency.systems)


def _drawn(settings: EvaluateConfig, sampling: Sampling | None) -> dict[str, Any]:
    several = settings.self_consistency
    if several is None or sampling is None:
        return {}
    drawn = sampling.model_copy(update={"temperature": several.temperature, "top_p": several.top_p})
    return {"drawn": drawn, "samples": several.samples}


def price_of(engine: EngineConfig) -> Price | None:
    """What an engine's tokens cost; None where nobody says."""
    return engine.price if isinstance(engine, ApiEngine) else None


def prices(config: RunConfig) -> dict[str, Price | None]:
    """Of the debating agents, and of further systems."""
    agents: Sequence[AgentConfig] = (*(config.debate.agents if config.debate else ()), *config.evaluate.agents)
    return {agent.name: price_of(agent.engine) for agent in agents}


def self_consistent(papers: Sequence[Paper], answers: Iterable[Answer]) -> Iterator[Answer]:
    """The votes over drawn replies, question by question."""
    tasks: dict[str, Task] = {paper.task.name: load_task(paper.task) for paper in papers}
    golds = {(str(paper.task.name), question.id): question.gold for paper in papers for question in paper.questions}
    drawn: dict[tuple[str, str, str, int], list[Answer]] = {}
    for answer in answers:
        if answer.method == "sample":
            drawn.setdefault((answer.task, answer.system, answer.question_id, answer.seed), []).append(answer)
    rating = {(one.system, one.seed) for replies in drawn.values() for one in replies if one.merit is not None}
    for (task, system, question, seed), replies in drawn.items():
        yield from votes_over(tasks[task], replies, golds[task, question], rated=(system, seed) in rating)


def measure(config: RunConfig, papers: Sequence[Paper], answers: Sequence[Answer], seconds: Mapping[Key, float]) -> Facts:
    """Scores and paired differences, as plain data: what `evaluation/metrics.json` holds."""
    systems = describe(config, dict.fromkeys(answer.system for answer in answers))
    place = {system["name"]: number for number, system in enumerate(systems)}
    sets = [row for paper in papers for row in paper.sets()]
    order = {(row["task"], row["split"]): number for number, row in enumerate(sets)}
    ranked = sorted(answers, key=lambda a: (order[a.task, a.split], place[a.system], METHODS.index(a.method)))
    return {
        "schema": SCHEMA,
        "sets": sets,
        "systems": systems,
        "scores": [asdict(score) for score in scores(ranked, seconds=seconds)],
        "differences": [asdict(item) for item in differences(grouped(ranked), comparisons(config))],
    }


def describe(config: RunConfig, found: Iterable[str]) -> list[dict[str, Any]]:
    """Every system of an evaluation, in the order of its tables: base, students, further systems, teachers, the debate."""
    product = recipes(config.distil)[-1].name
    rows = [{"name": BASE, "kind": "base", "title": "base student (level 0)", "product": False, "seeds": 1}]
    for name in sorted(recipe.name for recipe in recipes(config.distil)):
        title = f"{name} student" + (" (the product)" if name == product else "")
        rows.append({"name": name, "kind": "student", "title": title, "product": name == product, "seeds": config.distil.seeds})
    for agent in config.evaluate.agents:
        rows.append({"name": agent.name, "kind": "engine", "title": agent.name, "product": False, "seeds": 1})
    known = {row["name"] for row in rows}
    present = list(found)
    for name in (name for name in present if name not in known and name != VOTE):
        rows.append({"name": name, "kind": "teacher", "title": f"{name}, alone", "product": False, "seeds": 1})
    if VOTE in present:
        rows.append({"name": VOTE, "kind": "debate", "title": "the debate's vote", "product": False, "seeds": 1})
    return rows


def comparisons(config: RunConfig) -> list[Pair]:
    """Which differences are taken: of systems that answered, in the order of the tables."""
    names = sorted(recipe.name for recipe in recipes(config.distil))
    product = recipes(config.distil)[-1].name
    levels = [name for name in names if re.fullmatch(r"level\d", name)]
    plain = [(name, BASE) for name in names] + list(zip(levels[1:], levels[:-1], strict=True))
    plain += [(name, product) for name in names if name not in levels and name != product]
    plain += [(product, VOTE), *((product, agent.name) for agent in config.evaluate.agents), *config.evaluate.comparisons]
    pairs: list[Pair] = [((one, "single"), (other, "single")) for one, other in plain]
    pairs += [((name, method), (name, "single")) for name in (BASE, *names) for method in ("revised", *VOTES)]
    pairs += [((name, method), (name, "majority")) for name in (BASE, *names) for method in ("verifier", "best")]
    pairs += [((product, method), (VOTE, "single")) for method in VOTES]
    return list(dict.fromkeys(pairs))
