"""Scenarios small enough to work out by hand."""

from __future__ import annotations

from typing import Any

from magdi_ray.config.engines import Limits
from magdi_ray.simulate.scenario import Agent, Call, Latency, Nodes, Overheads, Pool, Provider, Scenario, Speed, Trace

FREE = Overheads(call_s=0.0, exchange_s=0.0, fixed_s=0.0, retry_s=0.0)
"""Nothing but the calls themselves."""


def trace(*, rounds: int = 1, agents: int = 1, tokens: tuple[int, int] = (100, 50)) -> Trace:
    """A debate in which everyone speaks in every round."""
    return tuple(tuple(Call(agent, *tokens) for agent in range(agents)) for _ in range(rounds))


def asked(*traces: Trace, latency: float = 1.0, provider: dict[str, Any] | None = None, **limits: Any) -> dict[str, Any]:
    """Arguments of a `Scenario` with one provider, which all agents share."""
    agents = 1 + max(call.agent for held in traces for calls in held for call in calls)
    return {
        "agents": tuple(Agent(f"a{n}", provider=0, latency=Latency(latency)) for n in range(agents)),
        "traces": traces,
        "providers": (Provider("p", Limits(**limits), **(provider or {})),),
        "overheads": FREE,
    }


def hosted(*, replicas: tuple[int, int] = (1, 1), batch: int = 4, batching: Any = "dynamic", **more: Any) -> Scenario:
    """One local agent, whose batch takes 10 s whatever is in it, on machines of its own."""
    pool = Pool(replicas, batch, Speed(10.0, 0.0, 0.0), batching, load_s=30.0)
    more = {"agent_nodes": Nodes(start_s=60.0), "max_in_flight": 64, "overheads": FREE} | more
    return Scenario((Agent("local", pool=pool),), (trace(),), **more)
