"""Requests of filter learning that cannot be met, refused before anything runs."""

from pathlib import Path
from typing import Any

from deqbilevel.commands import sizes
from deqbilevel.commands.options import here
from experiments.filters import training
from experiments.filters.presets import LOWER_LEVEL
from experiments.filters.tasks import Task


def request(options: dict[str, Any]) -> None:
    """Raises ValueError for a request that cannot be met."""
    if options["algorithm"] is not None:
        training.method_of(options)
        for name, value in LOWER_LEVEL.items():
            if options[name] != value:
                raise ValueError(
                    f"--algorithm {options['algorithm']} --{name.replace('_', '-')} "
                    f"{options[name]}: an algorithm has its own; leave it out"
                )
    if options["experiment"] != "vertical-bars" and options["image"] is not None:
        kind = "file" if options["experiment"] == "cameraman" else "folder"
        here("--image", Path(options["image"]), kind)
    if options["seed"] + options["seeds"] > 2**32:
        raise ValueError(f"--seed {options['seed']} --seeds {options['seeds']}: beyond 32 bits")
    count, rows, columns = options["filters"]
    if rows * columns < 2:
        raise ValueError(
            f"--filters {count} {rows} {columns}: numbers and no filters; take a larger size"
        )
    if options["experiment"] in ("natural", "own"):
        pixels = options["images"] * options["patch"] ** 2
        sizes.fits(
            32 * pixels * options["realisations"] * options["seeds"],
            f"--images {options['images']} of --patch {options['patch']}, --realisations "
            f"{options['realisations']} and --seeds {options['seeds']}",
            "take fewer or smaller ones",
        )
    if options["batch"] is not None and options["optimiser"] != "adam":
        raise ValueError(
            f"--optimiser {options['optimiser']} --batch {options['batch']}: a line search needs "
            "the same images at every trial; leave --batch out, or take adam"
        )


def images(config: Any, options: dict[str, Any], task: Task) -> None:
    """Raises ValueError for what the training images are too few, too small or too many for."""
    groups, realisations = task.groups, options["realisations"]
    there = sum(len(g.truth) for g in groups)
    if (config.images or 0) > there:
        raise ValueError(f"--images {config.images}: only {there} training pictures are there")
    if (config.batch or 0) > there * realisations:
        raise ValueError(
            f"--batch {config.batch}: more than the {there * realisations} training images"
        )
    number, rows, columns = options["filters"]
    for height, width in (g.shape for g in groups):
        if rows > height or columns > width:
            raise ValueError(
                f"--filters {number} {rows} {columns}: larger than the image of {height}x{width}"
            )
    pixels = sum(g.truth.size for g in groups) * realisations
    sizes.fits(
        16 * pixels * number * options["seeds"],
        f"--filters {number} {rows} {columns} on {pixels} pixels of training images, --seeds "
        f"{options['seeds']}",
        "take fewer filters, images, realisations or seeds",
    )
    sizes.hypergradient(
        options["hypergradient"],
        parameters=number * (rows * columns + 1),
        images=options["batch"] or there * realisations,
        pixels=max(g.shape[0] * g.shape[1] for g in groups),
    )
