"""Who answers: the providers of API agents, models in local directories, on the hub, and recordings.

A provider's key is checked by asking for its list of models, which costs nothing; no question is ever sent. A key goes to the
configured endpoint and nowhere else: no redirection is followed.
"""

from __future__ import annotations

import difflib
import email.utils
import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from magdi_ray.agents.weights import HUB_NAME, base_and_adapter, check_model_directory
from magdi_ray.config import RunConfig
from magdi_ray.config.distil import ScratchModel
from magdi_ray.config.engines import ApiEngine, RecordedEngine, TransformersEngine, VllmEngine
from magdi_ray.doctor.check import Finding, failed, ok, warning
from magdi_ray.errors import MagdiError

ANSWER_S = 6.0
"""Seconds an endpoint has for each step: to take the connection, and to answer."""
LONGEST = 1 << 24
"""Bytes of a list of models that are read."""
SKEW_S = 120.0
"""Seconds by which clocks may differ before signed requests (S3, tokens) are refused."""
ANTHROPIC = "api.anthropic.com"
"""Its list of models asks for the key in its own header; its chat completions take it as everybody's do."""
HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GET came to: a status, or why there was none."""

    status: int | None
    body: bytes = b""
    date: str = ""
    """Header of that name; when the endpoint thinks it is."""
    to: str = ""
    """Where a redirection leads."""
    why: str = ""
    """Why there is no status."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirection to whoever asked: it would carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def get(url: str, headers: Mapping[str, str], *, limit_s: float = ANSWER_S) -> Answer:
    """Ask once, over the environment's proxies as the engines do. Raises nothing a network can cause."""
    request = urllib.request.Request(url, headers={"User-Agent": "magdi-doctor", **headers})  # noqa: S310 - http(s) by the config
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if url.startswith("https:"):
        import httpx2

        handlers.append(urllib.request.HTTPSHandler(context=httpx2.create_ssl_context()))  # the engines' certificates
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=limit_s) as answer:
            return Answer(answer.status, answer.read(LONGEST), answer.headers.get("Date", ""))
    except urllib.error.HTTPError as error:
        return Answer(error.code, date=error.headers.get("Date", ""), to=error.headers.get("Location", ""))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(None, why=_in_words(error, limit_s))


def _in_words(error: BaseException, limit_s: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException) else error
    if isinstance(cause, socket.gaierror):
        return "there is no host of that name (DNS)"
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there (connection refused)"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS there: {cause.reason or cause}"
    if isinstance(cause, TimeoutError):
        return f"no answer within {limit_s:g} s"
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__


def providers(config: RunConfig) -> dict[str, dict[str, ApiEngine]]:
    """The API agents of a run by provider (`base_url` and key): name -> engine."""
    found: dict[str, dict[str, ApiEngine]] = {}
    for agent in (*(config.debate.agents if config.debate else ()), *config.evaluate.agents):
        if isinstance(agent.engine, ApiEngine):
            found.setdefault(agent.engine.provider, {})[agent.name] = agent.engine
    return found


def check_provider(
    agents: Mapping[str, ApiEngine], environment: Mapping[str, str], *, limit_s: float = ANSWER_S
) -> Iterator[Finding]:
    """Agents of one provider: the key is set, the endpoint answers, takes the key, and has the models."""
    engine = next(iter(agents.values()))
    names = ", ".join(agents)
    key = environment.get(engine.api_key_env, "").strip() if engine.api_key_env else ""
    if engine.api_key_env and not key:
        yield failed(
            f"key of {names}",
            f"{engine.api_key_env} is not set",
            f"Where the run is started, and on every machine: export {engine.api_key_env}=...",
        )
    elif engine.api_key_env and not key.isascii():
        yield failed(f"key of {names}", f"{engine.api_key_env} holds signs that no key has", "Copy the key anew.")
        return
    host = urlsplit(engine.base_url).hostname
    if host == ANTHROPIC:
        headers = {"x-api-key": key, "anthropic-version": "2023-06-01"} if key else {}
    else:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
    page = "?limit=1000" if host == ANTHROPIC else ""
    begun = time.time()
    answer = get(f"{engine.base_url}/models{page}", headers, limit_s=limit_s)
    yield from judge_answer(answer, agents, key_sent=bool(key), seconds=time.time() - begun)
    yield from check_clock(host or "", answer.date, time.time())


def judge_answer(answer: Answer, agents: Mapping[str, ApiEngine], *, key_sent: bool, seconds: float) -> Iterator[Finding]:
    """What an endpoint's answer to a request for its models means."""
    engine = next(iter(agents.values()))
    url, name, variable = engine.base_url, f"endpoint of {', '.join(agents)}", engine.api_key_env
    match answer.status:
        case None:
            todo = "Is base_url right, the endpoint up, and open from here (proxy, firewall)?"
            yield failed(name, f"{url}: {answer.why}", todo)
        case 200:
            yield from _judge_models(answer.body, agents, name, f"{url} answers in {seconds:.1f} s", key_sent=key_sent)
        case (401 | 403) as status if key_sent:
            found = f"{url} refuses the key in {variable} ({status}): wrong, expired, or without rights"
            yield failed(name, found, f"Make a new key with the provider, and set {variable} to it.")
        case 401 | 403 if variable:
            yield ok(name, f"{url} answers; it asks for a key, as it should")
        case (401 | 403) as status:
            yield failed(name, f"{url} asks for a key ({status})", "Name the variable that holds it: engine.api_key_env.")
        case 404 | 405 | 501:
            todo = "Does base_url end as the provider says, in /v1 for most? Some have no list of models: then all is well."
            yield warning(name, f"{url} answers, but has no /models: the key was not checked", todo)
        case 429:
            yield warning(name, f"{url} answers 429: over its limit or its quota", "Wait, or look at the account's quota.")
        case status if 300 <= (status or 0) < 400:
            yield failed(name, f"{url} sends on to {answer.to or 'nowhere'} ({status})", "Name the final address in base_url.")
        case status:
            yield warning(name, f"{url} answers {status}", "The provider has troubles, or base_url is wrong: try again.")


def _judge_models(body: bytes, agents: Mapping[str, ApiEngine], name: str, said: str, *, key_sent: bool) -> Iterator[Finding]:
    try:
        listed = [str(one["id"]) for one in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        yield warning(name, f"{said}, but with no list of models: the key was not checked", "Is base_url an OpenAI-like API's?")
        return
    taken = "the key is taken" if key_sent else "no key was sent"
    lacking = {engine.model for engine in agents.values() if not _lists(listed, engine.model)}
    if not lacking:
        yield ok(name, f"{said}, {taken}, and {'the model is' if len(agents) == 1 else 'the models are'} listed")
    for model in sorted(lacking):
        near = difflib.get_close_matches(model, listed, n=3) or listed[:3]
        hint = f"It lists {', '.join(near)}" if near else "It lists none"
        found = f"{said}, {taken}, but {model} is not among its {len(listed)} models"
        yield warning(name, found, f"{hint}. Correct engine.model.")


def _lists(listed: Sequence[str], model: str) -> bool:
    """Whether a model is listed: as it is, behind a prefix ("models/NAME"), or as the dated version its name stands for."""
    return any(one == model or one.endswith(f"/{model}") or one.startswith(f"{model}-2") for one in listed)


def check_clock(host: str, date: str, now: float) -> Iterator[Finding]:
    """This machine's clock agrees with a server's `Date`. Silent where it does, or where there is none."""
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return
    if abs(now - theirs) > SKEW_S:
        when = "behind" if now < theirs else "ahead of"
        todo = "Signed requests (S3, GCS, tokens) are refused with a wrong clock: switch NTP on."
        yield warning("clock", f"{abs(now - theirs):.0f} s {when} that of {host}", todo)


def models_of(config: RunConfig) -> dict[str, str]:
    """Every model a run loads by itself -> who needs it: the student, and agents that are no API's."""
    found: dict[str, list[str]] = {}
    for agent in (*(config.debate.agents if config.debate else ()), *config.evaluate.agents):
        if isinstance(agent.engine, TransformersEngine | VllmEngine):
            found.setdefault(agent.engine.model, []).append(agent.name)
    if not isinstance(student := config.distil.student.model, ScratchModel):
        found.setdefault(student, []).append("the student")
    return {model: ", ".join(names) for model, names in found.items()}


def check_recordings(config: RunConfig) -> Iterator[Finding]:
    """Recorded agents have their files."""
    for agent in (*(config.debate.agents if config.debate else ()), *config.evaluate.agents):
        if isinstance(agent.engine, RecordedEngine):
            path = Path(agent.engine.path)
            if path.is_file():
                yield ok(f"recording of {agent.name}", str(path))
            else:
                yield failed(f"recording of {agent.name}", f"there is no recording at {path}", "Correct engine.path.")


def check_model(model: str, whose: str, environment: Mapping[str, str], cache: Path, *, hub: str = HUB) -> Iterator[Finding]:
    """A model's files are complete, or can be had from the hub. `cache`: where the hub's models are kept."""
    name = f"model of {whose}"
    try:
        check_model_directory(model)
        parts = [part for part in base_and_adapter(model) if part]
    except MagdiError as error:
        yield failed(name, str(error), "Correct the path, or complete the directory.")
        return
    named = [part for part in parts if not Path(part).is_dir() and HUB_NAME.fullmatch(part)]
    if not named:
        yield ok(name, f"{model} is complete")
    for one in named:
        yield from _check_hub(name, one, environment, cache, hub)


def _check_hub(name: str, model: str, environment: Mapping[str, str], cache: Path, hub: str) -> Iterator[Finding]:
    kept = cache / f"models--{model.replace('/', '--')}" / "snapshots"
    if kept.is_dir() and any(snapshot.glob("*config.json") for snapshot in kept.iterdir()):
        yield ok(name, f"{model} is in {cache}")
        return
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        todo = f"Fetch it where there is a network (hf download {model}) into a cache all machines see, or unset HF_HUB_OFFLINE."
        yield failed(name, f"{model} is not in {cache}, and HF_HUB_OFFLINE forbids fetching it", todo)
        return
    base = environment.get("HF_ENDPOINT", hub).rstrip("/")
    token = environment.get("HF_TOKEN", "").strip()
    answer = get(f"{base}/api/models/{model}", {"Authorization": f"Bearer {token}"} if token else {})
    if answer.status == 200:
        yield from _judge_hub(name, model, answer.body, base, token)
    elif answer.status in (401, 403, 404):
        found = f"{base} shows no {model} to {'this HF_TOKEN' if token else 'strangers'} ({answer.status})"
        yield failed(name, found, "Correct the name; a private or gated model needs an HF_TOKEN with rights to it.")
    else:
        yield failed(
            name,
            f"{model} is not in {cache}, and {base} cannot be asked: {answer.why or answer.status}",
            f"Let this machine reach the hub, or fetch the model elsewhere (hf download {model}) and set HF_HUB_OFFLINE=1.",
        )


def _judge_hub(name: str, model: str, body: bytes, base: str, token: str) -> Iterator[Finding]:
    try:
        gated = bool(json.loads(body).get("gated"))
    except (ValueError, AttributeError):
        gated = False
    if gated and not token:
        todo = f"Accept its terms at {base}/{model}, and set HF_TOKEN where the run is started and on every machine."
        yield failed(name, f"{model} is gated, and HF_TOKEN is not set", todo)
    else:
        yield ok(name, f"{model} can be fetched from {base}{' (gated; HF_TOKEN is set)' if gated else ''}")
