"""Weights of a population, tuned to pictures of another kind without their truth, [CF] 7.5."""

from pathlib import Path
from typing import Any

from deqbilevel.commands import learn, reconstruct
from deqbilevel.commands.reconstruct import Reconstruct
from experiments.losses import tables


def compared(config: Any, population: Any, out: Path) -> tuple[dict[str, Any], str]:
    """Learn by squared error, then reconstruct the pictures by what was learned, as it is and after
    tuning by each loss; rows, and the table of them in Markdown."""
    learn.main(population)
    rows: dict[str, Any] = {}
    for loss in (None, *config.adapt):
        name = "as learned" if loss is None else loss
        asked = Reconstruct(
            config.pictures,
            by=population.out,
            simulate=True,
            adapt=() if loss is None else (loss,),
            seed=config.seed,
            out=out / "adapted" / name.replace(" ", "-").replace(":", "-"),
            fresh=config.fresh,
        )
        found = reconstruct.main(asked)
        rows[name] = {key: found[key] for key in ("psnr_measured_db", "psnr_db", "ssim")}
        rows[name]["lost_db"] = rows["as learned"]["psnr_db"] - found["psnr_db"]
    columns = ("psnr_measured_db", "psnr_db", "lost_db", "ssim")
    return rows, tables.markdown(rows, columns)
