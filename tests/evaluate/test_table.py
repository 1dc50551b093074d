"""The tables a run ends with: what a person reads off them."""

import io
from typing import Any

import pytest
from rich.console import Console

from magdi_ray.evaluate.table import result_tables


def score(system: str, accuracy: float, tokens: float, **other: Any) -> dict[str, Any]:
    """A row of `metrics.json`: one reply to each question, asked once."""
    row: dict[str, Any] = {"task": "tiny", "split": "test", "system": system, "method": "single", "samples": None, "seeds": 1}
    figures = {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "tokens_out": tokens}
    return row | figures | {"sd": None, "seconds": None, "usd": None, "unanswered": 0, "errors": 0} | other


def difference(**other: Any) -> dict[str, Any]:
    """A row of paired differences."""
    row: dict[str, Any] = {"task": "tiny", "split": "test", "system": "level2", "method": "single", "reference": "level1"}
    figures = {"reference_method": "single", "difference": 0.112, "low": 0.074, "high": 0.149, "p_value": 0.00012}
    return row | figures | {"seeds": 1, "gained": 61, "lost": 16} | other


def printed(scores: list[dict[str, Any]], differences: list[dict[str, Any]] | None = None, *, sets: int = 1) -> str:
    """What is on a screen of 120 columns."""
    sorts = {"test": "in", "ood": "out"}
    places = [{"task": "tiny", "split": split, "domain": sort, "questions": 400} for split, sort in sorts.items()]
    titles = [{"name": "vote", "title": "vote of the debate"}, {"name": "level2", "title": "level2, all correct replies"}]
    data = {"systems": titles, "sets": places[:sets], "scores": scores, "differences": differences or []}
    told = io.StringIO()
    Console(file=told, width=120).print(result_tables(data))
    return told.getvalue()


def line(text: str, beginning: str) -> list[str]:
    """The words of the line that begins so."""
    lines = (found.strip() for found in text.splitlines())
    return next(found for found in lines if found.startswith(beginning)).removeprefix(beginning).split()


def test_a_student_is_told_with_its_interval_and_its_share_of_the_debates_tokens() -> None:
    text = printed([score("vote", 0.8267, 153.9), score("level2", 0.6617, 28.5)])
    assert line(text, "level2, all correct replies") == ["66.2", "61.2", "to", "71.2", "28.5", "1/5.4"]
    assert line(text, "vote of the debate") == ["82.7", "77.7", "to", "87.7", "153.9", "1/1.0"]


@pytest.mark.parametrize(
    ("known", "column", "cell"),
    [
        ({"sd": 0.021, "seeds": 5}, "seeds", "5 (2.1)"),
        ({"seconds": 0.0314}, "a reply", "0.031"),
        ({"usd": 0.00125}, "1000", "1.25"),
        ({"unanswered": 13, "errors": 4}, "answer", "17"),
    ],
)
def test_a_column_is_there_where_somebody_has_a_figure_for_it(known: dict[str, Any], column: str, cell: str) -> None:
    without = printed([score("level2", 0.6617, 28.5)])
    with_it = printed([score("level2", 0.6617, 28.5, **known)])
    assert cell not in without
    assert cell in with_it
    assert column in with_it


def test_several_replies_are_said_to_be_several() -> None:
    text = printed([score("level2", 0.7, 142.5, method="majority", samples=5)])
    assert line(text, "level2, majority of 5 replies")[0] == "70.0"


def test_what_nobody_knows_is_not_a_figure() -> None:
    text = printed([score("level2", 0.5, 0) | {"accuracy": None, "low": None, "high": None}])
    assert line(text, "level2, all correct replies") == ["-", "-", "to", "-", "unknown"]


def test_a_difference_has_its_sign_its_interval_and_the_questions_it_comes_from() -> None:
    text = printed([score("level2", 0.6617, 28.5)], [difference()])
    assert line(text, "level2 - level1") == ["+11.2", "+7.4", "to", "+14.9", "61", "16", "0.00012"]


def test_over_several_seeds_a_difference_counts_seeds_instead_of_questions() -> None:
    text = printed([score("level2", 0.6617, 28.5)], [difference(seeds=5)])
    assert line(text, "level2 - level1") == ["+11.2", "+7.4", "to", "+14.9", "5", "0.00012"]


def test_every_set_of_questions_has_a_table_of_its_own_rows() -> None:
    text = printed([score("level2", 0.6617, 28.5), score("level2", 0.31, 30, split="ood")], sets=2)
    first, _, second = text.partition("ood, out of domain: 400 questions")
    assert ("66.2" in first, "31.0" in first) == (True, False)
    assert ("66.2" in second, "31.0" in second) == (False, True)
