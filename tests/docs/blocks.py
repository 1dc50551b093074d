"""The fenced blocks of a markdown document, in order, with their sections and their marks.

A mark is a comment right before a block, and says why something in it is not run here, or as what it is read:

    <!-- docs-test: needs=cluster -->                                      nothing of the block is run
    <!-- docs-test: needs=elsewhere lines="make test, make e2e" -->        commands that begin so are not run
    <!-- docs-test: as=cluster-prices -->                                  a YAML block that is no part of a run's configuration
    <!-- docs-test: with=server -->                                        needs a served student, which is started for it
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

NEEDS = {
    "cloud": "an account of a cloud provider",
    "cluster": "a Ray cluster",
    "data": "recorded data (MAGDI_DATA)",
    "docker": "a Docker daemon",
    "elsewhere": "nothing, but it is run as a target of its own",
    "key": "a provider's key",
    "kubernetes": "a Kubernetes cluster",
    "bucket": "a bucket",
    "gpu": "GPUs",
    "model": "a model that is not shipped",
    "names": "names that the reader fills in",
}
"""The only reasons for which a block may stay unrun."""

MARK = re.compile(r"^<!-- docs-test: (?P<words>.*) -->$")
WORD = re.compile(r'(?P<key>[a-z]+)=(?:"(?P<quoted>[^"]*)"|(?P<plain>\S+))')
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w+-]*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    """Path from the repository's root."""
    line: int
    """Of its first fence, from 1."""
    section: str
    """The heading above it, of any level."""
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def needs(self) -> str:
        """Why it is not run, "" where it is; one of `NEEDS`."""
        return self.marks.get("needs", "")

    def unrun(self, command: str) -> bool:
        """Whether a command of the block stays unrun."""
        beginnings = [one.strip() for one in self.marks.get("lines", "").split(",") if one.strip()]
        return bool(self.needs) and (not beginnings or command.startswith(tuple(beginnings)))


def documents(root: Path = ROOT) -> list[Path]:
    """README.md and docs/*.md."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def blocks(document: Path, root: Path = ROOT) -> list[Block]:
    """The blocks of a document.

    Raises:
        ValueError: a block does not end, or a mark is none.
    """
    return list(_blocks(document.read_text(encoding="utf-8").splitlines(), str(document.relative_to(root))))


def _blocks(lines: list[str], document: str) -> Iterator[Block]:
    section, marks, begin, number = "", dict[str, str](), None, 0
    body: list[str] = []
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if begin is not None:
            if fence and fence["ticks"] == begin[1]["ticks"] and not fence["language"]:
                text = "\n".join(one.removeprefix(begin[1]["indent"]) for one in body) + "\n"
                yield Block(document, begin[0], section, begin[1]["language"], text, marks)
                begin, marks = None, {}
            else:
                body.append(line)
        elif fence:
            begin, body = (number, fence), []
        elif line.startswith("<!-- docs-test:"):
            marks = marks_of(line, f"{document}:{number}")
        elif line.startswith("#"):
            section = line.lstrip("# ").strip()
        elif line.strip() and marks:
            raise ValueError(f"{document}:{number}: a mark must stand right before a block")
    if begin is not None:
        raise ValueError(f"{document}:{begin[0]}: the block does not end")


def marks_of(line: str, place: str) -> dict[str, str]:
    """What a mark says.

    Raises:
        ValueError: it is not written as a mark, or its reason is not among `NEEDS`.
    """
    found = MARK.match(line.strip())
    marks = {one["key"]: one["quoted"] or one["plain"] for one in WORD.finditer(found["words"])} if found else {}
    if not marks or set(marks) - {"needs", "lines", "as", "with"}:
        raise ValueError(f"{place}: a mark is `<!-- docs-test: needs=REASON -->`, also lines=, as= or with=; found {line!r}")
    if "needs" in marks and marks["needs"] not in NEEDS:
        raise ValueError(f"{place}: needs must be one of {', '.join(NEEDS)}; found {marks['needs']!r}")
    return marks


def commands(text: str) -> list[str]:
    """The commands of a shell block: lines, joined where bash says that one does not end; comments of their own are left out."""
    found: list[str] = []
    open_: list[str] = []
    for line in text.splitlines():
        if not open_ and (not line.strip() or line.lstrip().startswith("#")):
            continue
        open_.append(line)
        if not line.endswith("\\") and complete("\n".join(open_)):
            found.append("\n".join(open_))
            open_ = []
    if open_:
        raise ValueError(f"bash cannot read: {open_[0]}")
    return found


def complete(command: str) -> bool:
    """Whether bash reads it as whole commands."""
    return subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True, check=False).returncode == 0


def without_comment(command: str) -> str:
    """A command without the comment at its end."""
    return "\n".join(re.sub(r"(^|\s)#\s.*$", "", line).rstrip() for line in command.splitlines()).strip()
