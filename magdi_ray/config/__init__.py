"""The configuration of a run: typed, strict, written once. Knows the data rows its fields name, and no stage."""

from magdi_ray.config.base import Section, content_hash
from magdi_ray.config.distil import DistilConfig, recipes
from magdi_ray.config.load import config_schema, dump_config, load_config, parse_config
from magdi_ray.config.recipes import RecipeConfig, resolve_recipe
from magdi_ray.config.run import RunConfig
from magdi_ray.config.sections import DebateConfig, EvaluateConfig

__all__ = [
    "DebateConfig",
    "DistilConfig",
    "EvaluateConfig",
    "RecipeConfig",
    "RunConfig",
    "Section",
    "config_schema",
    "content_hash",
    "dump_config",
    "load_config",
    "parse_config",
    "recipes",
    "resolve_recipe",
]
