"""Results of a study: labelled arrays, and each run on disk as soon as it is finished."""

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

AXES = ("task", "model", "noise", "tau", "gamma", "activation")
"""The dimensions of a study, in order; `epoch` is the last."""

PICTURES = ("reconstruction", "measured_reconstruction")


class Run(NamedTuple):
    """One finished run: its setting, each recorded quantity by epoch, and a few pictures."""

    lane: dict[str, Any]
    """A value for each of AXES."""
    records: dict[str, np.ndarray]
    """name -> [epochs + 1]"""
    pictures: dict[str, np.ndarray]
    """name of PICTURES -> [pictures, pixels]"""


def store(path: Path, run: Run) -> None:
    """Write a finished run, whole or not at all."""
    arrays = {f"record_{name}": value for name, value in run.records.items()}
    arrays |= {f"picture_{name}": value for name, value in run.pictures.items()}
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(partial, path)


def read(path: Path, lane: dict[str, Any]) -> Run:
    """The run that `store` wrote. Raises: ValueError that names a file which cannot be read."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: not a stored run ({error}); remove it to run it again"
        ) from error

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    return Run(lane, part("record_"), part("picture_"))


def labelled(axes: Mapping[str, Sequence[Any]], runs: Iterable[Run], **attrs: Any) -> xr.Dataset:
    """A Dataset of every recorded quantity over AXES and epoch.

    `axes` holds the values of each dimension. A run that does not exist is NaN. For each task,
    model and noise the best run (lowest final test loss of those that did not diverge) gives
    `best_test_loss`, `best_tau`, `best_gamma`, `best_activation` and its pictures.
    """
    runs = list(runs)
    if not runs:
        raise ValueError("no runs to label: the study has no finished run yet")
    coordinates = {name: list(axes[name]) for name in AXES}
    shape = tuple(len(values) for values in coordinates.values())
    where = {name: {v: i for i, v in enumerate(values)} for name, values in coordinates.items()}
    places = [tuple(where[name][run.lane[name]] for name in AXES) for run in runs]
    epochs = len(runs[0].records["epoch"])
    arrays: dict[str, Any] = {}
    for name, example in runs[0].records.items():
        if name == "epoch":
            continue
        fill = False if example.dtype == bool else np.nan
        values = np.full((*shape, epochs), fill, bool if example.dtype == bool else np.float32)
        for place, run in zip(places, runs, strict=True):
            values[place] = run.records[name]
        arrays[name] = ((*AXES, "epoch"), values)
    dataset = xr.Dataset(arrays, coordinates | {"epoch": np.arange(epochs)}, attrs)
    return dataset.assign(_best(coordinates, where, runs))


def _best(
    coordinates: dict[str, list[Any]], where: dict[str, dict[Any, int]], runs: list[Run]
) -> dict[str, Any]:
    """The best run of each (task, model, noise), and its pictures."""
    cells = AXES[:3]
    shape = tuple(len(coordinates[name]) for name in cells)
    loss = np.full(shape, np.nan, np.float32)
    tau, gamma = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    activation = np.full(shape, "", dtype=object)
    pictures = {name: np.full((*shape, *p.shape), np.nan) for name, p in runs[0].pictures.items()}
    for run in runs:
        place = tuple(where[name][run.lane[name]] for name in cells)
        final = run.records["test_loss"][-1]
        if run.records["diverged"][-1] or not (np.isnan(loss[place]) or final < loss[place]):
            continue
        loss[place], tau[place], gamma[place] = final, run.lane["tau"], run.lane["gamma"]
        activation[place] = run.lane["activation"]
        for name, picture in run.pictures.items():
            pictures[name][place] = picture
    best = {"best_test_loss": loss, "best_tau": tau, "best_gamma": gamma}
    named: dict[str, Any] = {name: (cells, values) for name, values in best.items()}
    named["best_activation"] = (cells, activation.astype(str))
    for name, values in pictures.items():
        named[name] = ((*cells, "picture", "pixel"), values.astype(np.float32))
    return named


def save(dataset: xr.Dataset, path: Path) -> None:
    """Write a Dataset as netCDF, whole or not at all; `xarray.open_dataset` reads it."""
    partial = path.with_name(path.name + ".partial")
    dataset.to_netcdf(partial, engine="netcdf4")
    os.replace(partial, path)


def summary(dataset: xr.Dataset, threshold: float = 0.5) -> list[dict[str, Any]]:
    """For each task and model: how many runs, how many ended under the threshold, and how well.

    Median and quartiles are over the runs that did not diverge and ended under the threshold, as
    in Figure 1 of [REB]; the best setting is the one with the lowest final test loss.
    """
    rows = []
    for task in dataset.task.values:
        for model in dataset.model.values:
            cell = dataset.sel(task=task, model=model).isel(epoch=-1)
            flat = cell[["test_loss", "diverged"]].stack(run=AXES[2:])
            exists = flat.where(flat.test_loss.notnull(), drop=True)
            diverged = exists.diverged.astype(bool)
            good = exists.test_loss.where(~diverged & (exists.test_loss < threshold), drop=True)
            row = {"task": str(task), "model": str(model), "runs": exists.sizes["run"]}
            row |= {"under": good.sizes["run"], "diverged": int(diverged.sum())}
            quartiles = good.quantile([0.25, 0.5, 0.75]).values if good.size else [np.nan] * 3
            row |= dict(zip(("lower_quartile", "median", "upper_quartile"), quartiles, strict=True))
            if good.size:
                best = good.isel(run=int(np.argmin(good.values)))
                row |= {"best": float(best)}
                row |= {name: best[name].item() for name in AXES[2:]}
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
