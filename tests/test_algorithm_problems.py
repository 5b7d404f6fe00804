"""Problems of upper-level algorithms: closed values, hypergradients, and what data they draw."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import PIXELS, SHAPE, default_precision, float64, model_params, normal, small_model

from deqbilevel import algorithms, losses, models, operators, potentials
from deqbilevel.algorithms import aid, cleaning, problems
from deqbilevel.algorithms.batching import minibatches, run
from deqbilevel.algorithms.guarding import guarded
from deqbilevel.algorithms.oracles import implicit, lower_level, upper_gradients
from deqbilevel.regularizers import convolutional

KEY = jax.random.key(0)


def learned_filters(K=None, phi=None, learned=("filters", "beta")):
    """Two images of 6x6 and three filters."""
    K = default_precision(operators.Identity() if K is None else K)
    phi = potentials.CornerRounded(0.3) if phi is None else phi
    params = convolutional.init(0.5 * normal(0, 3, 2, 2), beta_0=-1.0, beta=-0.5, phi=phi)
    truth = normal(1, 2, PIXELS)
    f = K.apply(truth) + 0.1 * normal(2, 2, PIXELS)
    model = models.assemble(K, convolutional.convolutional(SHAPE))
    posed = algorithms.posed(
        model, params, truth, f, learned=learned, loss=losses.half_squared_error
    )
    return posed, model, params


def dense(task="denoising"):
    """A tied model on two images of 6x6."""
    model = small_model(models.TASKS[task], "bilevel")
    params = model_params(model, tau=0.3)
    truth = normal(1, 2, PIXELS)
    f = model.K.apply(truth) + 0.1 * normal(2, 2, PIXELS)
    return algorithms.posed(model, params, truth, f, smooth=False), model, params


def corpus(train=12, validation=5, features=4, seed=0):
    """Random images, with labels of three classes."""
    rng = np.random.default_rng(seed)

    def some(n):
        images = rng.standard_normal((n, features)).astype(np.float32)
        return cleaning.Digits(images, rng.integers(0, 3, n).astype(np.int32))

    return cleaning.Corpus(some(train), None, some(validation), some(3))


POSED = {
    "q1": algorithms.quadratic,
    "q2": problems.coupled,
    "filters": lambda: learned_filters(learned=("filters", "beta", "beta_0"))[0],
    "filters, blurred": lambda: learned_filters(operators.diagonal_blur(SHAPE, 3))[0],
    "dense": lambda: dense()[0],
    "dense, masked": lambda: dense("inpainting")[0],
    "cleaning": lambda: cleaning.pose(corpus(), batch=None),
}


def exact(posed):
    """gamma -> l, its hypergradient and x, at a lower level solved to rounding."""

    @jax.jit
    def evaluate(gamma):
        options = {"solver": "barzilai_borwein", "evaluations": 5000, "tolerance": 1e-12}
        x, _, residual = lower_level(posed.problem, gamma, posed.x, posed.data, **options)
        loss, of_gamma, of_x = upper_gradients(posed.problem, gamma, x, posed.data)
        zero = jnp.zeros_like(x)
        budget = {"products": 500, "tolerance": 1e-12}
        through_x, _, adjoint = implicit(posed.problem, gamma, x, zero, of_x, posed.data, **budget)
        return loss, optax.tree.add(of_gamma, through_x), x, residual, adjoint

    return evaluate


def somewhere(posed, seed=5):
    """The start, moved a little: a gamma that nothing is special about."""
    leaves, structure = jax.tree.flatten(posed.gamma)
    moved = [x + 0.1 * normal(seed + i, *x.shape) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(structure, moved)


@pytest.mark.parametrize("name", POSED)
@float64
def test_every_problem_against_finite_differences_and_its_hessian(name):
    """The hypergradient along a direction; 0 < mu <= H, and H <= 2/step, L or what contracts."""
    posed = POSED[name]()
    problem, data = posed.problem, posed.data
    gamma = somewhere(posed)
    evaluate = exact(posed)
    _, gradient, x, residual, adjoint = evaluate(gamma)
    assert residual < 1e-9 and adjoint.residual < 1e-11
    way, h = somewhere(posed._replace(gamma=optax.tree.zeros_like(gamma)), 40), 1e-3

    def moved(t):
        return float(evaluate(optax.tree.add_scale(gamma, t, way))[0])

    difference = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    np.testing.assert_allclose(optax.tree.vdot(gradient, way), difference, rtol=1e-7, atol=1e-10)
    assert abs(difference) > 1e-4

    n = x.size
    field = jax.jit(jax.jacfwd(lambda x: problem.lower_gradient(x, gamma, data)))
    H = np.asarray(field(x)).reshape(n, n)
    np.testing.assert_allclose(H, H.T, atol=1e-12)
    spectrum = np.linalg.eigvalsh(H)
    assert spectrum[-1] * problem.lower_step(gamma) < 2
    if problem.strong_convexity is not None:
        assert 0 < problem.strong_convexity <= spectrum[0] + 1e-12
    rows = H.reshape(len(x), n // len(x), len(x), n // len(x))
    for i in range(len(x)):
        assert not np.any(np.delete(rows[i], i, axis=1))


# ---- Q2


@float64
def test_q2_has_the_values_of_its_closed_form():
    posed = problems.coupled()
    loss, gradient, x, _, _ = exact(posed)(posed.gamma)
    np.testing.assert_allclose(x, [[1, 1.5, 2]], rtol=1e-12)
    np.testing.assert_allclose(gradient, [0, -3 / 8, 1], atol=1e-12)
    np.testing.assert_allclose(loss, 5 / 8, rtol=1e-12)
    at_best = exact(posed)(posed.solution)
    np.testing.assert_allclose(posed.solution, [0, np.log(2), -np.log(3)], rtol=1e-15)
    assert at_best[0] < 1e-24 and optax.tree.norm(at_best[1]) < 1e-11


@float64
def test_a_long_run_reaches_the_solution_of_q2():
    posed = problems.coupled()
    method = aid(posed.problem, optax.sgd(1.0), lower_iterations=5, adjoint_iterations=3)
    start = method.init(posed.gamma, posed.x)
    state, infos = jax.jit(lambda s: run(method, s, posed.data, KEY, 150))(start)
    np.testing.assert_allclose(state.gamma, posed.solution, atol=1e-8)
    assert infos.loss[-1] < 1e-16


def test_the_probes_by_name():
    assert set(algorithms.PROBLEMS) >= {"q1", "q2"}
    for make in algorithms.PROBLEMS.values():
        assert make().solution is not None


# ---- imaging


@float64
def test_filters_have_the_lower_level_and_the_loss_of_the_bilevel_problem():
    K = operators.diagonal_blur(SHAPE, 3)
    posed, model, params = learned_filters(K, learned=("filters", "beta", "lam"))
    assert set(posed.gamma) == {"filters", "beta", "lam"}
    gamma, x = somewhere(posed), normal(7, 2, PIXELS)
    everything = params | {"gamma": jnp.ones(())} | gamma

    def energy(x):
        return jnp.sum(model.energy(x, everything, posed.data.f))

    mine = posed.problem.lower_gradient(x, gamma, posed.data)
    np.testing.assert_allclose(mine, jax.grad(energy)(x), rtol=1e-10, atol=1e-12)
    loss = posed.problem.upper(gamma, x, posed.data)
    np.testing.assert_allclose(loss, 0.5 * np.sum((x - posed.data.truth) ** 2), rtol=1e-12)
    np.testing.assert_allclose(
        1 / posed.problem.lower_step(gamma), model.lipschitz(everything), rtol=1e-12
    )
    np.testing.assert_allclose(posed.x, model.K.adjoint(posed.data.f), rtol=1e-12)


@float64
def test_strong_convexity_is_known_only_of_convex_denoising():
    assert learned_filters()[0].problem.strong_convexity == 1
    assert learned_filters(learned=("lam",))[0].problem.strong_convexity is None
    blurred = learned_filters(operators.diagonal_blur(SHAPE, 3))[0]
    assert blurred.problem.strong_convexity is None
    nonconvex = learned_filters(phi=potentials.GemanMcClure())[0]
    assert nonconvex.problem.strong_convexity is None
    assert dense()[0].problem.strong_convexity == 1.3
    assert dense("inpainting")[0].problem.strong_convexity is None


@float64
def test_dense_has_the_energy_of_the_model_and_the_published_step():
    posed, model, params = dense()
    gamma, x = somewhere(posed), normal(7, 2, PIXELS)
    expected = jax.grad(lambda x: jnp.sum(model.energy(x, params | gamma, posed.data.f)))(x)
    mine = posed.problem.lower_gradient(x, gamma, posed.data)
    np.testing.assert_allclose(mine, expected, rtol=1e-10, atol=1e-12)
    loss = posed.problem.upper(gamma, x, posed.data)
    np.testing.assert_allclose(loss, np.mean((x - posed.data.truth) ** 2), rtol=1e-12)
    assert set(posed.gamma) == {"A", "b"} and posed.problem.lower_step(gamma) == 0.3


@float64
def test_a_minibatch_of_images_leaves_the_others_where_they_are():
    posed, _, _ = learned_filters()
    method = aid(posed.problem, optax.sgd(1e-3), lower_iterations=5, adjoint_iterations=5)
    watched = guarded(minibatches(method))
    start = watched.init(posed.gamma, posed.x)
    state, infos = jax.jit(lambda s: run(watched, s, posed.data, KEY, jnp.full((15, 1), 1)))(start)
    assert (state.x[0] == posed.x[0]).all() and (state.x[1] != posed.x[1]).any()
    assert state.steps == 15 and infos.loss[-1] < infos.loss[4]


def test_imaging_refuses_what_has_no_lower_level_cost():
    model = small_model("identity", "deq")
    f = jnp.zeros((2, PIXELS))
    with pytest.raises(ValueError, match="an untied model"):
        algorithms.posed(model, model_params(model), f, f)


# ---- data cleaning


@float64
def test_cleaning_has_the_costs_that_it_says():
    """Written again with NumPy."""
    given = corpus()
    posed = cleaning.pose(given, batch=None, regularisation=0.3)
    gamma, x = normal(3, 12), normal(4, 1, 4, 10)

    def entropies(part):
        scores = np.asarray(part.images, float) @ np.asarray(x[0])
        return np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), part.labels]

    np.testing.assert_allclose(
        posed.problem.upper(gamma, x, posed.data), entropies(given.validation).mean(), rtol=1e-10
    )
    weights = 1 / (1 + np.exp(-np.asarray(gamma)))

    def lower(x):
        return np.mean(weights * entropies(given.train)) + 0.3 * np.sum(np.asarray(x) ** 2)

    gradient, way, h = posed.problem.lower_gradient(x, gamma, posed.data), normal(5, 1, 4, 10), 1e-5
    middle, x = x, x + h * way
    above = lower(x)
    x = middle - h * way
    np.testing.assert_allclose(jnp.vdot(gradient, way), (above - lower(x)) / (2 * h), rtol=1e-7)
    assert posed.problem.strong_convexity == 0.6


@float64
def test_draws_of_cleaning_are_unbiased_and_their_size_counts():
    posed = cleaning.pose(corpus(), batch=6)
    gamma, x = normal(3, 12), normal(4, 1, 4, 10)

    def sampled(key, size):
        drawn = posed.problem.draw(posed.data._replace(size=size), key)
        parts = posed.problem.lower_gradient(x, gamma, drawn), posed.problem.upper(gamma, x, drawn)
        return parts, drawn

    keys = jax.random.split(KEY, 4000)
    (gradients, losses), drawn = jax.jit(jax.vmap(sampled, (0, None)))(keys, jnp.array(2))
    assert drawn.train.images.shape == (4000, 6, 4) and drawn.train.index.max() == 11
    np.testing.assert_allclose(drawn.train.weight, np.tile([0.5, 0.5, 0, 0, 0, 0], (4000, 1)))
    everything = cleaning.pose(corpus(), batch=None)
    whole = everything.problem.lower_gradient(x, gamma, everything.data)
    error = np.std(gradients, axis=0) / 4000**0.5
    assert (np.abs(np.mean(gradients, axis=0) - whole) < 5 * error).all() and error.max() < 0.05
    full = everything.problem.upper(gamma, x, everything.data)
    assert abs(losses.mean() - full) < 5 * losses.std() / 4000**0.5
    np.testing.assert_array_equal(
        drawn.train.images[7], posed.data.train.images[drawn.train.index[7]]
    )
    assert (drawn.train.index[:, 0] != drawn.validation.index[:, 0]).any()


@cache
def sample():
    return cleaning.digits(train_size=120, validation_size=60, wrong=0.5, seed=3)


def test_digits_have_the_wrong_labels_that_were_asked_for():
    flawed = sample()
    clean = cleaning.digits(train_size=120, validation_size=60, wrong=0.0, seed=3)
    assert flawed.wrong.sum() == 60 and not clean.wrong.any()
    np.testing.assert_array_equal(flawed.train.images, clean.train.images)
    np.testing.assert_array_equal(flawed.train.labels != clean.train.labels, flawed.wrong)
    np.testing.assert_array_equal(flawed.validation.labels, clean.validation.labels)
    assert set(flawed.train.labels) == set(range(10)) and flawed.test.images.shape == (1000, 784)
    mean, deviation = flawed.train.images.mean(0), flawed.train.images.std(0)
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    assert ((np.abs(deviation - 1) < 1e-4) | (deviation == 0)).all() and (deviation == 0).any()
    both = np.vstack([flawed.train.images, flawed.validation.images])
    assert len(np.unique(both, axis=0)) == 180
    tall = cleaning.digits(train_size=10, validation_size=5, intercept=True)
    assert (tall.validation.images[:, -1] == 1).all() and tall.test.images.shape[1] == 785
    assert len(cleaning.digits().train.labels) == 4800


def test_digits_of_idx_files(data_dir):
    there = cleaning.digits(f"idx:{data_dir / 'mnist'}", train_size=20, validation_size=10)
    assert there.train.images.shape == (20, 784) and len(there.validation.labels) == 10


def test_cleaning_finds_the_wrong_labels():
    """Weights of wrong labels fall, those of right ones grow, and the test accuracy with them."""
    given = sample()
    posed = cleaning.pose(given, batch=None)
    method = guarded(
        aid(posed.problem, optax.sgd(300.0), lower_iterations=10, adjoint_iterations=5)
    )
    start = method.init(posed.gamma, posed.x)

    @jax.jit
    def learned(start):
        state, infos = run(method, start, posed.data, KEY, 40)
        options = {"solver": "optimized_gradient", "evaluations": 100}
        found = [
            lower_level(posed.problem, g, posed.x, posed.data, **options)[0]
            for g in (posed.gamma, state.gamma)
        ]
        return (
            state,
            infos,
            [cleaning.accuracy(x, given.test.images, given.test.labels) for x in found],
        )

    state, infos, (before, after) = learned(start)
    gamma = np.asarray(state.gamma)
    assert not state.diverged and infos.loss[-1] < infos.loss[10] - 0.05
    assert gamma[given.wrong].mean() < 0 < gamma[~given.wrong].mean()
    right = np.sign(gamma) == np.where(given.wrong, -1, 1)
    assert right.mean() > 0.7
    assert after > before + 0.15


@float64
def test_accuracy_is_the_share_of_largest_scores():
    x = jnp.eye(3)[None]
    images = jnp.array([[3.0, 1, 2], [0, 1, 0], [0, 2, 1], [1, 0, 5]])
    assert cleaning.accuracy(x, images, jnp.array([0, 1, 2, 2])) == 0.75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": "tfds"}, "'tfds': labels are needed; write sample or idx:DIR"),
        ({"spec": "idx:"}, "write sample or idx:DIR"),
        ({"wrong": 1.5}, "wrong=1.5: expected a finite number"),
        ({"train_size": 6000, "validation_size": 1}, "at most the 6000 training digits of sample"),
        ({"validation_size": 0}, "validation_size=0: expected a whole number, 1"),
    ],
)
def test_digits_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        cleaning.digits(**options)


def test_pose_refuses():
    with pytest.raises(
        ValueError, match="batch=0: expected a whole number, 1 or more, or None for all"
    ):
        cleaning.pose(corpus(), batch=0)
    with pytest.raises(ValueError, match=r"regularisation=0\.0: expected a finite number, above 0"):
        cleaning.pose(corpus(), regularisation=0.0)
