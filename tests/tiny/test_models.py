"""The shipped models: loadable by anyone, small, and as able or unable as the tiny world needs them."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from magdi_ray.agents.base import Reply
from magdi_ray.tasks.tiny import Tiny
from magdi_ray.tiny.build import build, load
from magdi_ray.tiny.corpus import CHARACTERS, SCHOOL
from magdi_ray.tiny.language import UNKNOWN, make_tokenizer
from magdi_ray.tiny.school import Table
from magdi_ray.tiny.training import encode_prompts, sample
from magdi_ray.tiny.world import STYLES, problems

MODELS = Path(str(files("magdi_ray.tiny"))) / "models"
NAMES = ("ada", "ben", "cleo", "student")

pytestmark = pytest.mark.usefixtures("one_thread")


def right(name: str, count: int = 64) -> int:
    """Right greedy answers of a shipped model on the first dev questions."""
    task, found = Tiny(), problems("dev", count)
    replies = sample(*load(MODELS / name), [task.prompt(question) for question, _ in found], temperature=0.0, seed=0)
    return sum(
        task.same(task.extract(question, reply.text), question.gold) for (question, _), reply in zip(found, replies, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_model_loads_without_custom_code_and_knows_when_to_stop(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"
    assert json.loads((MODELS / name / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_models_are_small() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 8_000_000


@pytest.mark.parametrize("teacher", [character.name for character in CHARACTERS])
def test_a_teacher_is_right_more_often_than_the_base_student(teacher: str) -> None:
    assert right(teacher) > right("student")


def test_the_chat_of_a_prompt_begins_the_chat_of_its_answer() -> None:
    tokenizer = make_tokenizer()
    chat = [{"role": "user", "content": "kim has 8 figs ."}, {"role": "assistant", "content": "answer 8"}]
    whole = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
    (prompt,) = encode_prompts(tokenizer, ["kim has 8 figs ."])
    assert whole[: len(prompt)] == prompt
    assert tokenizer.decode(whole[len(prompt) :]) == "answer 8 <|end|>"


def test_no_story_solution_or_discussion_has_an_unknown_word() -> None:
    tokenizer, found = make_tokenizer(), problems("ood", 200)
    table = Table.open(SCHOOL, found)
    replies = [Reply(story.solution(STYLES[0]), 1, 1, 0.5, "stop", "m") for _, story in found]
    wrong = [Reply("answer 0" if i % 2 else "no idea", 1, 1, None, "stop", "m") for i in range(len(found))]
    table = table.tell({"ada": replies, "ben": wrong, "cleo": wrong})
    texts = [ask.messages[0].content for ask in table.asks("ada")]
    texts += [story.solution(style) for _, story in found for style in STYLES]
    texts += [question.text for question, _ in found]
    assert len(texts) == 5 * len(found)
    assert not any(UNKNOWN in tokenizer.tokenize(text) for text in texts)


def test_a_quick_build_makes_four_loadable_models(tmp_path: Path) -> None:
    told: list[str] = []
    build(SCHOOL.quick, tmp_path, progress=told.append)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(NAMES)
    assert any("revise 2" in line for line in told)
    for name in NAMES:
        AutoTokenizer.from_pretrained(tmp_path / name)
        AutoModelForCausalLM.from_pretrained(tmp_path / name)
