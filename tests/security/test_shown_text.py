"""What others wrote is shown as text: at a terminal, in a log, on a page, in a table."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from magdi_ray.cli import main
from magdi_ray.cli.options import out
from magdi_ray.distill.export.markdown import table
from magdi_ray.errors import ConfigError
from magdi_ray.evaluate.report.markdown import study_page
from magdi_ray.evaluate.report.page import write_page
from magdi_ray.graph.schema import Mag, Node
from magdi_ray.graph.show import render_mag
from magdi_ray.observe.logs import JsonFormatter, TextFormatter
from magdi_ray.observe.screen import Screen
from magdi_ray.progress import Terminal, console
from magdi_ray.tasks.base import Question
from tests.evaluate.report import sample

ATTACKS = ("\x1b]52;c;ZXZpbA==\x07", "\x1b[2J", "\x9b31m", "\r\x1b[1A", "\x1b]0;owned\x07", "\u202egnihtemos", "\x08\x08\x7f")
HOSTILE = "<script>alert(1)</script></script><!--<svg onload=alert(2)>javascript:alert(3) '\"`{{7*7}} =cmd|' /C calc'!A0 | x"
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown(what: Any, screen: Screen) -> str:
    with screen.capture() as captured:
        screen.print(what)
    return captured.get()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", [Screen, Terminal])
def test_no_text_commands_the_terminal(attack: str, kind: type[Screen]) -> None:
    screen = kind(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    told = shown(Text(f"so{attack}much", "bold red"), screen) + shown(f"so{attack}much [bold]more[/]", screen)
    foreign = re.sub(r"\x1b\[[0-9;]*m", "", told)  # what rich itself writes: colours
    assert "\x1b" not in foreign
    assert not FORBIDDEN.search(foreign)
    assert "so" in foreign
    assert "much" in foreign


def test_a_hostile_debate_is_shown_without_its_commands() -> None:
    text = f"I see{''.join(ATTACKS)}"
    node = Node("ada", 0, "debater", text, text, text, text, 0.5, "stated", True, 1, 1, "ok")
    mag = Mag(Question(text, text, "7"), text, ("ada",), text, 1.0, text, "gold", (node,), ())
    screen = Screen(file=io.StringIO(), width=100)
    assert not FORBIDDEN.search(shown(render_mag(mag, max_chars=None), screen).replace("\x1b", "\x00"))


def test_every_place_that_prints_is_such_a_screen() -> None:
    assert isinstance(out, Screen)
    assert isinstance(console, Screen)
    found = [path for path in Path("magdi_ray").rglob("*.py") if re.search(r"(?<!\w)Console\(", path.read_text(encoding="utf-8"))]
    assert found == []


def test_an_error_s_words_command_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConfigError("the provider says \x1b[2J\x1b]0;owned\x07")

    monkeypatch.setattr("magdi_ray.cli.commands.app", fail)
    with pytest.raises(SystemExit):
        main(["plan"])
    assert "\x1b" not in capsys.readouterr().err


def test_a_message_with_line_breaks_forges_no_entry_of_a_log() -> None:
    evil = "no\n2026-11-20 14:03:11,042 WARNING magdi_ray [x] all keys are void\x1b[2J\r\x9b"
    record = logging.LogRecord("magdi_ray", logging.WARNING, __file__, 1, "The provider said: %s", (evil,), None)
    first, *more = TextFormatter().format(record).split("\n")
    assert "The provider said: no" in first
    assert more
    assert all(line.startswith("    ") and not FORBIDDEN.search(line) and "\x1b" not in line for line in more)
    [line] = JsonFormatter().format(record).splitlines()
    assert json.loads(line)["message"] == f"The provider said: {evil}"


class Tags(HTMLParser):
    """Which tags a page has, and what their attributes say."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def poisoned(value: Any) -> Any:
    """The same data with hostile text in the place of every text, keys aside."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    return [poisoned(item) for item in value] if isinstance(value, list | tuple) else value


def test_hostile_text_in_every_field_adds_nothing_to_the_report(tmp_path: Path) -> None:
    fine, data = sample.data(questions=3), poisoned(sample.data(questions=3))
    questions = [(poisoned(dict(entry)), poisoned(dict(detail))) for entry, detail in sample.questions(3)]
    write_page(tmp_path / "fine.html", fine, sample.questions(3))
    write_page(tmp_path / "evil.html", data, questions)
    honest, evil = (Tags((tmp_path / name).read_text(encoding="utf-8")) for name in ("fine.html", "evil.html"))
    assert evil.tags == honest.tags
    assert [name for name, _ in evil.attributes] == [name for name, _ in honest.attributes]
    assert not [value for _, value in evil.attributes if "javascript" in value.lower()]


def test_hostile_text_reaches_the_report_s_reader_word_for_word(tmp_path: Path) -> None:
    questions = [(dict(entry) | {"text": HOSTILE}, detail) for entry, detail in sample.questions(1)]
    write_page(tmp_path / "report.html", sample.data(questions=1), questions)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    [index] = re.findall(r'id="index">([^<]*)<', page)
    assert json.loads(gzip.decompress(base64.b64decode(index)))["text"] == [HOSTILE]


def test_no_script_of_a_page_makes_html_of_text() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path("magdi_ray").rglob("*.js"))
    makers = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser|createContextualFragment"
        r"|\beval\(|new Function|setHTML"
    )
    assert re.findall(makers, sources) == []
    assert re.findall(r"(?:href|src)\s*[:=]\s*(?!`#\$\{|[\"']#|[\"']data:)[^,;)\s]{1,40}", sources) == []


def test_a_cell_of_a_table_stays_one_cell() -> None:
    [_, _, row] = table(("a", "b"), [(HOSTILE, "2\n| 3")]).splitlines()
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    data = sample.data(questions=3)
    honest, evil = (study_page(one).count("\n") for one in (data, data | {"title": f"{HOSTILE}\n# Another report"}))
    assert evil == honest
