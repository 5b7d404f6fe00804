"""Libraries that a few searches need, and nothing else here."""

import importlib
from typing import Any


def needed(module: str, name: str) -> Any:
    """The module. Raises: ImportError that says how to install what the search `name` needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"search {name!r} needs {module.partition('.')[0]}, which is not installed; "
            "pip install 'deqbilevel[search]'"
        ) from error
