"""Shared by all tests: jaxtyping checked at run time, two devices, the folder of real data."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 2)

_HOOK = install_import_hook("deqbilevel", "beartype.beartype")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real files where DEQBILEVEL_DATA names them, else the embedded sample in their place."""
    named = os.environ.get("DEQBILEVEL_DATA")
    if named:
        return Path(named).resolve()
    folder = tmp_path_factory.mktemp("data")
    sample = Path(__file__).parents[1] / "deqbilevel" / "data" / "mnist"
    (folder / "mnist").symlink_to(sample)
    return folder
