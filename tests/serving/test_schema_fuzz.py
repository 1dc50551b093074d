"""Requests made up from the served OpenAPI description: none breaks the server, and every answer is as described."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from magdi_ray.serving.door import create_api
from tests.serving import doors

schemathesis = pytest.importorskip("schemathesis")

from schemathesis import GenerationMode  # noqa: E402 - only where it is installed
from schemathesis.checks import CHECKS  # noqa: E402

WANTED = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "unsupported_method"),
)

PHASES = (Phase.explicit, Phase.generate)
"""A failure is shown as it was found: making it smaller takes minutes."""

api: Any = create_api(doors.Scripted(), doors.settings(max_tokens=doors.CONTEXT), ensemble=doors.Voting())
config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}}})
schema = schemathesis.openapi.from_asgi("/openapi.json", api, config=config)
seen: set[tuple[str, int, str]] = set()


operations = {operation.ok().label: operation.ok() for operation in schema.get_all_operations()}
bounded = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=PHASES)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", operations)
def test_every_answer_is_as_described(label: str, mode: GenerationMode) -> None:
    @bounded
    @given(case=operations[label].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call()
        seen.add((case.path, answer.status_code, answer.headers["content-type"][0].split(";")[0]))
        case.validate_response(answer, checks=[CHECKS.get_one(name) for name in WANTED])

    try:
        ask()
    except (Unsatisfiable, SkipTest):
        assert mode is GenerationMode.NEGATIVE  # a route that takes nothing cannot be asked wrongly
        assert label.startswith("GET")


ASKED = {"/v1/chat/completions": {"messages": doors.HI["messages"]}, "/v1/completions": {"prompt": "hi"}}


@pytest.mark.parametrize("path", ASKED)
def test_a_stream_is_as_described(path: str) -> None:
    """Asked for by hand: what is made up is valid and streamed too rarely to count on."""
    body = {"model": "student", "stream": True} | ASKED[path]
    case = operations[f"POST {path}"].Case(body=body, media_type="application/json")
    answer = case.call()
    seen.add((path, answer.status_code, answer.headers["content-type"][0].split(";")[0]))
    case.validate_response(answer, checks=[CHECKS.get_one(name) for name in WANTED if name != "negative_data_rejection"])


def test_all_of_them_were_reached_with_success() -> None:
    """Without this the rule above would also hold of a server that refuses everything."""
    post = ("/v1/chat/completions", "/v1/completions", "/v1/score")
    paths = ("/health", "/version", "/v1/models", "/v1/models/{name}", *post)
    streams = {(path, 200, "text/event-stream") for path in post[:2]}
    assert {(path, 200, "application/json") for path in paths} | streams <= seen
    assert {(path, 400, "application/json") for path in post} <= seen
