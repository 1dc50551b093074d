"""What bandit finds stands where a comment says why it is so, or is of a kind explained in docs/security.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def explained() -> set[str]:
    """Kinds with a reason of their own in the document: "B615 | names of ..."."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| (B\d{3}) \|", text, re.MULTILINE))


def marked(file: str, line: int) -> set[str]:
    """Kinds that a comment explains on a line or the one before: ruff's S108 is bandit's B108."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()[max(0, line - 2) : line]
    codes = {code for text in lines for code in re.findall(r"S(\d{3})(?=[^#]* - \S)", text.partition("# noqa:")[2])}
    return {f"B{code}" for code in codes}


def test_every_finding_of_bandit_is_explained() -> None:
    command = [sys.executable, "-m", "bandit", "-q", "-f", "json", "-r", "magdi_ray", "jobs"]
    report = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout)
    assert report["errors"] == []
    kinds = explained()
    strange = [
        f"{found['filename']}:{found['line_number']} {found['test_id']} {found['issue_text'][:60]}"
        for found in report["results"]
        if found["test_id"] not in kinds | marked(found["filename"], found["line_number"])
    ]
    assert strange == []
    assert kinds <= {found["test_id"] for found in report["results"]}  # none is explained that is not found any more


def test_ruff_looks_for_the_same_and_what_it_leaves_out_says_why() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {code for code in lint["ignore"] if code.startswith("S")} == {"S101", "S311"}
