from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from magdi_ray.debate.books import Books, audit, check_failures
from magdi_ray.debate.store import write_debates
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.errors import EngineError
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.store import write_questions


def debate(name: str, *, turns: int = 2, error: str | None = None, stopped: str = "consensus") -> Debate:
    turn = Turn("a", 0, (), "The answer is 1.", "1", 0.9, "stated", 10, 5, "m", "ok")
    held = tuple(replace(turn, round=r) for r in range(turns))
    return Debate(Question(name, "How many?"), ("a",), "single", held, "1", 1.0, "error" if error else stopped, error)  # type: ignore[arg-type]


def stored(folder: Path, asked: list[str], held: list[Debate]) -> tuple[Path, Path]:
    for name in ("questions", "debates"):
        (folder / name).mkdir()
    write_questions(folder / "questions/train.parquet", [Question(name, "How many?") for name in asked])
    write_debates(folder / "debates/part.parquet", held)
    return folder / "questions", folder / "debates"


def test_an_audit_counts_what_adding_one_by_one_counts(tmp_path: Path) -> None:
    held = [
        debate("a"),
        debate("b", turns=4, stopped="rounds"),
        debate("c", turns=1, error="TimedOut: too slow"),
        debate("d", turns=0),
    ]
    one_by_one = Books()
    for item in held:
        one_by_one.add(item, most_calls=4)
    assert audit(*stored(tmp_path, ["a", "b", "c", "d"], held), most_calls=4) == one_by_one
    assert (one_by_one.saved, one_by_one.failed, one_by_one.replies) == (6, 1, 7)


def test_merging_books_gives_the_books_of_all() -> None:
    held = [debate("a"), debate("b", error="TimedOut: x"), debate("c", error="Refused: y"), debate("d", error="TimedOut: z")]
    whole, first, second = Books(), Books(), Books()
    for place, item in enumerate(held):
        whole.add(item, most_calls=3)
        (first if place < 2 else second).add(item, most_calls=3)
    first.merge(second)
    assert first == whole


@pytest.mark.parametrize(("held", "said"), [(["a"], "1 questions were lost"), (["a", "b", "b"], "1 debated twice")])
def test_a_lost_or_doubled_question_is_named(tmp_path: Path, held: list[str], said: str) -> None:
    with pytest.raises(EngineError, match=rf"{said}.*'b'"):
        audit(*stored(tmp_path, ["a", "b"], [debate(name) for name in held]), most_calls=2)


def test_too_many_failures_are_said_by_kind_with_an_example_each() -> None:
    books = Books()
    for place in range(10):
        books.add(
            debate(f"q{place}", error="Refused: no\nmore" if place == 0 else "TimedOut: 2 s" if place < 4 else None), most_calls=2
        )
    check_failures(books, 0.4)
    with pytest.raises(EngineError, match=r"4 of 10 debates failed(.|\n)*3 x TimedOut, such as q1(.|\n)*1 x Refused, such as q0"):
        check_failures(books, 0.3)


def test_a_stage_is_hopeless_when_more_failed_than_all_of_it_allows() -> None:
    books = Books(debates=6, failed=6)
    assert not books.hopeless(100, 0.06)
    assert books.hopeless(100, 0.05)
