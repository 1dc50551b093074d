"""What is refused about distillation before a debate is paid for: said in words, with what to do."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from magdi_ray.config import load_config
from magdi_ray.errors import ConfigError
from magdi_ray.pipeline import together
from magdi_ray.preflight import check_run
from magdi_ray.runs import Run

TINY = Path(__file__).parent.parent / "configs" / "tiny.yaml"
NEXT = "objectives: [{name: next_token}]"

REFUSED = {
    "distil.checkpoints.storage=foo://bucket": "foo://bucket.*Protocol not known",
    f"distil.recipe={{name: x, labels: {{source: judge}}, {NEXT}}}": "takes its labels from a judge.*decision",
    f"distil.recipe={{name: x, nodes: {{rounds: [5]}}, {NEXT}}}": r"nodes.rounds is \[5\].*rounds 0 to 1",
    f"distil.recipe={{name: x, nodes: {{agents: [zed]}}, {NEXT}}}": "learns from .*zed.*ada.*ben.*cleo",
    "distil.dev={graphs: 5000}": "holds out 5000 graphs, but there are only 1400",
    "distil.dev={graphs: 0}": "no.* dev questions|there is none",
    "distil.student.tuning={type: lora, target_modules: [q_prj]}": "q_prj.*q_proj",
    "distil.recipe={name: x, objectives: [{name: verify, reading: {layer: 3}}]}": "layer 3, but the student has 2.*1 to 2",
    "distil.track={mlflow: {experiment: mine}}": "mlflow",
}


@pytest.mark.parametrize(("setting", "words"), REFUSED.items())
def test_a_setting_nothing_could_be_learned_with_is_refused_before_anything_starts(
    setting: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        check_run(load_config(TINY, [setting]), Run(tmp_path / "run"), until="student")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("{roles: [student], rounds: [1]}", "rounds 0 to 0"),
        ("{agents: [pupil]}", "pupil is a student"),
        ("{roles: [student]}", ""),
    ],
)
def test_a_student_at_the_table_speaks_in_the_first_round_only(
    nodes: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUPIL", "pkg://magdi_ray/tiny/models/student")
    config = load_config(TINY.with_name("on-policy.yaml"), [f"distil.recipe={{name: on-policy, nodes: {nodes}, {NEXT}}}"])
    with pytest.raises(ConfigError, match=words) if words else nullcontext():
        check_run(config, Run(tmp_path / "run"), until="student")


def test_a_good_configuration_is_accepted(tmp_path: Path) -> None:
    check_run(load_config(TINY, ["distil.dev={graphs: 50}"]), Run(tmp_path / "run"), until="student")


def test_a_changing_number_of_workers_needs_checkpoints(tmp_path: Path) -> None:
    sets = ["distil.scaling.num_workers=[1, 2]", "distil.checkpoints={every_minutes: null}"]
    with pytest.raises(ConfigError, match="every_minutes or every_steps"):
        check_run(load_config(TINY, sets), Run(tmp_path / "run"), until="student")


def test_agents_of_recorded_debates_are_known_by_name(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGDI_DATA", str(data_dir))
    recipe = f"distil.recipe={{name: x, nodes: {{agents: [zed]}}, {NEXT}}}"
    with pytest.raises(ConfigError, match=r"learns from .*zed"):
        check_run(load_config(TINY.with_name("gsm8k-recorded.yaml"), [recipe]), Run(tmp_path / "run"), until="student")


@pytest.mark.parametrize(
    ("labels", "source", "needed"), [("gold", "graph", True), ("gold", "vote", False), ("vote", "gold", True)]
)
def test_gold_answers_are_needed_where_labels_come_from_them(labels: str, source: str, needed: bool) -> None:
    recipe = f"distil.recipe={{name: x, labels: {{source: {source}}}, {NEXT}}}"
    config = load_config(TINY, [f"graph.labels={labels}", recipe, "distil.ablations=[]"])
    assert config.needs_golds is needed


def test_the_first_failure_is_raised_and_nothing_is_begun_after_it() -> None:
    done: list[str] = []

    def fail() -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        together([fail, lambda: time.sleep(0.2), lambda: done.append("third"), lambda: done.append("fourth")], 1)
    assert "fourth" not in done


def test_pieces_of_work_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=5)
    together([meeting.wait, meeting.wait], 2)
