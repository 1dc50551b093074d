"""The questions of a report: each with its debate and with every answer that was given to it. Pure.

What is held is compact: of a question its row, of its debate a compressed text, of an answer the columns that are shown.

    shelf = Shelf(task, product="level2", systems=("base", "level2"))
    shelf.want(question, set_id="tiny/test", task="tiny")    # in the order in which they are to be shown
    shelf.add_debate(mag, standings)
    shelf.add_answer(answer)
    for entry, detail in shelf.questions(): ...

Debates of questions that are not wanted are counted and forgotten.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from magdi_ray.evaluate.answers import BASE, METHODS, VOTE, Answer
from magdi_ray.evaluate.report.dialogue import Standing, right
from magdi_ray.graph.schema import Mag
from magdi_ray.tasks.base import Question, Task

KINDS: tuple[tuple[str, str, str], ...] = (
    ("right", "student right", "The student's answer is right."),
    ("wrong", "student wrong", "The student's answer is wrong; no answer, or no reply at all, is wrong."),
    ("fixed", "student fixed it", "The base is wrong and the student right."),
    ("broke", "student broke it", "The base is right and the student wrong."),
    ("beats_debate", "student beats the debate", "The student is right and the debate's vote wrong."),
    ("loses_to_debate", "student loses to the debate", "The student is wrong and the debate's vote right."),
    ("turned_right", "discussion turned it right", "The vote over round 0 is wrong and the debate's vote right."),
    ("turned_wrong", "discussion turned it wrong", "The vote over round 0 is right and the debate's vote wrong."),
    ("disagreed", "no consensus", "The agents' last replies do not all give the same answer."),
    ("unanswered", "no answer", "The student replied, but no answer can be read from its reply."),
    ("failed", "no reply", "The debate failed, or a system gave no reply."),
)
"""Id, title and meaning of each kind; bit k of a question's mask is the k-th. "The student" is the product."""


@dataclass(slots=True)
class _Row:
    """What is known of one wanted question."""

    question: Question
    set_id: str
    debate: bytes | None = None
    turned: tuple[bool | None, bool | None] = (None, None)
    """Whether the vote over round 0 was right, and the debate's answer is; None where nobody knows."""
    disagreed: bool = False
    answers: list[tuple[int, int, int, str, str | None, bool, int, str | None]] = field(default_factory=list)
    """System, method, sample, text, answer, correct, tokens out, error."""


class Shelf:
    """Joins questions, debates and answers, of the first training of each student."""

    def __init__(self, task: Task, *, product: str | None, systems: Sequence[str], debaters: Sequence[str] = ()) -> None:
        """`systems`: whose answers are shown, in this order; `debaters`: those read off the debates, shown where one failed."""
        self._task, self._product = task, product
        self._names = [*systems, *(name for name in debaters if name not in systems)]
        self._place = {name: place for place, name in enumerate(self._names)}
        self._shown = len(systems)
        self._rows: dict[tuple[str, str], _Row] = {}
        self.left_out = 0
        """Debates that were not wanted."""

    def want(self, question: Question, *, set_id: str, task: str) -> None:
        """Show a question of a task."""
        self._rows.setdefault((task, question.id), _Row(question, set_id))

    def add_debate(self, mag: Mag, standings: Sequence[Standing]) -> None:
        """The debate of a question of the run's own task, and how it stood after each round."""
        row = self._rows.get((self._task.name, mag.question.id))
        if row is None:
            self.left_out += 1
            return
        row.debate = zlib.compress(json.dumps(debate_detail(self._task, mag)).encode("ascii"), 1)
        if standings:
            row.turned = (right(self._task, mag, standings[0].answer), right(self._task, mag, standings[-1].answer))
            row.disagreed = len(standings[-1].replies) > 1 and not standings[-1].consensus

    def add_answer(self, answer: Answer) -> None:
        """One answer; of students only those of seed 0 are shown."""
        row = self._rows.get((answer.task or self._task.name, answer.question_id))
        place = self._place.get(answer.system)
        if row is not None and place is not None and answer.seed == 0:
            said = (answer.text, answer.answer, answer.correct, answer.tokens_out, answer.error)
            row.answers.append((place, METHODS.index(answer.method), answer.sample, *said))

    def questions(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Index entry and detail of every wanted question of which there is anything to show, in the order of wanting."""
        for row in self._rows.values():
            if row.debate is None and not row.answers:
                continue
            row.answers.sort(key=lambda given: given[:3])
            shared = {"id": row.question.id, "text": row.question.text, "set": row.set_id, "gold": row.question.gold}
            debate = None if row.debate is None else json.loads(zlib.decompress(row.debate))
            yield {**shared, "kinds": self._kinds(row)}, {**shared, "debate": debate, "answers": list(self._answers(row))}

    def _answers(self, row: _Row) -> Iterator[dict[str, Any]]:
        """What systems said; the debate's own answers only where there is no graph to read them from."""
        for place, method, sample, text, answer, correct, tokens_out, error in row.answers:
            if place < self._shown or row.debate is None:
                yield {
                    "system": self._names[place],
                    "seed": 0,
                    "method": METHODS[method],
                    "sample": sample,
                    "text": text,
                    "answer": answer,
                    "correct": correct,
                    "tokens_out": tokens_out,
                    "error": error,
                }

    def _kinds(self, row: _Row) -> int:
        single = METHODS.index("single")
        correct = {self._names[given[0]]: given[5] for given in row.answers if given[1] == single}
        student = correct.get(self._product) if self._product else None
        base, vote = correct.get(BASE), correct.get(VOTE)
        said = [given for given in row.answers if given[1] == single and self._names[given[0]] == self._product]
        flags: Mapping[str, bool] = {
            "right": student is True,
            "wrong": student is False,
            "fixed": student is True and base is False,
            "broke": student is False and base is True,
            "beats_debate": student is True and vote is False,
            "loses_to_debate": student is False and vote is True,
            "turned_right": row.turned == (False, True),
            "turned_wrong": row.turned == (True, False),
            "disagreed": row.disagreed,
            "unanswered": any(answer is None and error is None for *_, answer, _, _, error in said),
            "failed": any(given[-1] is not None for given in row.answers),
        }
        return sum(flags[id_] << bit for bit, (id_, _, _) in enumerate(KINDS))


def debate_detail(task: Task, mag: Mag) -> dict[str, Any]:
    """A debate as the page reads it; `correct` is measured against the gold answer alone."""
    return {
        "agents": list(mag.agents),
        "answer": mag.answer,
        "correct": right(task, mag, mag.answer),
        "agreement": mag.agreement,
        "stopped": mag.stopped,
        "nodes": [
            {
                "agent": node.agent,
                "round": node.round,
                "role": node.role,
                "model": node.model,
                "text": node.text,
                "answer": node.answer,
                "confidence": node.confidence,
                "correct": right(task, mag, node.answer),
                "status": node.status,
                "tokens_out": node.tokens_out,
            }
            for node in mag.nodes
        ],
        "edges": [{"source": edge.source, "target": edge.target, "type": edge.type} for edge in mag.edges],
    }


def viewer_data(shelf: Shelf, *, systems: Sequence[str], product: str | None) -> dict[str, Any]:
    """What the page is told of the viewer before it has read a question."""
    kinds = [{"id": id_, "title": title, "hint": hint, "count": 0} for id_, title, hint in KINDS]
    return {"kinds": kinds, "systems": list(systems), "product": product, "left_out": shelf.left_out}
