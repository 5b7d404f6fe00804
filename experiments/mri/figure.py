"""Figure 3.1 of [CF]: a phantom from few frequencies, by a penalty of three strengths."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import losses, models, operators, plots, regularizers, solvers
from deqbilevel.commands.drawing import draw
from deqbilevel.data import phantoms

EPS = 0.1
"""Where the potential of the penalty bends, of differences of grey values in [0, 1]: so late that
the strongest penalty blurs, and does not make one grey of all."""

EVALUATIONS = 5000
"""Of the map, at most."""


def draw_3_1(config: Any, out: Path) -> dict[str, float]:
    """Draw it; the SNR in dB of K^T f and of each strength."""
    shape = (config.side, config.side)
    truth = phantoms.drawn_on(phantoms.shepp_logan(), shape).reshape(1, -1)
    K = operators.fourier(shape, config.pattern, config.rate, config.coils)
    R = regularizers.REGULARIZERS["convolutional"](
        shape, filters=(2, 2, 2), basis="differences", eps=EPS
    )
    model, key = models.assemble(K, R), jax.random.key(config.seed)
    params = model.init(key) | {"noise": jnp.asarray(config.noise, float)}
    f = model.measure(params, truth, key)
    solver = solvers.optimized_gradient(tolerance=1e-6, max_evaluations=EVALUATIONS)

    @jax.jit
    def reconstructed(beta_0: Any) -> Any:
        return model.reconstruct(solver, params | {"beta_0": beta_0}, f)[0]

    shown = {"zero filling": K.adjoint(f)}
    for beta in config.strengths:
        shown[f"beta = {beta:g}"] = reconstructed(jnp.asarray(beta * math.log(10.0), float))
    snr = {name: float(losses.snr(u, truth)[0]) for name, u in shown.items()}
    rows = {"true u": np.asarray(truth)} | {
        f"{name}\n{snr[name]:.2f} dB SNR": np.asarray(u) for name, u in shown.items()
    }
    caption = (
        f"Shepp-Logan phantom, {config.rate:.0%} of the frequencies by {config.pattern}, noise "
        f"{config.noise:g}; penalty of finite differences weighted by 10^beta, from K^T f"
    )
    draw(out / "figure_3_1.png", plots.reconstructions, rows, shape, caption, grey=(0.0, 1.0))
    return snr
