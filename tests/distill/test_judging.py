"""What the student makes of a reply is what training made of it: the same tokens, the same embedding, the same heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from magdi_ray.agents.base import ContextLengthError, PromptError
from magdi_ray.agents.weights import resolve_model
from magdi_ray.config.distil import LoraTuning
from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.distill.batch import collate
from magdi_ray.distill.job import HEADS
from magdi_ray.distill.judging import Judge
from magdi_ray.distill.student import DistillModel, add_lora, export_student, load_tokenizer
from magdi_ray.distill.tokens import GraphTokens, tokenise
from magdi_ray.errors import ConfigError
from magdi_ray.graph.build import build_mag
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.tiny import Tiny

STUDENT = resolve_model("pkg://magdi_ray/tiny/models/student")
REPLIES = ("8 * 3 = 24 . 24 - 9 = 15 . answer 15", "8 + 3 = 11 . answer 11", "answer 2")
QUESTION = Question("q", "kim has 8 figs . kim fills 3 bags with that many figs each . how many figs ?", "15")


def lone_nodes(recipe: str) -> tuple[GraphTokens, ...]:
    """Three debates of one reply each, as training reads them."""
    found = []
    for number, reply in enumerate(REPLIES):
        turn = Turn("ada", 0, (), reply, Tiny().extract(QUESTION, reply), None, "none", 5, 7, "m", "ok")
        question = Question(f"q{number}", QUESTION.text, "15")
        found.append(build_mag(Debate(question, ("ada",), "single", (turn,), turn.answer, 1.0, "rounds"), Tiny()))
    tokenizer = load_tokenizer(STUDENT)
    return tokenise(found, Tiny(), tokenizer=tokenizer, recipe=resolve_recipe(recipe), max_length=256).graphs  # type: ignore[arg-type]


def taught(recipe: str, directory: Path, *, lora: bool = False) -> DistillModel:
    """A student with heads of fixed weights, and its export."""
    torch.manual_seed(0)
    student: Any = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    if lora:
        student = add_lora(student, LoraTuning(type="lora"))
        for name, weight in student.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    model = DistillModel(student, resolve_recipe(recipe)).eval()  # type: ignore[arg-type]
    export_student(model, load_tokenizer(STUDENT), directory)
    return model


def text_of(graph: GraphTokens) -> str:
    """What was taught of a lone reply: the reasoning, then the answer sentence on a line of its own."""
    reasoning, _, answer = REPLIES[int(graph.question_id[1:])].rpartition("answer")
    return f"{reasoning.strip()}\nanswer{answer}"


@pytest.mark.parametrize("lora", [False, True])
def test_a_reply_is_judged_exactly_as_training_saw_it(tmp_path: Path, lora: bool) -> None:
    model, graphs = taught("level4", tmp_path, lora=lora), lone_nodes("level4")
    batch = collate(graphs, pad_id=0, replies=True)
    with torch.no_grad():
        outputs, logps = model(batch), [model(collate([g], pad_id=0, next_token=True)).next_token_sum for g in graphs]
    read_back = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    judge = Judge(read_back, load_tokenizer(str(tmp_path)), tmp_path)
    assert len(graphs) == 2  # an answer without reasoning is not taught
    for place, graph in enumerate(graphs):
        scores = judge.score(graph.prompt_ids, text_of(graph))
        assert scores.tokens == len(graph.nodes[0].reply_ids)
        assert scores.contrast == pytest.approx(outputs.scores_N[place].item(), abs=1e-5)
        assert scores.correct == pytest.approx(outputs.node_logits_N2[place].softmax(-1)[1].item(), abs=1e-5)
        if graph.nodes[0].correct:
            assert scores.logprob == pytest.approx(-logps[place].item(), abs=1e-4)


def test_the_logprob_is_that_of_the_models_own_logits(tmp_path: Path) -> None:
    model = taught("level2", tmp_path)
    [prompt, *_] = [graph.prompt_ids for graph in lone_nodes("level4")]
    scores = Judge(model.student, load_tokenizer(STUDENT), tmp_path).score(prompt, REPLIES[0])
    ids = [
        *prompt,
        *load_tokenizer(STUDENT)(REPLIES[0], add_special_tokens=False)["input_ids"],
        model.student.config.eos_token_id,
    ]
    with torch.no_grad():
        logp = model.student(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(logp[at - 1, ids[at]].item() for at in range(len(prompt), len(ids)))
    assert scores.logprob == pytest.approx(expected, abs=1e-4)
    assert scores.tokens == len(ids) - len(prompt)


@pytest.mark.parametrize(
    ("recipe", "contrast", "correct"), [("level2", False, False), ("level3", True, False), ("level4", True, True)]
)
def test_a_head_speaks_only_where_the_recipe_trained_it(tmp_path: Path, recipe: str, contrast: bool, correct: bool) -> None:
    judge = Judge(taught(recipe, tmp_path).student, load_tokenizer(STUDENT), tmp_path)
    scores = judge.score(lone_nodes("level4")[0].prompt_ids, REPLIES[0])
    assert (scores.contrast is not None, scores.correct is not None) == (contrast, correct)
    assert scores.logprob < 0


def test_what_does_not_fit_the_context_is_refused_with_both_counts(tmp_path: Path) -> None:
    judge = Judge(taught("level2", tmp_path).student, load_tokenizer(STUDENT), tmp_path)
    room = judge._context_length
    assert judge.score([5] * (room - 2), "answer").tokens == 2
    with pytest.raises(ContextLengthError, match=f"The prompt's {room - 1} tokens and the reply's 2"):
        judge.score([5] * (room - 1), "answer")
    with pytest.raises(PromptError, match="holds no token"):
        judge.score([], "answer")


def test_an_empty_reply_is_its_end_alone(tmp_path: Path) -> None:
    judge = Judge(taught("level4", tmp_path).student, load_tokenizer(STUDENT), tmp_path)
    assert judge.score([5, 6], "").tokens == 1


def test_heads_of_another_student_are_refused_by_name(tmp_path: Path) -> None:
    model = taught("level4", tmp_path)
    heads = load_file(tmp_path / HEADS)
    narrow = {name: t[:, :7].contiguous() if name == "scorer.layers.0.weight" else t for name, t in heads.items()}
    save_file(narrow, tmp_path / HEADS)
    with pytest.raises(ConfigError, match="belong to another student"):
        Judge(model.student, load_tokenizer(STUDENT), tmp_path)
    (tmp_path / HEADS).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="cannot be read as the student's training heads"):
        Judge(model.student, load_tokenizer(STUDENT), tmp_path)
