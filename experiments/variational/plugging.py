"""Plug-and-play by alternating directions, [CF] (7.4), on photographs: a table.

Tasks are a Gaussian blur, of circular images, and 30 % of the frequencies, with noise of 0.02. The
numbers lam and strength, see `deqbilevel.variational.plug_and_play`, are those

    grid       that are best for images to learn from, of some
    learned    from there by the hypergradient through the fixed point, for the network
    scheduled  likewise, a pair for each of ten iterations

and beside them is total variation with the best weight. `rate` is the bound on how much nearer an
iteration comes to the fixed point, by the condition of Ryu et al. (2019), with epsilon of the
denoiser at the reconstructions and the least eigenvalue mu of K^T K: 1 or more says nothing.
`contraction` is what iterations do.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import fidelities, losses, operators, plots, variational
from deqbilevel.commands import common
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from deqbilevel.disk import archives, arrays
from deqbilevel.operators import Operator
from deqbilevel.types import FixedPointMap, Images, Params
from deqbilevel.variational import plug_and_play
from deqbilevel.variational.plug_and_play import Denoiser
from experiments.variational import denoising, learning, tuning

TASKS = ("deblurring", "frequencies")
NOISE, SIGMA, PART = 0.02, 1.2, 0.3
WEIGHTS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Of total variation, that are tried."""
PICTURES = 3

PAIR = ("task", "method")
NUMBERS = ("psnr_db", "measured_psnr_db", "iterations", "residual")
NUMBERS += ("contraction", "epsilon", "rate")
ROW = dict.fromkeys(PAIR, "") | {"lam": [0.0], "strength": [0.0]} | dict.fromkeys(NUMBERS, ANY)
"""A record; lam and strength of each iteration that has its own; of variational TV its weight."""
STORED: arrays.Schema = {"u": arrays.Array(("pictures", "pixels"))}


class Given(NamedTuple):
    """Images in [0, 1]."""

    shape: tuple[int, int]
    train: Float[Array, "train pixels"]
    test: Float[Array, "test pixels"]


def given(config: Any) -> Given:
    """Of --pictures, or of photographs that ship. Raises: ValueError for a denoiser that is not
    there."""
    name = "photographs" if config.pictures is None else f"images:{config.pictures}"
    images = learning.images_of(config, name)
    denoising.check(config.denoisers, images.shape)
    return Given(images.shape, images.train, images.test)


def cases(config: Any) -> list[tuple[str, str]]:
    """Each task and what is done for it."""
    ways = [f"{name}, grid" for name in config.denoisers]
    if "network" in config.denoisers:
        ways += ["network, learned", "network, scheduled"]
    methods = ("variational tv", *ways)
    return [(task, method) for task in _tasks(config) for method in methods]


def _tasks(config: Any) -> list[str]:
    return [task for task in TASKS if task in config.tasks]


def files(config: Any) -> list[str]:
    """What is written beside the records."""
    own = [_file(*case) for case in cases(config)]
    return [*own, denoising.FILE, *(f"plug-{task}.png" for task in _tasks(config))]


def operator(task: str, shape: tuple[int, int], seed: int) -> Operator:
    """K of a task."""
    if task == "frequencies":
        return operators.fourier(shape, rate=PART, seed=seed)
    reach = int(np.ceil(3 * SIGMA))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA) ** 2)
    kernel /= kernel.sum()
    return operators.circular_convolution(np.outer(kernel, kernel), shape)


def found(
    config: Any, of: Given, task: str, method: str, rows: list[dict[str, Any]], out: Path
) -> dict[str, Any]:
    """A record; some reconstructions are kept."""
    K, key = operator(task, of.shape, config.seed), jax.random.key(config.seed)
    f_train, f_test = (
        fidelities.normal(K.apply(truth), NOISE, draw)
        for truth, draw in zip((of.train, of.test), jax.random.split(key), strict=True)
    )
    row = dict.fromkeys(ROW, None) | {"task": task, "method": method}
    if method == "variational tv":
        u, own = _variational(K, of, f_train, f_test)
    else:
        name, way = method.split(", ")
        denoise, G, solve = _plugged(config, task, name, of.shape, out)
        if way == "grid":
            params = tuning.grid(name, solve, of.train, f_train)
        else:
            before = (task, f"{name}, grid")
            (first,) = (r for r in rows if (r["task"], r["method"]) == before)
            start = {x: jnp.log(jnp.asarray(first[x][0], float)) for x in ("lam", "strength")}
            learn = tuning.scheduled if way == "scheduled" else tuning.learned
            params = learn(config.steps, K, G, of.train, f_train, start)
        if way == "scheduled":
            u, _ = plug_and_play.scheduled(G, {}, params, f_test, tuning.start(K, f_test))
            own: dict[str, Any] = {"iterations": tuning.SCHEDULED}
        else:
            u, info = solve(params, f_test)
            own = {"iterations": int(info.evaluations), "residual": float(info.residual)}
            own |= _rates(name, K, G, denoise, params, u, f_test, of.shape)
        own |= {k: np.atleast_1d(x).tolist() for k, x in params.items()}
        u = plug_and_play.image(u)
    archives.write_arrays(out / _file(task, method), {"u": np.asarray(u[:PICTURES])})
    plain = losses.mean_scores(K.adjoint(f_test), of.test, of.shape, 1.0)
    scores = losses.mean_scores(u, of.test, of.shape, 1.0)
    own |= {"psnr_db": float(scores["psnr_db"]), "measured_psnr_db": float(plain["psnr_db"])}
    return row | own


@lru_cache(maxsize=1)
def _plugged(
    config: Any, task: str, name: str, shape: tuple[int, int], out: Path
) -> tuple[Denoiser, FixedPointMap, tuning.Solve]:
    """The denoiser, an iteration and what solves it, which all ways share."""
    K, denoise = operator(task, shape, config.seed), denoising.made(config, name, shape, out)
    G = plug_and_play.plug_and_play_admm(K, denoise)
    return denoise, jax.jit(G), tuning.solver(K, G)


def _variational(K: Operator, of: Given, f: Array, f_test: Array) -> tuple[Images, dict[str, Any]]:
    problem = variational.Problem(K, variational.total_variation(of.shape))
    solve = jax.jit(partial(variational.chambolle_pock, tolerance=3e-4, max_iterations=2000))
    errors = [losses.mean_squared_error(solve(problem, (w,), f)[0].x, of.train) for w in WEIGHTS]
    weight = WEIGHTS[int(np.argmin(errors))]
    at, info = solve(problem, (weight,), f_test)
    iterations = int(info.iterations.max())
    return at.x, {"lam": [weight], "strength": [], "iterations": iterations}


def _rates(
    name: str,
    K: Operator,
    G: FixedPointMap,
    denoise: Denoiser,
    params: Params,
    u: Array,
    f: Array,
    shape: tuple[int, int],
) -> dict[str, Any]:
    """What iterations do, and the bound on it where D has a Lipschitz constant."""
    found: dict[str, Any] = {"contraction": tuning.contraction(G, params, tuning.start(K, f), f)}
    if name == "bm3d":
        return found
    # Of D - I it is at most 1 for proximal maps, and 1 where they remove a direction.
    epsilon = 1.0
    if name == "network":
        z = plug_and_play.image(u)
        largest = jax.jit(partial(denoising.epsilon, denoise))
        epsilon = float(largest(z + u[:, z.shape[1] :], params))
    rate = float(plug_and_play.rate(epsilon, _least(K, shape), float(params["lam"])))
    return found | {"epsilon": epsilon, "rate": rate}


def _least(K: Operator, shape: tuple[int, int]) -> float:
    """mu, the least eigenvalue of K^T K, which is a circular convolution in both tasks."""
    point = jnp.zeros((1, shape[0] * shape[1])).at[0, 0].set(1.0)
    spectrum = jnp.fft.fft2(K.adjoint(K.apply(point)).reshape(shape))
    return max(float(jnp.min(spectrum.real)), 0.0)


def _file(task: str, method: str) -> str:
    return f"states/plug-{task}-{method.replace(', ', '-').replace(' ', '-')}.npz"


def table(config: Any, rows: list[dict[str, Any]]) -> str:
    """Of the records, as Markdown."""
    lines = [f"# Plug-and-play, noise {NOISE:g} of images in [0, 1]: PSNR in dB", ""]
    head = ("task", "method", "lam", "strength", "PSNR", "iterations", "residual", "contraction")
    head += ("epsilon", "rate")
    lines += [common.line(head), common.line(["---"] * len(head))]
    for task in _tasks(config):
        own = [row for row in rows if row["task"] == task]
        measured = f"{own[0]['measured_psnr_db']:.2f}"
        lines.append(common.line([task, "K^T f", "", "", measured, *[""] * 5]))
        for row in own:
            numbers = [_said(row[name], ".3g") for name in ("lam", "strength")]
            cells = [*numbers, f"{row['psnr_db']:.2f}", str(row["iterations"])]
            cells.append(_said(row["residual"], ".1e"))
            cells += [_said(row[name], ".4f") for name in ("contraction", "epsilon", "rate")]
            lines.append(common.line([task, row["method"], *cells]))
    return "\n".join(lines) + "\n"


def _said(x: Any, form: str) -> str:
    """A number, or the first and the last of several."""
    ends = [f"{y:{form}}" for y in (x if isinstance(x, list) else [x]) if y is not None]
    return " to ".join(dict.fromkeys((ends[0], ends[-1]))) if ends else ""


def figure(config: Any, of: Given, rows: list[dict[str, Any]], out: Path) -> None:
    """Reconstructions of some test images, for each task."""
    for task in _tasks(config):
        shown = {"true u": np.asarray(of.test[:PICTURES])}
        for row in rows:
            if row["task"] == task:
                stored = archives.read_arrays(out / _file(task, row["method"]), STORED)
                shown[f"{row['method']}\n{row['psnr_db']:.2f} dB"] = stored["u"]
        caption = f"{task}, noise {NOISE:g}; PSNR of all {len(of.test)} test images."
        grey = (0.0, 1.0)
        draw(out / f"plug-{task}.png", plots.reconstructions, shown, of.shape, caption, grey=grey)
