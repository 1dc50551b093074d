"""The report's tables as markdown: every figure from the data, no cell that breaks its table."""

from __future__ import annotations

import re
from typing import Any

import pytest

from magdi_ray.evaluate.report.markdown import study_page, table

SCORE = {
    **{"set": "tiny/test", "system": "level2", "method": "single", "samples": 1, "seeds": 3, "questions": 600},
    **{"accuracy": 0.6612, "low": 0.62, "high": 0.7, "sd": 0.012, "unanswered": 3, "errors": 1},
    **{"tokens_out": 16.25, "tokens_in": 0.0, "seconds": None, "usd": None},
}
DIFFERENCE = {
    **{"set": "tiny/test", "system": "level2", "method": "majority", "reference": "base", "reference_method": "single"},
    **{"questions": 600, "seeds": 1, "difference": 0.51, "low": 0.47, "high": -0.02, "gained": 310, "lost": 4, "p_value": 1e-20},
}
CLAIM = {
    **{"claim": "level 2 beats level 1", "source": "the paper", "set": "tiny/test", "verdict": "not seen"},
    **{"difference": 0.01, "low": -0.02, "high": 0.04, "bound": 0.0},
}


def data(**changes: Any) -> dict[str, Any]:
    run = {
        "label": "demo",
        "facts": [["task", "tiny"]],
        "sets": [{"id": "tiny/test", "task": "tiny", "split": "test", "domain": "in", "questions": 600}],
        "systems": [{"id": "level2", "title": "the product", "kind": "student", "product": True}],
        "scores": [SCORE],
        "differences": [DIFFERENCE],
        "orderings": [CLAIM],
        "rounds": [],
        "cost": [
            {"stage": "debates", "what": "9 debates", "seconds": 1234.5, "tokens_in": 90210, "tokens_out": None, "usd": None}
        ],
    }
    return {
        "title": "demo",
        "made": "2026-11-21T00:00:00Z",
        "version": "1",
        "runs": [run | changes],
        "comparisons": [],
        "matched": [],
    }


def test_scores_carry_their_interval_their_spread_and_their_tokens() -> None:
    assert "| the product | 66.1 | 62.0 to 70.0 | 1.2 | 3 | 16.2 | - | 3 | 1 |" in study_page(data())


def test_differences_are_in_points_and_say_how_each_was_asked() -> None:
    assert "| level2, majority - base | +51.0 | +47.0 to -2.0 | 310 | 4 | 600 | 1e-20 |" in study_page(data())


def test_claims_stand_with_their_verdicts() -> None:
    page = study_page(data())
    assert "| level 2 beats level 1 | the paper | not seen | +1.0 | +0.0 | -2.0 to +4.0 |" in page
    assert "### tiny/test" not in page


def test_claims_of_several_sets_stand_under_their_sets_in_domain_first() -> None:
    far = {"id": "tiny/far", "task": "tiny", "split": "far", "domain": "out", "questions": 9}
    sets = [far, {**far, "id": "tiny/test", "split": "test", "domain": "in"}]
    page = study_page(data(sets=sets, orderings=[{**CLAIM, "set": "tiny/far"}, CLAIM]))
    heads = [line for line in page.splitlines() if line.startswith("##")]
    assert heads[:5] == [
        *("## tiny/test: 9 questions", "## tiny/far, out of domain: 9 questions"),
        *("## Claims", "### tiny/test", "### tiny/far"),
    ]


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({"gained": None, "lost": None}, "| comparison | difference | 95% interval | questions | p |"),
        (
            {"gained": None, "lost": None, "seeds": 3},
            "| comparison | difference | 95% interval | trainings | questions | p |",
        ),
        ({}, "| comparison | difference | 95% interval | gained | lost | questions | p |"),
    ],
)
def test_columns_of_differences_that_say_nothing_are_left_out(changes: dict[str, Any], columns: str) -> None:
    page = study_page(data(differences=[DIFFERENCE | changes]))
    assert columns in page
    assert ("Gained:" in page) == ("gained" in columns)


def test_the_debate_has_one_name_in_scores_and_differences() -> None:
    systems = [{"id": "vote", "title": "the debate's vote", "kind": "debate", "product": False}]
    page = study_page(
        data(systems=systems, scores=[SCORE | {"system": "vote"}], differences=[DIFFERENCE | {"reference": "vote"}])
    )
    assert "| the debate's vote | 66.1 |" in page
    assert "| level2, majority - the debate's vote | +51.0 |" in page


def test_what_is_unknown_is_a_dash() -> None:
    assert "| debates | 9 debates | 1 234.5 | 90 210 | - | - |" in study_page(data())


def test_a_section_without_data_is_left_out() -> None:
    bare = study_page(data(differences=[], orderings=[], cost=[], facts=[]))
    assert re.findall(r"^#+ (.*)$", bare, re.MULTILINE) == ["demo", "tiny/test: 600 questions"]


def test_runs_side_by_side_say_what_was_compared_and_what_was_not() -> None:
    both = data()
    both["runs"] = [both["runs"][0], {**both["runs"][0], "label": "other"}]
    both["comparisons"] = [{**DIFFERENCE, "method": "single", "run": "other", "reference_run": "demo"}]
    both["matched"] = [
        {"set": "tiny/test", "run": "other", "reference_run": "demo", "common": 600, "only_run": 7, "only_reference": 0}
    ]
    page = study_page(both)
    assert "| tiny/test | level2 of other - base of demo | +51.0 |" in page
    assert "| tiny/test | other, demo | 600 | 7 | 0 |" in page
    assert "# Run other" in page


def test_no_text_can_end_its_cell_or_begin_a_tag() -> None:
    assert table(("a",), [("x | y\n<img src=x> [l](u) `c`",)]).splitlines()[-1] == r"| x \| y \<img src=x> \[l](u) \`c\` |"


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    for block in study_page(data()).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count(" | ") for line in block.splitlines()}) == 1
