"""The normalised convolutional regulariser, and the model of faces that is made of it."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, float64, normal

from deqbilevel import (
    hypergradients,
    jacobians,
    learning,
    linearised,
    losses,
    models,
    operators,
    settings,
)
from deqbilevel.convolutions import multiplied
from deqbilevel.linearised import SOLVERS, linear_solve, newton
from deqbilevel.regularizers import normalised
from deqbilevel.solvers import (
    anderson,
    conjugate_gradient,
    gmres,
    limited_memory_bfgs,
    preconditioned_anderson,
    symmetric_solve,
)
from deqbilevel.types import At, pytree

SHAPE = (7, 6)
PIXELS = SHAPE[0] * SHAPE[1]


def regularizer():
    return normalised.bank_of(SHAPE)


def kernels(seed):
    return normal(seed, 3, 3, 3)


@float64
def test_norms_are_those_of_the_banks_and_follow_their_kernels():
    N = regularizer()
    params = N.start(kernels(0), kernels(1), iterations=2000)
    moved = N.refresh(params | {"A": 3 * params["C"]}, iterations=2000)
    for found, letter in ((params, "A"), (params, "C"), (moved, "A")):
        matrix = dense(lambda u, p=found, k=letter: _features(N, p[k], u), PIXELS)
        assert float(found[f"norm_{letter}"]) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)
    A, C = normalised.scaled(params)
    for bank in (A, C):
        matrix = dense(lambda u, bank=bank: _features(N, bank, u), PIXELS)
        assert np.linalg.norm(matrix, 2) == pytest.approx(normalised.SCALE, rel=1e-6)


def _features(N, bank, u):
    return jax.jit(N.bank.apply)(bank, u).swapaxes(0, 1).reshape(len(u), -1)


@float64
def test_tied_it_is_the_gradient_of_its_energy_and_untied_it_has_none():
    N, u = regularizer(), 0.02 * normal(2, 2, PIXELS)
    tied, gradient = N.start(kernels(0)), jax.jit(N.gradient)
    slope = jax.jit(jax.grad(lambda u: jnp.sum(N.energy(u, tied))))(u)
    np.testing.assert_allclose(gradient(u, tied), slope, rtol=1e-10, atol=1e-12)
    untied = N.start(kernels(0), kernels(0))
    np.testing.assert_allclose(gradient(u, untied), slope, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="drop 'C'"):
        N.energy(u, untied)


@float64
def test_its_lipschitz_constant_holds_and_is_attained():
    N = regularizer()
    params = N.start(kernels(0), kernels(1), iterations=2000)
    bound = float(N.lipschitz(params))
    u = 0.01 * normal(3, 1, PIXELS)
    jacobian = jax.jit(jax.jacobian(lambda u, params: N.gradient(u[None], params)[0]))
    assert np.linalg.norm(jacobian(u[0], params), 2) <= bound
    # Tied, at zero every curvature is its largest.
    tied = N.start(kernels(0), iterations=2000)
    assert np.linalg.norm(jacobian(0 * u[0], tied), 2) == pytest.approx(bound, rel=1e-6)


def test_differences_are_differences():
    N = normalised.bank_of(SHAPE, "circular")
    u = normal(4, 1, PIXELS)
    x = np.asarray(u).reshape(SHAPE)
    # A bank is a convolution, which flips its kernels.
    across, down = np.asarray(N.bank.apply(normalised.first_differences(3, 3), u))[:, 0]
    np.testing.assert_allclose(across, np.roll(x, 1, 1) - x, atol=1e-6)
    np.testing.assert_allclose(down, np.roll(x, 1, 0) - x, atol=1e-6)
    across, _ = np.asarray(N.bank.apply(normalised.second_differences(5, 5), u))[:, 0]
    np.testing.assert_allclose(across, np.roll(x, 1, 1) - 2 * x + np.roll(x, -1, 1), atol=1e-6)
    with pytest.raises(ValueError, match="1x3"):
        normalised.first_differences(1, 3)


@float64
def test_the_hypergradient_of_the_kernels_is_that_of_finite_differences():
    R = normalised.normalised(SHAPE, kernels=(2, 3))
    model = models.assemble(operators.diagonal_blur(SHAPE, 3), R)
    scalars = models.hyperparameters(tau=1 / 800, gamma=1.0, lam=18.0, activation=None)
    params = model.init(jax.random.key(0)) | scalars
    params = jax.tree.map(lambda x: jnp.asarray(x, float), params)
    truth = jnp.tanh(normal(5, 2, PIXELS))
    f = model.K.apply(truth) + 0.05 * normal(6, 2, PIXELS)
    solve = hypergradients.fixed_point(
        model.G,
        limited_memory_bfgs(tolerance=1e-13, max_evaluations=500),
        conjugate_gradient(tolerance=1e-13, max_evaluations=500),
    )

    @jax.jit
    def loss(A):
        return losses.mean_squared_error(solve(params | {"A": A}, f, model.start(f))[0], truth)

    direction = normal(7, *params["A"].shape)
    slope = jnp.vdot(jax.jit(jax.grad(loss))(params["A"]), direction)
    ahead, behind = (loss(params["A"] + h * direction) for h in (1e-5, -1e-5))
    assert float(slope) == pytest.approx(float((ahead - behind) / 2e-5), rel=1e-5)


def test_a_training_step_leaves_norms_that_belong_to_its_kernels():
    R = normalised.normalised(SHAPE, tied=False, kernels=(2, 3))
    model = models.assemble(operators.Identity(), R)
    setting = settings.SETTINGS["accurate"]._replace(solver="broyden", hypergradient="gmres")
    trainer = learning.trainer(
        model, setting, total_steps=20, batch_size=2, schedule=learning.linear(0.01), passes=4
    )
    scalars = models.hyperparameters(
        tau=1 / 800, gamma=1.0, lam=18.0, activation=None, noise=0.1, learning_rate=1e-2
    )
    start = model.init(jax.random.key(0)) | scalars
    truth = jnp.tanh(normal(8, 4, PIXELS)).astype(jnp.float32)
    order, keys, *_ = trainer.draw(jax.random.key(1), 1, truth)
    # Four passes over four images in batches of two, each over all of them.
    assert order.shape[0] * order.shape[1] == 8
    assert all(sorted(one.ravel()) == [0, 1, 2, 3] for one in np.asarray(order).reshape(4, 2, 2))
    state, metrics = trainer.steps(trainer.init(start), truth, order[0], keys[0])
    assert not bool(state.diverged) and np.all(metrics.forward_residual < 1e-4)
    assert float(jnp.abs(state.params["A"] - start["A"]).max()) > 1e-3
    for letter in ("A", "C"):
        exact = regularizer().start(state.params[letter], iterations=2000)["norm_A"]
        assert float(state.params[f"norm_{letter}"]) == pytest.approx(float(exact), rel=1e-2)


def test_the_line_of_learning_rates_ends_at_its_part():
    rates = learning.linear(0.01)(jnp.float32(2.0), 10)
    np.testing.assert_allclose([rates(0), rates(5), rates(10)], [2, 1.01, 0.02], rtol=1e-6)


def matrices(product):
    """Of a product with images, for each of a batch of two, whose images do not mix."""
    return jax.vmap(product, 1, 2)(jnp.stack(2 * [jnp.eye(PIXELS)]))


@jax.jit
def both_ways(A):
    """The matrices of A and of its transpose."""
    return matrices(A.apply), matrices(A.transpose.apply)


@partial(jax.jit, static_argnums=0)
def jacobian_of(N, u, params):
    return jax.jacobian(lambda u: N.gradient(u, params))(u)


@float64
@pytest.mark.parametrize(("rows", "columns", "tied"), [(3, 3, True), (2, 5, False)])
def test_the_stencil_is_the_jacobian(rows, columns, tied):
    N, u = regularizer(), 0.02 * normal(2, 2, PIXELS)
    A, C = normal(0, 3, rows, columns), normal(1, 3, rows, columns)
    params = N.start(A, None if tied else C)
    image, stencil = jax.jit(N.linearised)(u, params)
    np.testing.assert_allclose(image, jax.jit(N.gradient)(u, params), rtol=1e-12, atol=1e-12)
    assert len(stencil.values) == (2 * rows - 1) * (2 * columns - 1) // (1 + tied) + tied
    exact, (forward, back) = np.asarray(jacobian_of(N, u, params)), both_ways(stencil)
    for i in range(2):
        np.testing.assert_allclose(forward[i], exact[i, :, i], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(back[i], exact[i, :, i].T, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(stencil.diagonal[i], np.diag(exact[i, :, i]), rtol=1e-10)


@float64
@pytest.mark.parametrize(("size", "boundary"), [(6, "zero"), (3, "circular"), (3, "reflecting")])
def test_in_its_factors_it_is_the_jacobian(size, boundary):
    """That of kernels with many taps, or of another boundary."""
    N = normalised.bank_of(SHAPE, boundary)
    u, symmetric = 0.02 * normal(2, 2, PIXELS), N.start(normal(0, 3, size, size))
    untied = N.start(normal(0, 3, size, size), normal(1, 3, size, size))
    for params in (symmetric, untied):
        image, factored = jax.jit(N.linearised)(u, params)
        assert factored.symmetric == ("C" not in params) and factored.shape == SHAPE
        np.testing.assert_allclose(image, jax.jit(N.gradient)(u, params), rtol=1e-12, atol=1e-12)
        found, (forward, back) = np.asarray(jacobian_of(N, u, params)), both_ways(factored)
        diagonal = jax.jit(lambda A: A.diagonal)(factored)
        for i in range(2):
            exact = found[i, :, i]
            np.testing.assert_allclose(forward[i], exact, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(back[i], exact.T, rtol=1e-10, atol=1e-10)
            inner = np.s_[1:-1] if boundary == "reflecting" else np.s_[:]
            diagonals = (x.reshape(SHAPE) for x in (diagonal[i], np.diag(exact)))
            one, other = (np.asarray(x)[inner, inner] for x in diagonals)
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@float64
@pytest.mark.parametrize("tied", [True, False])
def test_the_symbol_of_the_factors_is_that_of_the_convolution_that_they_are(tied):
    """Where all slopes are the same, around the border, with a constant scale."""
    N = normalised.bank_of(SHAPE, "circular")
    params = N.start(kernels(0), None if tied else kernels(1), eps=1e6)
    v, scale = normal(3, 1, PIXELS), jnp.full((1, PIXELS), 2.0)

    @jax.jit
    def products():
        _, factored = N.linearised(normal(2, 1, PIXELS), params)
        symbol = factored.symbol(scale, SHAPE)
        return symbol, multiplied(symbol, v, SHAPE, SHAPE), 4 * factored.apply(v)

    symbol, found, expected = products()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    if tied:
        assert np.all(np.abs(symbol.imag) < 1e-12 * np.abs(symbol).max())
        assert np.all(symbol.real > -1e-12 * np.abs(symbol).max())


def problem(*, tied, K=None):
    """A model, its parameters in the default precision, f and the true images."""
    K = operators.Identity() if K is None else K
    R = normalised.normalised(SHAPE, tied=tied, kernels=(3, 3))
    model = models.assemble(K, R, start=lambda f: f)
    weights = regularizer().start(kernels(0), None if tied else kernels(0) + 0.1 * kernels(1))
    scalars = models.hyperparameters(tau=1 / 800, gamma=1.0, lam=18.0, activation=None)
    params = jax.tree.map(lambda x: jnp.asarray(x, float), weights | scalars)
    truth = jnp.tanh(normal(5, 2, PIXELS))
    return model, params, model.K.apply(truth) + 0.1 * normal(6, 2, PIXELS), truth


@float64
@pytest.mark.parametrize("tied", [True, False])
def test_the_symbol_is_the_rayleigh_quotient_of_each_plane_wave(tied):
    N, u, grid = regularizer(), 0.02 * normal(2, 2, PIXELS), (9, 10)
    params = N.start(kernels(0), None if tied else kernels(1))
    scale = 1 + normal(3, 2, PIXELS) ** 2

    @jax.jit
    def of_stencil(v):
        _, stencil = N.linearised(u, params)
        return stencil.symbol(scale, grid), stencil.apply(v)

    place = np.stack(np.mgrid[: SHAPE[0], : SHAPE[1]]).reshape(2, -1)
    for frequency in ((0, 0), (2, 1), (7, 3)):
        phase = 2 * np.pi * (np.asarray(frequency) / grid) @ place
        cos, sin = (np.asarray(scale) * f(phase) for f in (np.cos, np.sin))
        (symbol, of_cos), (_, of_sin) = (map(np.asarray, of_stencil(v)) for v in (cos, sin))
        image = of_cos + 1j * of_sin
        quotient = np.mean((cos - 1j * sin) * image, axis=1)
        np.testing.assert_allclose(symbol[:, *frequency], quotient, rtol=1e-9, atol=1e-9)
    if tied:
        assert np.all(np.abs(symbol.imag) < 1e-9) and np.all(symbol.real > 0)


@float64
@pytest.mark.parametrize("K", [operators.Identity(), operators.diagonal_blur(SHAPE, 3, "zero")])
def test_what_preconditions_transposes_with_the_jacobian_and_is_positive_with_it(K):
    for tied in (True, False):
        model, params, f, _ = problem(tied=tied, K=K)

        @jax.jit
        def inverses(A):
            return matrices(A.preconditioner()), matrices(A.transpose.preconditioner())

        found = inverses(jax.jit(model.G.linearised)(0.05 * f, params, f)[1])
        for P, transposed in zip(*map(np.asarray, found), strict=True):
            np.testing.assert_allclose(transposed, P.T, rtol=1e-9, atol=1e-9 * np.abs(P).max())
            if tied:
                assert np.linalg.eigvalsh(P).min() > 0


def test_what_preconditions_saves_products():
    """Beside the diagonal alone, on a smooth picture with an edge."""
    shape = 48, 40
    N, K = normalised.bank_of(shape), operators.diagonal_blur(shape, 7, "zero")
    model = models.assemble(K, normalised.normalised(shape))
    scalars = models.hyperparameters(tau=1 / 800, gamma=1.0, lam=18.0, activation=None)
    picture = 0.01 * np.add.outer(np.arange(48), np.arange(40)) / 40 + (np.arange(40) > 20)
    u = jnp.asarray(picture.reshape(1, -1), jnp.float32)
    params = N.start(normalised.first_differences(3, 3)) | scalars
    b = normal(0, 1, u.size)
    limits = {"tolerance": 1e-4, "max_evaluations": 500}

    @jax.jit
    def solved():
        A = model.G.linearised(u, params, u)[1]
        diagonal = A.tau * (A.lam / 7 + A.N.diagonal)
        _, plain = symmetric_solve(A.apply, b, **limits, precondition=lambda r: r / diagonal)
        x, few = linear_solve(A, b, **limits)
        return A.apply(x), few, plain

    image, few, plain = solved()
    assert bool(few.converged) and 2 * int(few.evaluations) < int(plain.evaluations)
    np.testing.assert_allclose(image, b, atol=2e-3)


@float64
@pytest.mark.parametrize("K", [operators.Identity(), operators.diagonal_blur(SHAPE, 1)])
def test_what_preconditions_is_the_inverse_where_pixels_do_not_mix(K):
    """One kernel of 1x1 in its linear range, and a K^T K that is the identity."""
    params = regularizer().start(jnp.ones((1, 1, 1)), eps=1e6)
    scalars = models.hyperparameters(tau=0.01, gamma=2.0, lam=3.0, activation=None)
    model = models.assemble(K, normalised.normalised(SHAPE))
    r = normal(1, 2, PIXELS)

    @jax.jit
    def there_and_back(r):
        A = model.G.linearised(0 * r, params | scalars, r)[1]
        return A.preconditioner()(A.apply(r))

    np.testing.assert_allclose(there_and_back(r), r, rtol=1e-6)


@float64
@pytest.mark.parametrize(("tied", "K"), [(True, None), (False, operators.diagonal_blur(SHAPE, 3))])
def test_they_find_the_fixed_point_and_the_hypergradient_of_the_other_ways(tied, K):
    model, params, f, truth = problem(tied=tied, K=K)
    options = {"tolerance": 1e-13, "max_evaluations": 5000}
    slow = hypergradients.fixed_point(
        model.G, anderson(ridge=0.0, relative=True, **options), gmres(**options)
    )

    def gradients(solve):
        def loss(params, f, probe):
            u, info = solve(params, f, model.start(f), probe)
            return losses.mean_squared_error(u, truth), (u, info)

        probe = hypergradients.no_info(float)
        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, f, probe)

    expected, (u_expected, many) = gradients(slow)
    for solver in SOLVERS.values():
        fast = hypergradients.preconditioned(
            model.G,
            solver(tolerance=1e-13, max_evaluations=1000),
            tolerance=1e-13,
            max_evaluations=500,
        )
        found, (u, few) = gradients(fast)
        assert bool(few.converged) and int(few.evaluations) < int(many.evaluations)
        np.testing.assert_allclose(u, u_expected, atol=1e-9)
        adjoint = found[2]
        assert 0 < float(adjoint.evaluations) < 150 and float(adjoint.residual) < 1e-12
        for name in ("A", "lam") if tied else ("A", "C", "lam"):
            np.testing.assert_allclose(found[0][name], expected[0][name], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-10)


class Linearised(NamedTuple):
    """What Newton's method solves, from u -> G(u) and a Jacobian."""

    linearised: Any

    def __call__(self, u):
        return self.linearised(u)[0]


def test_newton_goes_back_to_momentum_where_its_steps_do_not_converge():
    """A Jacobian ten times too small makes steps ten times too long."""
    model, params, f, _ = problem(tied=True)

    @jax.jit
    def solved(scale):
        def ten_times_too_long(u):
            image, A = model.G.linearised(u, params, f)
            return image, jacobians.StepJacobian(A.K, A.N, scale * A.tau, A.lam, A.gamma)

        options = {"tolerance": 1e-5, "max_evaluations": 3000}
        return newton(**options)(Linearised(ten_times_too_long), model.start(f))

    (u, right), (u_wrong, wrong) = solved(1.0), solved(0.1)
    assert bool(right.converged) and bool(wrong.converged)
    assert int(right.evaluations) < int(wrong.evaluations)
    np.testing.assert_allclose(u_wrong, u, atol=1e-2)


@pytree
@dataclass(frozen=True)
class Diagonal:
    """diag(d) as the Jacobian of a map."""

    d: Any
    symmetric = True

    def apply(self, v):
        return self.d * v

    @property
    def transpose(self):
        return self

    def preconditioner(self):
        return lambda r: r / self.d


def test_newton_shortens_a_step_that_is_too_long(monkeypatch):
    """With a Jacobian of a third, steps are three times too long: half of one is taken, and brings
    the residual down to half; if all are refused, momentum has to go the whole of a long way."""
    d, b = jnp.logspace(-4, 0, 20), normal(3, 1, 20).astype(jnp.float32)

    def solved(least):
        monkeypatch.setattr(linearised, "LEAST", least)

        def three_times_too_long(u):
            return u - d * (u - b), Diagonal(d / 3)

        options = {"tolerance": 1e-5, "max_evaluations": 3000}
        return jax.jit(lambda: newton(**options)(Linearised(three_times_too_long), 0 * b))()

    (u, few), (_, many) = solved(0.25), solved(1.0)
    assert bool(few.converged) and bool(many.converged)
    assert int(few.evaluations) < 100 and int(many.evaluations) > 2 * int(few.evaluations)
    np.testing.assert_allclose(d * (u - b), 0 * b, atol=1e-4)


@float64
@pytest.mark.parametrize("name", SOLVERS)
def test_it_keeps_to_its_budget_and_lanes_apart(name):
    model, params, f, truth = problem(tied=True)

    @jax.jit
    def solved(lam, tolerance, evaluations, products):
        solver = SOLVERS[name](tolerance=tolerance, max_evaluations=evaluations)
        adjoint = {"tolerance": tolerance, "max_evaluations": products}
        solve = hypergradients.preconditioned(model.G, solver, **adjoint)

        def loss(lam, probe):
            u, info = solve(params | {"lam": lam}, f, model.start(f), probe)
            return losses.mean_squared_error(u, truth), (u, info)

        gradient, found = jax.grad(loss, (0, 1), has_aux=True)(lam, hypergradients.no_info(float))
        return *found, *gradient

    lam, tolerance = jnp.array([18.0, 60.0, 18.0]), jnp.array([1e-3, 1e-5, 0.0])
    evaluations, products = jnp.array([30, 30, 12]), jnp.array([50, 50, 7])
    lanes = lam, tolerance, evaluations, products
    u, info, slope, adjoint = jax.jit(jax.vmap(solved))(*lanes)
    for i in range(3):
        alone = solved(*(x[i] for x in lanes))
        np.testing.assert_array_equal(info.evaluations[i], alone[1].evaluations)
        np.testing.assert_array_equal(adjoint.evaluations[i], alone[3].evaluations)
        np.testing.assert_allclose(u[i], alone[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(slope[i], alone[2], rtol=1e-7)
    assert int(info.evaluations[2]) in (11, 12) and adjoint.evaluations[2] == 7
    np.testing.assert_array_equal(info.converged, [True, True, False])
    with pytest.raises(ValueError, match="max_evaluations=0"):
        SOLVERS[name](max_evaluations=0)(At(model.G, params, f), f)


def test_windows_of_preconditioned_mixing_are_checked():
    for wrong in ({"window": 0}, {"refresh": 0}):
        with pytest.raises(ValueError, match="=0: expected a whole number, 1 or more"):
            preconditioned_anderson(**wrong)


def test_the_preconditioned_adjoint_wants_a_map_that_puts_its_jacobian_together():
    setting = settings.SETTINGS["fast"]._replace(hypergradient="preconditioned")
    with pytest.raises(ValueError, match=r"take a gradient step on regularizers"):
        setting.differentiable(setting.budget)(lambda u, params, f: u)
