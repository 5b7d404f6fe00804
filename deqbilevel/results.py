"""Results of a study, opened lazily: its best runs and its table."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

AXES = ("task", "model", "noise", "tau", "gamma", "activation")
"""The dimensions of every study, in order; axes of its own follow, and `epoch` is the last."""

PICTURES = ("reconstruction", "measured_reconstruction")


def read(folder: str | Path) -> xr.Dataset:
    """The results of a study, also of one that is under way; what is not finished is NaN.

    Every record has the dimensions AXES, the study's own axes, and epoch. For each task, model
    and noise the best finished run (lowest test loss of those that did not diverge) gives
    `best_test_loss`, `best_tau` ... for every other axis, and the `best_` pictures.
    Raises: ValueError where the folder holds no study.
    """
    path = Path(folder) / "results.zarr"
    if not path.is_dir():
        raise ValueError(f"{folder}: holds no study (no results.zarr); give a study's --out")
    dataset = xr.open_zarr(path, chunks=None)
    return dataset.assign(best(dataset))


def others(dataset: xr.Dataset, *kept: str) -> list[str]:
    """The dimensions over runs that are not among `kept`."""
    return [str(d) for d in dataset.test_loss.dims if d != "epoch" and d not in kept]


def sampled(dataset: xr.Dataset) -> list[str]:
    """The axes that were sampled: coordinates along the dimension `sample`."""
    along = [str(name) for name in dataset.coords if dataset[name].dims == ("sample",)]
    return [name for name in along if name != "sample"]


def final(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """A record at the last epoch that each run has; where it has none, at epoch 0."""
    exists = dataset.test_loss.notnull() | dataset.diverged.astype(bool)
    number = xr.DataArray(np.arange(dataset.sizes["epoch"]), dims="epoch")
    return dataset[name].load().isel(epoch=(exists * number).max("epoch"))


def best(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """The best finished run of each task, model and noise: see `read`."""
    rest = others(dataset, *AXES[:3])
    loss = dataset.test_loss.isel(epoch=-1).where(~dataset.diverged.isel(epoch=-1).astype(bool))
    runs = loss.stack(run=rest).transpose(..., "run")
    # argmin refuses a cell without any run; its place is then 0 and its values are missing.
    where = runs.fillna(np.inf).argmin("run")
    lowest = runs.min("run")
    found = {"best_test_loss": lowest.drop_vars(rest, errors="ignore")}
    places = np.unravel_index(where.values, [dataset.sizes[d] for d in rest])
    index = {d: xr.DataArray(i, dims=where.dims) for d, i in zip(rest, places, strict=True)}
    for name in [*rest, *sampled(dataset)]:
        (d,) = dataset[name].dims
        values = dataset[name].isel({d: index[str(d)]}).reset_coords(drop=True)
        missing = "" if values.dtype.kind in "UO" else np.nan
        found[f"best_{name}"] = values.where(lowest.notnull().values, missing)
    for name in PICTURES:
        if name in dataset:
            pointed = {c: xr.DataArray(np.arange(dataset.sizes[c]), dims=c) for c in where.dims}
            pictures = dataset[name].isel(pointed | index)
            pictures = pictures.drop_vars([*rest, *sampled(dataset)])
            found[f"best_{name}"] = pictures.where(lowest.notnull())
    return found


def summary(dataset: xr.Dataset, threshold: float = 0.5) -> list[dict[str, Any]]:
    """For each task and model: how many runs, how many ended under the threshold, and how well.

    Median and quartiles are over the runs that did not diverge and ended under the threshold, as
    in Figure 1 of [REB]; the best setting is the one with the lowest final test loss.
    """
    rows, rest = [], others(dataset, "task", "model")
    axes = [*rest, *sampled(dataset)]
    names = [n for n in AXES if n in axes] + [n for n in axes if n not in AXES]
    for task in dataset.task.values:
        for model in dataset.model.values:
            cell = dataset[["test_loss", "diverged"]].sel(task=task, model=model)
            flat = xr.Dataset(
                {name: final(cell, name) for name in ("test_loss", "diverged")}
            ).stack(run=rest)
            exists = flat.where(flat.test_loss.notnull(), drop=True)
            diverged = exists.diverged.astype(bool)
            good = exists.test_loss.where(~diverged & (exists.test_loss < threshold), drop=True)
            row = {"task": str(task), "model": str(model), "runs": exists.sizes["run"]}
            row |= {"under": good.sizes["run"], "diverged": int(diverged.sum())}
            quartiles = good.quantile([0.25, 0.5, 0.75]).values if good.size else [np.nan] * 3
            row |= dict(zip(("lower_quartile", "median", "upper_quartile"), quartiles, strict=True))
            if good.size:
                lowest = good.isel(run=int(np.argmin(good.values)))
                row |= {"best": float(lowest)}
                row |= {name: lowest[name].item() for name in names}
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], threshold: float = 0.5) -> str:
    """The summary as a Markdown table."""
    head = ("task", "model", "runs", f"under {threshold:g}", "diverged", "median", "quartiles")
    lines: list[tuple[str, ...]] = [(*head, "best", "best setting")]
    for row in rows:
        cells = [row["task"], row["model"], str(row["runs"]), str(row["under"])]
        cells.append(str(row["diverged"]))
        if row["under"]:
            cells += [f"{row['median']:.4f}", f"{row['lower_quartile']:.4f} to "]
            cells[-1] += f"{row['upper_quartile']:.4f}"
            setting = (
                f"{row['activation']}, tau {row['tau']:g}, gamma {row['gamma']:g}, "
                f"noise {row['noise']:g}"
            )
            own = list(row)[list(row).index(AXES[-1]) + 1 :]  # AXES come first, in order
            setting += "".join(f", {name} {row[name]:g}" for name in own)
            cells += [f"{row['best']:.4f}", setting]
        else:
            cells += ["none"] * 4
        lines.append(tuple(cells))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
