from .keeping import parameters
from .running import run_group
from .study import Study

__all__ = ["Study", "parameters", "run_group"]
