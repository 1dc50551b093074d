"""Names in what is read become no paths outside of where they belong, and what others put there is not taken for ours."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from magdi_ray.agents.weights import check_model_directory
from magdi_ray.config.load import parse_config
from magdi_ray.config.sections import AgentConfig
from magdi_ray.debate.convincing import read_convincing
from magdi_ray.distill.checkpoint.state import INDEX, is_whole, load_tensors, save_tensors
from magdi_ray.distill.checkpoint.storage import Shelf
from magdi_ray.distill.job import TrainState
from magdi_ray.distill.train import RayCheckpoints
from magdi_ray.errors import ConfigError, EngineError, MagdiError, RunError
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.formats import import_debates
from magdi_ray.graph.store import read_mags, write_mags
from magdi_ray.mirror import Mirror
from magdi_ray.runs import Run
from magdi_ray.storage import collect, fetched, listing, own_directory
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.rows import named_question

EVIL = ("../../evil", "/etc/evil", "..", "a/../../evil", "evil\0.json", "C:\\evil", "~/.ssh/evil", "$(touch evil)", "evil\n")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGDI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", EVIL)
def test_names_of_agents_and_runs_are_plain(name: str) -> None:
    with pytest.raises(ValueError, match="String should match"):
        AgentConfig.model_validate({"name": name, "engine": {"type": "recorded", "path": "x"}})
    with pytest.raises(ConfigError, match="name"):
        parse_config({"name": name, "task": {"name": "tiny"}}, "x.yaml")


class Keys(MemoryFileSystem):
    """A bucket: its keys are any text."""

    protocol = "evil"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    names: tuple[str, ...] = ()

    def find(self, path: str, **_: Any) -> dict[str, Any]:
        return {name: {"name": name, "size": 4, "type": "file"} for name in self.names}

    def ls(self, path: str, **_: Any) -> list[Any]:
        return list(self.find(path).values())

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": 4, "type": "file" if path in self.names else "directory"}


@pytest.mark.parametrize("use", ["listing", "collect", "fetched", "mirror"])
def test_a_bucket_s_keys_write_nothing_outside(tmp_path: Path, use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("evil", Keys, clobber=True)
    monkeypatch.setattr(Keys, "names", ("/run/fine.json", "/run/../../../escaped.json"))
    deep = tmp_path / "a" / "b" / "c"
    uses: dict[str, Any] = {
        "listing": lambda: listing("evil://run", recursive=True),
        "collect": lambda: collect("evil://run", deep),
        "fetched": lambda: fetched("evil://run"),
        "mirror": lambda: Mirror("evil://run").pull(),
    }
    with pytest.raises(RunError, match="would lie outside"):
        uses[use]()
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("url", ["s3://bucket/runs/../../x", "memory://../x", "gs://bucket/.."])
def test_a_url_with_dots_names_no_place(url: str) -> None:
    with pytest.raises(ConfigError, match=r"without `\.\.`"):
        listing(url)


def test_a_manifest_leads_to_nowhere_else(tmp_path: Path) -> None:
    home = "memory://a-run-with-a-forged-manifest"
    with fsspec.open(f"{home}/stages/student.json", "w") as stream:
        told = {"stage": "student", "config_hash": "", "inputs": {}, "content": "", "files": {}, "seconds": 0, "finished": ""}
        stream.write(json.dumps(told | {"at": "../../elsewhere"}))
    with pytest.raises(ConfigError, match=r"without `\.\.`"):
        Run(home).path("student")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_a_checkpoint_s_index_names_only_its_own_files(tmp_path: Path, name: str) -> None:
    save_tensors(tmp_path / "own", {"a": torch.zeros(2)})
    (tmp_path / "own" / "tensors-00000.safetensors").rename(tmp_path / "outside.safetensors")
    size = (tmp_path / "outside.safetensors").stat().st_size
    (tmp_path / "own" / INDEX).write_text(json.dumps({"files": {name: size}}))
    assert not is_whole(tmp_path / "own")
    with pytest.raises(EngineError, match="whole checkpoint"):
        load_tensors(tmp_path / "own")


def test_only_directories_named_as_steps_are_checkpoints_and_are_removed(tmp_path: Path) -> None:
    from pyarrow.fs import LocalFileSystem

    for name in ("step-00000001", "step-00000001.bak", "..step-00000002", "own-work"):
        (tmp_path / name).mkdir()
    shelf = Shelf(LocalFileSystem(), str(tmp_path))
    assert shelf.names() == ["step-00000001"]
    shelf.keep(set())
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == [
        "..step-00000002",
        "own-work",
        "step-00000001.bak",
    ]


@pytest.mark.parametrize(
    "index", [{"weight_map": {"w": "../../secret"}}, {"weight_map": {"w": "/etc/passwd"}}, {"weight_map": []}, []]
)
def test_a_model_s_index_of_shards_names_files_beside_it(tmp_path: Path, index: Any) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="shards"):
        check_model_directory(str(tmp_path))


@pytest.mark.parametrize("name", EVIL)
def test_an_escalated_question_s_file_is_named_by_a_hash(name: str) -> None:
    asked = named_question("gsm8k", f"How many? {name}", None, "train")
    assert re.fullmatch(r"gsm8k-[0-9a-f]{12}", asked.id)


def test_what_a_published_file_calls_its_agents_and_questions_names_no_file(tmp_path: Path) -> None:
    source = tmp_path / "gsm_3_2.json"
    evil = "../../../escaped\0"
    context = [{"role": "user", "content": evil}, {"role": "assistant", "content": "The answer is 4."}]
    source.write_text(json.dumps({f"How much is 2 + 2? {evil}": [[context, context, context], "#### 4"]}))
    found = import_debates("society", source, Gsm8k())
    write_mags(tmp_path / "out", (build_mag(debate, Gsm8k()) for debate in found.debates))
    assert len(read_mags(tmp_path / "out")) == len(found.debates) == 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["gsm_3_2.json", "mags.parquet"]


def test_samples_are_read_from_their_own_directory_only(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "secret.json").write_text("[]")
    with pytest.raises(ConfigError, match="found none"):
        read_convincing(tmp_path / "samples", Gsm8k(), most=1)


def test_the_cache_is_readable_and_writable_by_its_owner_alone(cache: Path) -> None:
    before = os.umask(0)
    try:
        made = own_directory("copies")
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_cache_that_everybody_may_write_to_is_refused(cache: Path) -> None:
    (cache / "copies").mkdir(parents=True)
    (cache / "copies").chmod(0o777)
    with pytest.raises(RunError, match="everybody may write there"):
        fetched("memory://some/run")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_cache_of_another_user_is_refused_also_behind_a_link(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    cache.mkdir()
    (cache / "copies").symlink_to(tmp_path / "theirs")
    with pytest.raises(RunError, match="belongs to user 12345"):
        fetched("memory://some/run")


def test_a_cache_that_a_group_may_write_to_is_closed_to_it(cache: Path) -> None:
    (cache / "runs").mkdir(parents=True)
    (cache / "runs").chmod(0o775)
    assert stat.S_IMODE(own_directory("runs").stat().st_mode) == 0o755


def test_a_link_in_the_place_of_a_checkpoint_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    checkpoints = object.__new__(RayCheckpoints)
    checkpoints.scratch = tmp_path / "magdi-checkpoint-guessed"
    checkpoints.scratch.symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        checkpoints.save(None, TrainState())
    assert list((tmp_path / "victim").iterdir()) == []


def test_nothing_is_unpacked_from_an_archive() -> None:
    package = Path(__file__).parent.parent.parent / "magdi_ray"
    sources = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert [
        name for name, text in sources.items() if any(word in text for word in ("tarfile", "zipfile", "unpack_archive"))
    ] == []


def test_a_missing_file_of_debates_is_said_and_nothing_else_is_read(tmp_path: Path) -> None:
    with pytest.raises(MagdiError, match="found nothing at"):
        import_debates("society", tmp_path / ".." / "none.json", Gsm8k())
