"""Filters for signals, learned with the exact 1-norm by a single level and with rounded corners.

    min_x 1/2 ||x - y||^2 + sum_k ||c_k * x||_1,  valid correlations, c_k learned

The signals are piecewise constant, as those of Peyre and Fadili, SAMPTA 2011. The exact minimiser
comes from the dual problem; it is put into the closed form that its signs allow, of which the
derivative is taken, [CF] 4.3. Of phi(z) = sqrt(z^2 + eps^2) it comes by Newton's method, and its
derivative by the implicit function theorem. Both learn from one start, on the same signals, in
float64; the filters are then also judged with the exact norm.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from deqbilevel import hypergradients, plots, precision
from deqbilevel.commands import common
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from experiments.variational import learning

POINTS, PIECES, SIGNALS = 32, 4, 10
"""Of a signal, and how many signals there are of each kind."""
FILTERS, TAPS = 2, 3
WARM = {"exact": 200, "rounded": 10}
"""Iterations from the last solution, of the dual problem and of Newton's method."""
COLD = {"exact": 4000, "rounded": 60}
"""From the measurements, where filters are judged."""
RATE = 0.02

ROW = {"eps": 0.0, "filters": [[0.0]], "psnr_db": [0.0]} | dict.fromkeys(
    ("exact_psnr_db", "tv_psnr_db", "measured_psnr_db"), ANY
)
"""A record; psnr_db: of the test signals after every tenth of the steps, from 0."""

Filters = Float[Array, "filters taps"]
Signals = Float[Array, "signals points"]


def signals(seed: int, noise: float) -> tuple[Signals, Signals]:
    """Truth and measurement, those to learn from first."""
    rng = np.random.default_rng(seed)
    truth = np.empty((2 * SIGNALS, POINTS))
    for row in truth:
        jumps = np.sort(rng.choice(np.arange(1, POINTS), PIECES - 1, replace=False))
        row[:] = np.repeat(rng.uniform(size=PIECES), np.diff([0, *jumps, POINTS]))
    return jnp.asarray(truth), jnp.asarray(truth + noise * rng.normal(size=truth.shape))


def matrix(c: Filters) -> Float[Array, "features points"]:
    """Omega."""
    eye = jnp.eye(POINTS)
    rows = [sum(t * eye[i : POINTS - TAPS + 1 + i] for i, t in enumerate(f)) for f in c]
    return jnp.concatenate([jnp.asarray(row) for row in rows])


def exact(c: Filters, y: Signals, d: Array, iterations: int) -> tuple[Signals, Array]:
    """The minimiser, with the derivative of its closed form, and the dual solution."""
    Omega = matrix(c)
    fixed = jax.lax.stop_gradient(Omega)
    # Each filter has a step of its own, as d of a faint one would take ages to get to its border.
    length = jnp.repeat(jnp.sum(jnp.abs(jax.lax.stop_gradient(c)), axis=1), POINTS - TAPS + 1)
    length = jnp.where(length > 0, length, 1)
    sigma = 1 / (FILTERS * length**2)

    def advance(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        d, ahead, k = carry
        new = jnp.clip(ahead + sigma * ((y - ahead @ fixed) @ fixed.T), -1, 1)
        uphill = jnp.sum((ahead - new) * (new - d) / sigma, axis=1, keepdims=True) > 0
        k = jnp.where(uphill, 0, k)
        return new, new + k / (k + 3) * (new - d), k + 1

    none = jnp.zeros((len(y), 1))
    d, _, _ = jax.lax.fori_loop(0, iterations, advance, (d, d, none))
    z = (y - d @ fixed) @ fixed.T
    pattern = jnp.where(jnp.abs(d + 10 * z / length) > 1, jnp.sign(z), 0)
    return hypergradients.single_level(Omega, y, 1.0, pattern), d


def rounded(
    eps: float, c: Filters, y: Signals, start: Array, iterations: int
) -> tuple[Signals, Array]:
    """The minimiser, with its implicit derivative, and [x, d] to go on from."""
    Omega = matrix(c)
    fixed = jax.lax.stop_gradient(Omega)

    def slope(Omega: Array, x: Array, y: Array) -> Array:
        z = Omega @ x
        return x - y + Omega.T @ (z / jnp.sqrt(z**2 + eps**2))

    def hessian(x: Array, d: Array) -> Array:
        z = fixed @ x
        m = jnp.sqrt(z**2 + eps**2)
        return jnp.eye(POINTS) + (fixed.T * ((1 - d * z / m) / m)) @ fixed

    def one(y: Array, start: Array) -> tuple[Array, Array]:
        def advance(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            x, d = carry
            d = jnp.clip(d, -1, 1)
            step = -jnp.linalg.solve(hessian(x, d), slope(fixed, x, y))
            z, moved = fixed @ x, fixed @ step
            m = jnp.sqrt(z**2 + eps**2)
            return x + step, (z + (1 - d * z / m) * moved) / m

        x, d = jax.lax.fori_loop(0, iterations, advance, (start[:POINTS], start[POINTS:]))
        x = jax.lax.stop_gradient(x)
        z = fixed @ x
        H = hessian(x, z / jnp.sqrt(z**2 + eps**2))
        return x - jnp.linalg.solve(H, slope(Omega, x, y)), jnp.concatenate((x, d))

    return jax.vmap(one)(y, start)


def found(config: Any) -> list[dict[str, Any]]:
    """A record for each eps, and one for the exact norm, eps = 0."""
    with precision.float64():
        truth, f = signals(config.seed, config.noise)
        start = 0.1 * jax.random.normal(jax.random.key(config.seed), (FILTERS, TAPS))
        common = {
            "tv_psnr_db": _by_variation(truth, f),
            "measured_psnr_db": learning.psnr(f[SIGNALS:], truth[SIGNALS:]),
        }
        return [_learned(config, eps, truth, f, start) | common for eps in (*config.eps, 0.0)]


def _learned(config: Any, eps: float, truth: Signals, f: Signals, c: Filters) -> dict[str, Any]:
    kind, solve = ("rounded", partial(rounded, eps)) if eps else ("exact", exact)
    begin = _begin(f) if eps else _begin(f)[:, POINTS:]

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(c: Filters, y: Signals, truth: Signals, state: Array) -> Any:
        x, state = solve(c, y, state, iterations=WARM[kind])
        return jnp.mean((x - truth) ** 2), state

    def judged(c: Filters) -> float:
        x = cold(c, f[SIGNALS:], begin[SIGNALS:])[0]
        return learning.psnr(x, truth[SIGNALS:])

    cold = jax.jit(partial(solve, iterations=COLD[kind]))
    optimiser, marks, state = optax.adam(RATE), [], begin[:SIGNALS]
    moments, tenth = optimiser.init(c), max(config.filter_steps // 10, 1)
    for step in range(config.filter_steps + 1):
        if step % tenth == 0:
            marks.append(judged(c))
        if step < config.filter_steps:
            (_, state), gradient = loss(c, f[:SIGNALS], truth[:SIGNALS], state)
            updates, moments = optimiser.update(gradient, moments)
            c = jnp.asarray(optax.apply_updates(c, updates))
    x = _by_exact(c, f[SIGNALS:])
    return {
        "eps": eps,
        "filters": np.asarray(c).tolist(),
        "psnr_db": marks,
        "exact_psnr_db": learning.psnr(x, truth[SIGNALS:]),
    }


def _begin(f: Signals) -> Array:
    """[x, d] at the measurements."""
    return jnp.concatenate((f, jnp.zeros((len(f), FILTERS * (POINTS - TAPS + 1)))), axis=1)


@jax.jit
def _by_exact(c: Filters, y: Signals) -> Signals:
    return exact(c, y, _begin(y)[:, POINTS:], COLD["exact"])[0]


def _by_variation(truth: Signals, f: Signals) -> float:
    """By first differences, of the weight that is best for the signals to learn from."""
    tried = []
    for weight in np.geomspace(0.02, 1, 14):
        c = jnp.zeros((FILTERS, TAPS)).at[0].set(weight * jnp.array([0.0, -1.0, 1.0]))
        x = _by_exact(c, f)
        halves = (slice(SIGNALS), slice(SIGNALS, None))
        tried.append(tuple(learning.psnr(x[half], truth[half]) for half in halves))
    return max(tried)[1]


def table(config: Any, rows: list[dict[str, Any]]) -> str:
    """Of the records, as Markdown."""
    noise = f"noise {config.noise:g}"
    lines = [f"# Filters of signals, {noise}: PSNR in dB of those not learned from", ""]
    head = ("learned with", "before", "learned", "with the exact norm", "filters")
    lines += [common.line(head), common.line(["---"] * len(head))]
    for row in rows:
        name = f"eps = {row['eps']:g}" if row["eps"] else "exact norm"
        numbers = (row["psnr_db"][0], row["psnr_db"][-1], row["exact_psnr_db"])
        filters = "; ".join(" ".join(f"{t:.2f}" for t in c) for c in row["filters"])
        lines.append(common.line([name, *(f"{x:.2f}" for x in numbers), filters]))
    for label, key in (("TV, best weight", "tv_psnr_db"), ("measured", "measured_psnr_db")):
        lines.append(common.line([label, "", f"{rows[-1][key]:.2f}", "", ""]))
    return "\n".join(lines) + "\n"


def figure(config: Any, of: None, rows: list[dict[str, Any]], out: Path) -> None:
    """PSNR while learning, and the filters."""
    x = np.arange(len(rows[0]["psnr_db"])) * max(config.filter_steps // 10, 1)
    names = [f"eps = {row['eps']:g}" if row["eps"] else "exact norm" for row in rows]
    curves = {name: np.asarray(row["psnr_db"]) for name, row in zip(names, rows, strict=True)}
    curves["TV"] = np.full(len(x), rows[-1]["tv_psnr_db"])
    caption = "Signals that were not learned from, each by its own norm."
    panels = {f"noise {config.noise:g}": curves}
    draw(out / FIGURE, plots.function_figure, x.astype(float), panels, ("step", "PSNR"), caption)


FIGURE = "corners.png"


def files(config: Any) -> list[str]:
    """What is written beside the records."""
    return [FIGURE]


def headline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """PSNR at the end by eps, of the exact norm, and of TV."""
    found = {f"{row['eps']:g}" if row["eps"] else "exact": row["psnr_db"][-1] for row in rows}
    return {k: round(v, 2) for k, v in (found | {"tv": rows[-1]["tv_psnr_db"]}).items()}
