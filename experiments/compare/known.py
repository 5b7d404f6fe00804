"""What is beside the results of a study from the start: pictures, and losses of doing nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np

from deqbilevel import baselines, models
from deqbilevel.data import Images
from deqbilevel.studies import running
from deqbilevel.studies.study import Study

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_loader.load("xarray")


def pictures(
    axes: Mapping[str, Any],
    built: dict[tuple[str, str], models.Model],
    study: Study,
    images: Images,
    caption: str,
) -> xr.Dataset:
    """The true images and the measurements of the pictures, what the figures say of them, and what
    doing nothing gives on all test images."""
    dims = ("task", "noise", "picture", "pixel")
    measured = [
        [
            np.asarray(
                running.measurements(built[task, axes["model"][0]], study, noise, images.test)
            )
            for noise in axes["noise"]
        ]
        for task in axes["task"]
    ]
    known = [
        [_known(built[task, axes["model"][0]], study, noise, images) for noise in axes["noise"]]
        for task in axes["task"]
    ]
    height, width = images.shape
    return xr.Dataset(
        {
            "baseline_loss": (("task", "noise", "baseline"), np.asarray(known)),
            "truth": (dims[2:], np.asarray(images.test[: study.pictures])),
            "measurement": (dims, np.asarray(measured)),
        },
        coords={"baseline": list(baselines.NAMES.values())},
        attrs={"caption": caption, "height": height, "width": width},
    )


def _known(model: models.Model, study: Study, noise: float, images: Images) -> list[float]:
    """The losses of `baselines.NAMES`; NaN where there is none."""
    key = study.keys({})[2]
    found = baselines.baselines(model.K, images.train, images.test, noise, key)
    return [found.get(name, np.nan) for name in baselines.NAMES]
