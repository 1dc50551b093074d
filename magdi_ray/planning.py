"""From a configuration to the plan of its debates and of its distillation: everything is checked, nothing is sent or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from magdi_ray.agents.base import Message
from magdi_ray.agents.budget import Spend
from magdi_ray.agents.estimate import MESSAGE_OVERHEAD, REPLY_OVERHEAD, estimate_tokens
from magdi_ray.config import RecipeConfig, RunConfig, recipes
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.plan import SAMPLE, Plan, plan_debates
from magdi_ray.debate.view import spent_before
from magdi_ray.distill.forecast.prospect import Prospect, look_ahead
from magdi_ray.distill.forecast.shapes import files_at_hand
from magdi_ray.distill.forecast.workload import Expected, Workload, counted_workload, expected_workload
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.store import iter_mags
from magdi_ray.learning import speakers
from magdi_ray.preflight import check_run
from magdi_ray.runs import Run
from magdi_ray.stages import WASTE, payer, read_source, replies_url, source_questions
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import count_questions, iter_questions, load_task


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is expected to take."""

    debate: Plan | None
    """None where the graphs come from a file."""
    paid: Spend
    """What the run's reply store already holds of its debates."""
    distil: Prospect


def plan_run(config: RunConfig, run: Run) -> RunPlan:
    """What the debates and the distillation of a run are expected to take.

    Raises:
        ConfigError: something that would keep the run from starting, the student's weights and the machines aside.
    """
    check_run(config, run, until="debates", keys=False, whole=True)
    made, paid = None, Spend()
    if config.debate is not None:
        protocol = load_protocol(config.debate.protocol, load_task(config.task))
        golds = config.needs_golds
        count = count_questions(config.task, golds=golds)
        made = plan_debates(config.debate, protocol, iter_questions(config.task, golds=golds), count=count, seed=config.seed)
        paid = _paid(config, run)
    return RunPlan(made, paid, _distillation(config, run, made))


def debate_figures(made: Plan, paid: Spend) -> dict[str, Any]:
    """The headline figures of the debates, for a machine."""
    total = made.total
    return {
        "calls": made.calls,
        "tokens_in": total.tokens_in,
        "tokens_out": total.tokens_out,
        "paid_usd": round(paid.usd, 4),
        "usd": None if made.unpriced else round(total.usd, 4),
        "hours": round(made.seconds / 3600, 4),
    }


def _paid(config: RunConfig, run: Run) -> Spend:
    url = replies_url(config, run)
    if "://" not in url and not Path(url).is_dir():
        return Spend()
    return sum(spent_before(url, payer(config, run), run.root / WASTE).values(), Spend())


def _distillation(config: RunConfig, run: Run, made: Plan | None) -> Prospect:
    tokenizer, counted = _tokenizer(config, run)
    packed = config.distil.student.packing != "padded"
    there = _graphs(config, run)
    work: list[tuple[RecipeConfig, Workload]] = []
    worst, limit = None, config.distil.student.max_length
    if there is None:
        assert made is not None
        rehearsed = _Rehearsed(config, made, tokenizer)
        expected = [(recipe, rehearsed.of(recipe)) for recipe in recipes(config.distil)]
        work = [(recipe, expected_workload(found, recipe, packed=packed)) for recipe, found in expected]
        origin = [f"Graphs as expected of the debates: {rehearsed.said} Prompts are {counted}."]
        origin += dict.fromkeys(said for _, found in expected if (said := found.exceeds(limit)))
        worst, dev_questions = rehearsed.worst(), rehearsed.dev_questions
    else:
        mags, where = there
        training = [mag for mag in mags if mag.question.split == "train"]
        dev_questions = sum(mag.question.split == "dev" for mag in mags)
        origin = [f"Graphs as found in {where}; tokens are {counted}."]
        for recipe in recipes(config.distil):
            workload, left_out = _counted(config, training, recipe, tokenizer, packed=packed)
            work.append((recipe, workload))
            if left_out:
                origin.append(f"{recipe.name} leaves {left_out} replies out: longer than distil.student.max_length ({limit}).")
    if config.distil.dev is not None and (held_out := config.distil.dev.graphs):
        work, dev_questions = [(recipe, workload.without(held_out)) for recipe, workload in work], held_out
        origin.append(f"Held out of learning: {held_out} graphs (distil.dev.graphs).")
    if not packed:
        origin.append("Rows are padded (distil.student.packing): every reply with its prompt; padding itself is not counted.")
    return look_ahead(config.distil, work, origin=origin, worst=worst, dev_questions=dev_questions)


def _counted(
    config: RunConfig, mags: Sequence[Mag], recipe: RecipeConfig, tokenizer: Any, *, packed: bool
) -> tuple[Workload, int]:
    """The workload, and the number of replies that are left out for their length."""
    from magdi_ray.distill.tokens import tokenise

    length = config.distil.student.max_length
    found = tokenise(mags, load_task(config.task), tokenizer=tokenizer, recipe=recipe, max_length=length)
    left_out = sum(count for reason, count in found.skipped_nodes.items() if reason.startswith("longer than max_length"))
    return counted_workload(found.graphs, recipe, packed=packed), left_out


def _graphs(config: RunConfig, run: Run) -> tuple[list[Mag], str] | None:
    """The graphs, where they or their debates are there already, and the name of the place."""
    from magdi_ray.pipeline import plan

    stage = next(stage for stage in plan(config) if stage.name == "graphs")
    source = config.graph.source
    if run.state(stage.name, stage.shaped_by, stage.inputs) == "complete":
        found, where = iter_mags(run.path("graphs")), str(run.path("graphs"))
    elif source is not None:
        found, where = _source_mags(config), source.path
    else:
        return None
    return list(found), where


def _source_mags(config: RunConfig) -> Iterator[Mag]:
    source = config.graph.source
    assert source is not None
    split = {question.id: question.split for question in source_questions(config, source)}
    if source.format == "mag":
        found: Iterator[Mag] = iter_mags(source.path)
    else:
        task = load_task(config.task)
        found = (build_mag(debate, task, labels=config.graph.labels) for debate in read_source(config).debates)
    for mag in found:
        yield replace(mag, question=replace(mag.question, split=split[mag.question.id]))


class _RuleOfThumb:
    """Stands in for a tokenizer that is not at hand: as many ids as `estimate_tokens` says, and what a chat format adds."""

    chat_template = None
    eos_token_id = -1

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        extra = MESSAGE_OVERHEAD + REPLY_OVERHEAD if add_special_tokens else 0
        return {"input_ids": [0] * (estimate_tokens(text) + extra)}


def _tokenizer(config: RunConfig, run: Run) -> tuple[Any, str]:
    """The student's tokenizer where it is at hand, else a rule of thumb; and how a person is told."""
    model = config.distil.student.model
    name = model if isinstance(model, str) else run.place("base")
    directory = files_at_hand(name, "tokenizer.json") or files_at_hand(name, "tokenizer.model")
    if directory is None:
        return _RuleOfThumb(), "counted by rule of thumb (the student's tokenizer is not at hand)"
    from magdi_ray.distill.student import load_tokenizer

    return load_tokenizer(str(directory)), "counted with the student's tokenizer"


class _Rehearsed:
    """What a plan of debates says of the graphs they will give."""

    def __init__(self, config: RunConfig, made: Plan, tokenizer: Any) -> None:
        assert config.debate is not None
        self.config, self.debate, self.made, self.tokenizer = config, config.debate, made, tokenizer
        golds, task = config.needs_golds, load_task(config.task)
        every = list(iter_questions(config.task, golds=golds))
        questions = [question for question in every if question.split == "train"]
        self.dev_questions = sum(question.split == "dev" for question in every)
        self.questions = len(questions)
        sample = list(islice(questions, 0, None, max(1, -(-len(questions) // SAMPLE))))
        self.prompt = round(sum(self._prompt(task.prompt(question)) for question in sample) / len(sample))
        self.solution, self.solved = self._solutions(sample)
        lengths = [min(self.debate.estimate.reply_tokens, agent.sampling.max_tokens) for agent in self.debate.agents]
        self.reply = round(sum(lengths) / len(lengths))

    @property
    def said(self) -> str:
        """In a sentence."""
        calls = self.made.calls / self.made.questions
        share = self.config.distil.estimate.correct_share
        return (
            f"{calls:.1f} replies a question, {share:.0%} of them correct (distil.estimate.correct_share), "
            f"{self.reply} tokens each (debate.estimate.reply_tokens, at most sampling.max_tokens), "
            f"after a prompt of {self.prompt}."
        )

    def of(self, recipe: RecipeConfig) -> Expected:
        """What a recipe would select of them."""
        share = self.config.distil.estimate.correct_share
        if recipe.nodes.texts == "gold_solutions":
            return Expected(round(self.questions * self.solved), 1.0, 1, self.prompt, self.solution, share)
        nodes = self._nodes(recipe)
        most = round(nodes * self.made.calls_at_most / max(1, self.made.calls))
        return Expected(self.questions, nodes, max(1, most), self.prompt, self.reply, share)

    def worst(self) -> int:
        """Tokens of a graph whose debate went on to its end, every reply as long as it may be."""
        longest = max(agent.sampling.max_tokens for agent in self.debate.agents)
        reply = min(longest, self.config.distil.student.max_length - self.prompt)
        return self.prompt + reply * round(self.made.calls_at_most / self.made.questions)

    def _nodes(self, recipe: RecipeConfig) -> float:
        """Replies a question; those after round 0 are taken as spread evenly over the later rounds."""
        roles, wanted = speakers(self.debate), recipe.nodes.agents
        chosen = [a for a in self.made.agents if roles[a] in recipe.nodes.roles and (isinstance(wanted, str) or a in wanted)]
        every = sum(self.made.agents[agent].calls for agent in chosen) / self.made.questions
        later_rounds = getattr(self.debate.protocol, "rounds", 0)
        first = min(every, float(len(chosen))) if later_rounds else every
        if recipe.nodes.rounds != "all":
            picked = sum(0 < number <= later_rounds for number in set(recipe.nodes.rounds))
            later = (every - first) * picked / later_rounds if later_rounds else 0.0
            every = (first if 0 in recipe.nodes.rounds else 0.0) + later
        return every / len(chosen) if wanted == "best" and chosen else every

    def _prompt(self, text: str) -> int:
        if isinstance(self.tokenizer, _RuleOfThumb):
            return len(self.tokenizer(text)["input_ids"])
        from magdi_ray.agents.chat import encode_prompt

        return len(encode_prompt(self.tokenizer, [Message("user", text)]))

    def _solutions(self, sample: Sequence[Question]) -> tuple[int, float]:
        """Tokens of a published solution, on average, and the share of the questions that have one."""
        found = [self.tokenizer(q.solution, add_special_tokens=False)["input_ids"] for q in sample if q.solution]
        return (round(sum(map(len, found)) / len(found)) if found else self.debate.estimate.reply_tokens), len(found) / len(
            sample
        )
