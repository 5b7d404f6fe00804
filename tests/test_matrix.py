"""Every operator, regulariser, loss and way to a hypergradient together, from the registries.

All four would be thousands of programs to compile. Here every regulariser meets several operators,
those least used so far, by the loss and the way that were least used and go with it, so that a new
entry of any registry is there by being registered, in as many programs as before. What does not go
together is refused by name, and all of those refusals are listed. Problems are conditioned so well
that a few hundred evaluations solve them to rounding: iterations that are differentiated are then
exact.
"""

import functools
import itertools
from typing import Any

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ALL_OPERATORS, complex_matrix, default_precision, float64, normal

from deqbilevel import learning, losses, models, operators
from deqbilevel.hypergradients import STATIC, SYMMETRIC
from deqbilevel.layers import Conv
from deqbilevel.learning import Learner
from deqbilevel.losses import LOSSES
from deqbilevel.models import Model
from deqbilevel.operators import OPERATORS
from deqbilevel.regularizers import REGULARIZERS, equinox_module, flax_module, function
from deqbilevel.settings import MINIMISER, NAMES, Budget, Setting

SHAPE = (6, 6)
PIXELS = SHAPE[0] * SHAPE[1]
SMALL: dict[str, dict[str, Any]] = {
    "dense": {"activation": "identity"},
    "dense untied": {"activation": "identity", "tied": False},
    "convolutional": {"filters": (3, 3, 3), "eps": 1.0, "beta_0": -1.0},
    "normalised": {"kernels": (3, 3)},
    "normalised untied": {"kernels": (3, 3), "tied": False},
    "affine": {"size": 3},
    "denoiser": {"channels": 2, "layers": 2, "size": 3},
    "convex": {"channels": 2, "size": 3},
    "ridge": {"channels": (2, 2, 3), "size": 3, "boundary": "zero"},
    "weakly_convex_ridge": {"channels": (2, 2, 3), "size": 3, "boundary": "zero"},
    "spline_ridge": {"channels": (2, 2, 3), "size": 3, "boundary": "zero", "levels": 2},
    "total_variation": {"eps": 1.0, "beta_0": -1.0, "ridge": 0.0},
    "multiscale_ridge": {"channels": (2, 2, 3), "size": 3, "boundary": "zero"},
    "input_convex": {"channels": 2, "size": 3, "boundary": "zero"},
    "difference_of_convex": {"channels": 2, "size": 3, "boundary": "zero"},
    "total_deep_variation": {"channels": 2, "boundary": "circular"},
}
"""Options of the regularisers; a second word makes a second case of one."""

SIMILAR = ("ssim", "ms_ssim")
"""Losses that need larger images: their windows do not fit."""

WORDS = {
    "whiteness": "whiteness:size=3",
    "noise_corridor": "noise_corridor:size=3",
    "detectability": "detectability:channels=1,radius=1",
}
"""Options of the losses."""

NEIGHBOURS = ("whiteness", "noise_corridor")
"""Losses of residuals that are images."""

MET = 2
"""Operators that each regulariser meets."""

ESTIMATES = ("shine", "jacobian_free", "gaussian_smoothing")
"""Ways that are no exact gradient by their nature; the first loss falls along them all the same."""

MAPS = ("dense untied", "normalised untied", "affine", "denoiser")
"""Regularisers without an energy."""

PLAIN = ("picard", "neumann", "finite_differences", *STATIC)
"""Ways of plain iterations, which solve what is well conditioned in the evaluations there are."""

STIFF = (
    *(R for R in SMALL if R.endswith("ridge")),
    "input_convex",
    "difference_of_convex",
    "total_deep_variation",
)
"""Regularisers that are not: low frequencies are all but free where K does not see them, and
curvatures are far apart, so that nothing promises that the loss falls along an estimate."""

DEAR = (
    ("affine", "gaussian_smoothing"),
    *((R, "forward") for R in ("dense", "dense untied", "normalised untied")),
)
"""Pairs that take long: a solve, or a derivative, in each of many directions."""

REFUSED = {
    *itertools.product(MAPS, (*SYMMETRIC, MINIMISER)),
    ("dense", MINIMISER),  # its activations have kinks
    *((R, "preconditioned") for R in SMALL if not R.startswith("normalised")),
}
"""The pairs of a regulariser and a way that do not go together."""


@functools.cache
def pictured(operator: str) -> bool:
    """Whether its data are images."""
    f = ALL_OPERATORS[operator](SHAPE).apply(jnp.ones((1, PIXELS)))
    return f.shape[-1] == PIXELS and not jnp.iscomplexobj(f)


def cases() -> list[tuple[str, str, str, str]]:
    """Operator, regulariser, loss and way, with every one about as often as any other."""
    judges = [loss for loss in LOSSES if loss not in SIMILAR]
    found, times = [], dict.fromkeys([*NAMES, *OPERATORS, *judges], 0)
    left = {*REFUSED, *itertools.product(STIFF, (*PLAIN, *ESTIMATES)), *DEAR}
    takers = {way: sum((R, way) not in left for R in SMALL) for way in NAMES}
    for R in np.repeat(list(SMALL), MET):
        ways = (way for way in NAMES if (R, way) not in left)
        way = min(ways, key=lambda way: (times[way], takers[way]))
        met = [case[0] for case in found if case[1] == R]
        operator = min((K for K in OPERATORS if K not in met), key=lambda K: times[K])
        fitting = [loss for loss in judges if pictured(operator) or loss not in NEIGHBOURS]
        loss = min(fitting[:1] if way in ESTIMATES else fitting, key=lambda loss: times[loss])
        for name in (way, operator, loss):
            times[name] += 1
        found.append((operator, str(R), loss, way))
    return found


CASES = cases()


def test_every_entry_of_every_registry_has_a_case():
    operators, regularizers, judges, ways = (set(x) for x in zip(*CASES, strict=True))
    assert operators == set(OPERATORS) and ways == set(NAMES)
    assert judges == set(LOSSES) - set(SIMILAR)
    assert {name.split()[0] for name in regularizers} == set(REGULARIZERS)
    assert len({case[:2] for case in CASES}) == MET * len(SMALL)


# ---- problems


def conditioned(R: str, params: dict[str, Any]) -> dict[str, Any]:
    """Weights whose N is strongly monotone, so that it determines what K does not see."""
    if R.startswith("dense"):
        params["A"] = jnp.eye(PIXELS) + 0.3 * params["A"]
    elif R == "convolutional":
        params["filters"] = 0.3 * params["filters"].at[:, 1, 1].add(4.0)
    elif R.startswith("normalised"):
        params["A"] = params["A"].at[..., 1, 1].add(2 * jnp.max(jnp.abs(params["A"])))
        params |= {"c": jnp.asarray(1.0), "phi": type(params["phi"])(jnp.asarray(1.0))}
    elif R == "affine":
        params["network"]["kernel"] = 0.2 * params["network"]["kernel"].at[1, 1].add(5.0)
    elif R == "denoiser":
        params["network"] = jax.tree.map(lambda x: 0.8 * x, params["network"])
    elif R == "convex":  # two channels of opposite signs: along one alone it has no minimum
        small = jax.tree.map(lambda x: 0.2 * x, params["network"] | {"P": {}})
        Q = {"kernel": small["Q"]["kernel"].at[1, 1, 0].add(jnp.array([2.0, -2.0]))}
        params["network"] |= {"W": small["W"], "Q": small["Q"] | Q}
    elif R == "multiscale_ridge":
        levels = {
            name: conditioned("ridge", level) for name, level in params.items() if name != "shares"
        }
        params |= levels
    elif R in ("input_convex", "difference_of_convex"):  # scaled to where psi is quadratic
        params["convex"]["scale"] -= 4
    elif R == "total_deep_variation":  # R is about a sum of squares, far below its bound
        centre = jnp.eye(2) * jnp.array([1.0, 0.3])[:, None, None]
        params["first"] = params["first"].at[1, 1, 0].add(1.0)
        params["blocks"] = [
            {
                n: 0.1 * jnp.abs(block[n]).at[1, 1].add(10 * x)
                for n, x in zip("AB", centre, strict=True)
            }
            for block in params["blocks"]
        ]
        params |= {"v": jnp.ones(2), "scale": params["scale"] - 6, "tau": jnp.asarray(1 / 40)}
    elif R.endswith("ridge"):  # scaled to where psi is convex
        params["scales"] -= 4
        params |= {"bend": jnp.asarray(1.0)} if "bend" in params else {}
    if "C" in params:  # near A: of two random factors a fixed point need not exist
        params["C"] = params["A"] + 0.1 * params["C"]
    return params


@functools.cache
def regularizer_of(R: str) -> tuple[Any, dict[str, Any]]:
    built = REGULARIZERS[R.split()[0]](SHAPE, **SMALL[R])
    params = conditioned(R, default_precision(built.init(jax.random.key(1))))
    for _ in range(20 if "norm_A" in params else 1):  # a norm is found in that many steps
        params = built.refresh(params)
    return built, default_precision(params)


@functools.cache
def problem(operator: str, R: str) -> tuple[Model, dict[str, Any]]:
    built, weights = regularizer_of(R)
    model = models.assemble(default_precision(ALL_OPERATORS[operator](SHAPE)), built)
    return model, prepared(model, weights)


def prepared(model: Model, params: dict[str, Any]) -> dict[str, Any]:
    """Params that weigh K by its norm, with their step size: found once, not in every program."""
    params = params | {"lam": operators.norm(model.K, PIXELS) ** -2.0, "gamma": 2.0}
    return default_precision(model.completed(params)) | {"noise": jnp.asarray(0.1)}


def setting(way: str, solver: str | None = None) -> Setting:
    """A lower level that is solved to rounding."""
    static = way in (*STATIC, "finite_differences")
    budget = Budget(300, 300) if static else Budget(3000, 3000)
    budget = budget._replace(adjoint=64) if way == "gaussian_smoothing" else budget
    return Setting(
        forward_tolerance=1e-12,
        adjoint_tolerance=1e-11,
        budget=budget,
        limit=budget,
        evaluation_tolerance=1e-12,
        evaluation_budget=3000,
        ridge=0.0,
        relative_ridge=True,
        preconditioned=False,
        learning_rate=1.0,
        solver=solver or ("picard" if static else "anderson"),
        hypergradient=way,
    )


def by_its_rate(params: dict[str, Any], step: Any) -> optax.GradientTransformation:
    return optax.sgd(params["learning_rate"])


def learner_of(operator: str, R: str, loss: str, way: str) -> tuple[Learner, dict[str, Any]]:
    model, params = problem(operator, R)
    judge = losses.named([WORDS.get(loss, loss)], SHAPE, peak=2.0)
    return Learner((model,), setting(way), by_its_rate, model.R.learned, judge), params


def learns(learner: Learner, params: dict[str, Any], *, exact: bool = True) -> None:
    """The loss falls in each of three steps and, of an exact way, its gradient is the slope of
    finite differences along a random direction; all by one compiled program."""
    model, truth, key = learner.models[0], 0.5 * normal(2, 2, PIXELS), jax.random.key(3)
    f = None if learner.sampling else model.measure(params, truth, key)
    take = jax.jit(lambda state: learning.step(learner, state, truth, f=f, key=key))
    first = learning.start(learner, params)

    def loss_at(t: float) -> float:
        near = jax.tree.map(lambda x, d: x + t * d, weights, d)
        return float(take(first._replace(params=first.params | near))[1].loss)

    # A step at a rate of 1 is the gradient; then the first is to take 1e-4 of the loss off.
    weights = {k: first.params[k] for k in learner.learned}
    moved, metrics = take(first)
    gradient = jax.tree.map(jnp.subtract, weights, {k: moved.params[k] for k in learner.learned})
    norm = float(optax.tree.norm(gradient))
    rate = jnp.asarray(1e-4 * jnp.abs(metrics.loss) / norm**2)
    state = first._replace(params=first.params | {"learning_rate": rate})
    course = []
    for _ in range(4):
        state, metrics = take(state)
        course.append(float(metrics.loss))
        assert not exact or metrics.solved == 1, metrics
    assert np.all(np.diff(course) < 0) and not state.diverged, course
    if exact:
        d = jax.tree.map(direction, weights)
        slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
        pairs = zip(*map(jax.tree.leaves, (gradient, d)), strict=True)
        found = sum(float(np.real(np.vdot(a, b))) for a, b in pairs)
        assert norm > 0 and abs(found - slope) <= 1e-5 * max(abs(slope), norm), (found, slope)


def direction(x: Any) -> Any:
    d = normal(x.size, *x.shape)
    return d + 1j * normal(x.size + 1, *x.shape) if jnp.iscomplexobj(x) else d


# ---- the matrix


def refused(learner: Learner, params: dict[str, Any]) -> str | None:
    try:
        learning.check(learner, params)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("operator", "R", "loss", "way"), CASES, ids=map("-".join, CASES))
@float64
def test_it_learns_by_a_gradient_that_finite_differences_confirm(operator, R, loss, way):
    learner, params = learner_of(operator, R, loss, way)
    learns(learner, params, exact=way not in ESTIMATES)


@float64
def test_what_is_refused_is_what_cannot_be():
    for R, way in itertools.product(SMALL, NAMES):
        said = refused(*learner_of("identity", R, "mean_squared_error", way))
        assert (said is not None) == ((R, way) in REFUSED), (R, way, said)
        assert said is None or (way in said and "take" in said)


@pytest.mark.parametrize(
    ("R", "way", "solver", "words"),
    [
        ("denoiser", "minres", "anderson", ("'minres'", "DEQ", "take gmres")),
        ("affine", MINIMISER, "anderson", ("'minimiser'", "DEQ", "take gmres")),
        ("affine", "gmres", "nesterov", ("'nesterov'", "DEQ", "take picard")),
        ("dense", MINIMISER, "anderson", ("PiecewiseQuadratic", "minimiser", "CornerRounded")),
        ("convex", "preconditioned", "anderson", ("'preconditioned'", "Jacobian", "anderson")),
        ("convex", "gmres", "newton", ("'newton'", "Jacobian", "take another, such as anderson")),
        ("convex", "truncated", "anderson", ("'truncated'", "'anderson'", "take solver picard")),
    ],
)
@float64
def test_a_refusal_names_both_parts_and_what_to_take(R, way, solver, words):
    model, params = problem("identity", R)
    learner = Learner((model,), setting(way, solver), by_its_rate, model.R.learned)
    said = refused(learner, params) or ""
    assert all(word in said for word in words), said


@float64
def test_sampling_without_a_learned_operator_is_refused():
    model, params = problem("row_mask", "dense")
    learner = Learner((model,), setting("gmres"), by_its_rate, ("A",), sampling=True)
    assert "learned K, and K is not learned" in (refused(learner, params) or "")


# ---- operators that are learned, and complex data

LEARNED: dict[str, Any] = {
    "diagonal_blur": OPERATORS["diagonal_blur"],
    "diagonal_blur_zero": OPERATORS["diagonal_blur_zero"],
    "mask": lambda shape: operators.Mask(0.3 + 0.1 * jnp.abs(normal(4, PIXELS))),
    "random_matrix": OPERATORS["random_matrix"],
    "complex_matrix": complex_matrix,
    "sampling": lambda shape: operators.Fourier(0.3 + 0.1 * jnp.abs(normal(4, PIXELS)), shape),
}
"""Operators whose leaves can be anything, so that they have a gradient."""


IN_TURN = [
    (operator, sampling, [MINIMISER, "gmres", "unrolled"][(i + sampling) % 3])
    for (i, operator), sampling in itertools.product(enumerate(LEARNED), (False, True))
]


@pytest.mark.parametrize(("operator", "sampling", "way"), IN_TURN)
@float64
def test_an_operator_is_learned_by_the_gradient_through_the_whole_solve(operator, sampling, way):
    built, weights = regularizer_of("convolutional")
    model = models.assemble(default_precision(LEARNED[operator](SHAPE)), built)
    params = prepared(model, weights) | {"K": model.K}
    learns(Learner((model,), setting(way), by_its_rate, ("K",), sampling=sampling), params)


@pytest.mark.parametrize("way", [MINIMISER, "gmres"])
@float64
def test_weights_and_operator_are_learned_together_of_complex_data(way):
    built, weights = regularizer_of("convolutional")
    model = models.assemble(complex_matrix(SHAPE), built)
    params = prepared(model, weights) | {"K": model.K}
    learned = (*built.learned, "K")
    learns(Learner((model,), setting(way), by_its_rate, learned), params)


# ---- regularisers of one's own


class Pictures(nn.Module):
    """Of flax: pictures near x, or a number for each."""

    energy: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = Conv(2, (3, 3))(x)
        if self.energy:
            return jnp.sum(x**2, (1, 2, 3)) / 2 + jnp.sum(nn.softplus(y), (1, 2, 3))
        return x + 0.2 * Conv(1, (3, 3))(jnp.tanh(y))


class Picture(equinox.Module):
    """Of equinox: a picture near x, or a number."""

    first: equinox.nn.Conv2d
    last: equinox.nn.Conv2d | None

    def __call__(self, x: Any) -> Any:
        y = self.first(x)
        if self.last is None:
            return jnp.sum(x**2) / 2 + jnp.sum(jax.nn.softplus(y))
        return x + 0.2 * self.last(jnp.tanh(y))


def picture(key: Any, *, energy: bool) -> Picture:
    keys = jax.random.split(key)
    layers = [
        equinox.nn.Conv2d(*channels, 3, padding=1, key=k)
        for channels, k in zip(((1, 2), (2, 1)), keys, strict=True)
    ]
    return Picture(layers[0], None if energy else layers[1])


def matrix_and_bias(key: Any) -> dict[str, Any]:
    W = jax.random.normal(key, (PIXELS, PIXELS)) / PIXELS
    return {"W": W, "b": jnp.ones(PIXELS)}


OWN = {
    "function": lambda energy: function(
        SHAPE,
        (lambda u, p: jnp.sum(u**2 / 2 + jax.nn.softplus(u @ p["W"].T + p["b"]), -1))
        if energy
        else (lambda u, p: u + jnp.tanh(u @ p["W"].T + p["b"])),
        matrix_and_bias,
        energy=energy,
    ),
    "flax": lambda energy: flax_module(SHAPE, Pictures(energy), energy=energy),
    "equinox": lambda energy: equinox_module(
        SHAPE, functools.partial(picture, energy=energy), energy=energy
    ),
}


@pytest.mark.parametrize(
    ("energy", "way"),
    [(True, MINIMISER), (False, "gmres")],
    ids=["energy", "map"],
)
@pytest.mark.parametrize("own", OWN)
@float64
def test_a_regulariser_of_ones_own_is_learned(own, energy, way):
    built = OWN[own](energy)
    model = models.assemble(default_precision(OPERATORS["diagonal_blur"](SHAPE)), built)
    params = default_precision(built.init(jax.random.key(1))) | {"tau": jnp.asarray(0.25)}
    learner = Learner((model,), setting(way), by_its_rate, built.learned)
    learns(learner, prepared(model, params))
    assert model.tied == energy
