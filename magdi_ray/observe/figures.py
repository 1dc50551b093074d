"""Every metric of a run, but for those of serving (`serving.metrics`): names, meanings, units and labels. Pure data.

Prometheus finds them as `ray_magdi_<name>`, counters with `_total` behind. All have the labels of `COMMON`, whose values are few:
nothing here is labelled with a question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PREFIX = "magdi_"
SCRAPED = f"ray_{PREFIX}"
"""Ray puts its own name before what it exports."""
COMMON = ("run", "run_id", "stage")

Kind = Literal["gauge", "counter"]
State = Literal["running", "finished", "failed", "stopped"]
STATES: tuple[State, ...] = ("running", "finished", "failed", "stopped")
"""`stopped`: by SIGTERM or Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric."""

    text: str
    unit: str
    labels: tuple[str, ...] = ()
    """Beside those of `COMMON`."""
    kind: Kind = "gauge"
    """A counter only rises while its process lives, over all attempts of a run; a gauge is what holds now, in this attempt."""


RUN = {
    "stage_state": Figure("1 for the state a stage is in, 0 for the others.", "", ("state",)),
    "stage_started_timestamp_seconds": Figure("When this attempt at a stage began.", "s"),
    "stage_seconds": Figure("What a finished stage took.", "s"),
    "stage_count": Figure("What a finished stage counted: graphs, nodes, edges, failed and so on.", "", ("what",)),
}
DEBATE = {
    "debate_questions": Figure("Questions to debate.", ""),
    "debate_ended": Figure("Debates that ended, failed ones included.", ""),
    "debate_consensus": Figure("Debates that ended in agreement.", ""),
    "debate_failed": Figure("Debates that failed, by the kind of error.", "", ("error",)),
    "debate_max_failed_ratio": Figure("Above this share of failed debates the stage fails (debate.max_failed_share).", "ratio"),
    "debate_last_ended_timestamp_seconds": Figure(
        "When debates were last seen to end; before the first one, when they began.", "s"
    ),
    "debate_replies": Figure("Replies in debates that ended.", "", kind="counter"),
    "debate_replies_reused": Figure("Of those, replies that were in the store already.", "", kind="counter"),
    "debate_replies_unparsed": Figure("Of those, replies without an answer that could be read.", "", kind="counter"),
    "debate_spent_calls": Figure("Calls the run has made, failed ones and those of earlier attempts included.", "", ("agent",)),
    "debate_spent_tokens": Figure("Tokens of those calls: direction is in or out.", "tokens", ("agent", "direction")),
    "debate_spent_usd": Figure("Dollars of those calls, where a price is configured.", "usd", ("agent",)),
    "debate_budget_spent_ratio": Figure("Share of budget_usd or budget_tokens that is spent, whichever is more.", "ratio"),
    "debate_under_way": Figure("Requests a provider is working on.", "", ("provider",)),
    "debate_concurrency": Figure("Requests at once that the limiter allows a provider.", "", ("provider",)),
    "debate_requests": Figure("Requests the limiter has let through.", "", ("provider",), "counter"),
    "debate_rate_limited": Figure("Answers that said: too many requests (429).", "", ("provider",), "counter"),
    "debate_overloaded": Figure("Answers that said: overloaded (503, 529).", "", ("provider",), "counter"),
}
DISTIL = {
    "distil_started_timestamp_seconds": Figure(
        "When the workers last began or went on; a change is a restart.", "s", ("training",)
    ),
    "distil_started_at_step": Figure("Steps that were done then.", "", ("training",)),
    "distil_steps": Figure("Steps that are done.", "", ("training",)),
    "distil_planned_steps": Figure("Steps of the whole training.", "", ("training",)),
    "distil_last_step_timestamp_seconds": Figure("When the last step was done.", "s", ("training",)),
    "distil_loss": Figure(
        "Loss of the last step: the weighted sum (all), and each objective's own before weighting.", "", ("training", "term")
    ),
    "distil_learning_rate": Figure("Learning rate of the last step.", "", ("training",)),
    "distil_gradient_norm": Figure("Norm of the last step's gradient, before it is clipped.", "", ("training",)),
    "distil_step_seconds": Figure("What the last step took.", "s", ("training",)),
    "distil_tokens_per_second": Figure("Tokens forwarded a second, in the last step, by all workers.", "", ("training",)),
    "distil_graphs_per_second": Figure("Graphs learned from a second, in the last step, by all workers.", "", ("training",)),
    "distil_dev_loss": Figure("Loss on graphs held out, at the last measurement.", "", ("training",)),
    "distil_dev_accuracy": Figure("Share of their questions the student answered right, then.", "ratio", ("training",)),
    "distil_checkpoint_timestamp_seconds": Figure("When a checkpoint was last whole on storage.", "s", ("training",)),
    "distil_checkpoint_step": Figure("Steps that were done then.", "", ("training",)),
}
EVALUATION = {
    "evaluation_planned": Figure("Answers that all systems have to give together.", ""),
    "evaluation_answered": Figure("Answers a system gave, failed ones included.", "", ("system",)),
    "evaluation_failed": Figure("Answers a system failed to give.", "", ("system",)),
    "evaluation_last_answer_timestamp_seconds": Figure("When answers were last seen to come.", "s"),
}
FIGURES: dict[str, Figure] = {**RUN, **DEBATE, **DISTIL, **EVALUATION}


def scraped(name: str) -> str:
    """What Prometheus finds a figure under."""
    return f"{SCRAPED}{name}" + ("_total" if FIGURES[name].kind == "counter" else "")


def table() -> Iterator[tuple[str, str, str, str]]:
    """Name in Prometheus, labels beside the common ones, unit, meaning: a row a figure."""
    for name, figure in FIGURES.items():
        yield scraped(name), ", ".join(figure.labels), figure.unit, figure.text
