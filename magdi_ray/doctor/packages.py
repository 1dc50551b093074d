"""Python, the installed packages against what is required and what was tested, and what torch and DeepSpeed see.

Knows nothing of a run but the packages it asks for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

import magdi_ray
from magdi_ray.config import RunConfig
from magdi_ray.config.distil import QloraTuning
from magdi_ray.config.engines import VllmEngine
from magdi_ray.config.sections import FileTask
from magdi_ray.doctor.check import Finding, failed, ok, warning
from magdi_ray.doctor.child import Outcome
from magdi_ray.storage import DRIVERS
from magdi_ray.tasks.source import READERS, is_saved, local_path

DISTRIBUTION = "magdi_ray"
ROOT = Path(magdi_ray.__file__).parent.parent
"""Where pyproject.toml and constraints.txt lie in a checkout, and in a job's working directory."""
NAMED = 6
"""Packages named in one line; the others are counted."""

Installed = Callable[[str], str | None]
"""From a distribution's name to its version; None where it is not installed."""


class Need(NamedTuple):
    """A package that this configuration asks for, beyond those every run needs."""

    module: str
    why: str
    pip: str
    """What to hand to `pip install`."""


def installed_version(name: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def declared(root: Path = ROOT) -> tuple[str, list[str]]:
    """Python versions and requirements this project declares: of the installed distribution, or of the checkout it runs from.

    Raises:
        FileNotFoundError: neither is there.
    """
    try:
        found = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["requires-python"], list(project["dependencies"])
    return found["Requires-Python"] or "", list(importlib.metadata.requires(DISTRIBUTION) or ())


def check_python(version: str, required: str) -> Iterator[Finding]:
    """The interpreter is one this project runs on."""
    if SpecifierSet(required).contains(version, prereleases=True):
        yield ok("Python", version)
    else:
        yield failed("Python", f"{version}; {required} is required", "Make a virtual environment with another Python.")


def check_required(requirements: Sequence[str], installed: Installed = installed_version) -> Iterator[Finding]:
    """Every package that any run needs is there, in a version that is allowed. Those of extras are left to `check_needed`."""
    wanted = [r for r in map(Requirement, requirements) if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = 0
    for requirement in wanted:
        version = installed(requirement.name)
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            continue
        wrong += 1
        found = "not installed" if version is None else f"{version}; {requirement.specifier} is required"
        yield failed(requirement.name, found, f'pip install "{_plain(requirement)}"')
    if not wrong:
        yield ok("requirements", f"all {len(wanted)} required packages are installed, in versions that are allowed")


def check_extras(
    requirements: Sequence[str], requires: Callable[[str], Sequence[str] | None], installed: Installed = installed_version
) -> Iterator[Finding]:
    """Where a requirement names extras, as ray[serve] does, what those bring is there too."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None or not requirement.extras or installed(requirement.name) is None:
            continue
        missing = sorted(
            one.name
            for one in map(Requirement, requires(requirement.name) or ())
            if one.marker is not None
            and any(one.marker.evaluate({"extra": extra}) for extra in requirement.extras)
            and installed(one.name) is None
        )
        if missing:
            yield failed(
                f"{requirement.name}[{','.join(sorted(requirement.extras))}]",
                f"without {_some(missing)}",
                f'pip install "{_plain(requirement)}"',
            )


def check_tested(constraints: Path, direct: Sequence[str], installed: Installed = installed_version) -> Iterator[Finding]:
    """Installed versions are the ones everything was tested with, together. Others may work, so they are a warning."""
    name = "tested versions"
    if not constraints.is_file():
        yield ok(name, f"not compared: there is no {constraints}")
        return
    own = {canonicalize_name(Requirement(one).name) for one in direct}
    differing, count = [], 0
    for tested in _pins(constraints):
        (pin,) = tested.specifier
        version = installed(tested.name)
        count += version is not None
        if version is not None and not _same(version, pin.version):
            differing.append((canonicalize_name(tested.name) not in own, f"{tested.name} {version} (tested: {pin.version})"))
    if differing:
        yield warning(
            name,
            _some([text for _, text in sorted(differing)]),
            f"Other versions may work. For the tested ones: pip install --constraint {constraints} PACKAGE...",
        )
    else:
        yield ok(name, f"all {count} installed packages of {constraints.name} have the tested version")


def _pins(constraints: Path) -> Iterator[Requirement]:
    for line in constraints.read_text(encoding="utf-8").splitlines():
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # blank, a comment, an option of pip
            continue
        if len(requirement.specifier) == 1 and next(iter(requirement.specifier)).operator == "==":
            yield requirement


def _same(version: str, tested: str) -> bool:
    """Local parts aside: 2.13.0+cpu and 2.13.0+cu130 are 2.13.0."""
    try:
        return Version(version).public == Version(tested).public
    except InvalidVersion:
        return version == tested


def _plain(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return f"{', '.join(items[:NAMED])}{more}"


def needs(config: RunConfig, urls: Sequence[str]) -> list[Need]:
    """The packages a configuration asks for beyond those every run needs; `urls` is where it keeps things."""
    found = []
    tasks = [config.task, *config.evaluate.tasks]
    agents = [*(config.debate.agents if config.debate else ()), *config.evaluate.agents]
    if any(task.name == "math" for task in tasks):
        found.append(Need("math_verify", "the task math compares LaTeX", "magdi-ray[math]"))
    sources = [path for task in tasks if isinstance(task, FileTask) for path in (task.path, task.test_path) if path]
    # As `tasks.source` reads them: a file by its ending, a folder of JSON files by itself; the rest goes through `datasets`.
    held = [source for source in sources if not _is_file(source)]
    if held:
        found.append(Need("datasets", f"questions come from {held[0]}", "magdi-ray[datasets]"))
    if isinstance(config.distil.student.tuning, QloraTuning):
        found.append(Need("bitsandbytes", "distil.student.tuning is qlora", "magdi-ray[qlora]"))
    if any(isinstance(agent.engine, VllmEngine) for agent in agents):
        found.append(Need("vllm", "an agent's engine is vllm", "ray[llm]"))
    elif config.serve.engine == "vllm":
        found.append(Need("vllm", "serve.engine is vllm", "ray[llm]"))
    track = config.distil.track
    found += [Need("wandb", "distil.track.wandb is set", "magdi-ray[wandb]")] if track.wandb else []
    found += [Need("mlflow", "distil.track.mlflow is set", "magdi-ray[mlflow]")] if track.mlflow else []
    for url in urls:
        protocol = url.split("://", maxsplit=1)[0] if "://" in url else ""
        if (module := DRIVERS.get(protocol)) is not None:
            found.append(Need(module, f"{protocol}:// is used", module))
    return list({need.module: need for need in found}.values())


def _is_file(source: str) -> bool:
    path = Path(local_path(source))
    return (path.exists() and not is_saved(path)) or path.suffix in READERS


def check_needed(wanted: Sequence[Need], there: Callable[[str], bool] | None = None) -> Iterator[Finding]:
    """The packages that a configuration asks for can be imported."""
    there = there or (lambda module: importlib.util.find_spec(module) is not None)
    for need in wanted:
        if there(need.module):
            yield ok(need.module, f"installed; needed, for {need.why}")
        else:
            yield failed(need.module, f"not installed, but {need.why}", f'pip install "{need.pip}", on every machine')


def check_torch(seen: Outcome, cards: int, *, wanted: bool) -> Iterator[Finding]:
    """torch can be imported and fits the GPUs that nvidia-smi shows (`cards`). `wanted`: the run computes on GPUs."""
    facts = seen.facts
    if "torch" not in facts:
        yield failed("torch", f"cannot be imported: {_why(seen)}", "pip install --force-reinstall torch")
        return
    name = f"{facts['torch']}, {'CUDA ' + facts['cuda'] if facts['cuda'] else 'a build without CUDA'}"
    amiss = failed if wanted else warning
    if facts["no_kernels"]:
        yield failed("torch", f"{name}, has no code for {facts['no_kernels'][0]}", "Install a torch built for it: pytorch.org.")
    elif cards and not facts["cuda"]:
        yield amiss("torch", f"{name}, but there are {cards} GPUs", "Install the CUDA build: see pytorch.org.")
    elif cards and not facts["available"]:
        todo = "Update the NVIDIA driver, or install a torch built for an older CUDA; look at CUDA_VISIBLE_DEVICES."
        yield amiss("torch", f"{name}, cannot use the {cards} GPUs there are", todo)
    else:
        yield ok("torch", f"{name}, sees {len(facts['gpus'])} GPUs")


def check_deepspeed(seen: Outcome) -> Iterator[Finding]:
    """DeepSpeed can be imported, and which of its ops are or can be compiled. Nothing is compiled for it."""
    if "torch" not in seen.facts:
        return  # said by `check_torch`
    if "deepspeed" not in seen.facts:
        yield failed(
            "deepspeed",
            f"cannot be imported: {_why(seen)}",
            "Install it after torch: DS_BUILD_OPS=0 pip install --no-build-isolation --force-reinstall --no-deps deepspeed",
        )
        return
    facts = seen.facts
    ops = ", ".join(f"{name} {state}" for name, state in facts["ops"].items()) or "none of its ops"
    found = f"{facts['deepspeed']} on {facts['accelerator']}; {ops}"
    if facts["gpus"] and facts["accelerator"] != "cuda":
        yield warning("deepspeed", found, "It computes on the CPU though there are GPUs: unset DS_ACCELERATOR.")
    elif facts["gpus"] and any("cannot" in state for state in facts["ops"].values()):
        yield warning("deepspeed", found, "Training goes on without them. They need nvcc of torch's CUDA version (CUDA_HOME).")
    else:
        yield ok("deepspeed", found)


def _why(seen: Outcome) -> str:
    return "it took too long" if seen.code is None else seen.last_error or f"exit code {seen.code}"
