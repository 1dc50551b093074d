"""What a person, the run's log and its metrics are told of a debate stage: the plan; then rate, agreement, spend, time left."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.table import Table

from magdi_ray.agents.budget import Spend
from magdi_ray.agents.store import ReplyStore
from magdi_ray.config.sections import DebateConfig
from magdi_ray.debate.books import Books
from magdi_ray.debate.plan import Plan
from magdi_ray.observe.meter import Meter, meter
from magdi_ray.progress import Progress
from magdi_ray.storage import write_atomically

LOG_SECONDS = 10.0
"""Between two lines of the stage in the run's log."""


class View:
    """What a person, the run's log and its metrics are told of a running stage."""

    def __init__(
        self,
        rows: int,
        budget_usd: float | None,
        *,
        log: Path,
        waste: Path,
        budget_tokens: int | None = None,
        max_failed_share: float | None = None,
    ) -> None:
        self.rows, self.budget_usd, self.log, self.waste = rows, budget_usd, log, waste
        self.wasted = read_waste(waste)
        self.measured = Measured(rows, budget_usd=budget_usd, budget_tokens=budget_tokens, max_failed_share=max_failed_share)
        self.started = time.monotonic()
        self.logged = self.started

    def show(self, progress: Progress, books: Books, state: Mapping[str, Any]) -> None:
        """One look."""
        now = time.monotonic()
        spend = sum(state["spend"].values(), Spend())
        progress.update(books.debates, note=self.note(books, spend, now - self.started))
        self.measured.tell(books, state)
        if state["wasted"]:
            write_waste(self.waste, self.wasted, state["wasted"])
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            line = {"stage": "debates", "debates": books.debates, "failed": books.failed, **asdict(spend)}
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")

    def note(self, books: Books, spend: Spend, seconds: float) -> str:
        """Rate, agreement, spend, time left."""
        rate = books.debates / seconds if seconds else 0.0
        parts = [f"{rate:.1f}/s", f"{books.replies} replies", f"{spend.tokens_in + spend.tokens_out} tokens"]
        if books.debates:
            parts.append(f"{books.consensus / books.debates:.0%} consensus")
        if spend.usd or self.budget_usd:
            parts.append(f"${spend.usd:.2f}" + (f" of ${self.budget_usd:g}" if self.budget_usd else ""))
        if books.failed:
            parts.append(f"{books.failed} failed")
        left = self.rows - books.debates
        if rate and left:
            parts.append(f"{_duration(left / rate)} left")
        return ", ".join(parts)


class Measured:
    """A running stage as figures (`observe.figures.DEBATE`); `max_failed_share` and budgets are the configuration's."""

    def __init__(
        self,
        rows: int,
        *,
        budget_usd: float | None = None,
        budget_tokens: int | None = None,
        max_failed_share: float | None = None,
        meter: Meter = meter,
    ) -> None:
        self.rows, self.budgets, self.max_failed_share = rows, (budget_usd, budget_tokens), max_failed_share
        self.meter = meter
        self.ended = 0
        self.ended_at = time.time()

    def tell(self, books: Books, state: Mapping[str, Any]) -> None:
        """One look at the stage."""
        if books.debates != self.ended:
            self.ended, self.ended_at = books.debates, time.time()
        gauges = {
            "debate_questions": self.rows,
            "debate_ended": books.debates,
            "debate_consensus": books.consensus,
            "debate_last_ended_timestamp_seconds": self.ended_at,
        }
        for name, value in gauges.items():
            self.meter.set(name, value)
        if self.max_failed_share is not None:
            self.meter.set("debate_max_failed_ratio", self.max_failed_share)
        for kind, count in books.errors.items():
            self.meter.set("debate_failed", count, error=kind)
        totals = {"replies": books.replies, "replies_reused": books.reused, "replies_unparsed": books.unparsed}
        for name, value in totals.items():
            self.meter.total(f"debate_{name}", value)
        self._spent(state["spend"])
        for name, values in state["providers"].items():
            self._provider(public_name(name), values)

    def _spent(self, spend: Mapping[str, Spend]) -> None:
        for agent, item in spend.items():
            self.meter.set("debate_spent_calls", item.calls, agent=agent)
            self.meter.set("debate_spent_tokens", item.tokens_in, agent=agent, direction="in")
            self.meter.set("debate_spent_tokens", item.tokens_out, agent=agent, direction="out")
            self.meter.set("debate_spent_usd", item.usd, agent=agent)
        total = sum(spend.values(), Spend())
        used = (total.usd, total.tokens_in + total.tokens_out)
        shares = [spent / most for spent, most in zip(used, self.budgets, strict=True) if most]
        if shares:
            self.meter.set("debate_budget_spent_ratio", max(shares))

    def _provider(self, name: str, values: Mapping[str, Any]) -> None:
        self.meter.set("debate_under_way", values["under_way"], provider=name)
        self.meter.set("debate_concurrency", values["concurrency"], provider=name)
        self.meter.total("debate_requests", values["granted"], provider=name)
        self.meter.total("debate_rate_limited", values["rate_limited"], provider=name)
        self.meter.total("debate_overloaded", values["overloaded"], provider=name)


def public_name(provider: str) -> str:
    """A provider (`ApiEngine.provider`) without the password its URL may hold: host, path, name of the key's variable."""
    url = urlsplit(provider)
    host = url.netloc.rpartition("@")[2]
    return f"{host}{url.path.rstrip('/')}" + (f"#{url.fragment}" if url.fragment else "")


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1.5 else f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"


def read_waste(file: Path) -> dict[str, Spend]:
    """What failed calls of earlier attempts cost, by agent."""
    return {agent: Spend(**row) for agent, row in json.loads(file.read_text(encoding="utf-8")).items()} if file.is_file() else {}


def spent_before(replies: str, run: str, waste: Path) -> dict[str, Spend]:
    """What earlier attempts of a run spent, by agent: the replies it paid for, and the calls that brought none."""
    store = ReplyStore(replies, run=run)
    try:
        spent = store.spent(run)
    finally:
        store.close()
    wasted = read_waste(waste)
    return {agent: spent.get(agent, Spend()) + wasted.get(agent, Spend()) for agent in sorted({*spent, *wasted})}


def write_waste(file: Path, before: Mapping[str, Spend], since: Mapping[str, Spend]) -> None:
    """Keep what failed calls cost: `before` this attempt, and `since` it began."""
    both = {agent: before.get(agent, Spend()) + since.get(agent, Spend()) for agent in {*before, *since}}
    write_atomically(file, json.dumps({agent: asdict(spend) for agent, spend in sorted(both.items())}), attempts=1)


def plan_table(plan: Plan, paid: Spend) -> Table:
    """A plan, an agent a line; `paid` is what the run's reply store already holds."""
    table = Table(title=f"{plan.questions} questions", title_justify="left")
    table.add_column("agent")
    for column in ("calls", "tokens in", "tokens out", "US dollars"):
        table.add_column(column, justify="right")
    for name, spend in plan.agents.items():
        table.add_row(name, *_figures(spend, known=name not in plan.unpriced))
    table.add_section()
    table.add_row("all", *_figures(plan.total, known=not plan.unpriced), style="bold")
    if paid.calls:
        table.add_row("already paid for by this run", *_figures(paid, known=True), style="dim")
    return table


def plan_remarks(plan: Plan, config: DebateConfig) -> list[str]:
    """What a plan rests on, in sentences."""
    assumed, total = config.estimate, plan.total
    remarks = [
        f"Time: about {_duration(plan.seconds)} ({plan.seconds / 3600:.2f} h), set by {plan.bound}.",
        f"At most {plan.calls_at_most} calls, if no debate stopped early.",
        f"Assumed (debate.estimate): {assumed.agreement:.0%} of the debates agree in a round, {assumed.reply_tokens} tokens (at "
        f"most sampling.max_tokens) and {assumed.seconds_per_reply:g} s a reply. Prompts are counted by rule of thumb.",
    ]
    if config.budget_usd is not None and total.usd > config.budget_usd:
        remarks.append(f"More than debate.budget_usd = ${config.budget_usd:g} allows: the run would stop before its end.")
    if config.budget_tokens is not None and total.tokens_in + total.tokens_out > config.budget_tokens:
        remarks.append(f"More than debate.budget_tokens = {config.budget_tokens} allows: the run would stop before its end.")
    if plan.unpriced:
        remarks.append(f"No price is configured for {', '.join(plan.unpriced)}: engine.price has dollars per million tokens.")
    return remarks


def _figures(spend: Spend, *, known: bool) -> tuple[str, ...]:
    money = f"{spend.usd:.2f}" if known else "unknown"
    return (*(f"{value:,}".replace(",", " ") for value in (spend.calls, spend.tokens_in, spend.tokens_out)), money)
