"""Learnable optimisation algorithms: what they start as, their derivatives, tying and stages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import default_precision, float64, normal

from deqbilevel import learning, losses, models, operators, potentials, solvers, unrolled
from deqbilevel.regularizers import REGULARIZERS, convolutional
from deqbilevel.types import At
from deqbilevel.unrolled.base import shared

SHAPE = (6, 5)
PIXELS = SHAPE[0] * SHAPE[1]
SMALL = {
    "variational_network": {"filters": (3, 2, 2)},
    "primal_dual": {"channels": 3},
    "analysis_network": {"size": 2},
    "lista": {"tied": False},
}
FILTERS = {"filters": (3, 2, 2), "eps": 0.3, "beta_0": -1.0}


def blur():
    return operators.diagonal_blur(SHAPE, size=3)


def gradient(tied=True, **options):
    R = convolutional.convolutional(SHAPE, **FILTERS)
    return unrolled.gradient(blur(), R, iterations=3, tied=tied, **options)


def build(name):
    if name == "gradient":
        return gradient(tied=False, learned_adjoint=True)
    return unrolled.NETWORKS[name](blur(), SHAPE, iterations=3, **SMALL[name])


def moved(params, seed=3):
    """Params away from the start, so that no derivative is zero by it."""
    leaves, tree = jax.tree.flatten(default_precision(params))
    shaken = [x + 0.05 * normal(seed + i, *x.shape) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(tree, shaken)


@pytest.mark.parametrize("name", ["gradient", *unrolled.NETWORKS])
@float64
def test_the_derivative_is_that_of_central_differences_whatever_is_kept(name):
    net, f, truth = build(name), normal(0, 2, PIXELS), normal(1, 2, PIXELS)
    params = moved(net.init(jax.random.key(0)))
    learned = {name: params[name] for name in net.learned}
    way = moved(jax.tree.map(jnp.zeros_like, learned), seed=50)

    @jax.jit
    def found(learned):
        def loss(learned, checkpoint):
            u = net.reconstruct(params | learned, f, checkpoint)
            return losses.mean_squared_error(u, truth)

        return [jax.value_and_grad(loss)(learned, kept) for kept in ("none", "sqrt")]

    (value, slope), (other, other_slope) = found(learned)
    ends = [
        found(jax.tree.map(lambda x, d, h=h: x + h * d, learned, way))[0][0] for h in (1e-5, -1e-5)
    ]
    along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slope, way)))
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(slope))
    np.testing.assert_allclose(other, value, rtol=1e-12)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12), other_slope, slope)


@float64
def test_it_starts_as_gradient_descent_of_the_lower_level():
    R = convolutional.convolutional(SHAPE, **FILTERS)
    model, f = models.assemble(blur(), R), normal(0, 2, PIXELS)
    start = default_precision(R.init(jax.random.key(0)))
    steps = solvers.picard(tolerance=None, max_evaluations=3)
    expected, _ = model.reconstruct(steps, start, f)
    params = default_precision(gradient(False, given=start).init(jax.random.key(1)))
    more = unrolled.with_iterations(unrolled.with_iterations(params, 1), 3)
    for own in (params, more):
        np.testing.assert_allclose(gradient(False).reconstruct(own, f), expected, rtol=1e-6)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_regulariser_is_unrolled_tied_and_untied(name):
    small = {"channels": (2, 2, 3), "size": 3} if "ridge" in name else {}
    R = REGULARIZERS[name](SHAPE, **small)
    given = (
        {}
        if "phi" in jax.eval_shape(R.init, jax.random.key(0))
        else {"phi": potentials.CornerRounded(jnp.asarray(0.3))}
    )
    for tied in (True, False):
        net = unrolled.gradient(blur(), R, iterations=2, tied=tied, step=0.1, given=given)

        def run(key, net=net):
            params = net.refresh(net.init(key))
            return params, net.reconstruct(params, jnp.ones((2, PIXELS)))

        params, u = jax.eval_shape(run, jax.random.key(0))
        assert u.shape == (2, PIXELS) and set(net.learned) <= set(params)
        assert (set(R.learned) <= set(shared(params))) == tied


@float64
def test_lista_starts_as_iterative_shrinkage_with_a_dictionary():
    B, f, weight = normal(0, PIXELS, 40) / 5, normal(1, 2, PIXELS), 0.3
    net = unrolled.lista(blur(), SHAPE, iterations=400, weight=weight, dictionary=B)
    params = default_precision(net.init(jax.random.key(0)))
    u = net.reconstruct(params, f)

    def cost(z):
        return jnp.sum((blur().apply(z @ B.T) - f) ** 2) / 2 + weight * jnp.sum(jnp.abs(z))

    z = jnp.zeros((2, 40))
    smooth = jax.jit(jax.grad(lambda z: jnp.sum((blur().apply(z @ B.T) - f) ** 2) / 2))
    tau = 1 / jnp.linalg.norm(blur().apply(B.T), 2) ** 2
    for _ in range(400):
        z = unrolled.soft(z - tau * smooth(z), tau * weight)
    np.testing.assert_allclose(u, z @ B.T, atol=1e-9)
    assert cost(z) < 0.9 * cost(jnp.zeros_like(z))


@float64
def test_a_stage_is_the_first_iterations_and_learns_the_last_of_them():
    net, f = gradient(tied=False), normal(0, 2, PIXELS)
    params, stage = moved(net.init(jax.random.key(0))), unrolled.stage(net)
    for t in (0, 2):
        own = unrolled.stage_params(params, t)
        first = unrolled.with_iterations(params, t + 1)
        np.testing.assert_allclose(stage.reconstruct(own, f), net.reconstruct(first, f), rtol=1e-12)
    after = unrolled.after_stage(params, 1, jax.tree.map(lambda x: x + 1, own))["layers"]
    np.testing.assert_array_equal(after["log_step"][0], params["layers"]["log_step"][0])
    np.testing.assert_array_equal(after["log_step"][1], after["log_step"][2])
    with pytest.raises(ValueError, match="t=3: expected"):
        unrolled.stage_params(params, 3)


def test_the_learner_learns_a_stage_by_the_image_after_it():
    net, truth = gradient(tied=False), jnp.tile(jnp.array([1.0, -1.0]), PIXELS // 2)[None]
    f = blur().apply(truth) + 0.3 * normal(0, 1, PIXELS).astype(jnp.float32)
    stage = unrolled.stage(net)
    params = unrolled.stage_params(net.init(jax.random.key(0)), 1) | {"tau": 1.0}
    setting, adam = unrolled.setting(0.05), learning.adam(10)
    learner = learning.Learner((stage.model(),), setting, adam, stage.learned)
    state = learning.start(learner, params)
    state, metrics = jax.jit(partial(learning.steps, learner, batches=10, f=f))(state, truth)
    assert metrics.loss[-1] < metrics.loss[0] and bool(jnp.all(metrics.solved == 1))
    u = stage.reconstruct(state.params, f)
    one = solvers.picard(max_evaluations=1)
    np.testing.assert_allclose(u, one(At(stage.model().G, state.params, f), f)[0], atol=1e-6)
    assert losses.mean_squared_error(u, truth) < metrics.loss[-1]
    jax.tree.map(np.testing.assert_array_equal, state.params["before"], params["before"])


@float64
def test_splines_of_each_filter_are_odd_and_as_steep_as_they_say():
    phi = potentials.Splines(normal(0, 3, 4), (0.1, 0.2, 0.4, 0.8))
    z = jnp.broadcast_to(jnp.linspace(-1, 1, 2001), (3, 2001))
    by_jax = jax.vmap(
        jax.vmap(
            jax.grad(lambda x, a: potentials.Splines(a[None], phi.knots).value(x[None])[0]),
            (0, None),
        )
    )(z, phi.amplitudes)
    np.testing.assert_allclose(phi.derivative(z), by_jax, atol=1e-12)
    np.testing.assert_allclose(phi.derivative(z), -phi.derivative(-z), atol=1e-12)
    curvature = phi.second_derivative(z)
    np.testing.assert_allclose(phi.lipschitz, jnp.max(jnp.abs(curvature)))
    np.testing.assert_allclose(phi.least_curvature, jnp.min(curvature))
    np.testing.assert_allclose(phi.slope, jnp.max(jnp.abs(phi.derivative(z))), rtol=1e-6)
    convex = potentials.Splines(jnp.abs(phi.amplitudes), phi.knots)
    x = convex.prox(z, 0.5)
    np.testing.assert_allclose(x + 0.5 * convex.derivative(x), z, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda: gradient(step=0.0), "step=0.0: expected"),
        (lambda: unrolled.gradient(operators.identity(SHAPE), convolutional.convolutional(
            SHAPE, **FILTERS), learned_adjoint=True), "Identity has no real numbers"),
        (lambda: unrolled.lista(operators.OPERATORS["fourier"](SHAPE), SHAPE).init(
            jax.random.key(0)), "complex"),
        (lambda: unrolled.primal_dual(operators.random_matrix(SHAPE), SHAPE), "data_shape"),
        (lambda: gradient().reconstruct({"layers": {"a": jnp.ones(2), "b": jnp.ones(3)}},
                                        jnp.ones((1, PIXELS))), "one number of iterations"),
        (lambda: gradient().model().N(jnp.ones((1, PIXELS)), {}), "no lower-level cost"),
        (lambda: potentials.splines(2, knots=(0.2, 0.1)), "growing numbers"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        wrong()
