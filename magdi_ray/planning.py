"""From a configuration to the plan of its debates: everything is checked, nothing is sent and nothing is written."""

from __future__ import annotations

from pathlib import Path

from magdi_ray.agents.budget import Spend
from magdi_ray.config import RunConfig
from magdi_ray.debate.load import load_protocol
from magdi_ray.debate.plan import Plan, plan_debates
from magdi_ray.debate.view import spent_before
from magdi_ray.errors import ConfigError
from magdi_ray.preflight import check_run
from magdi_ray.runs import Run
from magdi_ray.stages import WASTE, payer, replies_url
from magdi_ray.tasks.load import count_questions, iter_questions, load_task


def plan_run(config: RunConfig, run: Run) -> tuple[Plan, Spend]:
    """What the debates of a run are expected to cost, and what its reply store already holds of them.

    Raises:
        ConfigError: the run has no debates, or something else that would keep it from starting.
    """
    if config.debate is None:
        raise ConfigError("This run holds no debate: its graphs come from graph.source. There is nothing to plan.")
    check_run(config, run, until="debates", keys=False)
    protocol = load_protocol(config.debate.protocol, load_task(config.task))
    golds = config.graph.labels == "gold"
    count = count_questions(config.task, golds=golds)
    made = plan_debates(config.debate, protocol, iter_questions(config.task, golds=golds), count=count, seed=config.seed)
    return made, _paid(config, run)


def _paid(config: RunConfig, run: Run) -> Spend:
    url = replies_url(config, run)
    if "://" not in url and not Path(url).is_dir():
        return Spend()
    return sum(spent_before(url, payer(config, run), run.root / WASTE).values(), Spend())
