"""The story generator: what may be repeated, what may never overlap, and that its own solutions are right."""

import re

import pytest

from magdi_ray.errors import TaskError
from magdi_ray.tasks.base import SPLITS, Question, Split
from magdi_ray.tasks.tiny import Tiny, compact
from magdi_ray.tiny.world import (
    ITEMS,
    LARGEST,
    NAMES,
    SKILLS,
    STYLES,
    Style,
    check_disjoint,
    held_out,
    problems,
    questions,
    split_of,
)


def test_splits_never_overlap_whatever_the_seed() -> None:
    check_disjoint(**{split: [q for seed in range(3) for q in questions(split, 400, seed=seed)] for split in SPLITS})


def test_an_overlap_is_refused_with_both_ids() -> None:
    train = questions("train", 3)
    same = Question("copy-7", "  " + train[1].text.upper(), split="test")
    with pytest.raises(TaskError, match=r"test and train.*'copy-7'.*'tiny-train-00001'"):
        check_disjoint(train=train, test=[same])


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_questions_and_more_only_appends(split: Split) -> None:
    assert questions(split, 50, seed=4)[:20] == questions(split, 20, seed=4)
    assert questions(split, 20, seed=4) != questions(split, 20, seed=5)


@pytest.mark.parametrize("split", SPLITS)
def test_ids_and_texts_are_unique_and_ids_say_the_split(split: Split) -> None:
    found = questions(split, 300)
    assert len({q.id for q in found}) == len({q.text for q in found}) == 300
    assert found[12].id == f"tiny-{split}-00012"
    assert {q.split for q in found} == {split}


@pytest.mark.parametrize("style", STYLES)
def test_the_gold_answer_is_read_from_a_solution_in_every_style(style: Style) -> None:
    task = Tiny()
    for question, story in problems("dev", 200):
        solution = story.solution(style)
        assert task.same(task.extract(question, solution), question.gold)
        assert f"{task.reasoning(solution)} {task.state(story.gold)}" == solution


def test_every_equation_is_true_and_every_number_is_one_token() -> None:
    for split in SPLITS:
        for question, story in problems(split, 200):
            assert all(eval(step.equation.replace("/", "//").replace("=", "==")) for step in story.steps)
            assert all(1 <= int(number) <= LARGEST for number in re.findall(r"\d+", question.text + story.solution("terse")))


def test_only_ood_starts_with_a_held_out_pair() -> None:
    def unseen(split: Split) -> set[bool]:
        starts = [compact(q.text).split() for q in questions(split, 300)]
        return {held_out(words[0].capitalize(), words[3]) for words in starts}

    assert unseen("ood") == {True}
    assert unseen("train") == unseen("dev") == unseen("test") == {False}
    assert 0.15 < sum(held_out(name, item) for name in NAMES for item in ITEMS) / (len(NAMES) * len(ITEMS)) < 0.25


def test_every_skill_and_every_length_occurs() -> None:
    found = [story for _, story in problems("train", 300)]
    assert {step.skill for story in found for step in story.steps} == set(SKILLS)
    assert {len(story.steps) for story in found} == {1, 2, 3}
    assert {len(story.steps) for _, story in problems("ood", 300)} == {1, 2, 3, 4}


def test_a_rare_skill_is_rare() -> None:
    skills = dict.fromkeys(SKILLS, 1.0) | {"mul": 0.0}
    assert all(step.skill != "mul" for _, story in problems("train", 200, skills=skills) for step in story.steps)


def test_the_split_depends_on_content_not_on_form() -> None:
    text = questions("test", 1)[0].text
    assert split_of(text) == split_of(compact(text)) == "test"


def test_an_unknown_split_or_a_negative_count_is_refused() -> None:
    with pytest.raises(TaskError, match="train, dev, test, ood"):
        questions("valid", 1)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="0 or more, not -1"):
        questions("train", -1)


def test_a_misread_story_keeps_its_text_and_takes_the_other_operation() -> None:
    found = [story for _, story in problems("dev", 300) if len(story.steps) == 1 and story.steps[0].skill == "times"]
    misread = [story.misread({"times": "+"}) for story in found]
    assert all(wrong is not None and wrong.text == right.text for wrong, right in zip(misread, found, strict=True))
    assert all(wrong is not None and wrong.steps[0].operator == "+" for wrong in misread)
    assert [story.misread({}) for story in found] == found
