"""Storage: writable, readable and listable, or the step at which it is not; nothing is left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fsspec
import pytest

from magdi_ray.doctor.check import Finding
from magdi_ray.doctor.storage import check_remote, check_storage


def storage(url: str | Path) -> Finding:
    (finding,) = check_storage("run directory", str(url))
    return finding


def test_a_directory_that_works_is_ok_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    finding = storage(tmp_path)
    assert finding.state == "ok"
    assert "written, renamed, read, listed and removed" in finding.found
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_directory_yet_to_be_made_is_not_made(tmp_path: Path) -> None:
    assert storage(tmp_path / "runs" / "a").state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    finding = storage(tmp_path / "file" / "run")
    assert finding.state == "failed"
    assert f"{tmp_path / 'file'} is a file" in finding.found


def test_a_directory_that_refuses_writers_is_named() -> None:
    finding = storage("/proc/magdi-run")  # even root makes no file there
    assert finding.state == "failed"
    assert "a file could not be written" in finding.found


def test_a_real_full_disk_is_named_as_full(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "blob").write_bytes(b"x" * 20_000)
        finding = storage(tmp_path)
        assert finding.state == "failed"
        assert "a file could not be written: No space left on device" in finding.found
        assert [path.name for path in tmp_path.iterdir()] == ["blob"]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_url_that_works_is_ok_and_left_as_it_was() -> None:
    assert storage("memory://bucket/run").state == "ok"
    assert fsspec.filesystem("memory").find("/bucket") == []


def test_a_url_whose_driver_is_missing_says_what_to_install() -> None:
    finding = storage("abfs://container/run")
    assert (finding.state, finding.todo) == ("failed", "pip install adlfs")
    assert "needs a package that is not installed" in finding.found
    assert storage("nonsense://bucket").state == "failed"


class ReadOnly:
    """A bucket that may be read only."""

    def pipe_file(self, path: str, data: bytes) -> None:
        raise PermissionError("AccessDenied when calling PutObject")


class Forgetful(ReadOnly):
    """A bucket that takes everything, gives another content back, and remembers what was removed."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    def pipe_file(self, path: str, data: bytes) -> None:
        self.held.add(path)

    def cat_file(self, path: str) -> bytes:
        return b"something else"

    def rm_file(self, path: str) -> None:
        self.held.remove(path)


def test_a_bucket_that_may_not_be_written_is_named_with_its_reason() -> None:
    (finding,) = check_remote("replies", "s3://b/r", ReadOnly(), "b/r")
    assert finding.state == "failed"
    assert finding.found == "s3://b/r: a file could not be written: PermissionError: AccessDenied when calling PutObject"


def test_a_probe_is_removed_where_a_later_step_fails() -> None:
    bucket = Forgetful()
    (finding,) = check_remote("replies", "s3://b/r", bucket, "b/r")
    assert "could not be read back" in finding.found
    assert bucket.held == set()
