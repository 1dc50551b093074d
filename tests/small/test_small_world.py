"""The small world: what may be repeated, what may never overlap, and that every way to write a solution is right."""

from collections import Counter

import pytest

from magdi_ray.errors import TaskError
from magdi_ray.small.corpus import CHARACTERS, REDUCED, WHOLE, practice, review, schooling
from magdi_ray.small.facts import KIND_OF, STYLES, THINGS, Claim, Style, strangers
from magdi_ray.small.world import STRATA, SUBJECTS, Tale, part_of, problems, questions
from magdi_ray.tasks.base import SPLITS, Split
from magdi_ray.tasks.small import Small
from magdi_ray.tiny.language import UNKNOWN, make_tokenizer
from magdi_ray.tiny.world import check_disjoint

TASK = Small()


def claim(form: str, *things: str, what: str) -> Claim:
    return Claim("?", form, things, what)  # type: ignore[arg-type]


def test_splits_never_overlap_whatever_the_seed() -> None:
    check_disjoint(**{split: [q for seed in range(2) for q in questions(split, 300, seed=seed)] for split in SPLITS})


def test_what_a_claim_asks_is_in_one_split_however_it_is_put() -> None:
    contents = {s: {p.content for _, p in problems(s, 300) if isinstance(p, Claim)} for s in ("train", "dev", "test")}
    assert not contents["train"] & contents["test"]
    assert not contents["train"] & contents["dev"]
    assert claim("than", "fox", "hen", what="heavier").content == claim("than", "hen", "fox", what="lighter").content


def test_what_is_held_out_asks_everything_once() -> None:
    for split in ("dev", "test", "ood"):
        contents = Counter(puzzle.content for _, puzzle in problems(split, 1200))
        assert contents.most_common(1)[0][1] == 1


def test_more_questions_than_there_are_of_a_stratum_are_refused() -> None:
    with pytest.raises(TaskError, match=r"no more easy claims for test.*task\.test"):
        problems("test", 6000)


@pytest.mark.parametrize(
    ("style", "written"),
    [
        ("terse", "hen bird . but hen no fly . answer no"),
        ("spoken", "a hen is a bird . but a hen can not fly . answer no"),
        ("planned", "fly over wall . but hen no fly . hen bird . answer no"),
    ],
)
def test_a_claim_is_written_in_three_ways(style: Style, written: str) -> None:
    assert claim("crosses", "hen", what="wall").solution(style) == written


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_questions_and_more_only_appends(split: Split) -> None:
    assert questions(split, 40, seed=4)[:20] == questions(split, 20, seed=4)
    assert questions(split, 20, seed=4) != questions(split, 20, seed=5)


def test_ids_say_subject_and_stratum_and_all_occur_alike() -> None:
    found = Counter(part_of(question.id) for question in questions("train", 60))
    assert found == {(subject, stratum): 10 for subject in SUBJECTS for stratum in STRATA}
    with pytest.raises(TaskError, match="found 'tiny-test-00001'"):
        part_of("tiny-test-00001")


def test_harder_stories_have_more_steps() -> None:
    steps: dict[str, list[int]] = {stratum: [] for stratum in STRATA}
    for question, puzzle in problems("train", 300):
        if isinstance(puzzle, Tale):
            steps[part_of(question.id)[1]].append(len(puzzle.story.steps))
    assert (max(steps["easy"]), max(steps["middling"]), min(steps["hard"])) == (2, 3, 4)


@pytest.mark.parametrize("style", STYLES)
def test_the_gold_answer_is_read_from_a_solution_in_every_style(style: Style) -> None:
    for question, puzzle in problems("dev", 120):
        solution = puzzle.solution(style)
        assert TASK.same(TASK.extract(question, solution), question.gold)
        assert f"{TASK.reasoning(solution)} {TASK.state(puzzle.gold)}" == solution


def test_every_puzzle_has_a_solution_in_several_words() -> None:
    assert all(len({puzzle.solution(style) for style in STYLES}) == 3 for _, puzzle in problems("train", 120))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (claim("can", "robin", what="fly"), "yes"),
        (claim("can", "hen", what="fly"), "no"),  # an exception
        (claim("crosses", "duck", what="river"), "yes"),
        (claim("crosses", "raft", what="field"), "no"),
        (claim("than", "fox", "mouse", what="lighter"), "no"),
        (claim("than", "ant", "bee", what="heavier"), "no"),  # equally heavy
        (claim("both", "cow", "bear", "fox", what="heavier"), "yes"),
        (claim("both", "cow", "hen", "fox", what="heavier"), "no"),
        (claim("either", "raft", "crow", what="wall"), "yes"),
    ],
)
def test_claims_are_answered_by_what_is_known(asked: Claim, answer: str) -> None:
    assert asked.gold == answer


def test_who_takes_a_kind_for_another_reasons_soundly_from_there() -> None:
    asked = claim("can", "carp", what="walk")
    read = asked.misread({"fish": "beast", "mul": "+"})
    assert asked.solution("terse") == "carp fish . fish no walk . answer no"
    assert read.solution("terse") == "carp beast . beast walk . answer yes"
    assert read.misread({}).gold == "no"


def test_only_ood_brings_strangers_together() -> None:
    def strange(split: Split) -> set[bool]:
        return {strangers(p.things) for _, p in problems(split, 120) if isinstance(p, Claim)}

    assert strange("ood") == {True}
    assert strange("train") == strange("test") == {False}
    pairs = [strangers((one, other)) for i, one in enumerate(THINGS) for other in THINGS[i + 1 :]]
    assert 0.15 < sum(pairs) / len(pairs) < 0.25


def test_no_example_has_a_word_that_models_do_not_know() -> None:
    tokenizer = make_tokenizer(WHOLE.words)
    examples = [*schooling(120, 20, 1), *(e for c in CHARACTERS for e in (*practice(c, 60, 20, 1), *review(c, 60, 1)))]
    assert not any(UNKNOWN in tokenizer.tokenize(f"{example.prompt} {example.reply}") for example in examples)
    assert not any(UNKNOWN in tokenizer.tokenize(q.text) for q in questions("ood", 120))


def test_a_teacher_hardly_ever_practises_what_it_is_weak_at() -> None:
    ada = CHARACTERS[0]
    boats, fish = (
        sum(any(KIND_OF.get(word) == kind for word in example.prompt.split()) for example in practice(ada, 600, 0, 1))
        for kind in ("boat", "fish")
    )
    assert fish < boats / 5


def test_students_come_in_three_sizes_and_three_strengths_and_a_reduced_form_says_so() -> None:
    for school in (WHOLE, REDUCED):
        assert len({tuple(pupil.size.items()) for pupil in school.pupils}) == 3
        assert [pupil.passes > 1 for pupil in school.pupils] == [False, False, True] * 3
    assert not WHOLE.reduced
    assert REDUCED.reduced.startswith("Reduced")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [("answer 12", "12"), ("answer no", "no"), ("answer 3 . answer yes", "yes"), ("answer yes . answer 3", "3"), ("yes", None),
     ("Answer: NO.", "no"), ("answer nobody", None)],
)  # fmt: skip
def test_the_last_stated_answer_is_read_be_it_a_number_or_a_word(reply: str, answer: str | None) -> None:
    assert TASK.extract(questions("dev", 1)[0], reply) == answer


def test_a_number_and_a_word_are_never_the_same() -> None:
    assert TASK.same("Yes", "yes")
    assert TASK.same("007", "7")
    assert not TASK.same("yes", "1")
    assert not TASK.same(None, None)
