"""What follows the documents: a shell that remembers, marks that spare, and claims that notice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks, commands
from tests.docs.claims import Seen, table_holds, tree_holds
from tests.docs.shell import Shell, environment

TABLE = """
| base student (level 0) | 15.0 | 12.4 to 18.1 | 13.5 |
| level 1 student: the best | 55.0 | 51.0 to 58.9 | 16.7 |
| **level 2 student: all (served)** | **66.2** | 62.3 to 69.8 | **16.2** |
| level 4 student: + contrast | 42.2 | 38.3 to 46.2 | 16.1 |
| the debate's vote | 82.7 | 79.4 to 85.5 | 87.5 |
"""
MEASURED = {"base": (0.16, 13.4), "level1": (0.54, 16.7), "level2": (0.65, 16.3), "level4": (0.43, 16.1), "vote": (0.82, 87.0)}


def seen(root: Path, **changed: tuple[float, float]) -> Seen:
    """A finished demo run with made-up figures."""
    scores = [
        {"system": name, "method": "single", "accuracy": accuracy, "tokens_out": tokens}
        for name, (accuracy, tokens) in (MEASURED | changed).items()
    ]
    folder = root / "runs" / "demo-1" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"scores": scores}))
    return Seen(TABLE, root, [])


def document(tmp_path: Path, text: str) -> list[Block]:
    (tmp_path / "x.md").write_text(text)
    return blocks(tmp_path / "x.md", tmp_path)


def test_a_shell_remembers_what_was_set_and_knows_nothing_of_its_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    shell = Shell(tmp_path, environment(tmp_path / "home"), tmp_path / "printed")
    try:
        assert shell.run("export GREETING=hello; mkdir deep; cd deep", 20).code == 0
        done = shell.run('echo "$GREETING ${OPENAI_API_KEY:-nothing} $(pwd) $HOME"', 20)
        assert done.output.split() == ["hello", "nothing", str(tmp_path / "deep"), str(tmp_path / "home")]
        assert shell.run("false", 20).code == 1
    finally:
        shell.close()


def test_a_command_past_its_time_is_ended(tmp_path: Path) -> None:
    shell = Shell(tmp_path, environment(tmp_path / "home"), tmp_path / "printed")
    done = shell.run("sleep 60", 0.5)
    assert done.code == 124
    assert done.seconds < 30


def test_figures_within_their_stated_intervals_hold(tmp_path: Path) -> None:
    assert list(table_holds(seen(tmp_path))) == []


@pytest.mark.parametrize(("system", "figures"), [("level2", (0.50, 16.3)), ("vote", (0.82, 120.0))])
def test_figures_outside_of_them_do_not(tmp_path: Path, system: str, figures: tuple[float, float]) -> None:
    (fault,) = table_holds(seen(tmp_path, **{system: figures}))
    assert fault.startswith(system)


def test_a_table_that_lost_a_row_is_noticed(tmp_path: Path) -> None:
    without = Seen(TABLE.replace("level 4", "level four"), seen(tmp_path).root, [])
    assert "has rows" in next(table_holds(without))


def test_a_run_directory_that_holds_more_than_the_tree_says_is_noticed(tmp_path: Path) -> None:
    (block,) = document(tmp_path, "```text\nRUN/\n  student/   the student\n```\n")
    (tmp_path / "run" / "student").mkdir(parents=True)
    assert list(tree_holds(block, tmp_path / "run")) == []
    (tmp_path / "run" / "core.4711").touch()
    assert "core.4711" in next(tree_holds(block, tmp_path / "run"))


def test_a_mark_spares_the_whole_block_or_the_commands_it_names(tmp_path: Path) -> None:
    whole, part, none = document(
        tmp_path,
        "<!-- docs-test: needs=gpu -->\n```sh\na\n```\n"
        '<!-- docs-test: needs=elsewhere lines="make test, make e2e" -->\n```sh\nmake demo\nmake test\n```\n```sh\nb\n```\n',
    )
    assert whole.unrun("a")
    assert [part.unrun(one) for one in commands(part.text)] == [False, True]
    assert not none.unrun("b")


def test_commands_over_several_lines_are_one(tmp_path: Path) -> None:
    assert commands("# first\na \\\n  b\nfor x in 1 2; do\n  echo $x\ndone\n") == [
        "a \\\n  b",
        "for x in 1 2; do\n  echo $x\ndone",
    ]


@pytest.mark.parametrize("text", ["```sh\nnever ends\n", "<!-- docs-test: needs=gpu -->\nwords between\n```sh\na\n```\n"])
def test_a_document_that_cannot_be_followed_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.md:\d"):
        document(tmp_path, text)
