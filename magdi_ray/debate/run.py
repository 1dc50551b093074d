"""The debate stage on Ray Data: questions in, debates out, through ONE async operator.

Whole debates run as coroutines, many in each of a few worker processes. Local models are Ray Serve deployments shared by all of
them; providers are asked by the workers themselves, under one limiter for the cluster. Every reply is in the reply store before
it is used, so that whatever ends the stage, nothing is asked twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from magdi_ray.agents.budget import Spend
from magdi_ray.agents.limiter import start_limiter
from magdi_ray.agents.pool import PoolSpec, deploy_engines, retire_engines, unique_app
from magdi_ray.cluster import ending_actors, on_own_node, quiet_ray_data, root_cause
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.resources import ANYWHERE, Place
from magdi_ray.config.sections import DebateConfig
from magdi_ray.debate.books import Books, Ledger, audit, check_failures
from magdi_ray.debate.operator import DebateOperator, DebateStage
from magdi_ray.debate.view import View, spent_before
from magdi_ray.errors import EngineError, MagdiError, RunError
from magdi_ray.placement import remote_options
from magdi_ray.progress import Progress, polled
from magdi_ray.storage import collect, fetched, open_storage

BATCH = 16
"""Debates whose rows appear together; small, because a batch's output appears only when all of it has ended."""

BLOCK = 64
"""Questions of one call of the operator: Ray Data keeps four batches of a call under way at once."""

READING_CPUS = 0.1
"""A task that reads questions reserves no more: with a whole CPU each, an autoscaler would add nodes to read a small file."""

SLACK = 2
"""A worker takes in so many times the questions it debates at once: a batch that waits for its slowest debate blocks no other."""

ROWS_PER_FILE = 512
"""Debates are written as soon as this many have ended, so that output appears while the stage runs."""


def pool_specs(config: DebateConfig, apps: Mapping[str, str], place: Place = ANYWHERE) -> list[PoolSpec]:
    """One engine deployment for each agent named in `apps`, all of them on the nodes of a place."""
    return [
        PoolSpec(
            name=apps[agent.name],
            engine=agent.engine,
            replicas=agent.replicas,
            num_cpus=agent.num_cpus,
            num_gpus=agent.num_gpus,
            max_ongoing_requests=config.max_in_flight,
            place=place,
        )
        for agent in config.agents
        if agent.name in apps
    ]


def run_debates(stage: DebateStage, *, source: str, out: Path, shared: str, log: Path) -> dict[str, Any]:
    """Debate the questions stored at the place `source` and write the debates to `out`. Returns the stage's facts.

    Workers write to the place `shared`: `out` itself where all machines share it, else a URL, whose files are then copied.

    Raises:
        EngineError: an engine cannot be deployed, or more than `debate.max_failed_share` of the debates failed.
        RunError: the budget is spent; says how to go on.
    """
    import ray

    config = stage.debate
    apps = {a.name: unique_app("debate", a.name) for a in config.agents if not isinstance(a.engine, ApiEngine)}
    with ending_actors() as until_end:
        beside_driver = ray.remote(num_cpus=0, scheduling_strategy=on_own_node())
        ledger = until_end(beside_driver(Ledger).remote(stage.rows, config.max_failed_share))
        limiter = until_end(_limiter(stage))
        started = time.monotonic()
        deploy_engines(pool_specs(config, apps, stage.config.resources.agents))
        deployed = time.monotonic()
        try:
            with _watched(stage, ledger, limiter, log):
                _stream(stage, apps, ledger, limiter, source=source, out=shared)
        except MagdiError:
            raise
        except Exception as error:  # Ray wraps whatever happened in a worker; the person needs the worker's own words
            told = f"The debates were broken off: {root_cause(error)}. Run again: no reply is asked for twice."
            raise EngineError(told) from error
        finally:
            retire_engines(list(apps.values()))
        reused = _told(ledger.read.remote(), Books()).reused
        # A limiter that died has failed its debates, which say so.
        state = _told(limiter.read.remote(), {"providers": {}, "spend": {}, "stopped": False})
    collect(shared, out)
    final = audit(fetched(source), out, most_calls=stage.most_calls)
    final.reused = reused
    _check_budget(stage, final, state)
    check_failures(final, config.max_failed_share)
    seconds = {"seconds_deploying": round(deployed - started, 1), "seconds_debating": round(time.monotonic() - deployed, 1)}
    return facts(final, state) | seconds


def _told(answer: Any, otherwise: Any) -> Any:
    """What an actor tells at the end, or something else where it is gone."""
    import ray

    try:
        return ray.get(answer, timeout=30)
    except RayError:
        return otherwise


def facts(books: Books, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage's manifest says of it."""
    spend: Mapping[str, Spend] = state["spend"]
    return {
        "debates": books.debates,
        "consensus": books.consensus,
        "replies": books.replies,
        "unparsed replies": books.unparsed,
        "replies already in the store": books.reused,
        "calls saved by stopping early": books.saved,
        "failed": books.failed,
        "errors": dict(books.errors),
        "tokens_in": books.tokens_in,
        "tokens_out": books.tokens_out,
        "usd": round(sum(item.usd for item in spend.values()), 6),
        "spend": {agent: asdict(item) for agent, item in sorted(spend.items())},
        "providers": {name: _provider_facts(values) for name, values in state["providers"].items()},
    }


def _provider_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("concurrency", "lowest", "highest", "granted", "rate_limited", "overloaded")
    history = [concurrency for _, concurrency in values["history"]]
    after = history[history.index(min(history)) :]
    return {name: values[name] for name in kept} | {"highest after lowest": max(after)}


def _limiter(stage: DebateStage) -> Any:
    engines = [agent.engine for agent in stage.debate.agents]
    return start_limiter(
        {engine.provider: engine.limits for engine in engines if isinstance(engine, ApiEngine)},
        budget_usd=stage.debate.budget_usd,
        budget_tokens=stage.debate.budget_tokens,
        spent=spent_before(stage.replies, stage.run, Path(stage.waste)),
    )


def _check_budget(stage: DebateStage, books: Books, state: Mapping[str, Any]) -> None:
    if not state["stopped"]:
        return
    spend = sum(state["spend"].values(), Spend())
    raise RunError(
        f"Stopped at the budget: {state['reason']}. Spent so far: ${spend.usd:.4f} and {spend.tokens_in + spend.tokens_out} "
        f"tokens in {spend.calls} calls; {books.debates - books.failed} of {stage.rows} debates had ended. "
        f"All replies are kept in {stage.replies}. To go on, raise debate.budget_usd or debate.budget_tokens and run the same "
        "command again: nothing is paid for twice."
    )


def _stream(stage: DebateStage, apps: Mapping[str, str], ledger: Any, limiter: Any, *, source: str, out: str) -> None:
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    quiet_ray_data()
    # Ray Data would wait until a worker has nearly twice the calls it may have: no pool would ever grow.
    DataContext.get_current().autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    fewest, most = stage.debate.worker_range
    # Each worker's share is that of the largest pool, so that a pool that grew debates no more at once than it may.
    calls = max(1, SLACK * stage.debate.max_in_flight // most // BLOCK)
    pool = ActorPoolStrategy(
        min_size=fewest, max_size=most, max_tasks_in_flight_per_actor=calls, max_concurrent_calls_per_actor=calls
    )
    (reading, questions), (writing, target) = open_storage(source), open_storage(out)
    blocks = max(1, min(most * 4, stage.rows))
    debates = (
        ray.data.read_parquet(
            questions,
            filesystem=reading,
            file_extensions=["parquet"],
            override_num_blocks=blocks,
            num_cpus=READING_CPUS,
        )
        .repartition(target_num_rows_per_block=BLOCK)
        .map_batches(
            DebateOperator,
            fn_constructor_args=(stage, apps, ledger, limiter),
            batch_size=BATCH,
            batch_format="pyarrow",
            compute=pool,
            # None, if nobody says otherwise: a worker mostly waits, and must never keep its own input from being read.
            num_cpus=stage.debate.num_cpus,
            **remote_options(stage.config.resources.debate),
        )
    )
    debates.write_parquet(target, filesystem=writing, min_rows_per_file=ROWS_PER_FILE)


@contextmanager
def _watched(stage: DebateStage, ledger: Any, limiter: Any, log: Path) -> Iterator[None]:
    """Show the stage's progress, and write it to the run's log, while the body runs."""
    import ray

    view = View(
        stage.rows,
        stage.debate.budget_usd,
        budget_tokens=stage.debate.budget_tokens,
        max_failed_share=stage.debate.max_failed_share,
        log=log,
        waste=Path(stage.waste),
    )

    def look(progress: Progress) -> None:
        view.show(progress, *ray.get([ledger.read.remote(), limiter.read.remote()]))

    with polled(Progress("debate", stage.rows), look):
        yield
