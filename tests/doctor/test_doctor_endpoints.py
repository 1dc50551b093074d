"""Endpoints: a missing or wrong key, a closed port, a server that hangs, and models that are not there, each named."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from benchmarks.openai_server import running_server
from magdi_ray.cluster import free_ports
from magdi_ray.config.engines import ApiEngine
from magdi_ray.doctor import endpoints
from magdi_ray.doctor.check import Check, Finding, run_checks

KEY = "sk-right-0123456789"
MODELS = json.dumps({"data": [{"id": "models/gemini-x"}, {"id": "claude-y-20251001"}, {"id": "gpt-z"}]})


class Provider(BaseHTTPRequestHandler):
    """A provider: what it answers depends on the first part of the path, and what it was asked is kept."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        key = self.headers.get("Authorization")
        self.asked.append((self.path, key))
        if kind == "hang":
            time.sleep(5)
        status = {"keyed": 200 if key == f"Bearer {KEY}" else 401, "moved": 302, "busy": 429, "broken": 500, "none": 404}.get(
            kind, 200
        )
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://{self.headers['Host']}/elsewhere/models")
        self.end_headers()
        self.wfile.write(b"<html>" if kind == "page" else MODELS.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def look(url: str, key: str | None = KEY, *, model: str = "gpt-z", variable: str | None = "PROVIDER_KEY") -> list[Finding]:
    engine = ApiEngine(type="api", model=model, base_url=url, api_key_env=variable)
    environment = {} if key is None else {"PROVIDER_KEY": key}
    return list(endpoints.check_provider({"gpt": engine}, environment, limit_s=1.0))


def test_the_right_key_is_taken_and_the_model_is_listed(provider: str) -> None:
    (finding,) = look(f"{provider}/keyed")
    assert (finding.name, finding.state) == ("endpoint of gpt", "ok")
    assert finding.found.endswith("the key is taken, and the model is listed")


def test_a_wrong_key_is_named_by_its_variable_and_never_shown(provider: str) -> None:
    (finding,) = look(f"{provider}/keyed", "sk-wrong-9876543210")
    assert finding.state == "failed"
    assert "refuses the key in PROVIDER_KEY (401)" in finding.found
    assert "sk-wrong" not in finding.found + finding.todo


def test_a_key_that_is_not_set_is_named_and_the_endpoint_is_still_looked_at(provider: str) -> None:
    key, endpoint = look(f"{provider}/keyed", None)
    assert (key.name, key.state, key.found) == ("key of gpt", "failed", "PROVIDER_KEY is not set")
    assert (endpoint.state, "asks for a key, as it should" in endpoint.found) == ("ok", True)


def test_an_endpoint_that_asks_for_a_key_nobody_configured_is_named(provider: str) -> None:
    (finding,) = look(f"{provider}/keyed", None, variable=None)
    assert (finding.state, "engine.api_key_env" in finding.todo) == ("failed", True)


def test_a_port_where_nobody_listens_is_named() -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/v1"
    (finding,) = look(url)
    assert (finding.state, finding.found) == ("failed", f"{url}: nobody listens there (connection refused)")


def test_a_host_that_does_not_exist_is_named() -> None:
    (finding,) = look("http://no-such-host.invalid/v1")
    assert (finding.state, "no host of that name" in finding.found) == ("failed", True)


def test_an_endpoint_that_hangs_is_named_when_its_time_is_up(provider: str) -> None:
    begun = time.monotonic()
    (finding,) = look(f"{provider}/hang")
    assert time.monotonic() - begun < 4
    assert (finding.state, "no answer within 1 s" in finding.found) == ("failed", True)


@contextmanager
def dripping() -> Iterator[str]:
    """A server that sends one byte now and then, so that no single step takes long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100:
                    time.sleep(0.1)
                    connection.sendall(bytes([byte]))

        Thread(target=drip, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_endpoint_that_answers_byte_by_byte_is_stopped_by_the_check_s_own_limit() -> None:
    with dripping() as url:
        (finding,) = run_checks([Check("endpoints", "endpoint of gpt", lambda: look(url), limit_s=1.5)])
    assert (finding.state, "no answer within 1.5 s" in finding.found) == ("failed", True)


def test_a_server_without_tls_is_named(provider: str) -> None:
    (finding,) = look(provider.replace("http:", "https:"))
    assert (finding.state, "no TLS there" in finding.found) == ("failed", True)


def test_a_key_is_never_sent_on_to_where_a_redirection_leads(provider: str) -> None:
    Provider.asked.clear()
    (finding,) = look(f"{provider}/moved")
    assert (finding.state, "/elsewhere/models" in finding.found) == ("failed", True)
    assert [path for path, _ in Provider.asked] == ["/moved/models"]


def test_a_model_that_is_not_listed_is_a_warning_with_those_that_are(provider: str) -> None:
    (finding,) = look(f"{provider}/keyed", model="gpt-zz")
    assert (finding.state, "gpt-zz is not among its 3 models" in finding.found) == ("warning", True)
    assert "It lists gpt-z" in finding.todo


@pytest.mark.parametrize("model", ["gemini-x", "claude-y", "gpt-z"])
def test_a_model_counts_as_listed_under_its_prefix_and_its_dated_version(provider: str, model: str) -> None:
    assert [finding.state for finding in look(f"{provider}/keyed", model=model)] == ["ok"]


@pytest.mark.parametrize(
    ("kind", "said"), [("none", "no /models"), ("busy", "429"), ("broken", "500"), ("page", "no list of models")]
)
def test_an_endpoint_that_cannot_tell_leaves_the_key_unchecked(provider: str, kind: str, said: str) -> None:
    (finding,) = look(f"{provider}/{kind}")
    assert (finding.state, said in finding.found) == ("warning", True)


def test_an_endpoint_with_no_list_of_models_is_asked_nothing_that_costs() -> None:
    with running_server() as server:
        (finding,) = look(server.url)
        assert (finding.state, "has no /models" in finding.found) == ("warning", True)
        assert server.stats()["received"] == 0


def test_a_clock_that_is_wrong_is_named() -> None:
    now = time.time()
    assert list(endpoints.check_clock("host", formatdate(now - 30, usegmt=True), now)) == []
    assert list(endpoints.check_clock("host", "no date", now)) == []
    (finding,) = endpoints.check_clock("host", formatdate(now + 3600, usegmt=True), now)
    assert (finding.state, "s behind that of host" in finding.found) == ("warning", True)


def model(name: str, environment: dict[str, str], cache: Path) -> Finding:
    (finding,) = endpoints.check_model(name, "ada", environment, cache)
    return finding


def test_a_model_directory_is_complete_or_what_it_lacks_is_named(tmp_path: Path) -> None:
    assert model("pkg://magdi_ray/tiny/models/ada", {}, tmp_path).state == "ok"
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    finding = model(str(tmp_path / "half"), {}, tmp_path)
    assert (finding.name, finding.state, "holds no weights" in finding.found) == ("model of ada", "failed", True)


def test_a_hub_model_is_in_the_cache_or_cannot_be_had_offline(tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    finding = model("org/name", offline, tmp_path)
    assert (finding.state, "HF_HUB_OFFLINE forbids" in finding.found) == ("failed", True)
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert model("org/name", offline, tmp_path).state == "ok"


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    finding = model("org/name", {"HF_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}"}, tmp_path)
    assert (finding.state, "nobody listens there" in finding.found) == ("failed", True)


def test_a_hub_model_nobody_shows_is_named(provider: str, tmp_path: Path) -> None:
    finding = model("org/name", {"HF_ENDPOINT": f"{provider}/none"}, tmp_path)
    assert (finding.state, "to strangers (404)" in finding.found) == ("failed", True)
    assert model("org/name", {"HF_ENDPOINT": f"{provider}/open"}, tmp_path).state == "ok"


def test_a_gated_model_needs_a_token() -> None:
    judge = endpoints._judge_hub
    (finding,) = judge("model of ada", "org/name", b'{"gated": "manual"}', "https://hub", "")
    assert (finding.state, "HF_TOKEN is not set" in finding.found) == ("failed", True)
    (finding,) = judge("model of ada", "org/name", b'{"gated": "manual"}', "https://hub", "hf_x")
    assert finding.state == "ok"
