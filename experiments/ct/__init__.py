"""Computed tomography: learned regularisers beside filtered back-projection.

python -m experiments.ct [--pictures FOLDER] [--out DIR]

Parallel beams at few angles, with noise, of phantoms of random ellipses to learn from, and of
others, of Shepp-Logan and of the pictures of a folder to be judged by. Measurements are simulated
on a finer grid, see `deqbilevel.simulation`.

    filtered   back-projection, ramp or Hann's window and cutoff chosen on the training images
    variation  differences to the neighbours under one weight, chosen on the training images
    weights    the same with a weight for each direction, learned
    filters    cosine filters with one weight chosen likewise, then both learned

All look for images of values 0 and more. Repeating the same command goes on after an interruption.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import recipes
from deqbilevel.commands import command, common, folders, options, running
from deqbilevel.commands.records import Log
from deqbilevel.recipes import Learned
from experiments.ct import learning, report, scanning
from experiments.ct.learning import LEARNED
from experiments.ct.scanning import Scan

Way = Callable[[Scan], tuple[Array, float, str]]
"""A set -> its reconstructions, their residual, and what was chosen beforehand."""

BETA_0S = (-9.0, -8.5, -8.0, -7.5, -7.0, -6.5)

METHODS = ("filtered", "variation", *LEARNED)


@dataclass(frozen=True)
class CT:
    """Learn on random ellipses, and reconstruct what was never seen."""

    methods: Annotated[tuple[str, ...], options.among(METHODS)] = METHODS
    """Those that are compared."""
    angles: Annotated[int, options.whole(1, 2000)] = 60
    """Equally spaced over half a turn."""
    noise: Annotated[float, options.noise] = 0.3
    """Standard deviation in the line integrals, of images in [0, 1] and lengths in pixels."""
    finer: Annotated[int, options.whole(1, 16)] = 2
    """The measurements are simulated on a grid so many times finer; 1: on the same."""
    side: Annotated[int, options.whole(12, 512)] = 48
    """Height and width of the images that are learned from."""
    judged_side: Annotated[int, options.whole(12, 512)] = 128
    """Of Shepp-Logan."""
    pictures: Annotated[
        Path | None, options.folder("pictures to be judged by"), options.default("none")
    ] = None
    """Their grey values are the truth, each at its own size."""
    filters: Annotated[tuple[int, int, int], options.whole(1, 1000)] = (8, 3, 3)
    """Number, height and width."""
    eps: Annotated[float, options.number(above=0, most=100)] = 0.01
    """Where the potential, a rounded absolute value, bends."""
    beta_0s: Annotated[tuple[float, ...], options.number(-20, 20)] = BETA_0S
    """Logarithms of the weights to choose from."""
    epochs: Annotated[int, options.whole(0)] = 6
    """Of eight passes over the training images each."""
    train_size: Annotated[int, options.size] = 8
    test_size: Annotated[int, options.size] = 4
    batch_size: Annotated[int, options.size] = 4
    learning_rate: Annotated[float, options.rate] = 3e-3
    """Adam's for filters, at the start of its cosine schedule; weights alone take ten times it."""
    evaluations: Annotated[int, options.whole(1, 100_000)] = 300
    """Of the map, for a reconstruction that is judged, at most."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: CT) -> dict[str, Any]:
    """Learn and reconstruct what is missing; returns {set: {method: numbers}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            learning.check(config)
            train, judged = scanning.scans(config)
            chosen = common.options_of(config) | {"pictures": str(config.pictures)}
            claimed = folders.claim(
                config.out,
                f"ct-{common.digest(chosen)}",
                chosen,
                files=files_of(config, judged),
                inputs=folders.given({scan.name: scan.truth for scan in (train, *judged)}),
                sources={"--pictures": config.pictures},
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        log = Log.of(out / "rows.jsonl", report.ROW)
        rows = log.read()
        done = {(row["set"], row["method"]) for row in rows}
        for method in config.methods:
            missing = [scan for scan in judged if (scan.name, method) not in done]
            if not missing:
                continue
            way = _way(config, method, train, judged, out)
            for scan in tqdm(missing, unit="set", desc=method):
                u, residual, said = way(scan)
                row = report.judge(scan, method, u, residual, said, out)
                rows.append(common.plain(row))
                log.append(rows[-1])
        return report.show(config, judged, rows, config.methods, out) | {"out": str(out)}


def _way(config: CT, method: str, train: Scan, judged: list[Scan], out: Path) -> Way:
    """How a method reconstructs, once it has chosen and learned what it needs."""
    if method == "filtered":
        window = scanning.best_window(train)
        return lambda scan: (scanning.filtered(scan, *window), 0.0, scanning.said(*window))
    kind = "filters" if method == "filters" else "weights"
    beta_0 = learning.chosen(config, train, kind)
    params, said = learning.start(config, kind, beta_0, train), f"beta_0 {beta_0:g}"
    if method in LEARNED:
        params = learning.learned(config, kind, params, train, judged[0], out)
        about = {"command": "ct", "chosen": said}
        recipe = learning.recipe_of(config, kind)
        learned = Learned(recipe, train.shape, (0.0, 1.0), params, about)
        recipes.save(out / recipes.file(method), learned)
    return lambda scan: (*learning.reconstructed(config, kind, params, train, scan), said)


def files_of(config: CT, judged: list[Scan]) -> list[str]:
    """What a run writes beside its figures, see `folders`."""
    states = [report.file(scan.name, method) for scan in judged for method in config.methods]
    taught = [method for method in LEARNED if method in config.methods]
    own = [recipes.file(method) for method in taught]
    return [*states, *own, *running.files_of(*taught), "rows.jsonl", "summary.md", "result.json"]
