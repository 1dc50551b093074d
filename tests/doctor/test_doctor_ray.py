"""Ray: a wrong token, a closed port, a port that is taken, another version, and what a dead Ray left, each named."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from magdi_ray.cluster import free_ports
from magdi_ray.doctor import ray_cluster
from magdi_ray.doctor.check import Finding
from magdi_ray.doctor.child import Outcome
from magdi_ray.doctor.ray_cluster import Place, Token

RIGHT, WRONG = "a1" * 32, "b2" * 32
HEAD = """
import json, sys, ray, ray.util.client.server
context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000,
                   _temp_dir=sys.argv[1])
door = ray.util.client.server.serve("127.0.0.1", int(sys.argv[2]))
print(json.dumps([context.address_info["gcs_address"], f"ray://127.0.0.1:{sys.argv[2]}"]), flush=True)
sys.stdin.read()
"""


def one(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """Of a real local Ray that asks for the token RIGHT: its own and its client's. It ends with the process that started it."""
    temp = tempfile.mkdtemp(prefix="magdi-dr-")
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RIGHT}
    command = [sys.executable, "-c", HEAD, temp, str(free_ports(1)[0])]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.communicate(timeout=60)
        shutil.rmtree(temp, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(addresses: list[str]) -> str:
    return addresses[0]


@pytest.mark.cluster
def test_a_cluster_is_joined_with_its_token(cluster: str) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RIGHT}
    assert one(ray_cluster.check_reachable(cluster)).state == "ok"
    finding = one(ray_cluster.check_cluster(cluster, environment))
    assert (finding.state, "1 nodes, 1 CPUs" in finding.found) == ("ok", True)


@pytest.mark.cluster
def test_a_wrong_token_is_named_as_such_within_seconds_and_never_shown(cluster: str) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": WRONG}
    begun = time.monotonic()
    finding = one(ray_cluster.check_cluster(cluster, environment))
    assert finding.state == "failed"
    assert finding.found == "wrong token: the cluster refuses the one from RAY_AUTH_TOKEN"
    assert WRONG not in finding.found + finding.todo
    assert time.monotonic() - begun < 18  # Ray itself gives up after 20 s, and does not say why


@pytest.mark.cluster
def test_a_wrong_token_is_named_by_way_of_ray_client_too(addresses: list[str]) -> None:
    begun = time.monotonic()
    finding = one(ray_cluster.check_cluster(addresses[1], os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": WRONG}))
    assert (finding.state, finding.found.split(":")[0]) == ("failed", "wrong token")
    assert time.monotonic() - begun < 25


@pytest.mark.cluster
def test_a_cluster_that_asks_for_a_token_nobody_sends_is_named(cluster: str) -> None:
    finding = one(ray_cluster.check_cluster(cluster, os.environ | {"RAY_AUTH_MODE": "disabled"}))
    assert (finding.state, finding.found) == ("failed", "the cluster asks for a token, but RAY_AUTH_MODE=disabled sends none")


@pytest.mark.cluster
def test_the_command_names_a_wrong_token_and_exits_with_1(cluster: str) -> None:
    code = "import sys, typer; from magdi_ray.cli.doctor import doctor; app = typer.Typer(); app.command()(doctor); app()"
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": WRONG}
    command = [sys.executable, "-c", code, "--address", cluster, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert found["cluster"]["found"].startswith("wrong token")
    assert found["address"]["state"] == "ok"
    assert WRONG not in done.stdout + done.stderr


def test_an_address_where_nobody_listens_is_named() -> None:
    port = free_ports(1)[0]
    finding = one(ray_cluster.check_reachable(f"ray://127.0.0.1:{port}"))
    assert (finding.state, finding.found) == ("failed", f"127.0.0.1:{port}: nobody listens there (connection refused)")
    assert list(ray_cluster.check_cluster(f"127.0.0.1:{port}", {})) == []  # said once


def test_something_that_takes_connections_but_is_no_ray_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        finding = one(ray_cluster.check_cluster(address, os.environ, limit_s=3.0))
    assert (finding.state, finding.found) == ("failed", "not joined within 3 s")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1:6379", Place("", "10.0.0.1", 6379)),
        ("ray://head", Place("ray", "head", 10001)),
        ("ray://head:7/x", Place("ray", "head", 7)),
        ("https://ray.example.org/path", Place("https", "ray.example.org", 443)),
        ("[::1]:6379", Place("", "::1", 6379)),
    ],
)
def test_addresses_are_read_as_ray_reads_them(address: str, place: Place) -> None:
    assert ray_cluster.parse_address(address) == place


@pytest.mark.parametrize("address", ["head", "head:port", "s3://bucket", "auto", "local", "head:99999999"])
def test_an_address_that_leads_nowhere_is_named(address: str) -> None:
    finding = one(ray_cluster.check_reachable(address))
    assert finding.state == "failed"
    assert finding.found.count("\n") == 0


def test_another_version_is_named_with_both() -> None:
    told = "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.59.0\nThis process:\n    Ray: 2.60.0"
    finding = one(ray_cluster.judge_cluster(Outcome({}, told, 1), {}, seconds=1))
    assert (finding.state, "Ray: 2.59.0" in finding.found, "2.60.0" in finding.found) == ("failed", True, True)


class Dashboard(BaseHTTPRequestHandler):
    """What Ray's dashboard says of its version, to whoever has the token."""

    version = "2.60.0"

    def do_GET(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") == f"Bearer {RIGHT}" else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"ray_version": self.version}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_dashboard_is_asked_for_its_version_with_the_token(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(ray_cluster.check_cluster(dashboard, {"RAY_AUTH_TOKEN": WRONG})).found.startswith("wrong token")
    monkeypatch.setattr(Dashboard, "version", ray_cluster.installed_version("ray"))
    assert one(ray_cluster.check_cluster(dashboard, {"RAY_AUTH_TOKEN": RIGHT})).state == "ok"
    monkeypatch.setattr(Dashboard, "version", "2.1.0")
    finding = one(ray_cluster.check_cluster(dashboard, {"RAY_AUTH_TOKEN": RIGHT}))
    assert (finding.state, "Ray 2.1.0 there" in finding.found) == ("failed", True)


def test_the_token_is_looked_for_where_ray_looks(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert ray_cluster.find_token(home) is None
    (tmp_path / ".ray").mkdir()
    file = tmp_path / ".ray" / "auth_token"
    file.write_text("from-home\n")
    assert ray_cluster.find_token(home) == Token(str(file), "from-home", file)
    (tmp_path / "other").write_text("from-path")
    named = home | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    assert ray_cluster.find_token(named) == Token(f"RAY_AUTH_TOKEN_PATH ({tmp_path / 'other'})", "from-path", tmp_path / "other")
    assert ray_cluster.find_token(named | {"RAY_AUTH_TOKEN": "x"}) == Token("RAY_AUTH_TOKEN", "x")


def test_a_token_file_that_is_missing_empty_or_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    said = []
    for name in ("none", "empty", "."):
        finding = one(ray_cluster.check_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / name)}, cluster=True))
        assert finding.state == "failed"
        said.append(finding.found)
    assert ["no such file" in said[0], "is empty" in said[1], "cannot be read" in said[2]] == [True] * 3


def test_no_token_matters_for_a_cluster_and_not_for_a_ray_of_one_s_own(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert one(ray_cluster.check_token(home, cluster=False)).state == "ok"
    assert one(ray_cluster.check_token(home, cluster=True)).state == "warning"
    assert one(ray_cluster.check_token(home | {"RAY_AUTH_MODE": "token"}, cluster=True)).state == "failed"
    assert one(ray_cluster.check_token(home | {"RAY_AUTH_MODE": "disabled"}, cluster=True)).state == "warning"
    assert one(ray_cluster.check_token(home | {"RAY_AUTH_MODE": "tokn"}, cluster=False)).state == "failed"


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(RIGHT)
    for environment in ({"RAY_AUTH_TOKEN": RIGHT}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}):
        finding = one(ray_cluster.check_token(environment, cluster=True))
        assert RIGHT not in finding.found + finding.todo


def test_a_port_that_is_taken_is_named_with_its_process() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        finding = one(ray_cluster.check_ports({port: "the student's endpoint (serve.port)"}))
    assert (finding.name, finding.state) == (f"port {port}", "warning")
    assert "serve.port" in finding.found
    if Path("/proc/net/tcp").is_file():
        assert f"(process {os.getpid()})" in finding.found
    assert one(ray_cluster.check_ports({port: "anything"})).state == "ok"


def test_a_port_that_is_taken_on_one_address_only_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert ray_cluster.port_taken(listener.getsockname()[1]) == "taken"


def test_what_a_dead_ray_left_is_named_and_a_living_one_is_not(tmp_path: Path) -> None:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    (tmp_path / "ray_current_cluster").write_text(dead)
    current, raylet = ray_cluster.check_leftovers(tmp_path, [("71", ["/x/raylet", f"--gcs-address={dead}"]), ("72", ["", ""])])
    assert (current.state, current.todo) == ("warning", f"rm {tmp_path / 'ray_current_cluster'}")
    assert (raylet.state, raylet.todo) == ("warning", "kill 71")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        alive = f"127.0.0.1:{listener.getsockname()[1]}"
        (tmp_path / "ray_current_cluster").write_text(alive)
        assert one(ray_cluster.check_leftovers(tmp_path, [("71", ["raylet", f"--gcs-address={alive}"])])).state == "ok"
