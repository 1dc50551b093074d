"""From an engine's configuration to the engine. The only place that knows every kind of engine."""

from __future__ import annotations

from typing import assert_never

from magdi_ray.agents.base import Engine
from magdi_ray.agents.weights import check_model_directory
from magdi_ray.config.sections import EngineConfig, RecordedEngine, TransformersEngine


def load_engine(config: EngineConfig, *, device: str | None = None) -> Engine:
    """Load what is configured, here and now, onto `device` (None: the engine's choice). Heavy packages are imported
    only by the engines that need them.

    Raises:
        ConfigError: the configuration points to files that are missing or unusable.
        EngineError: the model could not be loaded.
    """
    match config:
        case TransformersEngine():
            check_model_directory(config.model)  # before torch is imported, which takes seconds
            from magdi_ray.agents.transformers import TransformersAgent

            return TransformersAgent(config, device=device)
        case RecordedEngine():
            from magdi_ray.agents.recorded import RecordedAgent

            return RecordedAgent(config.path)
        case _:
            assert_never(config)
