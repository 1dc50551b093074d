"""Log lines that say which run and stage they belong to: text for people, or one JSON object a line for what collects logs.

    2026-11-20 14:03:11,042 WARNING magdi_ray.debate.operator [mine-3f9c01ab22e7 debates] The reply store could not be listed; ...

    {"time": "2026-11-20T14:03:11.042Z", "level": "WARNING", "logger": "magdi_ray.debate.operator", "message": "The reply ...",
     "run": "mine", "run_id": "3f9c01ab22e7", "stage": "debates", "process": 4711, "node_id": "1f0c...", "worker_id": "77ab..."}

`MAGDI_LOG` chooses: it belongs to where a run is carried out, not to what is run, so it is no part of the configuration. Ray's
`LoggingConfig` knows jobs, nodes and workers, but neither runs nor stages, and nothing before `ray.init`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from magdi_ray.errors import ConfigError
from magdi_ray.observe.plain import one_entry
from magdi_ray.observe.where import here, named, settle

VARIABLE = "MAGDI_LOG"
CHOICES = ("text", "json")
WORKER_HOOK = "magdi_ray.observe.logs.set_up_worker"
"""For `runtime_env={"worker_process_setup_hook": ...}`: every worker process of a job calls it when it begins."""

TEXT = "%(asctime)s %(levelname)s %(name)s [%(where)s] %(message)s"


class StderrHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment: a run moves it, and a live display stands in for it.

    Its format is its own: `ray.init` gives each handler it finds at Ray's logger another one.
    """

    def __init__(self, level: int, *, as_json: bool) -> None:
        super().__init__(level)
        self.as_json = as_json
        self._own: logging.Formatter = JsonFormatter() if as_json else TextFormatter()

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Handler`."""
        return self._own.format(record)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # as in logging's own handlers: a line that cannot be written ends nothing
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """A line for people."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        record.where = str(here())
        return one_entry(super().format(record))


class JsonFormatter(logging.Formatter):
    """A line for machines: valid JSON without line breaks, whatever is logged."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **here().labels,
            "process": record.process,
            **_ray_context(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _ray_context() -> dict[str, str]:
    """Which machine and worker this is, where it is part of a Ray: what Ray's own files and dashboard call them."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    return {"node_id": context.get_node_id(), "worker_id": context.get_worker_id()}


def chosen() -> str:
    """What `MAGDI_LOG` says.

    Raises:
        ConfigError: it says something else.
    """
    found = os.environ.get(VARIABLE, "") or CHOICES[0]
    if found not in CHOICES:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, found {found!r}. Set it so, or unset it.")
    return found


def set_up() -> None:
    """Let the driver's log lines go to standard error, as `MAGDI_LOG` says. Called again, it sets up anew.

    As text, warnings and worse: a person is shown the rest as progress. As JSON, what a person would be shown as well.

    Raises:
        ConfigError: `MAGDI_LOG` names no format.
    """
    as_json = chosen() == "json"
    _install(as_json, level=logging.INFO if as_json else logging.WARNING)


def set_up_worker() -> None:
    """The same in a worker process, from INFO on: its standard error is a file of Ray's. Raises nothing, which would end it."""
    as_json = os.environ.get(VARIABLE) == "json"
    if as_json:  # others' text would stand between the lines; what goes to files of its own stays
        root = logging.getLogger()
        root.handlers = [one for one in root.handlers if not _is_console(one)]
    _install(as_json, level=logging.INFO)


def begin_work(run: str, stage: str) -> None:
    """What a worker of one stage calls first: whose its figures and lines are (see `where.named`), and how they look.

    Also where the hook has been called already: Ray Train sets up logging after it, in its own way.
    """
    settle(named(run, stage))
    set_up_worker()


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def speaks_json() -> bool:
    """Whether this process was set up to log JSON."""
    return any(isinstance(handler, StderrHandler) and handler.as_json for handler in logging.getLogger().handlers)


def take_down() -> None:
    """Undo `set_up`."""
    for name in ("", "ray"):
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, StderrHandler)]


def _install(as_json: bool, *, level: int) -> None:
    take_down()
    handler = StderrHandler(level, as_json=as_json)
    logging.getLogger().addHandler(handler)
    logging.getLogger("magdi_ray").setLevel(level)  # other packages stay at their own levels, WARNING unless they say otherwise
    if as_json:
        logging.getLogger("ray").handlers = [handler]  # Ray's own would write its text between the lines
