"""Results of a study, opened lazily: its best runs and its table.

>>> import xarray
>>> axes = {"task": ["denoising"], "model": ["deq"], "noise": [0.1], "tau": [0.5]}
>>> axes |= {"gamma": [0.1, 1.0], "activation": ["relu"], "epoch": [0, 1]}
>>> loss = np.array([0.3, 0.2, 0.3, 0.1]).reshape(1, 1, 1, 1, 2, 1, 2)
>>> dims = (*results.AXES, "epoch")
>>> study = xarray.Dataset({"test_loss": (dims, loss), "diverged": (dims, loss > 1)}, axes)
>>> print(results.others(study, "task", "model", "noise"), results.sampled(study))
['tau', 'gamma', 'activation'] []
>>> end = results.final(study, "test_loss")
>>> print(end.values.ravel(), results.finished(study).values.ravel())
[0.2 0.1] [ True  True]
>>> least, where = results.lowest(study, end)
>>> print(least.item(), where["gamma"].item(), results.best(study)["best_gamma"].item())
0.1 1 1.0
>>> print(results.without_learning(study, "denoising", 0.1))  # none were stored
{}
>>> rows = results.summary(study)
>>> print(rows[0]["median"].round(2), results.warnings(rows), results.table(rows).count("deq"))
0.15 [] 1
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np

from deqbilevel.disk import stores
from deqbilevel.disk.files import FileError

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_loader.load("xarray")

AXES = ("task", "model", "noise", "tau", "gamma", "activation")
"""The dimensions of every study, in order; axes of its own follow, and `epoch` is the last."""

PICTURES = ("reconstruction", "measured_reconstruction")
"""What a study stores of each finished run: u* and K u*."""


def read(folder: str | Path) -> xr.Dataset:
    """The results of a study, also of one that is under way; what is not finished is NaN.

    Every record has the dimensions AXES, the study's own axes, and epoch. For each task, model
    and noise the best finished run (lowest test loss of those that did not diverge) gives
    `best_test_loss`, `best_tau` ... for every other axis, and the `best_` pictures.
    Raises: ValueError where the folder holds no study, and FileError where it is
    damaged.

    >>> results.read("no/study")
    Traceback (most recent call last):
        ...
    ValueError: no/study: holds no study (no results.zarr); give a study's --out
    """
    path = Path(folder) / "results.zarr"
    if not path.exists():
        raise ValueError(f"{folder}: holds no study (no results.zarr); give a study's --out")
    stores.check(path)
    try:
        dataset = xr.open_zarr(path, chunks=None)
        _check(path, dataset)
        return dataset.assign(best(dataset))
    except FileError:
        raise
    except Exception as error:  # whatever xarray and a decoder make of damaged bytes
        said = " ".join(str(error).split())[:200]
        raise FileError(f"{path}: cannot be read ({said}); {stores.RESTORE}") from error


def _check(path: Path, dataset: xr.Dataset) -> None:
    """Raises: FileError for what is no study, or has lost a part of itself."""
    missing = [n for n in (*AXES[:3], "epoch", "test_loss", "diverged") if n not in dataset]
    if missing:
        raise FileError(f"{path}: no results of a study (no {missing[0]}); {stores.RESTORE}")
    for name, values in dataset.variables.items():
        if dataset[name].dims == (name,) and values.dtype.kind == "f" and np.isnan(values).any():
            raise FileError(f"{path}: {name} has lost values; {stores.RESTORE}")
    # Of each epoch this is stored first, and nothing that was measured is without it.
    first = dataset.test_loss.load().notnull()
    for name in ("needed_evaluations", "made_evaluations", "test_evaluations"):
        if name in dataset and bool((dataset[name].load().notnull() & ~first).any()):
            raise FileError(f"{path}: test_loss has lost values; {stores.RESTORE}")
    if "truth" in dataset and bool(dataset.truth.isnull().any()):
        raise FileError(f"{path}: truth has lost values; {stores.RESTORE}")


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


def finished(dataset: xr.Dataset) -> xr.DataArray:
    """Whether a run is at its last epoch, or has used the study's `hours` (among the attributes
    where there is a limit)."""
    exists = dataset.test_loss.notnull()
    done = exists.isel(epoch=-1)
    if "hours" in dataset.attrs:
        spent = (dataset.seconds + dataset.evaluation_seconds).sum("epoch")
        # What is stored is rounded to float32.
        done |= exists.any("epoch") & (spent >= (1 - 1e-5) * 3600 * dataset.attrs["hours"])
    return done


def lowest(dataset: xr.Dataset, loss: xr.DataArray) -> tuple[xr.DataArray, dict[str, Any]]:
    """The least loss for each task, model and noise, and for `isel` where its run is; `loss` has
    the dimensions of a run and is NaN where that does not count. NaN where none does."""
    rest = others(dataset, *AXES[:3])
    runs = loss.stack(run=rest).transpose(..., "run")
    # argmin refuses a cell without any run; its place is then 0 and its values are missing.
    where = runs.fillna(np.inf).argmin("run")
    places = np.unravel_index(where.values, [dataset.sizes[d] for d in rest])
    index = {d: xr.DataArray(i, dims=where.dims) for d, i in zip(rest, places, strict=True)}
    index |= {str(d): xr.DataArray(np.arange(dataset.sizes[d]), dims=str(d)) for d in where.dims}
    return runs.min("run").drop_vars(rest, errors="ignore"), index


def best(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """The best finished run of each task, model and noise: see `read`."""
    counts = finished(dataset) & ~final(dataset, "diverged").astype(bool)
    least, index = lowest(dataset, final(dataset, "test_loss").where(counts))
    axes = [*others(dataset, *AXES[:3]), *sampled(dataset)]
    found = {"best_test_loss": least.drop_vars(axes, errors="ignore")}
    for name in axes:
        (d,) = dataset[name].dims
        values = dataset[name].isel({d: index[str(d)]}).reset_coords(drop=True)
        missing = "" if values.dtype.kind in "UO" else np.nan
        found[f"best_{name}"] = values.where(least.notnull().values, missing)
    for name in PICTURES:
        if name in dataset:
            pictures = dataset[name].isel(index).drop_vars(axes)
            found[f"best_{name}"] = pictures.where(least.notnull())
    return found


def without_learning(dataset: xr.Dataset, task: str, noise: float) -> dict[str, float]:
    """What doing nothing gives for a task and noise, by its name: see `baselines`. Each loss once;
    none where the study did not store them."""
    if "baseline_loss" not in dataset:
        return {}
    found: dict[str, float] = {}
    for name in dataset.baseline.values:
        loss = float(dataset.baseline_loss.sel(task=task, noise=noise, baseline=name))
        if np.isfinite(loss) and loss not in found.values():
            found[str(name)] = loss
    return found


def summary(dataset: xr.Dataset, threshold: float = 0.5) -> list[dict[str, Any]]:
    """For each task, noise and model: how many runs, how many ended under the threshold, how well,
    and `without_learning`.

    Median and quartiles are over the runs that did not diverge and ended under the threshold, as
    in Figure 1 of [REB]; the best setting is the one with the lowest final test loss.
    """
    rest = others(dataset, "task", "model", "noise")
    axes = [*rest, *sampled(dataset)]
    names = [n for n in AXES if n in axes] + [n for n in axes if n not in AXES]
    ends = xr.Dataset({name: final(dataset, name) for name in ("test_loss", "diverged")})
    cells = itertools.product(*(dataset[n].values.tolist() for n in ("task", "noise", "model")))
    rows = []
    for task, noise, model in cells:
        flat = ends.sel(task=task, model=model, noise=noise, drop=True).stack(run=rest)
        exists = flat.where(flat.test_loss.notnull(), drop=True)
        diverged = exists.diverged.astype(bool)
        good = exists.test_loss.where(~diverged & (exists.test_loss < threshold), drop=True)
        row = {"task": task, "noise": noise, "model": model, "runs": exists.sizes["run"]}
        row |= {"under": good.sizes["run"], "diverged": int(diverged.sum())}
        row["without_learning"] = without_learning(dataset, task, noise)
        quartiles = good.quantile([0.25, 0.5, 0.75]).values if good.size else [np.nan] * 3
        row |= dict(zip(("lower_quartile", "median", "upper_quartile"), quartiles, strict=True))
        if good.size:
            lowest = good.isel(run=int(np.argmin(good.values)))
            row |= {"best": float(lowest)}
            row |= {name: lowest[name].item() for name in names}
        rows.append(row)
    return rows


def warnings(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each task, noise and model whose best run is no better than doing nothing."""
    found = []
    for row in rows:
        known = row["without_learning"]
        name = min(known, key=lambda name: known[name], default=None)
        best = row.get("best", np.inf)
        if name is not None and row["runs"] and best >= known[name]:
            has = f"the best run has {best:.4f}" if np.isfinite(best) else "no run remains"
            found.append(
                f"{row['task']}, noise {row['noise']:g}, {row['model']}: {has}, and the {name} "
                f"{known[name]:.4f}"
            )
    return found


def table(rows: list[dict[str, Any]], threshold: float = 0.5) -> str:
    """The summary as a Markdown table; before the models of a task and noise stand the losses of
    doing nothing."""
    head = ("task", "noise", "model", "runs", f"under {threshold:g}", "diverged", "median")
    lines: list[tuple[str, ...]] = [(*head, "quartiles", "best", "best setting")]
    shown = None
    for row in rows:
        cell = [row["task"], f"{row['noise']:g}"]
        if cell != shown:
            known = row["without_learning"].items()
            lines += [(*cell, name, *[""] * 5, f"{loss:.4f}", "") for name, loss in known]
            shown = cell
        cells = [*cell, row["model"], str(row["runs"]), str(row["under"]), str(row["diverged"])]
        if row["under"]:
            cells += [f"{row['median']:.4f}", f"{row['lower_quartile']:.4f} to "]
            cells[-1] += f"{row['upper_quartile']:.4f}"
            setting = f"{row['activation']}, tau {row['tau']:g}, gamma {row['gamma']:g}"
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
