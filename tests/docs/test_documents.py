"""README.md and docs/*.md say what is there: commands, keys, files and links exist, and YAML is what it claims to be."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.docs.blocks import NEEDS, ROOT, Block, blocks, commands, documents, marks_of, without_comment
from tests.docs.settings import exists, load_block, named_files, named_keys
from tests.docs.usage import fault, magdi_calls, verbs

DOCUMENTS = documents()
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
LANGUAGES = {"sh", "yaml", "python", "json", "text", "dockerfile", "toml", "ini", "promql"}

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def anchors(document: Path) -> set[str]:
    """The names by which a document's headings are linked to."""
    headings = re.findall(r"^#+ +(.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-") for heading in headings}


def sentences(document: Path) -> str:
    """A document without its blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_block_says_what_it_is_written_in() -> None:
    assert [block.place for block in BLOCKS if block.language not in LANGUAGES] == []
    assert len(of("sh")) > 10


def test_shell_blocks_are_what_bash_reads() -> None:
    for block in of("sh"):
        assert commands(block.text), block.place


def test_every_command_of_a_block_is_one_the_application_takes() -> None:
    called = [
        (block.place, call) for block in of("sh") for one in commands(block.text) for call in magdi_calls(without_comment(one))
    ]
    assert len(called) > 20
    assert [f"{place}: magdi {shlex.join(call)}: {why}" for place, call in called if (why := fault(call))] == []


@each_document
def test_every_command_in_a_sentence_names_verbs_and_options_that_are_there(document: Path) -> None:
    written = re.findall(r"`magdi ([a-z][^`]*)`", sentences(document))
    calls = [shlex.split(re.split(r"[,;|]| > ", one.replace("[", "").replace("]", ""))[0]) for one in written]
    assert [f"magdi {shlex.join(call)}: {why}" for call in calls if (why := fault(call, mentioned=True))] == []


@pytest.mark.parametrize("block", of("yaml"), ids=lambda block: block.place)
def test_yaml_blocks_are_configurations(block: Block) -> None:
    load_block(block)


def test_json_blocks_are_json_and_python_blocks_are_python() -> None:
    for block in of("json"):
        json.loads(block.text)
    for block in of("python"):
        compile(block.text, block.place, "exec")


@each_document
def test_every_key_that_is_named_exists(document: Path) -> None:
    assert [key for key in named_keys(document.read_text(encoding="utf-8")) if not exists(key)] == []


@each_document
def test_every_file_and_link_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [name for name in named_files(text) if not (ROOT / name).exists()] == []
    for target in re.findall(r"\]\(([^)\s]+)\)", sentences(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{document.name} links to {target}"


def test_every_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for path in DOCUMENTS for name in re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", path.read_text(), re.MULTILINE)}
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()


def test_every_page_is_reached_from_the_readme() -> None:
    reached, open_ = {ROOT / "README.md"}, [ROOT / "README.md"]
    while open_:
        page = open_.pop()
        links = {(page.parent / name).resolve() for name in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))}
        fresh = {link for link in links if link.is_file() and link not in reached}
        reached |= fresh
        open_ += sorted(fresh)
    assert set(DOCUMENTS) - reached == set()


def test_the_source_tree_of_the_readme_names_every_module_of_the_top_and_every_package() -> None:
    tree = next(block.text for block in BLOCKS if block.marks.get("as") == "source-tree")
    package = ROOT / "magdi_ray"
    names = {path.name for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert {name for name in names if not re.search(rf"\b{name}/", tree)} == set()
    assert {
        name
        for name in re.findall(r"\b[a-z_]+\.py\b", tree)
        if not any(list(place.rglob(name)) for place in (package, ROOT / "tests"))
    } == set()


@pytest.mark.parametrize("path", [path for path, _ in verbs()], ids=" ".join)
def test_every_verb_shows_an_example_that_the_application_takes(path: tuple[str, ...]) -> None:
    command = dict(verbs())[path]
    examples = re.findall(r"Example: (magdi [^\n]+)", command.help or "")
    assert examples, f"magdi {' '.join(path)} has no example"
    for example in examples:
        (call,) = magdi_calls(example)
        assert call[: len(path)] == list(path)
        assert fault(call) == ""


@pytest.mark.parametrize("line", ["<!-- docs-test: needs=luck -->", "<!-- docs-test: later -->", "<!-- docs-test:needs=gpu -->"])
def test_a_mark_that_gives_no_known_reason_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"x\.md:1"):
        marks_of(line, "x.md:1")
    assert marks_of('<!-- docs-test: needs=gpu lines="a b, c" -->', "x.md:1") == {"needs": "gpu", "lines": "a b, c"}
    assert "gpu" in NEEDS


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (["rum", "x.yaml"], "no verb 'rum'"),
        (["run"], "Missing"),
        (["run", "x.yaml", "--ot", "y"], "--ot"),
        (["run", "x.yaml", "--resume", "sometimes"], "sometimes"),
        (["graph", "show", "x"], "Missing"),
    ],
)
def test_a_command_line_that_means_nothing_is_noticed(call: list[str], why: str) -> None:
    assert why in fault(call)
