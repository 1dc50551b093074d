from __future__ import annotations

import pytest

from magdi_ray.agents.base import Sampling
from magdi_ray.config.engines import ApiEngine, Limits, Price
from magdi_ray.config.protocols import ReconcileConfig
from magdi_ray.config.sections import AgentConfig, DebateConfig, EstimateConfig
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.plan import Plan, plan_debates
from magdi_ray.errors import ConfigError
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

QUESTIONS = [Question(f"q{n}", f"How many are {n} apples and 3 pears?", str(n + 3)) for n in range(50)]


def planned(
    count: int = 50, *, rounds: int = 2, agreement: float = 0.6, limits: Limits | None = None, longest: int = 512
) -> Plan:
    engine = ApiEngine(type="api", model="m", price=Price(input=1.0, output=10.0), limits=limits or Limits())
    lengths = {"a": longest, "b": 512, "c": 512}
    agents = tuple(AgentConfig(name=name, engine=engine, sampling=Sampling(max_tokens=most)) for name, most in lengths.items())
    estimate = EstimateConfig(agreement=agreement, reply_tokens=100, seconds_per_reply=6.0)
    config = DebateConfig(protocol=ReconcileConfig(name="reconcile", rounds=rounds), agents=agents, estimate=estimate)
    return plan_debates(config, load_protocol(config.protocol, Gsm8k()), QUESTIONS[:count], count=count)


def test_calls_follow_from_the_assumed_agreement() -> None:
    assert planned(agreement=1.0).calls == 150
    assert planned(agreement=0.0).calls == planned().calls_at_most == 450
    assert planned(agreement=0.6).calls == pytest.approx(150 * (1 + 0.4 + 0.16), rel=0.1)


def test_tokens_out_are_calls_times_the_assumed_length() -> None:
    plan = planned()
    assert plan.total.tokens_out == pytest.approx(100 * plan.calls, rel=0.02)


def test_no_reply_is_longer_than_its_agent_may_write() -> None:
    plan = planned(longest=40)
    assert plan.agents["a"].tokens_out == pytest.approx(40 * plan.agents["a"].calls, rel=0.02)
    assert plan.agents["b"].tokens_out == pytest.approx(100 * plan.agents["b"].calls, rel=0.02)
    assert plan.total.tokens_in < planned().total.tokens_in


def test_later_prompts_hold_the_earlier_replies() -> None:
    alone, discussed = planned(agreement=1.0), planned(agreement=0.0, rounds=1)
    first = alone.total.tokens_in / alone.calls
    second = (discussed.total.tokens_in - alone.total.tokens_in) / 150
    assert second > first + 3 * 70


def test_money_follows_from_prices() -> None:
    total = planned().total
    assert total.usd == pytest.approx((total.tokens_in * 1.0 + total.tokens_out * 10.0) / 1e6, rel=1e-3)


@pytest.mark.parametrize(
    ("limits", "seconds", "bound"),
    [
        (Limits(rpm=15), 600.0, "15 requests/min"),
        (Limits(concurrency=1), 900.0, "1 concurrent requests"),
        (Limits(concurrency=1000), 6.0, "debates in flight"),
    ],
)
def test_the_time_is_set_by_the_tightest_limit(limits: Limits, seconds: float, bound: str) -> None:
    plan = planned(agreement=1.0, limits=limits)
    assert plan.seconds == pytest.approx(seconds)
    assert bound in plan.bound


def test_a_plan_without_questions_is_refused() -> None:
    with pytest.raises(ConfigError, match="no question"):
        planned(0)
