r"""CommonsenseQA: everyday questions with five lettered options (Talmor et al. 2019, arXiv 1811.00937).

A row of the published jsonl (`dev_rand_split.jsonl`), and of ECQA's CSV (Aggarwal et al. 2021) about the same questions, where
`q_ans` is the option's text; where two options have that text, the first is the answer. ECQA's free-flow explanation, `taskB`,
is the question's solution:

    {"answerKey": "A", "id": "1afa02df02c908a558b4036e80242fac", "question": {"question_concept": "revolving door",
     "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "library"}, ...], "stem": "A revolving door is ..."}}

    ,q_no,q_concept,q_text,q_op1,q_op2,q_op3,q_op4,q_op5,q_ans,taskA_pos,taskA_neg,taskB
    0,af836abc58e0daf36df1d8d6830b70c5,applying for job,What does someone typically feel ...?,horror,anxiety and fear,...

The flat row of the hub, `{"question": "A revolving ...", "choices": {"label": [...], "text": [...]}, ...}`, is read too.
A question's text holds its options, so that it can be asked on its own:

    "A revolving door is convenient for ... at a what?\n(A) bank\n(B) library\n(C) department store\n(D) mall\n(E) new york"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.choices import lettered
from magdi_ray.tasks.lettered import Lettered, gold_letter, labelled_choices, stem_and_choices
from magdi_ray.tasks.rows import named_question, row_text

LETTERS = "ABCDE"


@dataclass(frozen=True, slots=True)
class CommonsenseQa(Lettered):
    """The task: one letter, "A" to "E"."""

    name: str = "commonsenseqa"
    letters: str = "one of the letters"


def read_row(row: Mapping[str, Any], split: Split) -> Question:
    """The question of one published row, of CommonsenseQA or ECQA; its gold is None where the row has no answer.

    Raises:
        ValueError: no question text, not five options, or an answer that is none of them.
    """
    if "q_text" in row:
        return _ecqa(row, split)
    stem, choices = stem_and_choices(row)
    labels, options = labelled_choices(choices, like=[LETTERS], fewest=len(LETTERS))
    gold = gold_letter(row.get("answerKey"), labels, key="answerKey")
    return named_question("commonsenseqa", lettered(stem, options), gold, split, row.get("id"))


def _ecqa(row: Mapping[str, Any], split: Split) -> Question:
    options = [row_text(row, f"q_op{number}") for number in range(1, 6)]
    answer = row.get("q_ans") or None
    if answer is not None and answer not in options:
        raise ValueError(f'required one of {options} under "q_ans"; found {answer!r}')
    gold = None if answer is None else LETTERS[options.index(answer)]
    text = lettered(row_text(row, "q_text"), options)
    return named_question("commonsenseqa", text, gold, split, row.get("q_no"), solution=row.get("taskB"))
