"""From an engine's configuration to the engine. The only place that knows every kind of engine."""

from __future__ import annotations

from typing import assert_never

from magdi_ray.agents.base import Engine
from magdi_ray.agents.weights import check_model_directory
from magdi_ray.config.engines import ApiEngine, EngineConfig, RecordedEngine, TransformersEngine, VllmEngine
from magdi_ray.errors import EngineError


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

            if config.batching == "continuous":
                from magdi_ray.agents.continuous import ContinuousAgent

                return ContinuousAgent(config, device=device)
            return TransformersAgent(config, device=device)
        case RecordedEngine():
            from magdi_ray.agents.recorded import RecordedAgent

            return RecordedAgent(config.path)
        case ApiEngine():
            from magdi_ray.agents.api import ApiAgent

            return ApiAgent(config, agent=config.model)
        case VllmEngine():
            raise EngineError(
                "vLLM runs only as a Serve application: deploy the engine (`deploy_engines`) and ask a `PooledEngine`."
            )
        case _:
            assert_never(config)
