"""Structured replies: what they say is found, what is cut off is not guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magdi_ray.debate.structured import Fields, read_fields

WHOLE = Fields("9*2 = 18", "18", "0.9")
OBJECT = '{"reasoning": "9*2 = 18", "answer": "18", "confidence": 0.9}'


@pytest.mark.parametrize(
    "text",
    [
        OBJECT,
        f"```json\n{OBJECT}\n```",
        f"<think>Perhaps {{'answer': 3}}? No.</think>\n{OBJECT}",
        f'<think>First {{"answer": 3}}</think>\n{OBJECT}',
        f"Here it is:\n```\n{OBJECT}\n```\nI hope this helps in 1 way!",
        f'{{"response": {OBJECT}}}',
        '{"Thoughts": ["9*2 = 18"], "Final Answer": 18, "confidence_level": "0.9"}',
        '{"explanation": "9*2 = 18", "final_answer": ["18"], "confidence": 0.9}',
        '{"reasoning": "9*2 = 18", "answer": 18, "confidence": 0.9, "notes": "cut of',
        f'{{"answer": 3}}\n{OBJECT}',
    ],
)
def test_an_object_is_found_wherever_it_stands(text: str) -> None:
    assert read_fields(text) == WHOLE


@pytest.mark.parametrize("text", ["", "It is 18.", r"\boxed{18}", '{"total": 18}', "The set {1, 2}", '["answer", 18]'])
def test_other_texts_are_not_structured(text: str) -> None:
    assert read_fields(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"reasoning": "a", "answer": "18", "confid', "18"),
        ('{"reasoning": "a", "answer": 18,', "18"),
        ('{"answer": "18"', "18"),
        ('{"answer": 1', None),
        ('{"answer": "1', None),
        ('{"reasoning": "9 * 2 = 18 and then 5', None),
        ('{"answer": 1,200}', "1,200"),
        ('{"answer": true, "reasoning": "cut of', "yes"),
        ('{"reasoning": "he said "yes" twice", "answer": "no",}', "no"),
    ],
)
def test_of_a_broken_object_only_complete_values_count(text: str, answer: str | None) -> None:
    fields = read_fields(text)
    assert fields is not None
    assert fields.answer == answer


@pytest.mark.parametrize("value", ["null", "[]", "[17, 18]", '{"low": 17, "high": 18}', '""'])
def test_an_answer_that_is_none_or_several_is_no_answer(value: str) -> None:
    assert read_fields(f'{{"answer": {value}}}') == Fields("", None, None)


def test_latex_survives_backslashes_that_json_would_eat() -> None:
    fields = read_fields(r'{"reasoning": "\(x\) is \frac{1}{2}", "answer": "\boxed{18}"}')
    assert fields == Fields(r"\(x\) is \frac{1}{2}", r"\boxed{18}", None)
    assert read_fields(r'{"answer": "\frac{1}{2}"}') == Fields("", r"\frac{1}{2}", None)


def test_numbers_stay_as_they_are_written() -> None:
    assert read_fields('{"answer": 18.50}') == Fields("", "18.50", None)
    assert read_fields('{"answer": ' + "9" * 5000 + "}") == Fields("", "9" * 5000, None)


def test_without_a_field_the_reasoning_is_what_stands_before_or_the_thoughts() -> None:
    assert read_fields('9*2 = 18\n```json\n{"answer": 18}\n```') == Fields("9*2 = 18", "18", None)
    assert read_fields('<think>9*2 = 18</think>{"answer": 18}') == Fields("9*2 = 18", "18", None)


def test_half_a_surrogate_pair_never_gets_into_a_text() -> None:
    fields = read_fields('{"reasoning": "\\ud83d", "answer": "18 \\ud83d\\ude00"}')
    assert fields == Fields("?", "18 \U0001f600", None)


LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=20)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=5)


@settings(deadline=None, max_examples=50)
@given(answer=JSON, reasoning=JSON, cut=st.integers(0, 200))
def test_any_object_whole_or_cut_can_be_read(answer: object, reasoning: object, cut: int) -> None:
    text = json.dumps({"reasoning": reasoning, "answer": answer, "confidence": 0.5})
    for piece in (text, text[:cut]):
        fields = read_fields(piece)
        if fields is not None:
            (fields.reasoning + (fields.answer or "")).encode()


@pytest.mark.parametrize(
    "text", ['{"' * 50_000, '{"answer": [' + '"a",' * 20_000, '"answer":' * 9_000 + '{"', '{"answer":' + "[" * 50_000]
)
def test_hostile_texts_are_read_in_no_time(text: str) -> None:
    fields = read_fields(text)
    assert fields is None or fields.answer is None
