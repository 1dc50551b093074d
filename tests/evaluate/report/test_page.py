"""The page as a file: whole, alone, streamed, and deaf to what replies look like."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import weakref
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from magdi_ray.evaluate.report.page import CHUNK, SCRIPTS, STYLES, write_page
from tests.evaluate.report import sample


class Parsed(HTMLParser):
    """Every tag with its attributes, and the text of every script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = (dict(attrs).get("id") or tag) if tag in {"script", "style"} else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def block(self, name: str) -> Any:
        return json.loads(gzip.decompress(base64.b64decode(self.texts[name])))


def written(path: Path, *, count: int, **options: Any) -> Parsed:
    write_page(path / "report.html", sample.data(questions=count, **options), sample.questions(count))
    return Parsed((path / "report.html").read_text(encoding="utf-8"))


def test_every_question_is_found_in_its_block_in_the_index_s_order(tmp_path: Path) -> None:
    count = 2 * CHUNK + 7
    page, questions = written(tmp_path, count=count), list(sample.questions(count))
    details = [detail for number in range(3) for detail in page.block(f"chunk-{number}")]
    assert details == [detail for _, detail in questions]
    assert page.block("index") == {
        name: [entry[name] for entry, _ in questions] for name in ("id", "text", "set", "kinds", "gold")
    }


def test_what_the_viewer_holds_is_counted_from_what_was_written(tmp_path: Path) -> None:
    data = sample.data(questions=9999)
    write_page(tmp_path / "report.html", data, sample.questions(CHUNK + 1))
    viewer = json.loads(Parsed((tmp_path / "report.html").read_text()).texts["data"])["viewer"]
    right = sum(entry["kinds"] & 1 for entry, _ in sample.questions(CHUNK + 1))
    assert (viewer["count"], viewer["chunks"], viewer["chunk"], viewer["kinds"][0]["count"]) == (CHUNK + 1, 2, CHUNK, right)


def test_a_report_without_questions_has_no_viewer_and_reads_none(tmp_path: Path) -> None:
    def questions() -> Iterator[Any]:
        raise AssertionError("asked for a question")
        yield

    write_page(tmp_path / "report.html", sample.small(), questions())
    assert json.loads(Parsed((tmp_path / "report.html").read_text()).texts["data"])["viewer"] is None


def test_text_that_looks_like_a_tag_adds_no_tag(tmp_path: Path) -> None:
    data = sample.data(questions=5) | {"title": sample.HOSTILE}
    data["runs"][0] |= {"label": sample.HOSTILE, "facts": [[sample.HOSTILE, "<!--<script>"]]}
    write_page(tmp_path / "report.html", data, sample.questions(5))
    page = Parsed((tmp_path / "report.html").read_text())
    assert json.loads(page.texts["data"])["title"] == sample.HOSTILE
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "script"] == ["chunk-0", "index", "data", None]
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_the_page_names_nothing_outside_itself(tmp_path: Path) -> None:
    page = written(tmp_path, count=3)
    named = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert sorted(map(str, named)) == ["#main", "data:,"]
    assert not re.search(r"@import|url\(", page.texts["style"])


def test_the_policy_allows_exactly_the_page_s_own_style_and_script(tmp_path: Path) -> None:
    page = written(tmp_path, count=3)
    [policy] = [attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.texts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'")
    assert "unsafe" not in str(policy)


def test_questions_are_held_a_block_at_a_time(tmp_path: Path) -> None:
    class Held(dict[str, Any]):
        __hash__ = object.__hash__  # type: ignore[assignment]

    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    most = 0

    def questions() -> Iterator[tuple[dict[str, Any], Held]]:
        nonlocal most
        for entry, detail in sample.questions(5 * CHUNK):
            held = Held(detail)
            alive.add(held)
            most = max(most, len(alive))
            yield entry, held
            del held

    write_page(tmp_path / "report.html", sample.data(questions=1), questions())
    assert CHUNK <= most <= CHUNK + 1


def test_a_report_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    def questions() -> Iterator[Any]:
        yield from sample.questions(CHUNK + 1)
        raise OSError("the disk went away")

    (tmp_path / "report.html").write_text("old")
    with pytest.raises(OSError, match="went away"):
        write_page(tmp_path / "report.html", sample.data(), questions())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "old")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_json_has_no_word_for_is_unknown(tmp_path: Path, value: float) -> None:
    data = sample.data(questions=0)
    data["runs"][0]["curves"][0]["parts"]["loss"][1] = (4, value)
    write_page(tmp_path / "report.html", data)
    shown = json.loads(Parsed((tmp_path / "report.html").read_text()).texts["data"])
    assert shown["runs"][0]["curves"][0]["parts"]["loss"][1] == [4, None]


def test_half_a_surrogate_pair_in_a_reply_is_no_error(tmp_path: Path) -> None:
    [(entry, detail)] = sample.questions(1)
    write_page(tmp_path / "report.html", sample.data(questions=1), [(entry | {"text": "\ud83d"}, detail | {"text": "\ud83d"})])
    page = Parsed((tmp_path / "report.html").read_text())
    assert (page.block("index")["text"], page.block("chunk-0")[0]["text"]) == (["\ud83d"], "\ud83d")


def test_the_same_report_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, count=120)
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()


def test_every_asset_is_used_and_none_is_over_400_lines() -> None:
    assets = {path.name: path.read_text(encoding="utf-8") for path in (files("magdi_ray.evaluate.report") / "assets").iterdir()}
    assert set(assets) == {*STYLES, *SCRIPTS, "template.html"}
    assert [name for name, text in assets.items() if len(text.splitlines()) > 400] == []


def test_no_script_parses_text_as_html() -> None:
    """Checked in a browser too; here for the branches no sample reaches."""
    words = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|createContextualFragment"
    folder = files("magdi_ray.evaluate.report") / "assets"
    assert [name for name in SCRIPTS if re.search(words, (folder / name).read_text(encoding="utf-8"))] == []
