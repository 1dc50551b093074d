"""The page in a real browser: what a reader sees, with the mouse, with the keyboard alone and through a screen reader's eyes.

Needs Chromium: $MAGDI_CHROMIUM, or one on the path. Without one these tests are skipped, or fail where
$MAGDI_REQUIRE_BROWSER is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.evaluate.report.page import CHUNK, write_page
from tests.evaluate.report import sample

WIDE, NARROW = 1280, 390


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A usual report, two runs side by side, a student far below the debate, one with hardly any data, and a large one."""
    folder = tmp_path_factory.mktemp("reports")
    paths = {name: folder / f"{name}.html" for name in ("one", "two", "far", "small", "large")}
    write_page(paths["one"], sample.data(questions=250), sample.questions(250))
    write_page(paths["two"], sample.data(questions=12, runs=2, agents=6), sample.questions(12, agents=6))
    write_page(paths["far"], sample.data(questions=0, far=True))
    write_page(paths["small"], sample.small())
    few, many = list(sample.questions(CHUNK)), sample.data(questions=10_000)
    named = ((f"q-{i:05d}", *few[i % CHUNK]) for i in range(10_000))
    write_page(paths["large"], many, ((entry | {"id": name}, detail | {"id": name}) for name, entry, detail in named))
    return paths


@contextmanager
def opened(browser: Any, path: Path, *, width: int = WIDE, theme: str = "light", at: str = "") -> Iterator[Any]:
    """The page, which in the end must have asked for nothing, complained of nothing and not be wider than the window."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce")
    page, faults = context.new_page(), []
    page.on("console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on(
        "request", lambda request: faults.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None
    )
    page.goto(path.as_uri() + at)
    page.locator("main h1").wait_for()
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faults == []
    context.close()


def find(page: Any, words: str) -> None:
    page.locator("#viewer").scroll_into_view_if_needed()
    page.get_by_label("Find a question").fill(words)


def inflated(page: Any) -> list[str]:
    return page.evaluate("performance.getEntriesByType('mark').map((mark) => mark.name.replace('inflate:', ''))")


def inside(page: Any, selector: str) -> list[dict[str, float]]:
    return page.eval_on_selector_all(selector, "nodes => nodes.map(node => node.getBoundingClientRect().toJSON())")


@pytest.mark.parametrize("width", [WIDE, NARROW, 360])
@pytest.mark.parametrize("name", ["one", "two", "small"])
def test_the_page_opens_without_a_complaint_or_a_request_and_fits(
    browser: Any, reports: dict[str, Path], name: str, width: int
) -> None:
    with opened(browser, reports[name], width=width) as page:
        page.locator("#results svg .point").first.wait_for()
        page.evaluate("document.querySelectorAll('details').forEach((drawer) => { drawer.open = true; })")
        assert page.locator("details:not([open])").count() == 0


def test_the_headline_states_the_result_with_its_interval_and_tokens(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"]) as page:
        told = page.locator(".headline").inner_text()
        student = r"level2 answers [\d.]+% right \([\d.]+ to [\d.]+\) with 16 tokens a question"
        assert re.match(student + r"; the debate's vote [\d.]+% \(.+\) with 87: 5\.4 times fewer tokens", told)
        assert page.locator(".headline strong").last.inner_text() == "5.4 times fewer tokens"


def test_a_student_far_below_the_debate_is_told_by_the_loss_and_nothing_stands_out(
    browser: Any, reports: dict[str, Path]
) -> None:
    with opened(browser, reports["far"]) as page:
        told = page.locator(".headline")
        assert told.inner_text().startswith("level2 is right 16.7 points less often than the debate's vote: ")
        assert told.locator("strong").count() == 0


def test_a_claim_s_mark_has_its_verdict_s_colour_and_its_bound_is_drawn(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["far"]) as page:
        rows = page.locator("#claims tbody tr")
        marks = rows.locator("svg.forest").evaluate_all("nodes => nodes.map(node => node.getAttribute('class'))")
        assert marks == ["forest above", "forest open", "forest below", "forest below"]
        assert [rows.nth(i).locator(".bound").count() for i in range(4)] == [0, 0, 1, 0]


def test_a_total_that_is_the_only_term_is_drawn_once(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["far"]) as page:
        told = page.locator("#training tbody th").evaluate_all("nodes => nodes.map(node => node.textContent)")
        assert [name for name in told if name.startswith("total loss")] == [f"total loss: level4, seed {i}" for i in (0, 1)]
        assert "next token: level1, seed 0" in told


def test_calibration_shows_evaluated_questions_first_and_says_which(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["far"]) as page:
        part = page.locator("#calibration")
        assert "Questions of tiny/test, evaluated, in domain." in part.locator(".note").first.inner_text()
        assert part.locator(".panel:visible h3").all_inner_texts() == ["ada", "ben", "level2"]
        part.get_by_text("On other questions: tiny/train").click()
        assert part.locator(".panel:visible h3").all_inner_texts() == ["ada", "ben", "level2", "ada"]
        assert "training questions included: 600 of test, 1,400 of train" in page.locator("#influence .note").inner_text()


def test_an_empty_report_says_what_is_missing(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["small"]) as page:
        assert page.locator("main section").evaluate_all("nodes => nodes.map(node => node.id)") == ["results", "scores", "about"]
        assert "training curves (nothing was trained here)" in page.locator("#about").inner_text()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["one", "two"])
def test_no_label_of_the_plot_covers_another(browser: Any, reports: dict[str, Path], name: str, width: int) -> None:
    with opened(browser, reports[name], width=width) as page:
        page.locator("#results svg .point").first.wait_for()
        boxes = inside(page, "#results .chart:first-of-type svg text.label")[:10]
    assert len(boxes) == 10
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            across = min(a["right"], b["right"]) - max(a["left"], b["left"])
            assert across <= 1 or min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]) <= 3, (a, b)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_question_is_found_by_words_and_a_reply_read(browser: Any, reports: dict[str, Path], width: int) -> None:
    with opened(browser, reports["one"], width=width) as page:
        find(page, "q-00011")
        page.get_by_text("1 of 250 questions", exact=True).wait_for()
        page.locator(".results button").get_by_text("moon landing").click()
        page.locator("[data-node='4']").click()
        reply = page.get_by_label("Reply of ben, round 1")
        reply.wait_for()
        assert "The answer is" in reply.inner_text() or "no answer" in reply.inner_text()
        assert page.locator("[data-system=base]").count() == page.locator("[data-system=level2]").count() == 1
        assert page.evaluate("location.hash") == "#q=q-00011&n=4"


def test_the_same_by_keyboard_alone(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"]) as page:
        page.locator("#viewer").scroll_into_view_if_needed()
        page.get_by_label("Find a question").focus()
        page.keyboard.type("moon landing")
        page.get_by_text("42 of 250 questions").or_(page.get_by_text("41 of 250 questions")).wait_for()
        for _ in range(40):
            if page.evaluate("document.activeElement.classList.contains('result')"):
                break
            page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.locator(".pane h3:focus").wait_for()
        for _ in range(12):
            if page.evaluate("document.activeElement.classList.contains('node')"):
                break
            page.keyboard.press("Tab")
        for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowDown"):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.get_by_label("Reply of ben, round 0").wait_for()
        assert page.locator(".node[aria-pressed=true]").get_attribute("data-node") == "1"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"


def test_a_kind_shows_its_count_and_leaves_only_its_questions(browser: Any, reports: dict[str, Path]) -> None:
    expected = sum(entry["kinds"] >> 2 & 1 for entry, _ in sample.questions(250))
    with opened(browser, reports["one"]) as page:
        find(page, "")
        chip = page.locator("[data-kind=fixed]")
        assert chip.inner_text().split() == ["student", "fixed", "it", str(expected)]
        chip.click()
        assert page.get_by_text(f"{expected} of 250 questions").is_visible()
        assert page.locator("[data-kind=wrong]").is_disabled()  # a student that fixed it is right


def test_where_nothing_is_found_the_filters_can_be_cleared(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"]) as page:
        find(page, "no such words")
        page.get_by_text("Nothing found.").wait_for()
        assert page.locator(".pager").is_hidden()
        page.get_by_role("button", name="Clear the filters").click()
        assert (page.locator(".result").count(), page.get_by_label("Find a question").input_value()) == (10, "")


def test_a_question_opens_with_the_last_reply_that_gave_the_debate_s_answer(browser: Any, reports: dict[str, Path]) -> None:
    debate = next(detail["debate"] for _, detail in sample.questions(12) if detail["id"] == "q-00011")
    last = max(i for i, node in enumerate(debate["nodes"]) if node["answer"] == debate["answer"])
    with opened(browser, reports["one"], at="#q=q-00011") as page:
        page.locator("#reply").wait_for()
        assert page.locator(".node[aria-pressed=true]").get_attribute("data-node") == str(last)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(("at", "part"), [("#viewer", "#viewer h2"), ("#q=q-00002", ".pane"), ("#q=q-00002&n=0", ".pane")])
def test_a_link_leads_to_its_part_under_the_bar(browser: Any, reports: dict[str, Path], at: str, part: str, width: int) -> None:
    with opened(browser, reports["one"], width=width, at=at) as page:
        page.locator(".result").first.wait_for()
        page.wait_for_timeout(300)
        [bar], [there] = inside(page, ".top"), inside(page, part)
        assert bar["bottom"] <= there["top"] <= bar["bottom"] + 120


def test_the_link_of_the_bar_leads_to_the_debates_though_they_are_unpacked_only_then(
    browser: Any, reports: dict[str, Path]
) -> None:
    with opened(browser, reports["one"]) as page:
        page.locator("#nav a[href='#viewer']").click()
        page.locator(".result").first.wait_for()
        [bar], [there] = inside(page, ".top"), inside(page, "#viewer h2")
        assert bar["bottom"] <= there["top"] <= bar["bottom"] + 120


def test_hostile_text_stays_text(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"], at="#q=q-00003&n=0") as page:
        page.locator("#reply").wait_for()
        assert page.locator("#reply .reply").inner_text() == page.locator(".question").inner_text() == sample.HOSTILE
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 6  # three blocks of questions, their index, the figures, the page's own


def test_a_link_opens_its_reply_and_the_way_back_works(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"], at="#q=q-00006&n=3") as page:
        page.locator("#reply").wait_for()
        assert page.locator("#reply h4").inner_text() == "ada, round 2"
        page.locator("[data-node='1']").click()
        page.locator("#reply h4").get_by_text("ben, round 1, critic").wait_for()
        page.go_back()
        page.locator("#reply h4").get_by_text("ada, round 2").wait_for()
        page.evaluate("location.hash = '#q=nobody'")
        page.get_by_role("alert").get_by_text("no question").wait_for()


def test_edges_that_meet_the_chosen_reply_stand_out(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"], at="#q=q-00006&n=3") as page:
        page.locator(".arrow.on").first.wait_for(state="attached")
        kinds = page.locator(".arrow").evaluate_all("nodes => nodes.map(node => node.getAttribute('class')).sort()")
        assert kinds == ["arrow critique on", "arrow critique on", "arrow peer dim", "arrow peer dim", "arrow self on"]


def test_of_ten_thousand_questions_only_what_is_looked_at_is_unpacked(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["large"]) as page:
        assert inflated(page) == []
        find(page, "q-07")
        page.get_by_text("1,000 of 10,000 questions").wait_for()
        assert (inflated(page), page.locator(".result").count()) == (["index"], 10)
        page.locator(".result").first.click()
        page.locator(".pane h3").get_by_text("q-07000").wait_for()
        page.get_by_role("button", name="Next").last.click()
        page.locator(".pane h3").get_by_text("q-07001").wait_for()
        assert inflated(page) == ["index", f"chunk-{7000 // CHUNK}"]


def test_marks_of_a_plot_are_one_stop_of_the_tab_key_and_tell_their_figures(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"]) as page:
        page.locator("#results .point[tabindex='0']").focus()
        page.keyboard.press("ArrowRight")
        told = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert told.startswith("base model, majority of 8, ")
        page.locator("#tip").wait_for()
        assert page.locator("#tip").inner_text().replace("\n", ", ") == told
        assert page.locator("#results .point[tabindex='0']").count() == 1


GAP = "document.getElementById('tip').getBoundingClientRect().top - document.activeElement.getBoundingClientRect().bottom"


def test_the_figures_of_a_focused_mark_stay_beside_it_while_the_page_scrolls(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["one"]) as page:
        page.locator("#results .point[tabindex='0']").focus()
        page.keyboard.press("ArrowRight")
        page.locator("#tip").wait_for()
        for _ in range(2):
            page.evaluate("window.scrollBy({top: 30, behavior: 'instant'})")
            gaps = (page.wait_for_timeout(50) or page.evaluate(GAP) for _ in range(40))
            assert any(abs(gap - 8) < 2 and page.locator("#tip").is_visible() for gap in gaps)


def test_several_runs_stand_side_by_side(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["two"]) as page:
        a, b = inside(page, "#results .run")
        assert (a["top"], b["left"] > a["right"]) == (b["top"], True)
        assert page.locator("#scores thead").first.inner_text().split() == ["system", "tiny-a", "tiny-b"]
        assert "tiny-b level2 against tiny-a level2" in page.locator("#differences").inner_text()


def test_tables_of_several_runs_stand_under_each_other_and_fit(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["two"]) as page:
        for name in ("differences", "claims", "cost"):
            a, b = inside(page, f"#{name} .run")
            assert b["top"] > a["bottom"]
            widths = page.eval_on_selector_all(f"#{name} .scroll", "nodes => nodes.map(n => n.scrollWidth - n.clientWidth)")
            assert max(widths) <= 1


def test_on_a_phone_further_runs_are_folded_and_wide_tables_say_that_there_is_more(
    browser: Any, reports: dict[str, Path]
) -> None:
    with opened(browser, reports["two"], width=NARROW) as page:
        assert page.locator("#claims details.run summary").all_inner_texts() == ["tiny-b"]
        assert page.locator("#results .run").nth(0).locator("svg .point").first.is_visible()
        table = page.locator("#differences .scroll.beyond").first
        table.evaluate("node => node.scrollTo({ left: node.scrollWidth })")
        page.locator("#differences .scroll.before:not(.beyond)").first.wait_for()


def test_without_a_way_to_unpack_the_page_says_so(browser: Any, reports: dict[str, Path]) -> None:
    page = browser.new_page()
    page.add_init_script("delete globalThis.DecompressionStream")
    page.goto(reports["one"].as_uri())
    assert "DecompressionStream" in page.locator("#viewer [role=alert]").inner_text()
    page.close()


def test_the_theme_is_the_reader_s_choice(browser: Any, reports: dict[str, Path]) -> None:
    with opened(browser, reports["small"], theme="dark") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        dark, button = page.evaluate(ground), page.locator("#theme")
        button.click()
        assert (button.inner_text(), page.evaluate(ground)) != ("Theme: light", dark)
        button.click()
        assert (button.inner_text(), page.evaluate(ground)) == ("Theme: dark", dark)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_axe_finds_nothing_serious(browser: Any, reports: dict[str, Path], width: int, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, reports["one"], width=width, theme=theme, at="#q=q-00002&n=0") as page:
        page.locator("#reply").wait_for()
        page.evaluate("document.querySelectorAll('details').forEach((drawer) => { drawer.open = true; })")
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [
            (rule["id"], [node["html"] for node in rule["nodes"]][:3])
            for rule in found
            if rule["impact"] in {"serious", "critical"}
        ]
    assert serious == []
