"""Places: paths that all machines share, and URLs of which each makes copies."""

from __future__ import annotations

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from magdi_ray.errors import ConfigError, RunError
from magdi_ray.storage import (
    appending,
    cache_directory,
    collect,
    deliver,
    delivered,
    fetched,
    is_url,
    listing,
    names,
    open_storage,
    read_text,
    write_atomically,
    write_text,
)


@pytest.fixture(params=["{}", "file://{}"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MAGDI_CACHE", str(tmp_path / "cache"))
    return str(request.param).format(tmp_path / "there")


def files(directory: Path) -> dict[str, str]:
    return {path.relative_to(directory).as_posix(): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_what_is_written_at_a_place_is_read_there(place: str) -> None:
    assert (read_text(f"{place}/a/b.txt"), names(place), listing(place)) == (None, set(), {})
    for text in ("old", "new"):
        write_text(f"{place}/a/b.txt", text)
    assert read_text(f"{place}/a/b.txt") == "new"
    assert (names(place), listing(place), listing(place, recursive=True)) == ({"a"}, {}, {"a/b.txt": 3})


def test_a_directory_arrives_with_all_that_is_below_it(place: str, tmp_path: Path) -> None:
    with delivered(place) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "weights").write_text("w")
        (directory / "config").write_text("c")
    assert files(fetched(place)) == {"sub/weights": "w", "config": "c"}
    collect(place, tmp_path / "again")
    assert files(tmp_path / "again") == files(fetched(place))


def test_nothing_is_delivered_of_a_body_that_fails(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"

    def half() -> None:
        with delivered(url) as directory:
            (directory / "half").write_text("h")
            raise RunError("in the middle")

    with pytest.raises(RunError, match="in the middle"):
        half()
    assert names(url) == set()


def test_a_path_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    deliver(tmp_path, str(tmp_path))
    collect(str(tmp_path), tmp_path)
    with delivered(str(tmp_path)) as directory:
        assert directory == fetched(str(tmp_path)) == tmp_path
    assert files(tmp_path) == {"file": "x"}


def test_a_copy_is_made_once_by_however_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGDI_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/there"
    write_text(f"{url}/weights", "w")
    with ThreadPoolExecutor(8) as pool:
        copies = set(pool.map(fetched, [url] * 8))
    assert [files(copy) for copy in copies] == [{"weights": "w"}]
    assert [path.name for path in (cache_directory() / "copies").iterdir()] == [copies.pop().name]
    write_text(f"{url}/weights", "changed")  # against the rule: what is finished never changes
    assert files(fetched(url)) == {"weights": "w"}


def test_a_copy_of_nothing_is_an_error_and_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGDI_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RunError, match=r"Finished files are required at file://.*/there, found none"):
        fetched(f"file://{tmp_path}/there")
    write_text(f"file://{tmp_path}/there/weights", "w")
    assert files(fetched(f"file://{tmp_path}/there")) == {"weights": "w"}


@pytest.mark.parametrize("where", ["nosuch://bucket/path", "abfs://container/path"])
def test_a_file_system_nobody_knows_is_refused_by_name(where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        open_storage(where)


@pytest.mark.parametrize(("name", "url"), [("s3://b/run", True), ("/data/run", False), ("runs/a", False), ("pkg://a/b", False)])
def test_files_of_a_package_are_at_no_url(name: str, url: bool) -> None:
    assert is_url(name) == url


@pytest.mark.parametrize("where", ["s3://bucket/run?region=eu-west-1", "gs://anonymous@bucket/run", "memory://run"])
def test_file_systems_travel_to_workers(where: str) -> None:
    filesystem, path = pickle.loads(pickle.dumps(open_storage(where)))
    assert path.strip("/").endswith("run")
    assert filesystem.type_name


def test_a_file_that_storage_refuses_for_a_moment_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, refused = Path.replace, list[Path]()

    def failing(self: Path, target: Path) -> Path:
        if not refused:
            refused.append(self)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    write_atomically(tmp_path / "times.json", "{}")
    assert (files(tmp_path), len(refused)) == ({"times.json": "{}"}, 1)


def test_what_interrupts_a_process_is_not_taken_for_failing_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "times.json", "{}")


def test_a_log_that_cannot_be_written_at_its_end_hides_no_error(tmp_path: Path) -> None:
    def fail() -> None:
        with appending(tmp_path / "ray.log") as log:
            log.write("unwritten")
            os.close(log.fileno())  # so that the last of it has nowhere to go
            raise RunError("the real one")

    with pytest.raises(RunError, match="the real one"):
        fail()
