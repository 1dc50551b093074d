"""The house: one way through, small rooms, no side effects on import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "magdi_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOW = ("tasks", "agents", "debate", "graph", "distill", "evaluate", "serving")
"""A stage may import itself, those before it, and what lies under all of them."""

ALLOWED = {
    "tasks": {"tasks"},
    "agents": {"agents"},
    "debate": {"tasks", "agents", "debate"},
    "graph": {"tasks", "agents", "debate", "graph"},
    "distill": {"tasks", "agents", "debate", "graph", "distill"},
    "evaluate": {"tasks", "agents", "debate", "graph", "distill", "evaluate"},
    "serving": {"tasks", "agents", "debate", "graph", "distill", "serving"},
}

PURE = (
    *(
        "config",
        "runs.py",
        "storage.py",
        "lease.py",
        "mirror.py",
        "placement.py",
        "observe/where.py",
        "observe/figures.py",
        "tasks",
        "graph",
        "tiny",
    ),
    *(f"debate/{name}.py" for name in ("transcript", "structured", "reading", "quoting", "templates", "vote", "decide", "store")),
    *(f"agents/{name}.py" for name in ("base", "failures", "estimate", "pacing", "budget", "admission", "metered")),
    *(f"agents/{name}.py" for name in ("store", "index", "segments", "api", "completion", "connection", "wire", "recorded")),
    *(f"debate/{name}.py" for name in ("hold", "books", "plan", "view", "convincing")),
    *(
        f"debate/{name}.py"
        for name in ("discussion", "reconcile", "society", "single", "self_consistency", "critique", "convincing")
    ),
    *(f"distill/{name}.py" for name in ("tokens", "packing", "attention", "head", "heads", "plan", "batch")),
    *(f"distill/{name}.py" for name in ("student", "scratch", "zero", "loop")),
    *(f"distill/{name}.py" for name in ("job", "labels", "teaching", "dataset", "units", "schedule", "gradients", "judging")),
    *(f"distill/{name}" for name in ("objectives", "graph_networks", "checkpoint", "watch", "export", "forecast")),
    *(f"study/{name}.py" for name in ("grid", "conclude", "page")),
    *(f"evaluate/{name}.py" for name in ("answers", "metrics", "consistency", "exam", "kept", "table")),
    *(f"evaluate/{name}.py" for name in ("harness", "harness_output")),
    *("evaluate/report", "simulate"),
    *(f"serving/{name}.py" for name in ("backend", "ensemble", "debating", "front", "keys", "limits", "access")),
    *(f"serving/{name}" for name in ("wire", "door", "playground")),
)


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def stage_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "magdi_ray" and len(parts) > 1 and parts[1] in FLOW else None


@pytest.mark.parametrize("stage", FLOW)
def test_no_stage_imports_a_later_one(stage: str) -> None:
    backward = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((PACKAGE / stage).rglob("*.py"))
        for module in imports(path)
        if (found := stage_of(module)) and found not in ALLOWED[stage]
    ]
    assert backward == []


@pytest.mark.parametrize("place", PURE)
def test_pure_modules_import_no_ray(place: str) -> None:
    target = PACKAGE / place
    files = [target] if target.is_file() else sorted(target.rglob("*.py"))
    assert files
    assert [path.name for path in files if any(module.split(".")[0] == "ray" for module in imports(path))] == []


def test_no_module_is_over_400_lines_and_no_function_over_80() -> None:
    large = [f"{path.name}: {n}" for path in MODULES if (n := len(path.read_text().splitlines())) > 400]
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                large += [f"{path.name}: {node.name} {length}"] if length > 80 else []
    assert large == []


def test_importing_the_command_line_starts_nothing_and_loads_no_heavy_package() -> None:
    code = "import sys, magdi_ray.cli; print(sorted({'ray', 'torch', 'transformers', 'deepspeed', 'pyarrow'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"


def test_jobs_and_serve_hold_no_importable_package() -> None:
    assert not [path for folder in ("jobs", "serve") for path in (ROOT / folder).rglob("__init__.py")]
