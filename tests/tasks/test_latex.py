"""When two LaTeX answers are the same, and what an expression that never ends costs: its timeout."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import psutil
import pytest

from magdi_ray.errors import ConfigError
from magdi_ray.tasks import latex_equal, latex_process
from magdi_ray.tasks.latex import normal_form, split, value
from magdi_ray.tasks.latex_equal import decide, equivalent
from magdi_ray.tasks.latex_process import LatexProcess, require_math_verify, this_process

ENDLESS = "9^{9^{9^{9}}}"


@pytest.fixture
def process() -> Iterator[LatexProcess]:
    pytest.importorskip("math_verify")
    process = LatexProcess(timeout=2.0)
    yield process
    process.close()


def no_algebra(left: str, right: str) -> bool:
    raise AssertionError(f"{left} and {right} are to be decided without a child")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (r"\left( \dfrac12 ,\ 95,\!040\text{ cm} \right).", r"(\frac{1}{2},95040)"),
        (r"$\$1,\!657$", "1657"),
        (r"4319 \text{ dollars}", "4319"),
        (r"\frac{11}{15}\text{ days}", r"\frac{11}{15}"),
        (r"12\text{ cm}^2", "12"),
        ("12 square units", "12"),
        (r"\frac{990}{7}^\circ", r"\frac{990}{7}"),
        (r"45^\circ, 135^\circ, 225^\circ", "45, 135, 225"),
        ("22,500", "22500"),
        ("(100,101)", "(100,101)"),
        (".20", "0.2"),
        (r"\text{Friday}", "Friday"),
        (r"\textbf{(A)}", "A"),
        (r"5\text{ or }7", "5,7"),
        (r"1061_{9}", "1061_9"),
        (r"\sqrt 2+\sqrt5", r"\sqrt{2}+\sqrt{5}"),
        ("√12 − π", r"\sqrt{12}-\pi"),
        (r"\begin{bmatrix} 1/4 \\ 2 \end{bmatrix}", r"\begin{pmatrix}1/4\\2\end{pmatrix}"),
        ("6xy", "6xy"),
        ("2ab", "2ab"),
        ("5 apples a day", "5"),
        ("18km", "18"),
        (r"2\sqrt{3} cm", r"2\sqrt{3}"),
        (r"3\text{ million}", "3000000"),
        ("1.5 billion dollars", "1500000000"),
        ("2 pi", r"2\pi"),
        ("2 sqrt(3)", r"2\sqrt{3}"),
        (r"f^{\prime\prime}(x)", "f''(x)"),
        ("  ", ""),
    ],
)
def test_an_answer_has_one_normal_form_which_is_its_own(text: str, normal: str) -> None:
    assert normal_form(text) == normal == normal_form(normal)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("-2.5", Fraction(-5, 2)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("2 1/2", Fraction(5, 2)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("1/0", None),
        (r"\sqrt{2}", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_a_number_is_exact_in_every_spelling(text: str, number: Fraction | None) -> None:
    assert value(text) == number


def test_an_answer_is_taken_apart_outside_of_its_brackets() -> None:
    assert split(r"(1,2), \{3,4\} ,5", ",") == ["(1,2)", r"\{3,4\}", "5"]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x=5", "5", True),
        ("f(3)=5", "5", True),
        ("2+3=5", "5", True),
        ("12x-4y=0", "0", False),
        ("0.5", r"\frac{1}{2}", True),
        (r"0.\overline{3}", "1/3", True),
        ("1/3", "0.33", False),
        ("1/3", "0.333333333333", False),
        (r"50\%", "50", True),
        (r"50\%", "0.5", False),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "[1,2]", False),
        ("(1,2)", r"\{1,2\}", False),
        ("(1,2)", "1,2", False),
        ("1,2", "2,1", True),
        (r"\{1,2\}", "2,1", True),
        ("1,1,2", "1,2,2", False),
        ("(-4,27);(2,15)", "(2,15),(-4,27)", True),
        (r"\pm 3", "-3,3", True),
        (r"[0,1)\cup(2,3]", r"(2,3]\cup[0,1)", True),
        (r"x\in[1,2]", "[1,2]", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1.0\\2\end{bmatrix}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", False),
        ("1010_2", "1010_{2}", True),
        ("1010_2", "1010", True),
        ("1010_2", "1010_3", False),
        ("1010_2", "10", False),
        (r"\text{Friday}", "friday", True),
        ("even", "neve", False),
        (r"\text{(A)}", "A", True),
        (r"\emptyset", r"\varnothing", True),
        ("f(2)=9", "f(3)=9", False),
        ("f(1)=2", "g(1)=2", False),
        ("f'(x)=2x", "f(x)=2x", False),
        ("f'(x)=2x", "2x", True),
        ("f'(x)", "f(x)", False),
        ("y''", "y", False),
        ("x^2+y^2=4", "4", False),
        ("2x+3y=6", "6", False),
        ("x+y=5", "5", False),
        ("xy=6", "6", False),
        (r"2\theta=5", "5", False),
        ("x=2y", "2y", True),
        ("y=2x+3", "2x+3", True),
        ("5=x", "5", True),
        ("x=2+3=5", "5", True),
        ("x=5", "y=5", False),
        ("AB=5", "5", True),
        (r"\angle ABC=60^\circ", "60", True),
        (r"\gcd(4,6)=2", "2", True),
        ("x=1,y=2", "1,2", True),
        ("x=1,y=2", "2,1", False),
        ("x=1,y=2", "y=2,x=1", True),
        ("x=1,y=2", "x=2,y=1", False),
        ("x=2,x=3", "3,2", True),
        (r"x\in(0,1)", r"y\in(0,1)", False),
        (r"y\ge 0", r"[0,\infty)", False),
        (r"x\ge 0", r"k\ge 0", False),
        (r"5\text{ or more}", "5", False),
        (r"3\text{ hundredths}", "3", False),
        (r"2\text{ million}", "2000000", True),
        ("", "", False),
    ],
)
def test_what_is_plain_to_see_is_decided_without_algebra(left: str, right: str, same: bool) -> None:
    for pair in ((left, right), (right, left)):
        assert decide(*map(normal_form, pair), no_algebra) == same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x^2-1", "(x-1)(x+1)", True),
        ("x^2-1", "(x-1)^2", False),
        (r"\frac{2}{\sqrt{2}}", r"\sqrt{2}", True),
        (r"1\pm\sqrt{2}", r"1-\sqrt{2},1+\sqrt{2}", True),
        (r"[2\sqrt{2},4]", r"[\sqrt{8},4]", True),
        (r"[2\sqrt{2},4]", r"[\sqrt{8},4)", False),
        ("y=-2x+1", "y+2x=1", True),
        ("x=5", "y=5", False),
        ("6xy", "6", False),
        ("2ab", "2", False),
        ("y=2x", r"x=\frac{y}{2}", True),
        ("2x+3y=6", "4x+6y=12", True),
        (r"x\ge 0", r"[0,\infty)", True),
        (r"k<3", r"(-\infty,3)", True),
        (r"x\le 3", r"(-\infty,3]", True),
        (r"x\ne 1", r"(-\infty,1)\cup(1,\infty)", True),
        (r"72.25\pi", r"\frac{289\pi}{4}", True),
        (r"1.41421356237", r"\sqrt{2}", False),
        (r"3\times10^5", "300000", True),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{97}}", False),
        ("2^{2008}-2", "2^{2008}-3", False),
        ("2^{2008}-2", "2(2^{2007}-1)", True),
        ("i", "-i", False),
        ("2001+25i", "25i+2001", True),
        (r"\infty", r"-\infty", False),
        ("xy", "yx", True),
        ("1" * 500 + "x", "1" * 500 + "y", False),
    ],
)
def test_the_rest_is_decided_by_algebra_in_either_order(left: str, right: str, same: bool) -> None:
    pytest.importorskip("math_verify")
    assert equivalent(left, right) == equivalent(right, left) == same


def test_an_expression_without_end_costs_its_timeout_and_nothing_else(process: LatexProcess) -> None:
    assert process.equivalent("x+1", "1+x")
    for endless in (ENDLESS, "10^{10^{10}}", "(" * 2000 + "x" + ")" * 2000, "3000000!"):
        began = time.monotonic()
        assert not process.equivalent(endless, ENDLESS)
        assert time.monotonic() - began < 30  # a fresh child may have to start first
        assert process.equivalent("x+1", "1+x")
    assert 1 < process.starts <= 5


def test_a_list_of_endless_expressions_is_given_up_at_the_first() -> None:
    asked = []

    def late(left: str, right: str) -> None:
        asked.append((left, right))

    assert not decide(",".join([ENDLESS] * 9), "a,b,c,d,e,f,g,h,i", late)
    assert len(asked) == 1


def test_noise_is_equivalent_to_nothing_and_harms_no_child(process: LatexProcess) -> None:
    for noise in ("\\", "}{", r"\frac{", "\x00", "\ud800", "^_^", r"\input{x}", "a\nb", '"', r"\boxed{"):
        assert not process.equivalent(noise, "1")
    assert process.equivalent("1", "1")


def test_a_child_that_dies_is_replaced(process: LatexProcess) -> None:
    assert process.equivalent("x+1", "1+x")
    assert process._child is not None
    os.kill(process._child.pid, signal.SIGKILL)
    process._child.wait()
    assert process.equivalent("x+1", "1+x")
    assert process.starts == 2


def test_an_interrupt_before_the_reply_costs_no_later_pair_its_verdict(
    process: LatexProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(child: object, seconds: float) -> bytes:
        raise KeyboardInterrupt

    assert process.equivalent("x+1", "1+x")
    with monkeypatch.context() as patch:
        patch.setattr(latex_process, "_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.equivalent("x+1", "1+x")
    assert process.equivalent("x+1", "x+2") is False
    assert process.starts == 2


@pytest.mark.parametrize(
    "line", [b"", b"{", b"7\n", b'{"number": 6, "same": true}\n', b'{"number": 7, "same": true}\n{"number"', b"\xff\n"]
)
def test_a_line_that_is_not_the_pairs_own_reply_is_no_verdict(line: bytes) -> None:
    assert latex_process._verdict(line, 7) is None
    assert latex_process._verdict(b'{"number": 7, "same": false}\n', 7) is False


def test_time_in_which_the_child_does_not_run_does_not_count(process: LatexProcess) -> None:
    assert process.equivalent("x+1", "1+x")
    assert process._child is not None
    process.timeout = 0.5
    os.kill(process._child.pid, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (process._child.pid, signal.SIGCONT)).start()
    assert process.equivalent("x+1", "1+x")
    assert process.starts == 1


def test_a_pair_that_was_given_up_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter((None, True))

    class Slow:
        def equivalent(self, left: str, right: str) -> bool | None:
            return next(verdicts)

    monkeypatch.setattr(latex_equal, "this_process", Slow)
    assert [equivalent("q+77", "77+q") for _ in range(3)] == [False, True, True]


def test_threads_and_coroutines_share_one_child(process: LatexProcess) -> None:
    pairs = [(f"x+{n}", f"{n + n % 2}+x") for n in range(12)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda pair: process.equivalent(*pair), pairs)) == [n % 2 == 0 for n in range(12)]

    async def compare() -> bool | None:
        assert threading.current_thread() is threading.main_thread()
        return process.equivalent("x+1", "1+x")

    assert asyncio.run(compare())
    assert process.starts == 1


def test_every_process_has_a_child_of_its_own() -> None:
    mine = this_process()
    assert this_process() is mine
    reader, writer = os.pipe()
    if (forked := os.fork()) == 0:
        os.write(writer, b"%d" % (this_process() is not mine))
        os._exit(0)
    os.waitpid(forked, 0)
    assert os.read(reader, 1) == b"1"


def test_a_child_ends_with_its_parent_even_while_it_calculates() -> None:
    pytest.importorskip("math_verify")
    code = (
        "import threading, time; from magdi_ray.tasks.latex_process import LatexProcess\n"
        "p = LatexProcess(timeout=2.0); p.equivalent('x+1', '1+x'); print(p._child.pid, flush=True)\n"
        f"p.equivalent('{ENDLESS}', '1')\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        parent.kill()
    until = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.1)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "magdi-ray\[math\]"'):
        require_math_verify()
