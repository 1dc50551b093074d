"""The front door: HTTP in, a `Backend` behind it. Keys, limits, errors, streams, the log and the metrics; knows no Ray."""

from magdi_ray.serving.door.api import create_api
from magdi_ray.serving.door.entrance import require_key
from magdi_ray.serving.door.settings import DoorSettings

__all__ = ["DoorSettings", "create_api", "require_key"]
