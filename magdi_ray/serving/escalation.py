"""The teachers kept at hand behind an endpoint: a room that holds debates, beside the deployments of the local teachers.

    door ──RoomTeachers──▶ DebateRoom ──handles──▶ teacher-ada, teacher-ben, ...     local models, a deployment each
                                      ──HTTP────▶ providers                          paced and retried in the room itself

There is one room, so that one limiter and one budget hold for everybody. Knows no HTTP of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from magdi_ray.agents.admission import Admission, LocalLimiter
from magdi_ray.agents.api import ApiAgent
from magdi_ray.agents.base import Engine, Message, Reply, Sampling
from magdi_ray.agents.budget import Budget
from magdi_ray.agents.metered import MeteredEngine
from magdi_ray.agents.pool import RETRIED, EngineReplica, ask_replica, engine_application
from magdi_ray.agents.store import ReplyStore, StoredEngine
from magdi_ray.agents.weights import model_directories, resolve_model
from magdi_ray.config.base import content_hash, shaping
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.protocols import located
from magdi_ray.config.sections import AgentConfig, DebateConfig
from magdi_ray.config.serving import StudentArgs
from magdi_ray.debate.hold import Seat
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.operator import identity
from magdi_ray.debate.run import pool_specs
from magdi_ray.errors import EngineError, MagdiError
from magdi_ray.runs import file_hash
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.debating import Room
from magdi_ray.tasks.load import task_named

logger = logging.getLogger(__name__)

PAYER = "escalations"
"""Who pays for replies, in the records of the reply store."""

UNBOUNDED = 100_000
"""Requests the room holds: it says itself when there are too many."""

ATTEMPTS = 3
"""Times the room is asked the same question where it dies meanwhile; its replies are kept, and asked for only once."""


class DebateRoom:
    """The class of the Serve deployment `debate-room`. One replica, always: it keeps the limits and the budget."""

    def __init__(
        self,
        config: DebateConfig,
        teachers: Mapping[str, DeploymentHandle[EngineReplica]],
        *,
        task: str,
        graphs: str,
        seed: int,
        log_texts: bool,
    ) -> None:
        """`teachers`: a handle for each agent with a local engine, by its name; `graphs`: directory of the debates' graphs.

        Raises:
            ConfigError: the task is unknown, a prompt file cannot be used, a provider's key is not set, or the reply store cannot
                be written.
        """
        rules = task_named(task)
        store = ReplyStore(config.replies or f"{graphs}-replies", run=PAYER)
        admission = LocalLimiter(
            {agent.engine.provider: agent.engine.limits for agent in config.agents if isinstance(agent.engine, ApiEngine)},
            budget=Budget(usd=config.budget_usd, tokens=config.budget_tokens, spent=store.spent(PAYER)),
        )
        self._room = Room(
            load_protocol(config.protocol, rules),
            seats_of(config, store, {agent.name: engine_of(agent, teachers, admission) for agent in config.agents}),
            graphs=Path(graphs),
            identity=identity_of(config, seed=seed),
            seed=seed,
            at_once=config.max_in_flight,
            log_texts=log_texts,
        )

    async def debate(self, question: str) -> Escalated:
        """See `Teachers`."""
        return await self._room.debate(question)


class HandledEngine:
    """A local teacher behind its deployment's handle."""

    def __init__(self, handle: DeploymentHandle[EngineReplica], name: str) -> None:
        self._handle = handle
        self._name = name

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """See `Engine`."""
        return await ask_replica(self._handle, messages, sampling, name=self._name)


def engine_of(agent: AgentConfig, teachers: Mapping[str, DeploymentHandle[EngineReplica]], admission: Admission) -> Engine:
    """Who answers for an agent, under the room's limits and budget."""
    if isinstance(agent.engine, ApiEngine):
        return ApiAgent(agent.engine, agent=agent.name, admission=admission)
    return MeteredEngine(HandledEngine(teachers[agent.name], deployment_of(agent.name)), admission, agent.name)


def exact_of(config: DebateConfig) -> dict[str, str]:
    """Agent -> what exactly answers for it."""
    return {a.name: identity(a, "".join(map(file_hash, model_directories(a.engine.files())))) for a in config.agents}


def identity_of(config: DebateConfig, *, seed: int) -> str:
    """Twelve hex digits of all that shapes a debate: who answers for whom and how, the rules with the content of their files, and
    the seed. Where files lie does not count, nor how the work is carried out."""
    exact = exact_of(config)
    files = {name: getattr(config.protocol, name, None) for name in ("prompts", "convincing")}
    content = {name: file_hash(resolve_model(path)) for name, path in files.items() if isinstance(path, str)}
    shape = {
        "protocol": shaping(config.protocol) | content,
        "agents": [(agent.name, exact[agent.name], shaping(agent.sampling)) for agent in config.agents],
        "seed": seed,
    }
    return content_hash(shape)[:12]


def seats_of(config: DebateConfig, store: ReplyStore, engines: Mapping[str, Engine]) -> dict[str, Seat]:
    """The table as a debate stage lays it: every reply is kept before it is used, and twins draw replies of their own."""
    agents = config.agents
    exact = exact_of(config)
    seats = {}
    for agent in agents:
        twins = [a.name for a in agents if exact[a.name] == exact[agent.name] and a.sampling == agent.sampling]
        remote = agent.engine if isinstance(agent.engine, ApiEngine) else None
        seats[agent.name] = Seat(
            teacher=StoredEngine(
                engines[agent.name],
                store,
                agent=agent.name,
                provider=remote.base_url if remote else agent.engine.type,
                model=exact[agent.name],
                price=remote.price if remote else None,
            ),
            sampling=agent.sampling,
            seeded=remote is None or agent.sampling.seed is not None,
            twin=twins.index(agent.name),
            twins=len(twins),
            repair=remote is not None and remote.repair,
        )
    return seats


def room_application(args: StudentArgs) -> serve.Application:
    """The room with the deployments of its local teachers (`teacher-NAME`), to be bound into an endpoint's application. Paths are
    made absolute here: replicas have working directories of their own.

    Raises:
        ConfigError: the task is unknown, or a local teacher's engine cannot be configured.
    """
    assert args.debate is not None
    assert args.escalations is not None
    assert args.task is not None
    task_named(args.task)
    config = args.debate.model_copy(
        update={
            "protocol": located(args.debate.protocol),
            "agents": tuple(a.model_copy(update={"engine": a.engine.located()}) for a in args.debate.agents),
            "replies": made_absolute(args.debate.replies) if args.debate.replies else None,
        }
    )
    apps = {agent.name: deployment_of(agent.name) for agent in config.agents if not isinstance(agent.engine, ApiEngine)}
    specs = {spec.name: spec for spec in pool_specs(config, apps, args.resources.agents)}
    teachers = {agent: engine_application(specs[name], name=name) for agent, name in apps.items()}
    room = serve.deployment(DebateRoom).options(
        name="debate-room",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},  # it waits for others nearly all the time
        max_ongoing_requests=UNBOUNDED,
        max_constructor_retry_count=2,
        graceful_shutdown_timeout_s=args.request_timeout_s,
        graceful_shutdown_wait_loop_s=0.1,
    )
    # Nothing but what debates depend on: a new version of the student leaves room and teachers as they are.
    graphs = made_absolute(args.escalations)
    application: serve.Application = room.bind(
        config, teachers, task=args.task, graphs=graphs, seed=args.seed, log_texts=args.log_prompts
    )
    return application


def deployment_of(agent: str) -> str:
    """Name of the deployment of a local teacher."""
    return f"teacher-{agent}"


def made_absolute(place: str) -> str:
    """A directory made absolute, also where it does not exist yet; a URL as it is."""
    return place if "://" in place else str(Path(place).expanduser().resolve())


class RoomTeachers:
    """The room as the front door sees it: `Teachers` over a Serve handle."""

    def __init__(self, handle: DeploymentHandle[DebateRoom]) -> None:
        self._handle = handle

    async def debate(self, question: str) -> Escalated:
        """See `Teachers`.

        Raises:
            EngineError: a mistake in this project's own code; whatever else goes wrong is told in `error`.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=0.2, max=5.0),
            retry=retry_if_exception(_lost),
            reraise=True,
        )
        try:
            return await retrying(self._once, question)
        except RayTaskError as error:
            if isinstance(error.cause, RETRIED):
                return _unreachable(error.cause)
            if isinstance(error.cause, MagdiError):
                raise error.cause from None
            raise EngineError(f"The debate room failed: {type(error.cause).__name__}") from error
        except (RayError, RayServeException) as error:
            return _unreachable(error)

    async def _once(self, question: str) -> Escalated:
        response = self._handle.debate.remote(question)
        try:
            found: Escalated = await response
            return found
        except BaseException:
            response.cancel()  # whoever waited has left; the room knows whether the debate is to go on
            raise


def _lost(error: BaseException) -> bool:
    return isinstance(error.cause if isinstance(error, RayTaskError) else error, RETRIED)


def _unreachable(error: BaseException) -> Escalated:
    logger.warning("The teachers cannot be asked: %s", type(error).__name__)
    told = f"The teachers cannot be asked at the moment ({type(error).__name__})."
    return Escalated("", "", None, 0.0, 0, (), 0, 0, stored=False, error=told)
