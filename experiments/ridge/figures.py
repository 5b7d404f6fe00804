"""What was learned: the composed filters, and the potential of each with its derivative."""

from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from deqbilevel import plots
from deqbilevel.commands.drawing import draw
from deqbilevel.convolutions import chains
from deqbilevel.recipes import Learned
from deqbilevel.regularizers import ridge, spline_ridge

POINTS = 401
"""Of a curve."""

WIDEST = 2.0
"""As far as a potential is drawn, in units of where its concave part ends."""


POTENTIALS = {
    "ridge": partial(ridge.potential, rho=0.0),
    "weakly_convex_ridge": partial(ridge.potential, rho=1.0),
    "spline_ridge": partial(spline_ridge.potential, rho=1.0),
}
"""psi of params, by regulariser."""


def draw_learned(learned: Learned, caption: str, out: Path) -> None:
    """Draw both into a folder."""
    params = learned.params
    filters = np.asarray(chains.composed(ridge.filters(params)))
    strongest = np.argsort(-np.linalg.norm(filters, axis=(1, 2)))
    stages = {"filters of W, by falling norm": filters[strongest]}
    draw(out / "filters.png", plots.kernel_figure, stages, caption)
    psi = POTENTIALS[learned.recipe.regularizer](params)
    z = jnp.linspace(-WIDEST, WIDEST, POINTS)
    panels = {
        "psi": {"psi": np.asarray(psi.value(z))},
        "its derivative": {"psi'": np.asarray(psi.derivative(z))},
    }
    draw(out / "potential.png", plots.function_figure, np.asarray(z), panels, ("z", ""), caption)
