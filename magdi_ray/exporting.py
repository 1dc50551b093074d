"""From a finished run to an exported student: weights, tokenizer and model card in a directory, and on a hub when asked."""

from __future__ import annotations

import difflib
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from magdi_ray import __version__
from magdi_ray.agents.weights import BASE_AND_ADAPTER, HUB_NAME, PACKAGE_SCHEME
from magdi_ray.config import RecipeConfig, RunConfig, load_config, recipes
from magdi_ray.distill.export.card import model_card
from magdi_ray.distill.export.record import Base, Record
from magdi_ray.distill.export.student import Dtype, Exported, base_of, write_export
from magdi_ray.errors import ConfigError, RunError
from magdi_ray.graph.store import iter_mags
from magdi_ray.pipeline import plan
from magdi_ray.progress import console
from magdi_ray.runs import CONFIG, Manifest, Run
from magdi_ray.stages import base_model, student_stage
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.load import load_task
from magdi_ray.tasks.source import local_path

CARD = "README.md"
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "ray", "safetensors")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is exported, and where it goes besides the directory."""

    student: str | None = None
    """A recipe of the run; None is the product."""
    merge: bool = False
    dtype: Dtype = "auto"
    heads: bool = False
    """Take the training heads along."""
    push: str | None = None
    """Repository on the Hugging Face hub."""
    private: bool = False


def export_run(run: Run, out: Path, options: ExportOptions) -> Exported:
    """Write the student of a finished run to the directory `out`, and push it where asked.

    Nothing stands at `out` before all of it does.

    Raises:
        ConfigError: an option cannot be used, `out` is taken, or the hub cannot be written.
        RunError: there is no run, or it has no such finished student.
        EngineError: base or adapter cannot be loaded or merged.
    """
    if options.private and options.push is None:
        raise ConfigError("--private says what a new repository on the hub is to be; it needs --push org/name.")
    config = stored_config(run)
    recipe = chosen_recipe(config, options.student)
    stage = student_stage(config, recipe)
    manifest = finished_student(run, config, stage)
    api = hub_access(options.push) if options.push else None
    base, named = base_model(config, run), base_of(run.path(stage), config.distil.student.model)
    with whole_directory(out) as directory:
        done = write_export(
            run.path(stage), directory, base=base, named=named, merge=options.merge, dtype=options.dtype, heads=options.heads
        )
        record = record_of(run, config, recipe, manifest=manifest, done=done, base=named, repository=options.push)
        (directory / CARD).write_text(model_card(record), encoding="utf-8")
    for remark in remarks(done, named, base, merge=options.merge):
        console.print(remark, markup=False, soft_wrap=True)
    if api is not None and options.push:
        push(api, out, options.push, private=options.private)
    return done


def stored_config(run: Run) -> RunConfig:
    """The configuration a run directory holds.

    Raises:
        RunError: the directory is no run's.
    """
    if (run.root / CONFIG).is_file():
        return load_config(run.root / CONFIG)
    found = f"a directory without {CONFIG}" if run.root.is_dir() else "a file" if run.root.exists() else "nothing"
    raise RunError(
        f"{run.where} is no run directory. Required is a directory that `magdi run` or `magdi distill` wrote, with {CONFIG} in "
        f"it; found {found}. Give the directory that those commands name at their end: runs/NAME, or their --out."
    )


def chosen_recipe(config: RunConfig, name: str | None) -> RecipeConfig:
    """The recipe whose student is meant; None is the product."""
    known = {recipe.name: recipe for recipe in recipes(config.distil)}
    chosen = name or next(reversed(known))
    if chosen not in known:
        near = difflib.get_close_matches(chosen, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"The run has no recipe {chosen!r}; {hint}it has {', '.join(known)}. Name one of them.")
    return known[chosen]


def finished_student(run: Run, config: RunConfig, stage: str) -> Manifest:
    """The manifest of a student that is what the run's configuration describes."""
    manifest = run.require(stage)
    current = next(item for item in plan(config) if item.name == stage)
    if run.state(stage, current.shaped_by, current.inputs) != "complete":
        raise RunError(
            f"{run.path(stage)} was made before the run's configuration, its base model or its graphs changed. "
            f"Finish the run first: magdi run CONFIG --out {run.where}"
        )
    return manifest


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A directory beside `out` to write into, renamed to `out` at the end; gone without a trace when the body fails."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already and not empty. Choose another --out directory.")
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remarks(done: Exported, named: Base, base: str, *, merge: bool) -> list[str]:
    """What a person should know of an export."""
    said = []
    if merge and done.form == "full":
        said.append("--merge: all weights of this student were trained, there is nothing to merge.")
    if done.form == "adapter" and named.kind != "hub":
        said.append(
            f"The base of this adapter is no model of a hub but {base}. Whoever loads the adapter needs it; adapter_config.json "
            f"calls it {named.name!r}. An export with --merge stands alone."
        )
    if done.left_out:
        said.append(f"Left out, as no part of a plain model directory: {', '.join(done.left_out)}")
    return said


def record_of(
    run: Run, config: RunConfig, recipe: RecipeConfig, *, manifest: Manifest, done: Exported, base: Base, repository: str | None
) -> Record:
    """What a card says, read off the run."""
    earlier = ((stage, run.read_manifest(stage)) for stage in ("questions", "debates", "graphs"))
    teachers, labels = debated(run, config)
    task = load_task(config.task)
    prompt = task.prompt(Question("", "{question}"))
    files = manifest.files
    return Record(
        config=config,
        recipe=recipe,
        form=done.form,
        dtype=done.dtype,
        base=base,
        teachers=teachers,
        labels=labels,
        datasets=tuple(dict.fromkeys(filter(None, map(hub_dataset, question_files(config))))),
        facts={stage: found.facts for stage, found in earlier if found} | {"student": manifest.facts},
        finished=manifest.finished,
        results=results_of(run, manifest),
        identity=run.identity,
        config_hash=manifest.config_hash,
        content=manifest.content,
        packages=package_versions(),
        prompt=prompt if "{question}" in prompt else None,
        chat="chat_template.jinja" in files,
        repository=repository,
    )


def results_of(run: Run, manifest: Manifest) -> dict[str, Any] | None:
    """The figures of the run's evaluation; None where there is none, or where it was of an earlier student."""
    evaluation = run.read_manifest("evaluation")
    if evaluation is None or evaluation.inputs.get(manifest.stage) != manifest.content:
        return None
    try:
        return dict(json.loads((run.path("evaluation") / "metrics.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(f"{run.path('evaluation')} is damaged ({error}). Remove that directory and measure again.") from None


def debated(run: Run, config: RunConfig) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Who debated, as (name, model), and what the labels were measured against."""
    if config.debate is not None:
        engines = {agent.name: getattr(agent.engine, "model", None) for agent in config.debate.agents}
        return tuple((name, public_name(model) if model else "recorded") for name, model in engines.items()), (
            config.graph.labels,
        )
    models: dict[str, dict[str, None]] = {}
    labels: dict[str, None] = {}
    for mag in iter_mags(run.path("graphs")):
        labels[mag.labels] = None
        for node in mag.nodes:
            models.setdefault(node.agent, {})[public_name(node.model) if node.model else "unknown"] = None
    return tuple((agent, ", ".join(found)) for agent, found in sorted(models.items())), tuple(labels)


def public_name(model: str) -> str:
    """What a model is called away from this machine: of a directory, the last part."""
    parts = [part for part in BASE_AND_ADAPTER.split(model) if part]
    return ":".join(
        part if part.startswith(PACKAGE_SCHEME) or not (Path(part).is_absolute() or Path(part).exists()) else Path(part).name
        for part in parts
    )


def question_files(config: RunConfig) -> list[str]:
    """Where the questions come from, as the configuration names it."""
    return [source for field in ("path", "test_path") if (source := getattr(config.task, field, None))]


def hub_dataset(source: str) -> str | None:
    """The hub name of a question file that is a published dataset."""
    name = local_path(source).partition(":")[0]
    here = Path(name).exists() or Path(name).parent.is_dir()
    return name if HUB_NAME.fullmatch(name) and not here and not Path(name).suffix else None


def package_versions() -> dict[str, str]:
    """Versions of what made the export."""
    found = {"magdi_ray": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hub_access(repository: str) -> Any:
    """The hub, logged in: asked before anything is written, so that a long merge is not in vain.

    Raises:
        ConfigError: the name is no repository's, there is no token, or the hub cannot be reached or refuses the token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    if not HUB_NAME.fullmatch(repository):
        raise ConfigError(f"--push names a repository of the Hugging Face hub as org/name, found {repository!r}. Write it so.")
    api = HfApi()
    try:
        api.whoami()
    except LocalTokenNotFoundError:
        raise ConfigError("--push needs a token of the Hugging Face hub: set HF_TOKEN, or log in with `hf auth login`.") from None
    except Exception as error:  # whatever the network or the hub answers; the person needs its words
        raise ConfigError(
            f"--push: the Hugging Face hub does not let us in: {error}. Nothing was written. Check HF_TOKEN, or log in with "
            "`hf auth login`."
        ) from None
    return api


def push(api: Any, directory: Path, repository: str, *, private: bool) -> None:
    """Upload an export.

    Raises:
        ConfigError: the repository cannot be written, or is public and a private one was asked for. The export stays.
    """
    try:
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise ConfigError(
                f"--private: {repository} exists and is public; nothing was uploaded. Make it private on the hub, or choose "
                f"another name. The export is in {directory}."
            )
        beside = sorted(set(api.list_repo_files(repository)) - {".gitattributes", *(p.name for p in directory.iterdir())})
        api.upload_folder(repo_id=repository, folder_path=directory, commit_message="Exported by magdi_ray")
    except ConfigError:
        raise
    except Exception as error:  # whatever the network or the hub answers; the person needs its words
        raise ConfigError(
            f"{repository} could not be written: {error}. The export is in {directory}; to try again: "
            f"hf upload {repository} {directory}"
        ) from None
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    console.print(f"pushed {len(files)} files, {size / 1e6:.1f} MB, to {url}:", markup=False, soft_wrap=True)
    console.print(", ".join(str(path.relative_to(directory)) for path in files), markup=False, soft_wrap=True)
    if beside:
        console.print(f"The repository also holds {', '.join(beside)}, from earlier.", markup=False, soft_wrap=True)
