"""How the stages of a run are seen: which is running, which finished or failed, how long it took and what it counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from magdi_ray.observe.figures import STATES, State
from magdi_ray.observe.meter import meter
from magdi_ray.observe.where import Where, at, named

logger = logging.getLogger(__name__)


@contextmanager
def observed(run: str, stage: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Everything measured and logged in the body belongs to this stage; `run` as in `where.named`.

    Yields what to call with the facts of the stage's manifest when it is complete.
    """
    with at(named(run, stage)) as where:
        began = time.time()
        meter.set("stage_started_timestamp_seconds", began)
        tell_state(where, "running")
        logger.info("The stage begins.")
        try:
            yield tell_facts
        except Exception as error:
            tell_state(where, "failed")
            logger.info("The stage failed: %s", type(error).__name__)  # the message is shown where it is caught
            raise
        except BaseException:
            tell_state(where, "stopped")
            logger.info("The stage was stopped.")
            raise
        meter.set("stage_seconds", time.time() - began)
        tell_state(where, "finished")
        logger.info("The stage is complete.")


def tell_state(where: Where, state: State) -> None:
    """Say what state a stage is in, as for one that was complete before this attempt."""
    for one in STATES:
        meter.set("stage_state", float(one == state), where=where, state=one)


def tell_facts(facts: Mapping[str, Any]) -> None:
    """Say what this stage counted: the whole numbers of its facts."""
    for what, count in facts.items():
        if isinstance(count, int) and not isinstance(count, bool):
            meter.set("stage_count", count, what=what)
