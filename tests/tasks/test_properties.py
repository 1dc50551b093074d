"""Rules that hold of every answer and every text, whatever the task: drawn at random."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magdi_ray.tasks import answers, latex
from magdi_ray.tasks.answers import read_number
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.checks import WORD_OR_SIGN, digest_of, text_digest
from magdi_ray.tasks.choices import lettered
from magdi_ray.tasks.latex_equal import decide
from magdi_ray.tasks.load import TASKS

STORY = Question("q", "Janet has 16 eggs and eats 3. How many are left?")
CHOICE = Question("q", lettered("Where?", ("bank", "library", "mall", "new york", "at sea")))
QUESTIONS = {"commonsenseqa": CHOICE, "arc": CHOICE, "aqua": CHOICE, "ecare": CHOICE}
NUMERIC = ("gsm8k", "svamp", "math")
LETTERED = ("commonsenseqa", "arc", "aqua", "ecare")
WORDED = ("strategyqa", "boolq")
PIECES = [
    "answer",
    " is ",
    "The ",
    "(A)",
    "B",
    "yes",
    "no",
    "not ",
    "\\boxed{",
    "}",
    "{",
    "$",
    "\\frac",
    "1",
    "2",
    ",",
    ".",
    "=",
    "\n",
    "?",
]
PIECES += [
    "<think>",
    "</think>",
    "```",
    "####",
    " or ",
    "\\text{",
    "\\\\",
    "^",
    "_",
    "(",
    ")",
    "[",
    "\\pm",
    "\\cup",
    "know",
    "-",
    "/",
    "%",
    " ",
]
SOUP = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
NUMBERS = st.fractions(max_denominator=1000).filter(lambda number: abs(number) < 10**9)
FEW = settings(max_examples=60, deadline=None)


def task(name: str) -> Task:
    if name == "math":
        pytest.importorskip("math_verify")
    return TASKS[name]()


def no_algebra(left: str, right: str) -> bool:
    return False


@st.composite
def latex_answers(draw: st.DrawFn, depth: int = 2) -> str:
    """Numbers, roots, polynomials, and the tuples, intervals, sets and vectors of them."""
    whole = st.integers(-99, 99)
    if not depth:
        return draw(
            st.one_of(
                whole.map(str),
                st.builds(r"\frac{{{}}}{{{}}}".format, whole, st.integers(1, 99)),
                st.builds(r"{}\sqrt{{{}}}".format, st.integers(2, 9), st.integers(2, 9)),
                st.builds("{}x^2+{}y".format, st.integers(2, 9), st.integers(2, 9)),
                st.sampled_from([r"\pi", r"\infty", "x", "Friday", "A"]),
            )
        )
    parts = draw(st.lists(latex_answers(depth=0), min_size=1, max_size=3))
    shape = draw(st.sampled_from(["{}", "({})", "[{})", r"\{{{}\}}", r"\begin{{pmatrix}}{}\end{{pmatrix}}"]))
    return shape.format((r"\\" if "matrix" in shape else ", ").join(parts))


@pytest.mark.parametrize("name", sorted(TASKS))
@given(text=st.one_of(st.text(max_size=60), SOUP))
@FEW
def test_any_text_is_read_and_an_answer_that_is_read_can_be_stated(name: str, text: str) -> None:
    judge, question = task(name), QUESTIONS.get(name, STORY)
    answer = judge.extract(question, text)
    judge.reasoning(text)
    assert answer is None or judge.extract(question, judge.state(answer)) is not None


@pytest.mark.parametrize("name", sorted(TASKS))
@given(text=st.text(max_size=30))
@FEW
def test_none_is_the_same_as_nothing(name: str, text: str) -> None:
    judge = task(name)
    assert not any((judge.same(None, text), judge.same(text, None), judge.same(None, None)))


@pytest.mark.parametrize("name", sorted(TASKS))
@given(blank=st.text(alphabet=" \t\r\n\u00a0\u2003", max_size=20))
@FEW
def test_an_empty_reply_has_no_answer(name: str, blank: str) -> None:
    question = QUESTIONS.get(name, STORY)
    assert task(name).extract(question, blank) is None
    assert task(name).extract(question, question.text + blank) is None


@pytest.mark.parametrize("name", NUMERIC)
@given(number=NUMBERS)
@FEW
def test_any_number_that_is_stated_is_read_back(name: str, number: Fraction) -> None:
    judge, written = task(name), answers.normal_form(number)
    assert judge.same(judge.extract(STORY, judge.state(written)), written)
    assert judge.same(judge.extract(STORY, f"We add 1 and 2. {judge.state(written)}"), written)


@pytest.mark.parametrize("name", LETTERED)
@given(letter=st.sampled_from("ABCDE"), before=SOUP.filter(lambda text: "think" not in text and "boxed" not in text))
@FEW
def test_any_letter_that_is_stated_last_is_read_back(name: str, letter: str, before: str) -> None:
    judge = task(name)
    assert judge.extract(CHOICE, judge.state(letter)) == letter
    assert judge.extract(CHOICE, f"{before}.\n{judge.state(letter)}") == letter


@pytest.mark.parametrize("name", WORDED)
@pytest.mark.parametrize("word", ["yes", "no"])
@given(before=SOUP.filter(lambda text: "think" not in text and "boxed" not in text))
@FEW
def test_a_word_that_is_stated_last_is_read_back(name: str, word: str, before: str) -> None:
    judge = task(name)
    assert judge.extract(STORY, f"{before}.\n{judge.state(word)}") == word


@given(answer=latex_answers())
@settings(max_examples=200, deadline=None)
def test_a_latex_answer_that_is_stated_is_read_back(answer: str) -> None:
    judge = task("math")
    found = judge.extract(STORY, judge.state(answer))
    assert found == latex.normal_form(answer)
    assert judge.same(found, answer)
    assert judge.reasoning(f"We add. {judge.state(answer)}") == "We add."


@given(text=st.one_of(latex_answers(), SOUP, st.text(alphabet="0123456789.,-/ ", max_size=12)))
@settings(max_examples=200, deadline=None)
def test_a_normal_form_is_its_own(text: str) -> None:
    normal = latex.normal_form(text)
    assert latex.normal_form(normal) == normal
    number = read_number(text)
    assert number is None or read_number(number) == number


@given(left=st.one_of(latex_answers(), SOUP), right=st.one_of(latex_answers(), SOUP))
@settings(max_examples=150, deadline=None)
def test_the_same_is_reflexive_and_symmetric(left: str, right: str) -> None:
    first, second = latex.normal_form(left), latex.normal_form(right)
    assert decide(first, first, no_algebra) == bool(first)
    assert decide(first, second, no_algebra) == decide(second, first, no_algebra)


@pytest.mark.parametrize("name", NUMERIC)
@given(
    numbers=st.lists(
        st.sampled_from(["1/2", "0.5", "0.50", r"\frac{1}{2}", "1/3", "0.33", r"\frac13", "50", "0.5"]), min_size=3, max_size=3
    )
)
@FEW
def test_the_same_is_transitive_for_numbers(name: str, numbers: list[str]) -> None:
    judge, (first, second, third) = task(name), numbers
    assert judge.same(first, first)
    assert not (judge.same(first, second) and judge.same(second, third)) or judge.same(first, third)


@pytest.mark.parametrize("name", NUMERIC)
@given(number=st.integers(-(10**9), 10**9), cents=st.sampled_from(["", ".0", ".00"]))
@FEW
def test_commas_currency_and_units_do_not_change_a_number(name: str, number: int, cents: str) -> None:
    judge = task(name)
    grouped, sign = f"{abs(number):,}{cents}", "-" if number < 0 else ""
    for written in (
        f"{sign}{grouped}",
        f"{sign}${grouped}",
        f"{sign}{grouped} eggs",
        f"{sign}{grouped} dollars",
        f"**{sign}{grouped}**",
    ):
        assert judge.same(judge.extract(STORY, f"The answer is {written}."), str(number)), written


def digest(text: str) -> int:
    return text_digest(Question("q", text))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"(2+3)\cdot 4", r"2+(3\cdot 4)"),
        ("5!", "5"),
        ("[0,1)", "(0,1]"),
        ("a - b", "a b"),
        ("x^{2-y}", "x^{2}y"),
        ("|x-3|=5", "(x-3)=5"),
        (r"0.\overline{3}", r"0\overline{3}"),
        ("a", "A"),
    ],
)
@pytest.mark.parametrize("marks", ["${}$", "$${}$$", r"\({}\)", r"\[{}\]"])
def test_problems_that_differ_in_a_sign_of_a_formula_have_different_digests(marks: str, left: str, right: str) -> None:
    assert digest(f"What is {marks.format(left)}?") != digest(f"What is {marks.format(right)}?")
    assert digest(f"What is {marks.format(left)}?") == digest(f"what  is\n{marks.format(left)}!")


@pytest.mark.parametrize("text", ["A pack costs $5, and $3 (off).", "$5-$3?", r"It is \$5 or \$6", "What is 2 - 3?", "$"])
def test_a_text_without_a_formula_is_its_words_numbers_and_signs(text: str) -> None:
    assert digest(text) == digest_of(" ".join(WORD_OR_SIGN.findall(text.lower())))


@given(text=st.text(alphabet="$\\()[]{}ax1 -.", max_size=40))
@FEW
def test_any_text_has_a_digest(text: str) -> None:
    assert digest(text) == digest(text)
