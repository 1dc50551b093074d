"""The driver whose memory `volume` looks at: a run's pipeline up to one stage, as `magdi run` holds it.

    python -m benchmarks.pipeline_driver CONFIG RUN graphs STORE

While it runs it writes to the file STORE how many MB of Ray's object store are in use; nobody else is asked that by Ray.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from pathlib import Path

SECONDS = 2.0
"""Between two looks at the object store."""


def store_used() -> float:
    """MB of the object store that are in use; 0 before Ray is there, which is not for this thread to import."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0.0
    name = "object_store_memory"
    return float((ray.cluster_resources().get(name, 0.0) - ray.available_resources().get(name, 0.0)) / 1e6)


def tell(file: Path, over: threading.Event) -> None:
    """Keep the file up to date."""
    while not over.wait(SECONDS):
        with suppress(Exception):  # Ray may be starting or ending
            file.write_text(f"{store_used():.3f}", encoding="ascii")


def main() -> None:
    """Run the stages."""
    config, run, until, file = sys.argv[1:]
    from magdi_ray.config import load_config
    from magdi_ray.observe.logs import set_up
    from magdi_ray.pipeline import run_pipeline
    from magdi_ray.runs import Run

    set_up()
    over = threading.Event()
    threading.Thread(target=tell, args=(Path(file), over), name="store", daemon=True).start()
    run_pipeline(load_config(Path(config), ()), Run(run), until=until)
    over.set()


if __name__ == "__main__":
    main()
