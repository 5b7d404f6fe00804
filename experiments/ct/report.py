"""What the methods reached: a table and pictures for each set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from deqbilevel import losses, plots
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from deqbilevel.disk import archives, arrays
from experiments.ct.scanning import Scan

PICTURES = 4
"""Images of a set that are drawn."""

NUMBERS = ("psnr_db", "ssim", "residual")

ROW = {"set": "", "method": "", "chosen": ""} | dict.fromkeys(NUMBERS, ANY)
"""A record of a set by a method."""

STORED: arrays.Schema = {"u": arrays.Array(("pictures", "pixels"))}


def file(name: str, method: str) -> str:
    """Where the reconstructions of a set that are drawn are kept."""
    return f"states/{name}-{method}.npz"


def judge(
    scan: Scan,
    method: str,
    u: Float[Array, "images pixels"],
    residual: float,
    chosen: str,
    out: Path,
) -> dict[str, Any]:
    """The record of a set by a method, whose first images are kept."""
    archives.write_arrays(out / file(scan.name, method), {"u": np.asarray(u[:PICTURES])})
    scores = losses.mean_scores(u, scan.truth, scan.shape, 1.0)
    row = {"set": scan.name, "method": method, "chosen": chosen, "residual": residual}
    return row | {name: float(scores[name]) for name in ("psnr_db", "ssim")}


def show(
    config: Any, judged: list[Scan], rows: list[dict[str, Any]], methods: Sequence[str], out: Path
) -> dict[str, Any]:
    """The table, the figures and the headline numbers."""
    found = {(row["set"], row["method"]): row for row in rows}
    about = f"{config.angles} angles, noise {config.noise:g} of line integrals in pixels"
    lines = [f"# CT: {about}, PSNR in dB and SSIM", ""]
    head = ("method", "chosen", *(f"{scan.name} ({len(scan.truth)})" for scan in judged))
    lines += [common.line(head), common.line(["---"] * len(head))]
    for method in methods:
        mine = [found[scan.name, method] for scan in judged]
        cells = ["{psnr_db:.2f}, {ssim:.3f}".format(**row) for row in mine]
        lines.append(common.line([method, mine[0]["chosen"], *cells]))
    table = "\n".join(lines) + "\n"
    print(f"\n{table}", flush=True)
    folders.write(out / "summary.md", table)
    numbers = {
        scan.name: {m: {k: found[scan.name, m][k] for k in NUMBERS} for m in methods}
        for scan in judged
    }
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    for scan in judged:
        shown = {"true u": np.asarray(scan.truth[:PICTURES])}
        for method in methods:
            stored = archives.read_arrays(out / file(scan.name, method), STORED)
            shown[f"{method}\n{found[scan.name, method]['psnr_db']:.2f} dB"] = stored["u"]
        path, caption = out / f"reconstructions-{scan.name}.png", f"{scan.name}, {about}"
        draw(path, plots.reconstructions, shown, scan.shape, caption, grey=(0.0, 1.0))
    return numbers
