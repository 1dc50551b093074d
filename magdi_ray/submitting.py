"""A run as a job of a Ray cluster: checked here, uploaded, followed; taken up again by the same command.

Knows Ray's job submission and nothing of the stages. Everything that can be refused is refused before anything is uploaded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from magdi_ray.config import load_config
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.load import VARIABLE
from magdi_ray.errors import ConfigError, RunError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

StageOfJob = Literal["pipeline", "debate", "distil", "evaluate"]
COMMANDS: dict[StageOfJob, str] = {"pipeline": "run", "debate": "debate", "distil": "distill", "evaluate": "evaluate"}

STOP_WAIT_S = 30
"""Ray kills a stopped job after 3 s, in which engines are hardly retired; so long may it take instead."""

SECRET = re.compile(
    r"(?:^|_)(?:(?:API|ACCESS|PRIVATE)?KEYS?|(?:AUTH)?TOKENS?|SECRETS?|PASS(?:WORD|WD|PHRASE)?|CREDENTIALS?|DSN|PAT)(?:_|$)",
    re.IGNORECASE,
)
"""Names of variables whose values nobody else should read."""

SECRET_FILES = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keytab", "*.kdbx"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", ".pypirc", ".git-credentials", ".htpasswd", "auth_token"),
    *("service-account*.json", "service_account*.json", "application_default_credentials.json", "credentials.json"),
    *(".ssh/", ".aws/", ".azure/", ".gcloud/", ".kube/", ".docker/", ".gnupg/"),
)
"""Files that usually hold secrets, in the words of .gitignore: what is uploaded can be read by every job of the cluster, for as
long as it lives."""

NOT_SHARED = ("memory", "file", "local")
"""Schemes of URLs that mean another place on every machine."""

EXIT = {"SUCCEEDED": 0, "STOPPED": 130}
"""Exit code by the job's status; a failed job gives its own."""

LOST_S = 60.0
"""So long may the cluster be out of reach while a job is followed."""

LOOK_S = 2.0
"""Between two attempts to follow a job."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job, ready to be submitted."""

    name: str
    """Of the submission; unlike all others on its cluster."""
    entrypoint: str
    """A shell's command line, run in a copy of `working_dir` on a node of the cluster."""
    working_dir: Path
    env: dict[str, str] = field(repr=False)
    """Environment of the job and its workers. Whoever may see the dashboard may read it."""
    cpus: float
    """Reserved for the driver, beside what the stages reserve."""
    labels: dict[str, str]
    """Of the node the driver runs on."""
    missing: tuple[str, ...]
    """Variables that the configuration names, keys' too, and that are not sent along: the nodes have to have them."""


def prepare(  # noqa: PLR0913 - what a person may say about a job
    config: Path,
    *,
    address: str,
    out: str | None,
    stage: StageOfJob = "pipeline",
    overrides: Sequence[str] = (),
    working_dir: Path = Path(),
    env: Sequence[str] = (),
    env_insecure: bool = False,
    environment: Mapping[str, str],
    cpus: float = 0.0,
    labels: Sequence[str] = (),
) -> Submission:
    """A job that runs a configuration up to a stage.

    `env`: names of variables of `environment` that go along; `labels`: KEY=VALUE.

    Raises:
        ConfigError: the configuration breaks a rule, lies outside of the working directory, or one of the other values
            cannot do on a cluster; says what to do.
    """
    loaded = load_config(config, overrides)
    where = shared_place(out, address)
    variables = forwarded(env, environment, insecure=env_insecure)
    inside = relative_to(working_dir, config)
    arguments = [COMMANDS[stage], str(inside), "--out", where, *(part for one in overrides for part in ("--set", one))]
    named = {match["name"] for match in VARIABLE.finditer(config.read_text(encoding="utf-8")) if match["default"] is None}
    engines = [agent.engine for agent in loaded.debate.agents] if loaded.debate else []
    named |= {engine.api_key_env for engine in engines if isinstance(engine, ApiEngine) and engine.api_key_env}
    return Submission(
        name=unique_name(loaded.name),
        entrypoint=shlex.join(["python", "-m", "magdi_ray.cli.job", *arguments]),
        working_dir=working_dir.resolve(),
        env={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} | variables,
        cpus=cpus,
        labels=dict(_label(one) for one in labels),
        missing=tuple(sorted(named - set(variables))),
    )


def unique_name(run: str) -> str:
    """Such as "tiny-20260131-093000-481": the run's name and the time, in UTC, to the millisecond."""
    now = time.time()
    return f"{run}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{int(now * 1000) % 1000:03d}"


def shared_place(out: str | None, address: str) -> str:
    """The run's directory or URL, if it can mean the same on all machines of the cluster at `address`.

    Raises:
        ConfigError: it cannot.
    """
    todo = "Give --out a URL (s3://BUCKET/RUN, gs://BUCKET/RUN), or the absolute path of a directory that all nodes share."
    if not out:
        raise ConfigError(f"A job on a cluster needs a run directory that outlives it; --out is missing. {todo}")
    scheme = urlsplit(out).scheme if "://" in out else ""
    if scheme in NOT_SHARED:
        raise ConfigError(f"--out {out}: a place that all nodes share is required; {scheme}:// is another one on each. {todo}")
    if scheme:
        return out
    if not Path(out).is_absolute():
        raise ConfigError(
            f"--out {out}: a relative path would lie in the job's own copy of the working directory, which Ray deletes. {todo}"
        )
    temporary = {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path(tempfile.gettempdir())}  # noqa: S108 - refused, not used
    if not is_here(address) and any(Path(out).is_relative_to(place) for place in temporary):
        raise ConfigError(f"--out {out}: every machine has such a directory of its own. {todo}")
    return out


def is_here(address: str) -> bool:
    """Whether an address is one of this machine, or a tunnel that begins at it."""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def forwarded(names: Sequence[str], environment: Mapping[str, str], *, insecure: bool) -> dict[str, str]:
    """Variables that go along with the job.

    Raises:
        ConfigError: one is not set here, is written with its value, or is named like a secret and `insecure` is False.
    """
    for name in names:
        if "=" in name:
            raise ConfigError(
                f"--env takes the name of a variable, found {name.partition('=')[0]}=...: its value is taken from here."
            )
        if name not in environment:
            raise ConfigError(f"--env {name}: it is not set here. Set it, or leave it out where the nodes have it.")
    secret = [name for name in names if SECRET.search(name)]
    if secret and not insecure:
        raise ConfigError(
            f"--env {', '.join(secret)}: named like a secret. The values of a job's variables are shown to everybody who may see "
            "the dashboard, and kept for as long as the cluster lives. Give secrets to the nodes: on Kubernetes by a Secret that "
            "the pods refer to (docs/kubernetes.md), elsewhere in the environment of `ray start`. --env-insecure sends them "
            "all the same."
        )
    return {name: environment[name] for name in names}


def relative_to(working_dir: Path, config: Path) -> Path:
    """The configuration's path in the uploaded copy of the working directory.

    Raises:
        ConfigError: it is not in there.
    """
    if not working_dir.is_dir():
        raise ConfigError(f"--working-dir {working_dir}: a directory is required, and there is none.")
    root, file = working_dir.resolve(), config.resolve()
    if not file.is_relative_to(root):
        raise ConfigError(
            f"The configuration {file} is not in the working directory {root}, which is all that is uploaded. Name one that "
            f"holds the configuration and the files it refers to: --working-dir {shlex.quote(str(file.parent))}"
        )
    return file.relative_to(root)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise ConfigError(f"--label takes KEY=VALUE, such as market=on-demand; found {text!r}.")
    return key, value


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's job submission; RAY_AUTH_MODE=token and a token let it in.

    Raises:
        RunError: nobody answers there, or the token is not theirs.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(f"--address takes the URL of the cluster's dashboard, such as http://HOST:8265; found {address!r}.")
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests', Ray's and our own network's failures have no common class
        raise RunError(
            f"No cluster takes jobs at {address}: {_first_line(error)} Check the address, that the cluster runs, and the token "
            f"(RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token): magdi doctor --address {address}"
        ) from error


def submit(client: JobSubmissionClient, job: Submission) -> None:
    """Upload the working directory, but for `SECRET_FILES` and what .gitignore and .rayignore name, and submit the job.

    Raises:
        RunError: the cluster refuses it, or the directory is too large.
    """
    try:
        client.submit_job(
            entrypoint=job.entrypoint,
            submission_id=job.name,
            runtime_env={"working_dir": str(job.working_dir), "excludes": list(SECRET_FILES), "env_vars": job.env},
            entrypoint_num_cpus=job.cpus or None,
            entrypoint_label_selector=job.labels or None,
        )
    except Exception as error:  # Ray raises RuntimeError for what the cluster says, and whatever the upload meets
        raise RunError(
            f"The cluster did not take the job: {_first_line(error)} What is uploaded is {job.working_dir}, without what "
            "its .gitignore and .rayignore name. Check its size, and the address."
        ) from error


def follow(client: JobSubmissionClient, name: str, *, write: Callable[[str], object]) -> JobDetails:
    """Hand what a job prints to `write`, until it has ended; then what Ray knows of it.

    A connection that breaks is made again, and goes on where it broke. KeyboardInterrupt leaves the job running.

    Raises:
        RunError: the cluster has not answered for `LOST_S` seconds.
    """
    told = Told(write)
    heard = time.monotonic()
    while True:
        try:
            asyncio.run(_tail(client, name, told))
            details = client.get_job_info(name)
            if details.status.is_terminal():
                told.hear(client.get_job_logs(name), whole=True)
                return details
            heard = time.monotonic()
        except Exception as error:  # a proxy, a restarted head, a lost network: each has errors of its own
            if (silent := time.monotonic() - heard) >= LOST_S:
                raise RunError(
                    f"The cluster has not answered for {silent:.0f} s: {_first_line(error)} The job may still run. "
                    f"Look for it when the cluster answers: ray job logs {name}"
                ) from error
        time.sleep(LOOK_S)


@dataclass(slots=True)
class Told:
    """What has been passed on of a log that every connection begins to read from its beginning."""

    write: Callable[[str], object]
    characters: int = 0
    """Passed on so far."""
    read: int = 0
    """Read in this connection."""

    def hear(self, text: str, *, whole: bool = False) -> None:
        """Pass on what is new in the next piece of a log, or in the `whole` of it."""
        begin = 0 if whole else self.read
        self.read = begin + len(text)
        if self.read > self.characters:
            self.write(text[max(0, self.characters - begin) :])
            self.characters = self.read


async def _tail(client: JobSubmissionClient, name: str, told: Told) -> None:
    told.read = 0
    async for text in client.tail_job_logs(name):
        told.hear(text)


def exit_code(details: JobDetails) -> int:
    """0 for a job that succeeded, 130 for one that was stopped, and a failed one's own, or 1 where it has none."""
    own = details.driver_exit_code
    return EXIT.get(details.status.value, own if own is not None and 0 < own < 256 else 1)


def _first_line(error: BaseException) -> str:
    line = next((text for text in str(error).splitlines() if text.strip()), "") or type(error).__name__
    return line if line.endswith(".") else f"{line}."
