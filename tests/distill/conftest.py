"""A student of a few thousand weights and hand-made graphs: enough for every exact fact about the objectives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from magdi_ray.config.distil import ScratchModel
from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.distill.scratch import make_student
from magdi_ray.distill.student import DistillModel, load_tokenizer
from magdi_ray.distill.tokens import GraphTokens, tokenise
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k


def make_mag(
    number: int, answers: tuple[str | None, ...], *, agents: tuple[str, ...] = ("a", "b", "c"), split: str = "train"
) -> Mag:
    """A debate of as many rounds as the answers fill, in which everybody was shown the whole round before. Gold is 18."""
    turns = []
    for place, answer in enumerate(answers):
        round_, shown = place // len(agents), ()
        if round_:
            shown = tuple(i for i in range((round_ - 1) * len(agents), round_ * len(agents)) if answers[i] is not None)
        text = f"She has {number + place} eggs and sells some." + (f" The answer is {answer}." if answer else "")
        status = "ok" if answer else "unparsed"
        turns.append(Turn(agents[place % len(agents)], round_, shown, text, answer, None, "none", 5, 7, "m", status))
    question = Question(f"q{number}", f"How many eggs are there in basket number {number}?", "18", split)  # type: ignore[arg-type]
    debate = Debate(question, agents, "reconcile", tuple(turns), answer=answers[-1], agreement=1.0, stopped="rounds")
    return build_mag(debate, Gsm8k())


MAGS = (
    make_mag(1, ("18", "7", "18", "18", "18", "7")),
    make_mag(2, ("18", "18", "18")),
    make_mag(3, ("4", None, "5", "4", "18", "4")),
    make_mag(4, ("18", "6", "6")),
)


@dataclass(frozen=True)
class Workbench:
    """A student on disk, its tokenizer, and the graphs as a recipe sees them."""

    directory: Path
    tokenizer: PreTrainedTokenizerBase

    def graphs(self, recipe: str = "level4", mags: tuple[Mag, ...] = MAGS) -> tuple[GraphTokens, ...]:
        """Tokenised graphs of a recipe given by name."""
        return tokenise(mags, Gsm8k(), tokenizer=self.tokenizer, recipe=resolve_recipe(recipe), max_length=256).graphs  # type: ignore[arg-type]

    def model(self, recipe: str = "level4", **changes: object) -> DistillModel:
        """Student and heads with fixed weights, in float32; `changes` to the interaction objective."""
        chosen = resolve_recipe(recipe)  # type: ignore[arg-type]
        objectives = tuple(o.model_copy(update=changes) if o.name == "interaction" else o for o in chosen.objectives)
        torch.manual_seed(0)
        student = LlamaForCausalLM.from_pretrained(self.directory, dtype=torch.float32)
        return DistillModel(student, chosen.model_copy(update={"objectives": objectives}))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """One workbench for all tests; nobody changes it."""
    directory = tmp_path_factory.mktemp("student")
    shape = ScratchModel(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    make_student(shape, mags=MAGS, task=Gsm8k(), directory=directory, seed=0)
    return Workbench(directory, load_tokenizer(str(directory)))
