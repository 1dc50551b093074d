"""What is to fail does fail, as it is told to, and what is to answer answers; without these, no trial would say anything."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.agents.base import Reply
from magdi_ray.agents.store import ReplyStore, encode_record
from magdi_ray.config.sections import MadeTask
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import load_task
from tests.chaos.shim import Shim
from tests.chaos.sight import begun, look
from tests.chaos.table import line, span, table
from tests.chaos.tails import append, cut_line, tear
from tests.chaos.teacher import Teacher

PROGRAM = """
import sys, time
for line in sys.stdin:
    began = time.monotonic()
    try:
        open(line.strip(), "w").close()
        became = 0
    except OSError as error:
        became = error.errno
    print(became, time.monotonic() - began, time.time(), flush=True)
"""

Say = Callable[[Path], list[float]]


@pytest.fixture
def shim(tmp_path: Path) -> Shim:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    (tmp_path / "run").mkdir()
    return Shim(tmp_path / "shim", tmp_path / "run")


@pytest.fixture
def program(shim: Shim) -> Iterator[Say]:
    """A program behind the shim that writes where it is told to: errno, seconds it took, and what time it thinks it is."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=os.environ | shim.environment, **pipes)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def say(path: Path) -> list[float]:
        stdin.write(f"{path}\n")
        stdin.flush()
        return [float(word) for word in stdout.readline().split()]

    yield say
    process.kill()
    process.wait()


def test_storage_fails_below_its_directory_and_only_as_long_as_it_is_told_to(shim: Shim, program: Say, tmp_path: Path) -> None:
    inside, outside = tmp_path / "run" / "a", tmp_path / "b"
    assert program(inside)[0] == 0
    shim.storage(error=errno.EIO)
    assert (program(inside)[0], program(outside)[0]) == (errno.EIO, 0)
    shim.storage()
    assert program(inside)[0] == 0


def test_slow_storage_is_slow_below_its_directory(shim: Shim, program: Say, tmp_path: Path) -> None:
    shim.storage(delay_ms=200)
    assert program(tmp_path / "run" / "a")[1] >= 0.2
    assert program(tmp_path / "b")[1] < 0.2


def test_the_clock_of_a_program_is_moved_and_stays_moved_while_storage_fails(shim: Shim, program: Say, tmp_path: Path) -> None:
    before = program(tmp_path / "b")[2]
    shim.clock(shift_s=-3600.0)
    shim.storage(error=errno.EIO)
    assert program(tmp_path / "b")[2] == pytest.approx(before - 3600, abs=60)
    shim.clock(shift_s=0.0)
    assert program(tmp_path / "b")[2] == pytest.approx(before, abs=60)


QUESTION = Question("q", "Kim has 2 figs.", gold="2", solution="2 + 0 = 2 .")


def ask(teacher: Teacher, content: str) -> str:
    body = json.dumps({"model": "far", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(f"{teacher.url}/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        reply: dict[str, Any] = json.load(answer)
    return str(reply["choices"][0]["message"]["content"])


def test_the_provider_answers_the_question_a_prompt_ends_in_and_counts_every_answer() -> None:
    with Teacher([QUESTION], load_task(MadeTask(name="tiny"))) as teacher:
        said = [
            ask(teacher, "kim has 2 figs ."),
            ask(teacher, "others say 3 . kim has 2 figs ."),
            ask(teacher, "kim has 2 figs ."),
        ]
        assert said[0] == said[2]
        assert all(text.startswith("2 + 0 = 2 . answer ") for text in said)
        assert sorted(teacher.calls().values()) == [1, 2]
        teacher.forget()
        assert teacher.calls() == {}


def test_a_provider_in_a_bad_mood_answers_nothing_and_counts_no_answer() -> None:
    with Teacher([QUESTION], load_task(MadeTask(name="tiny"))) as teacher:
        teacher.mood = "refusing"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            ask(teacher, "kim has 2 figs .")
        teacher.mood = "breaking"
        with pytest.raises(OSError, match=r"closed|reset|refused|without response"):
            ask(teacher, "kim has 2 figs .")
        assert (teacher.calls(), teacher.turned_away) == ({}, 2)


def store_of(run: Path, count: int) -> Path:
    """A reply store with so many replies."""
    file = run / "replies" / "node-1-aaaaaaaa.jsonl"
    file.parent.mkdir(parents=True)
    reply = Reply("4", 5, 2, None, "stop", "far")
    file.write_bytes(b"".join(encode_record(f"{n:032x}", reply, agent="far", run="r", usd=0.0) for n in range(count)))
    return file


@pytest.mark.parametrize(("spoil", "kept"), [(cut_line, 2), (lambda path: append(path, b"rubbish\xff"), 3)])
def test_a_torn_tail_of_a_reply_store_costs_no_line_before_it(spoil: Callable[[Path], Any], kept: int, tmp_path: Path) -> None:
    torn = spoil(store_of(tmp_path, 3))
    assert len(ReplyStore(str(tmp_path / "replies"))) == kept == 3 - torn.lines


def test_what_is_torn_is_drawn_among_what_is_there(tmp_path: Path) -> None:
    assert tear(tmp_path, "debates", random.Random(0)).what == "nothing was there to tear"
    store_of(tmp_path, 50)
    assert len({tear(tmp_path, "debates", random.Random(n)).what for n in range(8)}) == 2


def test_a_look_sees_how_far_a_run_is_and_a_start_is_held_against_what_was_safe_before(tmp_path: Path) -> None:
    before = look(tmp_path)
    (tmp_path / "attempts" / "00000001-aaaaaaaa" / "student").mkdir(parents=True)
    store_of(tmp_path, 3)
    rows = [{"event": "start", "step": 0}, {"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}]
    text = "".join(json.dumps({"stage": "distil", "recipe": "level4"} | row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"stage": "dis')
    now = look(tmp_path)
    assert (now.replies, now.step, now.starts) == (3, 2, (0,))
    assert (now.made, now.finished) == ({"student"}, frozenset())
    assert [(start.step, start.safe) for start in begun(before, now)] == [(0, 0)]


BLOW = {"fault": "node-lost", "stage": "student", "at": 5, "torn": "", "ended": None, "attempts": 0, "well_s": 8.5}
RESULT: dict[str, Any] = {"seed": 3, "codes": [0], "starts": [], "repeated_calls": 2, "spare_calls": 8, "seconds": 60.0}
RESULT |= {"blows": [BLOW | {"extra_calls": 2}], "wrong": []}


def test_the_table_has_a_line_for_what_was_met_and_says_where_books_are_wrong() -> None:
    order = [("node-lost", "debates"), ("node-lost", "student")]
    rows = table([RESULT, RESULT | {"wrong": ["graphs: lost questions: q1"]}], order=order).splitlines()
    assert rows[2:] == ["| node-lost | student | 2 | 0 | 8.5 | 2 | 1 not balanced |"]
    assert "books balanced" in line(RESULT)
    assert "WRONG: graphs: lost" in line(RESULT | {"wrong": ["graphs: lost questions: q1"]})


def test_a_span_names_the_least_the_middle_and_the_greatest() -> None:
    assert [span([]), span([3.0, None]), span([1, 2]), span([5, 1, 2])] == ["-", "3", "1 to 2", "1, 2, 5"]
