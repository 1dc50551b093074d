"""The plan of a run on a cluster: every stage, its machines, hours, money and bytes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from magdi_ray.agents import api, pacing, pool
from magdi_ray.agents.limiter import SPACING_S
from magdi_ray.config.cluster import Cluster, load_cluster
from magdi_ray.config.engines import ApiEngine
from magdi_ray.config.load import load_config
from magdi_ray.config.run import RunConfig
from magdi_ray.debate import run as real
from magdi_ray.distill.forecast.prospect import Prospect
from magdi_ray.errors import ConfigError
from magdi_ray.planning import plan_run
from magdi_ray.runs import Run
from magdi_ray.simulate import debate, hosting, providing, report
from magdi_ray.simulate.report import ClusterPlan, Row, as_json, cluster_plan, markdown, tables, unplaced
from magdi_ray.simulate.scenario import Overheads

ROOT = Path(__file__).parents[2]
GPU = [
    *(f"debate.agents.{n}.num_gpus=1" for n in range(3)),
    *(
        "distil.scaling={num_workers: 8, use_gpu: true}",
        "distil.train.max_steps=null",
        "distil.train.epochs=2",
        "evaluate.num_gpus=1",
    ),
]
"""The bundled run as if it had GPUs, so that no tokenizer or question has to be fetched."""


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(ROOT / "configs" / "tiny.yaml", GPU)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load_cluster(ROOT / "cluster" / "prices.yaml")


@pytest.fixture(scope="module")
def prospect(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Prospect:
    return plan_run(unplaced(config), Run(tmp_path_factory.mktemp("none") / "run")).distil


@pytest.fixture(scope="module")
def plan(config: RunConfig, prospect: Prospect, cluster: Cluster) -> ClusterPlan:
    return cluster_plan(config, prospect, cluster, questions=(1000, 10**6, 10**9))


def stage(row: Row, name: str) -> report.StageBill:
    return next(found for found in row.stages if found.stage == name)


def test_every_stage_is_billed_for_every_number_of_questions(plan: ClusterPlan) -> None:
    assert [[s.stage for s in row.stages] for row in plan.rows] == [["debates", "graphs", "distil", "evaluation"]] * 3
    sums = [row.usd(plan.cluster) for row in plan.rows]
    assert None not in sums
    assert sums == sorted(sums)


def test_machines_are_paid_by_the_hour_at_the_price_of_their_market(plan: ClusterPlan) -> None:
    row = plan.rows[0]
    debates, bill = row.debates, stage(row, "debates")
    expected = debates.machine_s / 3600 * 0.35 + debates.seconds / 3600 * 0.80  # spot GPUs, one machine for the worker
    assert bill.machine_usd == pytest.approx(expected)
    assert (debates.machines, bill.gpus) == (3, 3)  # an agent a GPU


def test_the_hours_of_distillation_are_the_forecasts(plan: ClusterPlan, prospect: Prospect, config: RunConfig) -> None:
    questions = prospect.forecasts[-1].workload.questions
    seconds = sum(item.seconds(config.distil.estimate, 8) or 0.0 for item in prospect.forecasts)
    gpu_hours = stage(plan.rows[1], "distil").gpu_hours
    assert gpu_hours == pytest.approx(8 * seconds * 10**6 / questions / 3600)


def test_a_number_of_steps_does_not_grow_with_the_questions(
    config: RunConfig, prospect: Prospect, cluster: Cluster, tmp_path: Path
) -> None:
    steps = load_config(ROOT / "configs" / "tiny.yaml", [*GPU[:4], "evaluate.num_gpus=1"])
    found = plan_run(unplaced(steps), Run(tmp_path / "run")).distil
    small, large = cluster_plan(steps, found, cluster, questions=(1000, 10**6)).rows
    assert stage(small, "distil").gpu_hours == stage(large, "distil").gpu_hours


def test_what_is_stored_and_moved_grows_with_the_questions(plan: ClusterPlan) -> None:
    small, large = (stage(row, "debates") for row in plan.rows[1:])
    assert large.stored_gb / small.stored_gb == pytest.approx(1000, rel=0.01)
    assert small.kept_usd(plan.cluster) == pytest.approx(small.stored_gb * 0.023)
    assert small.out_gb == 0.0  # nobody is asked outside


def test_api_agents_cost_their_tokens_and_the_way_out(cluster: Cluster, prospect: Prospect) -> None:
    engine = "{type: api, model: m, base_url: 'http://p/v1', price: {input: 1.0, output: 2.0}}"
    config = load_config(ROOT / "configs" / "tiny.yaml", [f"debate.agents.{n}.engine={engine}" for n in range(3)])
    row = cluster_plan(config, prospect, cluster, questions=(400,)).rows[0]
    scenario, _ = report.build(config, cluster=cluster)
    read, written = (sum(pair[side] for pair in scenario.tokens()) for side in (0, 1))
    assert stage(row, "debates").api_usd == pytest.approx(row.debates.questions * (read + 2 * written) / 1e6)
    assert stage(row, "debates").out_gb > 0
    assert row.debates.machines == 0


def test_equal_arguments_give_equal_plans(config: RunConfig, prospect: Prospect, cluster: Cluster) -> None:
    one, other = (as_json(cluster_plan(config, prospect, cluster, questions=(500, 20_000), seed=3)) for _ in range(2))
    assert one == other


def test_the_table_the_document_and_the_json_say_the_same(plan: ClusterPlan) -> None:
    told = json.loads(json.dumps(as_json(plan)))
    assert [row["questions"] for row in told["rows"]] == [1000, 10**6, 10**9]
    assert len(markdown(plan).splitlines()) == 2 + 3 * 4
    assert tables(plan)[0].row_count == 3 * 5
    assert "1 000 000 000" in markdown(plan)
    assert plan.cluster.prices in told["remarks"][0]


def test_no_questions_are_refused(config: RunConfig, prospect: Prospect, cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        cluster_plan(config, prospect, cluster, questions=(10, 0))


def test_a_replica_that_fits_no_machine_is_refused_with_the_figures(prospect: Prospect, cluster: Cluster) -> None:
    config = load_config(ROOT / "configs" / "tiny.yaml", ["debate.agents.0.num_cpus=64"])
    with pytest.raises(ConfigError, match="'ada' reserves 64 CPUs and 0 GPUs, a machine of 'gpu-l4' has 8 and 1"):
        cluster_plan(config, prospect, cluster, questions=(10,))


def test_the_simulation_goes_by_the_constants_of_the_real_stage() -> None:
    assert (debate.BLOCK, debate.SLACK) == (real.BLOCK, real.SLACK)
    assert hosting.UPSCALE_SECONDS == pool.UPSCALE_SECONDS
    assert Overheads().exchange_s == SPACING_S
    assert (providing.UNKNOWN_S, providing.MARGIN) == (pacing.UNKNOWN_WAIT_S, api.MARGIN)
    assert api.BACKOFF_S[api.RateLimited] == (providing.FIRST_BACKOFF_S, providing.LONGEST_BACKOFF_S)
    assert ApiEngine.model_fields["max_attempts"].default == providing.MAX_ATTEMPTS


def test_the_simulation_imports_no_ray() -> None:
    for path in (ROOT / "magdi_ray" / "simulate").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not any(name.split(".")[0] == "ray" for name in names), path.name
