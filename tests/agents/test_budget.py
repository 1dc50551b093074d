"""A budget is never exceeded, and says when it is spent."""

from __future__ import annotations

import random

from magdi_ray.agents.budget import Budget, Spend


def test_spend_adds_up_by_agent() -> None:
    budget = Budget(spent={"ada": Spend(1, 10, 5, 0.5)})
    budget.settle("ada", Spend(1, 1, 2, 0.25))
    budget.settle("bob", Spend(1, 3, 4))
    assert budget.spent == {"ada": Spend(2, 11, 7, 0.75), "bob": Spend(1, 3, 4)}
    assert not budget.bounded
    assert budget.reserve(usd=1e9, tokens=10**9) == "granted"


def test_a_call_waits_while_others_may_turn_out_cheaper() -> None:
    budget = Budget(usd=1.0)
    assert budget.reserve(usd=0.6, tokens=1) == "granted"
    assert budget.reserve(usd=0.6, tokens=1) == "wait"
    budget.settle("ada", Spend(1, 1, 0, 0.2), usd=0.6, tokens=1)
    assert budget.reserve(usd=0.6, tokens=1) == "granted"


def test_once_spent_nothing_is_admitted_any_more() -> None:
    budget = Budget(tokens=100, spent={"ada": Spend(3, 50, 45)})
    assert budget.reserve(usd=0.0, tokens=6) == "spent"
    assert budget.reserve(usd=0.0, tokens=1) == "spent"
    assert budget.reason == (
        "The budget of 100 tokens is spent: 95 so far, and the next call may take 6. Raise debate.budget_tokens to go on."
    )


def test_what_nobody_will_ever_know_counts_as_used_but_as_no_agents() -> None:
    budget = Budget(usd=1.0)
    budget.reserve(usd=0.7, tokens=1)
    budget.forfeit(usd=0.7, tokens=1)
    assert budget.spent == {}
    assert budget.reserve(usd=0.4, tokens=1) == "spent"
    assert "$0.7000 so far, and the next call may cost $0.4000" in (budget.reason or "")


def test_a_budget_is_never_exceeded_as_long_as_estimates_are_bounds() -> None:
    draw, budget, under_way = random.Random(0), Budget(usd=10.0), []
    for _ in range(5000):
        bound = draw.uniform(0.01, 0.3)
        if budget.reserve(usd=bound, tokens=1) == "granted":
            under_way.append(bound)
        elif under_way:
            reserved = under_way.pop(draw.randrange(len(under_way)))
            budget.settle("ada", Spend(1, 0, 0, reserved * draw.random()), usd=reserved, tokens=1)
        assert budget.spent.get("ada", Spend()).usd + sum(under_way) <= 10.0 + 1e-9
    assert budget.reason is not None
    assert budget.spent["ada"].usd > 9.0
