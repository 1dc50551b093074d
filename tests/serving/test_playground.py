"""The playground in a real browser, before a real server with a student whose replies the tests write.

Needs Chromium: $MAGDI_CHROMIUM, or one on the path. Without one these tests are skipped, or fail where
$MAGDI_REQUIRE_BROWSER is set.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.agents.base import BusyError, PromptError
from magdi_ray.agents.streaming import Decoding, Piece, Prompt, Scores, joined
from magdi_ray.errors import EngineError
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.door import create_api, require_key
from magdi_ray.serving.ensemble import Ensemble
from magdi_ray.serving.keys import Key, KeyRing, digest
from magdi_ray.serving.playground.debates import RunDebates
from magdi_ray.serving.playground.routes import PageConfig, playground_router
from magdi_ray.tasks.tiny import Tiny
from tests.serving.doors import last_word, listening, settings
from tests.serving.test_playground_data import HOSTILE, made_run

WIDE, NARROW = 1280, 390
DRAWS = ("10", "10", "18", None)
"""What draws come to, by turns."""


class Student:
    """Writes "14 - 4 = 10 . answer 10", or what the question asks for; waits behind its first word until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.left = threading.Event()
        """A stream was left before its end."""
        self.draws = 0

    async def stream(self, prompt: Prompt, decoding: Decoding) -> AsyncIterator[Piece]:
        question = last_word(prompt)
        if question == "busy":
            raise BusyError("no room")
        text = HOSTILE if question == "hostile" else "14 - 4 = 10 . answer 10"
        words = [f"{word} " for word in text.split(" ")]
        try:
            for number, word in enumerate(words, 1):
                if question == "midway" and number == 3:
                    raise EngineError("the copy died")
                yield Piece(word, 21, number, (), "stop" if number == len(words) else None)
                while not self.gate.is_set():
                    await asyncio.sleep(0.005)
        except (GeneratorExit, asyncio.CancelledError):
            self.left.set()
            raise

    async def complete(self, prompt: Prompt, decoding: Decoding) -> Piece:
        answer = DRAWS[self.draws % len(DRAWS)]
        self.draws += 1
        return joined([Piece(f"I say answer {answer}" if answer else "who knows", 21, 5, (), "stop")])

    async def score(self, prompt: Prompt, reply: str, adapter: str | None) -> Scores:
        raise PromptError("this student was taught by no head")


class Sages:
    """Teachers who know that it is 10."""

    async def debate(self, question: str) -> Escalated:
        return Escalated("esc", "It is <b>10</b>. answer 10", "10", 1.0, 2, ("ada", "ben"), 300, 131, False, None)


class Site:
    """A server with the page, its student, and how it was asked."""

    def __init__(self, address: str, student: Student) -> None:
        self.address, self.student = address, student


@contextmanager
def serving(run: Path | None = None, *, key: str | None = None) -> Iterator[Site]:
    student, task = Student(), Tiny()
    data = None if run is None else RunDebates(run, task)
    page = PageConfig(
        model="student", task="tiny", max_samples=16, escalate=run is not None, default_max_tokens=64, keys=key is not None
    )
    router = playground_router(data, page=page, require_key=require_key)
    ring = KeyRing(fixed=[Key(name="alice", sha256=digest(key))]) if key else None
    votes = Ensemble(student, task, Sages())
    with listening(create_api(student, settings(stream_interval_ms=0), keys=ring, ensemble=votes, extra_routes=[router])) as url:
        yield Site(url, student)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a run's questions."""
    with serving(made_run(tmp_path_factory.mktemp("run"))) as site:
        yield site


@pytest.fixture(scope="module")
def plain() -> Iterator[Site]:
    """A server of a student alone."""
    with serving() as site:
        yield site


@contextmanager
def opened(browser: Any, site: Site, *, width: int = WIDE, theme: str = "light", refused: bool = False) -> Iterator[Any]:
    """The page, which in the end must have asked nobody else, complained of nothing and not be wider than the window.

    `refused`: requests are meant to be refused, of which the browser itself complains.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce")
    page, faults = context.new_page(), []
    page.set_default_timeout(10_000)

    def said(message: Any) -> None:
        known = refused and message.text.startswith("Failed to load resource")
        if message.type in {"error", "warning"} and not known:
            faults.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda sent: None if sent.url.startswith((site.address, "data:")) else faults.append(sent.url))
    page.goto(site.address)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faults == []
    context.close()


def ready(page: Any) -> None:
    """The page knows what its server can do."""
    page.locator("#model-name").get_by_text("student").wait_for()


def ask(page: Any, text: str) -> None:
    ready(page)
    page.get_by_label("Question", exact=True).fill(text)
    page.keyboard.press("Control+Enter")


def state(page: Any, words: str) -> None:
    page.locator("#state").get_by_text(words).wait_for()


def until(true: Callable[[], Any], *, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def tab_to(page: Any, selector: str) -> None:
    for _ in range(40):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached")


def test_a_reply_is_seen_while_it_is_written_and_moves_nothing(browser: Any, plain: Site) -> None:
    plain.student.gate.clear()
    with opened(browser, plain) as page:
        ask(page, "how many?")
        state(page, "writing")
        assert page.locator("#reply").inner_text().strip() == "14"
        assert re.match(r"\d+ ms|[\d.]+ s", page.locator("#stats dd").first.inner_text())
        before = page.locator("#reply").bounding_box()
        plain.student.gate.set()
        state(page, "complete")
        assert page.locator("#reply").inner_text().strip() == "14 - 4 = 10 . answer 10"
        assert page.locator("#reply").bounding_box() == before
        figures = page.locator("#stats dd").all_inner_texts()
        assert (figures[2], figures[4]) == ("8", "21 tokens")
        assert page.locator("#live").inner_text() == "Reply complete. 14 - 4 = 10 . answer 10"


def test_stop_ends_the_generation_and_keeps_what_was_written(browser: Any, plain: Site) -> None:
    plain.student.gate.clear()
    plain.student.left.clear()
    with opened(browser, plain) as page:
        ask(page, "how many?")
        state(page, "writing")
        page.get_by_role("button", name="Stop").click()
        state(page, "stopped after")
        until(plain.student.left.is_set)
        assert page.locator("#reply").inner_text().strip() == "14"
        plain.student.gate.set()
        page.get_by_role("button", name="Ask", exact=True).click()
        state(page, "complete")


def test_escape_stops_too(browser: Any, plain: Site) -> None:
    plain.student.gate.clear()
    with opened(browser, plain) as page:
        ask(page, "how many?")
        state(page, "writing")
        page.keyboard.press("Escape")
        state(page, "stopped after")
    plain.student.gate.set()


def test_settings_are_sent_and_an_empty_one_is_not(browser: Any, plain: Site) -> None:
    with opened(browser, plain) as page:
        ready(page)
        page.get_by_label("Model").select_option("student:terse")
        page.get_by_text("Settings").click()
        page.get_by_label("Temperature").fill("0.3")
        page.get_by_label("Seed").fill("7")
        with page.expect_request("**/v1/chat/completions") as sent:
            ask(page, "how many?")
        body = sent.value.post_data_json
        assert (body["model"], body["temperature"], body["seed"], body["stream"]) == ("student:terse", 0.3, 7, True)
        assert "max_tokens" not in body
        state(page, "complete")


def test_an_empty_question_is_not_asked(browser: Any, plain: Site) -> None:
    with opened(browser, plain) as page:
        ready(page)
        page.get_by_role("button", name="Ask", exact=True).click()
        assert page.evaluate("document.querySelector('#question').validationMessage").startswith("Write a question")
        assert page.locator("#state").inner_text() == ""


def several(page: Any, replies: int) -> None:
    ready(page)
    page.get_by_label("Several, and a vote").check()
    page.get_by_label("Replies", exact=True).fill(str(replies))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_votes_are_drawn_and_written(browser: Any, plain: Site, width: int) -> None:
    with opened(browser, plain, width=width) as page:
        several(page, 8)
        ask(page, "how many?")
        state(page, "complete")
        rows = page.locator(".vote").all_inner_texts()
        assert [row.split("\n") for row in rows] == [["10 chosen", "4 of 8"], ["18", "2 of 8"], ["no answer read", "2 of 8"]]
        widths = page.eval_on_selector_all(".bar span", "bars => bars.map(bar => bar.style.width)")
        assert widths == ["50%", "25%", "25%"]
        assert page.locator(".agreement").inner_text() == "50% of 8 replies give the most frequent answer."
        assert page.locator("#reply").inner_text() == "I say answer 10"


def test_at_temperature_0_no_vote_is_held(browser: Any, plain: Site) -> None:
    with opened(browser, plain) as page:
        several(page, 4)
        assert page.locator("#temperature").input_value() == "0.7"
        page.get_by_text("Settings").click()
        page.get_by_label("Temperature").fill("0")
        ask(page, "how many?")
        assert page.evaluate("document.querySelector('#temperature').validationMessage").startswith("At 0 all replies")
        page.get_by_label("Temperature").fill("0.5")
        ask(page, "how many?")
        state(page, "complete")


def test_a_verifier_that_is_not_there_is_told(browser: Any, plain: Site) -> None:
    with opened(browser, plain, refused=True) as page:
        several(page, 4)
        page.get_by_label("Vote by").select_option("verifier")
        ask(page, "how many?")
        assert "taught by no head" in page.get_by_role("alert").inner_text()


def test_an_escalated_question_says_so_and_shows_the_teachers_reply(browser: Any, run: Site) -> None:
    with opened(browser, run) as page:
        several(page, 4)
        page.get_by_label("Ask the teachers where fewer agree than").check()
        ask(page, "how many?")
        state(page, "complete")
        told = page.locator(".escalated").inner_text()
        assert "Escalated to the teachers" in told
        assert "ada, ben" in told
        assert "431" in told
        assert page.locator(".vote.won").count() == 0
        assert page.locator("#reply").inner_text() == "It is <b>10</b>. answer 10"


def test_a_question_of_the_run_is_chosen_by_keyboard_and_asked_beside_its_debate(browser: Any, run: Site) -> None:
    with opened(browser, run) as page:
        page.locator(".result").first.wait_for()
        tab_to(page, "#find")
        page.keyboard.type("train- figs")
        page.get_by_text("12 questions found").wait_for()
        tab_to(page, ".result")
        for key in ("ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
            page.keyboard.press(key)
        page.locator(".turn").first.wait_for()
        assert page.evaluate("document.activeElement.textContent") == "The teachers' debate"
        assert page.locator("#question").input_value() == "tom has 1 figs . why ?"
        assert page.locator(".round h3").all_inner_texts() == [
            "Round 0, each alone",
            "Round 1, having read the others",
            "Their vote",
        ]
        assert page.locator(".turn").nth(4).locator(".said").inner_text() == "10 right"
        assert "changed from 18" in page.locator(".turn").nth(4).inner_text()
        assert page.locator(".turn").nth(3).locator(".said").inner_text() == "18 wrong"
        page.keyboard.press("Control+Enter")
        page.locator("#verdict .given").wait_for()
        assert page.locator("#verdict").inner_text() == "Read as 10 right."
        tab_to(page, "#run .head button:not([hidden])")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.dataset.id") == "train-1"


def test_a_prompt_that_was_changed_is_no_longer_the_run_s(browser: Any, run: Site) -> None:
    with opened(browser, run) as page:
        page.locator(".result").first.click()
        page.locator("#origin").get_by_text("Exactly the prompt").wait_for()
        page.locator("#question").press_sequentially("!")
        page.locator("#origin").get_by_text("Changed: no longer the prompt of test-0").wait_for()
        page.keyboard.press("Control+Enter")
        state(page, "complete")
        assert page.locator("#verdict").inner_text() == ""


def choose(page: Any, id_: str) -> None:
    page.get_by_label("Find a question").fill(id_)
    page.locator(f".result[data-id='{id_}']").click()
    page.locator("#run .facts").wait_for()


def test_a_failed_debate_a_missing_one_and_one_nobody_can_judge_say_so(browser: Any, run: Site) -> None:
    with opened(browser, run) as page:
        for id_, words in (
            ("test-4", "The debate failed."),
            ("test-2", "This question was not debated."),
            ("test-1", "no reply is called right or wrong"),
        ):
            choose(page, id_)
            assert words in page.locator(".detail").inner_text()
            page.get_by_role("button", name="All questions").click()


def test_pages_of_questions_are_turned_and_an_empty_search_can_be_cleared(browser: Any, run: Site) -> None:
    with opened(browser, run) as page:
        page.get_by_text("24 questions, held-out ones first").wait_for()
        page.get_by_role("button", name="Next").click()
        page.get_by_text("9 to 16").wait_for()
        page.get_by_label("Find a question").fill("no such words")
        page.get_by_role("button", name="Clear the search").click()
        page.get_by_text("1 to 8").wait_for()
        assert page.locator(".result").count() == 8


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_hostile_text_stays_text(browser: Any, run: Site, width: int) -> None:
    with opened(browser, run, width=width) as page:
        ask(page, "hostile")
        state(page, "complete")
        assert page.locator("#reply").inner_text().strip() == HOSTILE
        choose(page, "test-3")
        assert page.locator(".asked").inner_text() == HOSTILE
        assert page.locator(".turn .text").first.inner_text() == HOSTILE
        assert page.locator("img, b").count() == 0


def test_a_key_is_asked_for_where_the_server_wants_one_and_kept_in_the_tab(browser: Any, tmp_path: Path) -> None:
    with serving(made_run(tmp_path), key="sk-right") as site, opened(browser, site, refused=True) as page:
        note, key = page.locator("#key-note"), page.get_by_role("textbox", name="API key")
        note.get_by_text("asks for an API key").wait_for()
        key.fill("sk-wrong")
        page.keyboard.press("Enter")
        note.get_by_text("did not accept this key").wait_for()
        key.fill("sk-right")
        page.keyboard.press("Enter")
        page.locator(".result").first.wait_for()
        assert key.is_hidden()
        ask(page, "how many?")
        state(page, "complete")
        assert page.evaluate("[Object.values(sessionStorage), Object.values(localStorage)]") == [["sk-right"], []]
        page.reload()
        page.locator(".result").first.wait_for()


def test_a_busy_server_says_when_to_come_again_and_which_request_it_was(browser: Any, plain: Site) -> None:
    with opened(browser, plain, refused=True) as page:
        ask(page, "busy")
        told = page.get_by_role("alert").inner_text()
        assert "The student is busy." in told
        assert "Ask again in 1 s." in told
        assert re.search(r"Request req-\w+", told)
        page.get_by_label("Question", exact=True).fill("how many?")
        page.get_by_role("button", name="Try again").click()
        state(page, "complete")


def test_a_reply_that_breaks_off_says_so_and_keeps_what_was_written(browser: Any, plain: Site) -> None:
    with opened(browser, plain) as page:
        ask(page, "midway")
        assert "The reply broke off." in page.get_by_role("alert").inner_text()
        assert page.locator("#reply").inner_text().strip() == "14 -"


def test_a_server_that_is_gone_is_told_in_words(browser: Any) -> None:
    with serving() as site, opened(browser, site, refused=True) as page:
        ready(page)
        page.route("**/v1/**", lambda route: route.abort())
        ask(page, "how many?")
        assert "cannot be reached" in page.get_by_role("alert").inner_text()


def test_on_a_phone_everything_is_one_column_and_the_question_is_asked_from_its_debate(browser: Any, run: Site) -> None:
    with opened(browser, run, width=NARROW) as page:
        page.locator(".result").first.wait_for()
        above, below = page.locator("#ask-column").bounding_box(), page.locator("#run").bounding_box()
        assert above["y"] + above["height"] <= below["y"]
        choose(page, "test-5")
        page.get_by_role("button", name="Ask the student this").click()
        page.locator("#verdict .given").wait_for()
        page.wait_for_function("document.querySelector('#result').getBoundingClientRect().top < 120")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing_serious(browser: Any, run: Site, width: int, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    serious: list[Any] = []

    def check(page: Any) -> None:
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious.extend((rule["id"], [node["html"] for node in rule["nodes"]][:3]) for rule in found if rule["impact"] != "minor")

    with opened(browser, run, width=width, theme=theme, refused=True) as page:
        page.locator(".result").first.wait_for()
        page.get_by_text("Settings").click()
        page.locator("#key-form").evaluate("form => { form.hidden = false; }")
        check(page)
        choose(page, "train-3")
        several(page, 4)
        page.get_by_label("Ask the teachers where fewer agree than").check()
        page.keyboard.press("Control+Enter")
        page.locator("#verdict .given").wait_for()
        check(page)
        page.get_by_label("One reply").check()
        ask(page, "busy")
        page.get_by_role("alert").wait_for()
        check(page)
    assert serious == []
