"""API keys: only their hashes are kept, and they come and go without a restart."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magdi_ray.cli.keys import append, keys_app
from magdi_ray.config.serving import Endpoint, KeyLimits
from magdi_ray.errors import ConfigError
from magdi_ray.serving.keys import PREFIX, Key, KeyRing, digest, new_key, open_keys, read_keys, read_variable


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def entry(name: str, key: str) -> str:
    return f"  - {{name: {name}, sha256: {digest(key)}}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n" + entry("alice", "one"))
    return path


def test_a_key_is_known_by_its_hash_alone(file: Path) -> None:
    ring = KeyRing(file=file)
    found = ring.find(b"one")
    assert found is not None
    assert found.name == "alice"
    assert [ring.find(other) for other in (b"", b"two", b"One", digest("one").encode(), b"\xff")] == [None] * 5


def test_new_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) >= len(PREFIX) + 43 for key in keys)


def test_a_changed_file_is_read_again_within_a_second(file: Path) -> None:
    clock = Clock()
    ring = KeyRing(file=file, clock=clock)
    file.write_text("keys:\n" + entry("bob", "two"))
    clock.now = 0.5
    assert ring.find(b"two") is None  # not looked at yet
    clock.now = 1.0
    assert ring.find(b"two") is not None
    assert ring.find(b"one") is None


@pytest.mark.parametrize("damage", ["keys: 5", "{", "keys: [{name: x}]", None])
def test_a_file_that_is_damaged_later_leaves_the_keys_as_they_were(
    damage: str | None, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    ring = KeyRing(file=file, clock=clock)
    file.unlink() if damage is None else file.write_text(damage)
    for clock.now in (1.0, 2.0, 3.0):
        assert ring.find(b"one") is not None
    assert caplog.text.count("stay as they were") == 1
    file.write_text("keys: []")
    clock.now = 4.0
    assert ring.find(b"one") is None  # all are revoked, on purpose


def test_a_file_that_could_not_be_read_for_once_is_read_at_the_next_look(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    ring = KeyRing(file=file, clock=clock)
    file.write_text("keys:\n" + entry("bob", "two"))

    def refused(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refused)
        for clock.now in (1.0, 2.0):
            assert ring.find(b"one") is not None
    clock.now = 3.0  # the file is what it was when it could not be read
    assert (ring.find(b"one"), ring.find(b"two") is None) == (None, False)
    assert caplog.text.count("Permission denied") == 1


def test_the_same_complaint_about_another_state_of_the_file_is_logged_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    ring = KeyRing(file=file, clock=clock)
    for clock.now, text in ((1.0, "{"), (2.0, "{{"), (3.0, "{{")):
        file.write_text(text) if text != file.read_text() else None
        ring.find(b"one")
    assert caplog.text.count("stay as they were") == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("keys: []", "at least one API key"),
        ("", "`keys:` with a list"),
        ("[1]", "`keys:` with a list"),
        ("keys: {a: b}", "`keys:` with a list"),
        ("a: [", "no YAML"),
        ("keys: [{name: a, sha256: nonsense}]", "keys.0.sha256"),
        ("keys: [{name: a, key: sk-secret}]", "keys.0.sha256: Field required"),
        ("keys:\n" + entry("a", "1") + entry("a", "2"), "more than one called a"),
    ],
)
def test_at_the_start_a_wrong_file_is_an_error_that_repeats_no_secret(text: str, told: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        KeyRing(file=file)
    assert "sk-secret" not in str(caught.value)
    assert "nonsense" not in str(caught.value)


def test_keys_of_an_environment_variable_join_those_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDENT_KEYS", f"carol:{digest('three')}, dave:{digest('four')}")
    ring = open_keys(Endpoint(api_keys_file=str(file), api_keys_env="STUDENT_KEYS"))
    assert ring is not None
    assert [getattr(ring.find(key), "name", None) for key in (b"one", b"three", b"four")] == ["alice", "carol", "dave"]
    assert open_keys(Endpoint()) is None


def test_a_wrong_variable_is_told_without_what_it_holds() -> None:
    with pytest.raises(ConfigError, match="entry 2 is not written so") as caught:
        read_variable(f"a:{digest('x')},sk-secret", "KEYS")
    assert "sk-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="is required, and not set"):
        open_keys(Endpoint(api_keys_env="NOT_SET_ANYWHERE"))


def test_a_key_without_limits_has_the_endpoints() -> None:
    key = Key(name="a", sha256=digest("a"), rpm=5)
    assert key.limits(KeyLimits(rpm=1, tpm=2)) == KeyLimits(rpm=5, tpm=2)


def test_the_command_shows_a_key_once_and_files_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    said = [CliRunner().invoke(keys_app, ["new", name, "--file", str(file), "--rpm", "60"]).output for name in ("alice", "007")]
    shown = [re.findall(r"sk-magdi-\S+", text) for text in said]
    assert [len(keys) for keys in shown] == [1, 1]
    assert not any(keys[0] in file.read_text() for keys in shown)
    assert file.stat().st_mode & 0o777 == 0o600
    ring = KeyRing(file=file)
    assert [getattr(ring.find(keys[0].encode()), "name", None) for keys in shown] == ["alice", "007"]


def test_the_entry_it_prints_without_a_file_is_one_a_file_may_hold() -> None:
    said = CliRunner().invoke(keys_app, ["new", "alice"]).output
    [key] = re.findall(r"sk-magdi-\S+", said)
    entries = read_keys("".join(said.splitlines(keepends=True)[:2]), "f")
    assert [(one.name, one.sha256) for one in entries] == [("alice", digest(key))]


def test_a_key_is_hashed_from_standard_input() -> None:
    assert CliRunner().invoke(keys_app, ["hash"], input="one\n").output.strip() == digest("one")


def test_the_command_keeps_what_stands_in_the_file(file: Path) -> None:
    file.write_text("# ours\nkeys:\n- name: alice\n  sha256: " + digest("one"))
    os.chmod(file, 0o640)
    append(file, "bob", f"- {{name: bob, sha256: {digest('two')}}}")
    assert [key.name for key in read_keys(file.read_text(), "f")] == ["alice", "bob"]
    assert file.read_text().startswith("# ours\n")
    assert file.stat().st_mode & 0o777 == 0o640
    with pytest.raises(ConfigError, match="called bob already"):
        append(file, "bob", "- {}")


def test_a_file_to_which_no_line_can_be_added_is_left_alone(file: Path) -> None:
    text = f"keys: [{{name: alice, sha256: {digest('one')}}}]\n"
    file.write_text(text)
    with pytest.raises(ConfigError, match="no line can be added"):
        append(file, "bob", f"- {{name: bob, sha256: {digest('two')}}}")
    assert file.read_text() == text


def test_nothing_of_a_key_is_logged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.DEBUG):
        ring = KeyRing(file=file, clock=clock)
        ring.find(b"sk-magdi-presented")
        file.write_text("keys:\n" + entry("bob", "two"))
        clock.now = 2.0
        ring.find(b"sk-magdi-presented")
    assert "presented" not in caplog.text
    assert digest("two") not in caplog.text
