"""All checks of a machine, and with a configuration those of what its run needs. The only module that knows every topic."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from magdi_ray.cluster import cores
from magdi_ray.config import RunConfig, load_config
from magdi_ray.config.engines import ApiEngine
from magdi_ray.doctor import endpoints, machine, packages, ray_cluster, storage
from magdi_ray.doctor.check import Check, Finding, failed, ok, run_checks, secrets_of
from magdi_ray.doctor.child import run_child
from magdi_ray.errors import ConfigError

TOPICS = ("packages", "machine", "ray", "endpoints", "storage", "run")
IMPORT_S = 60.0
"""Seconds in which torch and DeepSpeed are imported, even from a slow network disk."""


def examine(
    config: Path | None, root: str | None, address: str | None, overrides: Sequence[str] = (), *, environment: Mapping[str, str]
) -> list[Finding]:
    """Look at everything, side by side.

    `root` is the run directory or its URL (None: the configuration's usual one); `address` is a cluster that is to be joined.
    """
    loaded, amiss = None, []
    if config is not None:
        try:
            loaded = load_config(config, overrides)
        except ConfigError as error:
            amiss = [failed("configuration", str(error), "Correct it; what the run needs was not looked at.")]
    root = root or (f"runs/{loaded.name}" if loaded else None)
    cluster = address or environment.get("RAY_ADDRESS", "")
    there = cluster if cluster not in ("", "local") else None
    checks = [
        *_packages(loaded, root, environment),
        *_machine(loaded, root, environment, elsewhere=there is not None),
        *_ray(loaded, there, environment, join=address is not None),
        *(_endpoints(loaded, environment) if loaded else ()),
        *_storage(loaded, root),
    ]
    if loaded is not None and config is not None:
        look = partial(_run, config, root or "", overrides, {**environment, **({"RAY_ADDRESS": there} if there else {})})
        checks.append(Check("run", "configuration", look, limit_s=IMPORT_S + 5))
    elif amiss:
        checks.append(Check("run", "configuration", lambda: amiss))
    return _said_once(run_checks(checks, secrets=_secrets(loaded, environment)))


def _secrets(config: RunConfig | None, environment: Mapping[str, str]) -> set[str]:
    found = secrets_of(environment)
    token = ray_cluster.find_token(environment)
    found |= {token.value} if isinstance(token, ray_cluster.Token) else set()
    for agents in endpoints.providers(config).values() if config else ():
        found |= {environment.get(engine.api_key_env or "", "").strip() for engine in agents.values()}
    return found


def _said_once(findings: list[Finding]) -> list[Finding]:
    """Without what the run's own check says of something that another check has named, with more about it."""
    named = [finding.found.rstrip(".") for finding in findings if finding.state == "failed" and finding.topic != "run"]
    kept = [f for f in findings if f.topic != "run" or f.state == "ok" or not any(text in f.found for text in named)]
    return sorted(kept, key=lambda finding: TOPICS.index(finding.topic))


def _packages(config: RunConfig | None, root: str | None, environment: Mapping[str, str]) -> Iterator[Check]:
    def required(look: Callable[[str, list[str]], Iterator[Finding]]) -> Callable[[], Iterator[Finding]]:
        return lambda: look(*packages.declared())

    yield Check("packages", "Python", required(lambda python, _: packages.check_python(platform.python_version(), python)))
    yield Check("packages", "requirements", required(lambda _, wanted: packages.check_required(wanted)))
    yield Check("packages", "extras", required(lambda _, wanted: packages.check_extras(wanted, _requires)))
    constraints = packages.ROOT / "constraints.txt"
    yield Check("packages", "tested versions", required(lambda _, wanted: packages.check_tested(constraints, wanted)))
    if config is not None:
        urls = [url for _, url in _places(config, root)]
        yield Check("packages", "needed", lambda: packages.check_needed(packages.needs(config, urls)))

    def torch() -> Iterator[Finding]:
        cards = machine.read_cards()
        seen = run_child(["torch"], limit_s=IMPORT_S, env=environment)
        yield from packages.check_torch(seen, len(cards) if isinstance(cards, list) else 0, wanted=_gpus(config) > 0)
        yield from packages.check_deepspeed(seen)

    yield Check("packages", "torch", torch, limit_s=IMPORT_S + 5)


def _requires(name: str) -> list[str] | None:
    try:
        return requires(name)
    except PackageNotFoundError:
        return None


def _machine(config: RunConfig | None, root: str | None, environment: Mapping[str, str], *, elsewhere: bool) -> Iterator[Check]:
    yield Check("machine", "CPUs", lambda: machine.check_cores(cores()))
    yield Check("machine", "memory", lambda: machine.check_memory(machine.read_memory()))
    yield Check("machine", machine.SHARED, lambda: machine.check_shared_memory(machine.read_memory()))
    disks = [("Ray's disk", machine.ray_directory(environment)), ("hub cache's disk", machine.hub_cache(environment))]
    disks += [("run's disk", Path(root))] if root is not None and "://" not in root else []
    for name, path in disks:
        yield Check("machine", name, partial(machine.check_disk, name, path, ray=name == "Ray's disk"))
        yield Check("machine", name, partial(machine.check_inodes, name, path))
    yield Check("machine", "open files", lambda: machine.check_open_files(*machine.open_file_limits()))
    yield Check("machine", "GPUs", lambda: machine.check_gpus(machine.read_cards(), wanted=_gpus(config), elsewhere=elsewhere))


def _gpus(config: RunConfig | None) -> float:
    """GPUs that the hungriest stage of a run cannot do without."""
    if config is None:
        return 0.0
    agents = [a for a in (config.debate.agents if config.debate else ()) if not isinstance(a.engine, ApiEngine)]
    scaling = config.distil.scaling
    return max(
        sum(agent.replicas[0] * agent.num_gpus for agent in agents),
        float(scaling.workers[0]) if scaling.use_gpu else 0.0,
        config.evaluate.num_gpus,
    )


def _ray(config: RunConfig | None, address: str | None, environment: Mapping[str, str], *, join: bool) -> Iterator[Check]:
    directory = machine.ray_directory(environment)
    current = directory / "ray_current_cluster"
    yield Check("ray", "Ray's token", lambda: ray_cluster.check_token(environment, cluster=address is not None))
    if address is not None:
        yield Check("ray", "address", lambda: ray_cluster.check_reachable(address, current))
    if address is not None and join:
        yield Check("ray", "cluster", lambda: ray_cluster.check_cluster(address, environment, current), limit_s=45.0)
    ports = {} if address is not None else dict(ray_cluster.PORTS)
    if config is not None:
        ports[config.serve.port] = "the student's endpoint (serve.port)"
    yield Check("ray", "ports", lambda: ray_cluster.check_ports(ports))
    yield Check("ray", "leftovers", lambda: ray_cluster.check_leftovers(directory))


def _endpoints(config: RunConfig, environment: Mapping[str, str]) -> Iterator[Check]:
    for agents in endpoints.providers(config).values():
        name = f"endpoint of {', '.join(agents)}"
        yield Check("endpoints", name, partial(endpoints.check_provider, agents, environment), limit_s=20.0)
    for model, whose in endpoints.models_of(config).items():
        look = partial(endpoints.check_model, model, whose, environment, machine.hub_cache(environment))
        yield Check("endpoints", f"model of {whose}", look, limit_s=20.0)
    yield Check("endpoints", "recordings", lambda: endpoints.check_recordings(config))


def _storage(config: RunConfig | None, root: str | None) -> Iterator[Check]:
    for name, url in _places(config, root):
        yield Check("storage", name, partial(storage.check_storage, name, url), limit_s=20.0)


def _places(config: RunConfig | None, root: str | None) -> list[tuple[str, str]]:
    """Where a run keeps what it makes."""
    places = [("run directory", root)]
    if config is not None:
        places += [("replies of the debates", config.debate.replies if config.debate else None)]
        places += [("replies of the evaluation", config.evaluate.replies), ("checkpoints", config.distil.checkpoints.storage)]
    return [(name, url) for name, url in places if url]


def _run(config: Path, root: str, overrides: Sequence[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """What a run checks itself before it starts: its questions, sizes, recipes and models."""
    seen = run_child(["run", str(config), root, *overrides], limit_s=IMPORT_S, env=environment)
    if "problems" not in seen.facts:
        why = "it took too long" if seen.code is None else seen.last_error or f"exit code {seen.code}"
        yield failed("configuration", f"could not be checked: {why}", "See what the error names.")
        return
    for problem in seen.facts["problems"]:
        yield failed("configuration", problem, "")
    if not seen.facts["problems"]:
        yield ok("configuration", f"{config}: questions, recipes and sizes fit together")
