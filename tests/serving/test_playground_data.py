"""The playground's data: questions found, debates read, and who may see them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from magdi_ray.debate.store import write_debates
from magdi_ray.debate.transcript import Debate, Turn
from magdi_ray.errors import RunError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.store import write_mags
from magdi_ray.runs import Run
from magdi_ray.serving.door import create_api, require_key
from magdi_ray.serving.keys import Key, KeyRing, digest
from magdi_ray.serving.playground.debates import RunDebates
from magdi_ray.serving.playground.routes import ASSETS, PageConfig, playground_router
from magdi_ray.tasks.base import Question, Split
from magdi_ray.tasks.store import write_splits
from magdi_ray.tasks.tiny import Tiny
from tests.serving.doors import Scripted, call, settings

HOSTILE = "<img src=x onerror=alert(1)> answer 1"


def turn(agent: str, round_: int, answer: str | None, text: str = "") -> Turn:
    """A reply; one of a later round was shown the three before it."""
    shown = (0, 1, 2) if round_ else ()
    said = text or ("14 - 4 = 10 . " + (f"answer {answer}" if answer else "who knows"))
    status: Any = "ok" if answer else "unparsed"
    return Turn(agent, round_, shown, said, answer, 0.9, "stated", 20, 9, "m", status)


def debate(question: Question, error: str | None = None) -> Debate:
    """ada stays wrong, ben is convinced, cleo was right; the debate of a hostile question is a single such reply."""
    if question.id == "test-3":
        turns = (turn("ada", 0, "1", HOSTILE), turn("ben", 0, None), turn("cleo", 0, "1"))
        return Debate(question, ("ada", "ben", "cleo"), "reconcile", turns, "1", 2 / 3, "rounds")
    first = (turn("ada", 0, "18"), turn("ben", 0, "18"), turn("cleo", 0, "10"))
    second = (turn("ada", 1, "18"), turn("ben", 1, "10"), turn("cleo", 1, "10"))
    if error:
        return Debate(question, ("ada", "ben", "cleo"), "reconcile", first, None, 0.0, "error", error)
    return Debate(question, ("ada", "ben", "cleo"), "reconcile", first + second, "10", 2 / 3, "rounds")


def questions() -> list[Question]:
    """Training questions come first in the files; `test-1` has no gold, `test-3` is hostile."""
    splits: tuple[Split, ...] = ("train", "test")
    made = [Question(f"{split}-{i}", f"Tom has {i} figs. Why?", "10", split) for split in splits for i in range(12)]
    made[13] = Question("test-1", "Ann has NO toys.", None, "test")
    made[15] = Question("test-3", HOSTILE, "1", "test")
    return made


def made_run(root: Path) -> Path:
    """A finished run in which `test-2` was not debated and the debate of `test-4` failed."""
    run = Run(root)
    made = {stage: run.clear(stage) for stage in ("questions", "debates", "graphs")}
    write_splits(made["questions"], questions())
    held = [debate(one, "EngineError: no reply" if one.id == "test-4" else None) for one in questions() if one.id != "test-2"]
    write_debates(made["debates"] / "b.parquet", held[::-1])
    graphs = [build_mag(one, Tiny()) for one in held if one.error is None]
    write_mags(made["graphs"] / "part-0.parquet", graphs[:9])
    write_mags(made["graphs"] / "part-1.parquet", graphs[9:])
    for stage in ("questions", "debates", "graphs"):
        run.finish(stage, {}, (), seconds=0.0, facts={})
    return root


@pytest.fixture
def debates(tmp_path: Path) -> RunDebates:
    return RunDebates(made_run(tmp_path), Tiny())


def ids(found: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in found["questions"]]


def test_held_out_questions_come_first_a_page_at_a_time(debates: RunDebates) -> None:
    found = debates.find("", offset=10, limit=4)
    assert (found["total"], ids(found)) == (24, ["test-10", "test-11", "train-0", "train-1"])
    assert found["questions"][0]["split"] == "test"
    assert ids(debates.find("", offset=99, limit=4)) == []


def test_a_search_wants_every_word_in_text_or_id_whatever_the_case(debates: RunDebates) -> None:
    assert ids(debates.find("ANN toys", offset=0, limit=9)) == ["test-1"]
    assert ids(debates.find("test- FIGS 7", offset=0, limit=9)) == ["test-7"]
    assert debates.find("no such words", offset=0, limit=9) == {"total": 0, "questions": []}
    turned = debates.find("figs", offset=20, limit=9)
    assert (turned["total"], ids(turned)) == (22, ["train-10", "train-11"])


@pytest.mark.parametrize("word", ["%", "[a", "\\", "T.m", "\x00", "🦊"])
def test_a_search_is_words_and_no_pattern(debates: RunDebates, word: str) -> None:
    assert debates.find(word, offset=0, limit=9)["total"] == 0


def test_of_every_question_its_own_debate_is_read(debates: RunDebates) -> None:
    for question in questions():
        detail = debates.detail(question.id)
        assert detail is not None
        assert (detail["text"], detail["gold"], detail["prompt"]) == (question.text, question.gold, Tiny().prompt(question))
        assert (detail["debate"] is None) == (question.id == "test-2")


def test_a_debate_tells_who_was_right_who_changed_and_how_they_voted(debates: RunDebates) -> None:
    detail = debates.detail("train-3")
    assert detail is not None
    told = detail["debate"]
    assert (told["answer"], told["correct"], told["error"]) == ("10", True, None)
    ada, ben = told["replies"][3], told["replies"][4]
    assert (ada["correct"], ada["changed"], ada["before"]) == (False, False, None)
    assert (ben["correct"], ben["changed"], ben["before"]) == (True, True, "18")
    votes = [(vote["answer"], vote["agents"], vote["correct"], vote["won"]) for vote in told["votes"]]
    assert votes == [("10", ["ben", "cleo"], True, True), ("18", ["ada"], False, False)]


def test_without_a_gold_answer_nobody_is_called_right(debates: RunDebates) -> None:
    detail = debates.detail("test-1")
    assert detail is not None
    assert detail["debate"]["correct"] is None
    assert {reply["correct"] for reply in detail["debate"]["replies"]} == {None}
    assert debates.read("test-1", "answer 3") == {"answer": "3", "correct": None}


def test_a_failed_debate_is_told_with_its_error_and_what_was_said(debates: RunDebates) -> None:
    detail = debates.detail("test-4")
    assert detail is not None
    assert detail["debate"]["error"] == "EngineError: no reply"
    assert len(detail["debate"]["replies"]) == 3


def test_a_reply_is_read_by_the_rules_of_the_task(debates: RunDebates) -> None:
    assert debates.read("train-0", "so answer 010") == {"answer": "10", "correct": True}
    assert debates.read("train-0", "so answer 11") == {"answer": "11", "correct": False}
    assert debates.read("train-0", "no idea") == {"answer": None, "correct": False}
    assert debates.read("nobody", "answer 10") is None


def test_a_run_without_debates_shows_its_questions(tmp_path: Path) -> None:
    made_run(tmp_path)
    for stage in ("debates", "graphs"):
        shutil.rmtree(tmp_path / stage)
    debates = RunDebates(tmp_path, Tiny())
    detail = debates.detail("train-0")
    assert detail is not None
    assert detail["debate"] is None
    assert not debates.find("", offset=0, limit=1)["questions"][0]["debated"]


def test_a_run_without_questions_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="questions"):
        RunDebates(tmp_path, Tiny())


def test_a_run_that_is_made_anew_beneath_the_page_is_noticed(debates: RunDebates, tmp_path: Path) -> None:
    debates.detail("train-0")
    shutil.rmtree(tmp_path / "graphs")
    write_mags(tmp_path / "graphs" / "part-0.parquet", [build_mag(debate(one), Tiny()) for one in questions()[3:12]])
    with pytest.raises(OSError, match="written anew"):
        debates.detail("train-0")


def page(root: Path | None, *, keyed: bool = False) -> FastAPI:
    """A door with the playground."""
    data = None if root is None else RunDebates(root, Tiny())
    config = PageConfig(model="student", task="tiny", max_samples=8, default_max_tokens=64, keys=keyed)
    router = playground_router(data, page=config, require_key=require_key)
    ring = KeyRing(fixed=[Key(name="alice", sha256=digest("sk-right"))]) if keyed else None
    return create_api(Scripted(), settings(), keys=ring, extra_routes=[router])


def test_the_page_allows_itself_nothing_but_its_own_files() -> None:
    answer = call(page(None), "GET", "/")
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
    assert not any("unsafe" in part or "http" in part for part in policy)
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "http" not in answer.text.replace("http-equiv", "")


def test_every_file_of_the_page_is_served_with_its_type_and_not_sent_twice() -> None:
    api = page(None)
    for name, kind in ASSETS.items():
        answer = call(api, "GET", f"/playground/assets/{name}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        again = call(api, "GET", f"/playground/assets/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["index.html", "nothing.js", "..%2froutes.py", "%2e%2e/routes.py", "../routes.py", "%00", "."])
def test_no_other_file_can_be_had(name: str) -> None:
    assert call(page(None), "GET", f"/playground/assets/{name}").status_code == 404


@pytest.mark.parametrize("path", ["config", "questions", "questions/train-0"])
def test_data_need_a_key_and_the_page_does_not(tmp_path: Path, path: str) -> None:
    api = page(made_run(tmp_path), keyed=True)
    assert call(api, "GET", "/").status_code == 200
    assert call(api, "GET", "/playground/assets/main.js").status_code == 200
    refused = call(api, "GET", f"/playground/{path}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    answer = call(api, "GET", f"/playground/{path}", headers={"authorization": "Bearer sk-right"})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")


def test_reading_a_reply_needs_a_key_too(tmp_path: Path) -> None:
    api = page(made_run(tmp_path), keyed=True)
    assert call(api, "POST", "/playground/read/train-0", {"reply": "answer 10"}).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"reply": 5}', 400), (b"{}", 400), (b'{"reply": "\\ud800"}', 400), (b'{"reply": "%b"}' % (b"a" * 2_000_000), 413)],
)
def test_a_reply_that_cannot_be_read_is_refused(tmp_path: Path, body: bytes, status: int) -> None:
    sent = {"content": body, "headers": {"content-type": "application/json"}}
    assert call(page(made_run(tmp_path)), "POST", "/playground/read/train-0", **sent).status_code == status


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "offset=x", "search=" + "a" * 201])
def test_a_page_of_questions_has_bounds(tmp_path: Path, query: str) -> None:
    answer = call(page(made_run(tmp_path)), "GET", f"/playground/questions?{query}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_an_unknown_question_is_a_404(tmp_path: Path) -> None:
    api = page(made_run(tmp_path))
    assert call(api, "GET", "/playground/questions/nobody").status_code == 404
    assert call(api, "POST", "/playground/read/nobody", {"reply": ""}).status_code == 404


def test_damaged_files_are_an_error_without_internals(tmp_path: Path) -> None:
    api = page(made_run(tmp_path))
    (tmp_path / "graphs" / "part-0.parquet").write_bytes(b"no parquet")
    answer = call(api, "GET", "/playground/questions")
    assert answer.status_code == 500
    assert "log says why" in answer.json()["error"]["message"]
    assert str(tmp_path) not in answer.text


def test_without_a_run_there_are_no_questions() -> None:
    api = page(None)
    assert call(api, "GET", "/playground/config").json()["run"] is False
    assert call(api, "GET", "/playground/questions").status_code == 404
