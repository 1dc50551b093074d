"""What is looked at in a process of its own: heavy imports, and a Ray that may never answer.

    python -m magdi_ray.doctor.child torch
    {"torch": "2.13.0+cpu", "cuda": null, "gpus": [], "available": false}
    {"deepspeed": "0.19.8", "accelerator": "cpu", "ops": {"cpu_adam": "can be built", ...}}

Prints one line of JSON for each thing seen, so that a crash on the way leaves what came before it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

OPS = ("cpu_adam", "fused_adam")
"""DeepSpeed's optimizers; others of its ops (NVMe, sparse attention, ...) nothing here asks for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child process ended."""

    facts: dict[str, Any]
    """All its lines, taken together."""
    errors: str
    """Standard error, without blank lines."""
    code: int | None
    """None: it was ended, for its time was up or `until` was seen."""

    @property
    def last_error(self) -> str:
        """The line that names the error of a traceback; "" where nothing was said."""
        return self.errors.splitlines()[-1].strip() if self.errors else ""


def run_child(arguments: Sequence[str], *, limit_s: float, env: Mapping[str, str], until: Sequence[str] = ()) -> Outcome:
    """Run this module with arguments, for `limit_s` seconds at most, or until one of some words stands in its errors.

    What it started is ended with it.
    """
    command = [sys.executable, "-m", "magdi_ray.doctor.child", *arguments]
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - this module, without a shell
            command, stdout=printed, stderr=said, stdin=subprocess.DEVNULL, env=env, start_new_session=True
        )
        end = time.monotonic() + limit_s
        code: int | None = None
        while time.monotonic() < end:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=0.1)
                break
            if until and any(word in _text(said.fileno()) for word in until):
                break
        if code is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        facts: dict[str, Any] = {}
        for line in _text(printed.fileno()).splitlines():
            with suppress(ValueError):
                facts |= read if isinstance(read := json.loads(line), dict) else {}
        errors = "\n".join(line for line in _text(said.fileno()).splitlines() if line.strip())
        return Outcome(facts, errors, code)


def _text(handle: int) -> str:
    """All that a file holds, without moving the place where another process writes."""
    return os.pread(handle, 1 << 20, 0).decode(errors="replace")


def _say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), file=sys.__stdout__, flush=True)


def see_torch() -> None:
    """What torch and DeepSpeed are built for, and what they see here."""
    import torch

    cards = range(torch.cuda.device_count())
    gpus = [torch.cuda.get_device_name(card) for card in cards]
    missing = [name for card, name in enumerate(gpus) if not _compiled_for(torch, torch.cuda.get_device_capability(card))]
    available = torch.cuda.is_available()
    _say({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus, "available": available, "no_kernels": missing})
    import deepspeed
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    ops = {name: _op_state(ALL_OPS[name], built=bool(installed_ops.get(name))) for name in OPS if name in ALL_OPS}
    accelerator = deepspeed.accelerator.get_accelerator().device_name()
    _say({"deepspeed": deepspeed.__version__, "accelerator": accelerator, "ops": ops})


def _compiled_for(torch: Any, capability: tuple[int, int]) -> bool:
    """Whether torch's build holds machine code, or code that can be translated, for a GPU."""
    major, minor = capability
    known = [arch for arch in torch.cuda.get_arch_list() if arch.startswith(("sm_", "compute_"))]
    numbers = [(arch.split("_")[0], int("".join(filter(str.isdigit, arch.split("_")[1])))) for arch in known]
    here = 10 * major + minor
    return not known or any(n // 10 == major and n <= here if kind == "sm" else n <= here for kind, n in numbers)


def _op_state(builder: Any, *, built: bool) -> str:
    if built:
        return "built"
    try:
        return "can be built" if builder.is_compatible(verbose=False) else "cannot be built"
    except Exception as error:
        return f"cannot be built ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''})"


def see_run(config: str, root: str, *overrides: str) -> None:
    """Whether a run could start, as its own check says."""
    from magdi_ray.config import load_config
    from magdi_ray.errors import MagdiError
    from magdi_ray.preflight import check_run
    from magdi_ray.runs import Run

    try:
        check_run(load_config(config, overrides), Run(root), keys=False)
    except MagdiError as error:
        _say({"problems": [line.removeprefix("  - ") for line in str(error).splitlines() if line != "This run cannot start:"]})
    else:
        _say({"problems": []})


def see_cluster(address: str) -> None:
    """Join a cluster, and say what it has."""
    import logging

    import ray

    if address.startswith("ray://"):
        # Turned away, it asks again for half a minute, and says so only to those who debug it.
        logging.getLogger("ray.util.client").setLevel(logging.DEBUG)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        _say({"resources": ray.cluster_resources(), "nodes": sum(bool(node["Alive"]) for node in ray.nodes())})
    finally:
        ray.shutdown()


VERBS: dict[str, Callable[..., None]] = {"torch": see_torch, "run": see_run, "cluster": see_cluster}


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what libraries print is no fact
        VERBS[sys.argv[1]](*sys.argv[2:])
