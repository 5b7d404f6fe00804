"""The precision of products and the dtype of numbers, on a machine where neither shows."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import filter_learner, float64

from deqbilevel import (
    algorithms,
    data,
    hypergradients,
    lanes,
    learning,
    models,
    operators,
    potentials,
    precision,
    upper,
)
from deqbilevel.commands import algorithm_choice
from deqbilevel.regularizers import convolutional
from deqbilevel.settings import SETTINGS, converged
from deqbilevel.solvers import SOLVERS
from experiments import faces
from experiments.faces import posing
from experiments.hypergradients import cases
from experiments.naive import training as naive
from experiments.networks import Networks, assembling

ROOT = Path(__file__).parents[1]
SHAPE = (6, 6)
TOLERANCES = ("forward_tolerance", "adjoint_tolerance", "evaluation_tolerance")
ASKED = {"highest": jax.lax.Precision.HIGHEST, "tensorfloat32": jax.lax.Precision.HIGH}
SCALARS = {"tau": 0.5, "gamma": 0.5, "activation": "relu", "noise": 0.1}
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 36)), jnp.float32)
NETWORKS = ("degrad", "convex")
ORDER, KEYS = jnp.arange(4).reshape(2, 2), jax.random.split(jax.random.key(0), 2)


@pytest.fixture(autouse=True)
def nothing_asked_for() -> Iterator[None]:
    """As in a program of a user, whatever the commands ask for in this process."""
    with jax.default_matmul_precision(None):
        yield


def products(function: Callable, *arguments: Any) -> list[Any]:
    """The precision of every product and convolution in a function, in all of its parts; but for
    JAX's own, beside the factorisation in `jnp.linalg.solve`."""
    found = []

    def walk(part: Any) -> None:
        part = getattr(part, "jaxpr", part)
        for equation in getattr(part, "eqns", ()):
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                asked = equation.params["precision"]
                found.append(asked[0] if isinstance(asked, tuple) and len({*asked}) == 1 else asked)
            if equation.primitive.name == "custom_linear_solve":
                continue
            for value in jax.tree.leaves(tuple(equation.params.values())):
                walk(value)

    walk(jax.make_jaxpr(function)(*arguments))
    return found


def trainings() -> dict[str, Callable[[], tuple[learning.Trainer, Any, str]]]:
    """Trainers, the params that they start from, and the precision that was asked for."""

    def dense(name: str, setting: Any, **options: Any) -> tuple[learning.Trainer, Any, str]:
        model = models.build("deblurring", name, SHAPE)
        params = model.init(jax.random.key(0)) | models.hyperparameters(**SCALARS)
        trainer = learning.trainer(model, setting, total_steps=2, batch_size=2, **options)
        return trainer, params, setting.precision

    def many() -> tuple[learning.Trainer, Any, str]:
        over = lanes.lanes(1)
        trainer, params, asked = dense("bilevel", SETTINGS["fast"], lanes=over)
        return trainer, over.put(jax.tree.map(lambda x: np.stack([x] * over.count), params)), asked

    def of_faces(setting: str, kernel: int) -> tuple[learning.Trainer, Any, str]:
        config = faces.Faces(setting=setting, kernels=(2, kernel))
        model = posing.recipe_of(config, "deq").model(SHAPE)
        lane = {"start": "random", "learning_rate": 1e-2, "seed": 0}
        params = posing.initial(config, model, None, lane)
        setting = posing.setting(config, "deq")
        return learning.trainer(model, setting, total_steps=2, batch_size=2), params, "highest"

    def of_networks(name: str) -> tuple[learning.Trainer, Any, str]:
        config = Networks(channels=2, layers=2)
        images = data.Images(np.asarray(IMAGES), np.asarray(IMAGES), SHAPE, "")
        run = assembling.build(config, "inpainting", name, images)
        setting = SETTINGS[config.setting]
        trainer = learning.trainer(run.taught, setting, total_steps=2, batch_size=2)
        return trainer, run.params, setting.precision

    def replaced(way: str) -> tuple[learning.Trainer, Any, str]:
        model = models.build("deblurring", "bilevel", SHAPE)
        setting = SETTINGS["fast" if way == "naive" else "paper"]
        trainer, params, asked = dense("bilevel", setting)
        if way == "naive":
            return naive.ways(model, setting, 2, 2)["naive"], params, asked
        return (
            upper.trainer(trainer, algorithm_choice.trained("aid", 2), count=4),
            params,
            asked,
        )

    return {
        **{
            f"{name} {setting}": lambda name=name, setting=setting: dense(name, SETTINGS[setting])
            for name in models.MODELS
            for setting in SETTINGS
        },
        **{
            f"accurate in {p}": lambda p=p: dense(
                "bilevel",
                SETTINGS["accurate"]._replace(
                    precision=p, hypergradient="gmres", **dict.fromkeys(TOLERANCES, 1e-3)
                ),
            )
            for p in precision.PRECISIONS
        },
        "lanes": many,
        "faces, newton": lambda: of_faces("fast", 3),
        "faces, published": lambda: of_faces("published", 3),
        **{f"networks, {name}": lambda name=name: of_networks(name) for name in NETWORKS},
        "naive": lambda: replaced("naive"),
        "aid": lambda: replaced("aid"),
    }


@pytest.mark.parametrize("name", trainings())
def test_every_product_of_training_and_evaluation_has_the_precision_of_the_setting(name):
    trainer, params, asked = trainings()[name]()
    images, order, keys, key = IMAGES, ORDER, KEYS, jax.random.key(0)
    if trainer.lanes:
        images, order = trainer.lanes.share(images), jnp.stack([order] * trainer.lanes.count)
        key, keys = (jnp.stack([x] * trainer.lanes.count) for x in (key, keys))
    state = jax.eval_shape(trainer.init, params)
    stepped = products(trainer.steps, state, images, order, keys)
    evaluated = products(trainer.evaluate, state.params, images, key)
    assert set(stepped) == {ASKED[asked]} and len(stepped) > 1
    assert set(evaluated) == {ASKED[asked]} and len(evaluated) > 1


def test_what_the_yardstick_solves_is_in_full_precision_whatever_is_asked_for():
    model = models.build("deblurring", "deq", SHAPE)
    params = model.init(jax.random.key(0)) | models.hyperparameters(**SCALARS)
    with jax.default_matmul_precision("tensorfloat32"):
        found = products(lambda f: model.reconstruct(converged(), params, f), IMAGES)
    assert len(found) > 2 and set(found) == {ASKED["highest"]}


@pytest.mark.parametrize("hypergradient", ["minimiser", "gmres"])
def test_filters_are_learned_in_full_precision(hypergradient):
    filters = convolutional.random(jax.random.key(0), 2, 3, 3)
    params = convolutional.init(filters, beta_0=-3.0, phi=potentials.CornerRounded(0.05))
    K, R = operators.diagonal_blur(SHAPE, 3), convolutional.convolutional(SHAPE)
    learner = filter_learner(models.assemble(K, R), hypergradient=hypergradient)

    def learn(f: jax.Array) -> Any:
        state = learning.start(learner, params, f, evaluations=3)
        return learning.steps(learner, state, IMAGES, 2, f=f)

    found = products(learn, IMAGES)
    assert len(found) > 2 and set(found) == {ASKED["highest"]}
    found = products(
        lambda f: learning.search(learner, params, IMAGES, f, "beta_0", (-3.0,)), IMAGES
    )
    assert len(found) > 2 and set(found) == {ASKED["highest"]}


@pytest.mark.parametrize("name", algorithms.METHODS)
def test_upper_level_algorithms_are_in_full_precision(name):
    posed = algorithms.quadratic()
    method = algorithms.METHODS[name](posed.problem, optax.sgd(1e-2))

    def run(gamma: Any, x: jax.Array) -> Any:
        return method.step(method.init(gamma, x), posed.data, jax.random.key(0))

    found = products(run, posed.gamma, posed.x)
    assert found and set(found) == {ASKED["highest"]}


@pytest.mark.parametrize(
    "method",
    [
        "anderson",
        "gmres",
        "dense",
        "shine",
        "unrolled",
        "truncated",
        "forward",
        "gaussian_smoothing",
    ],
)
def test_hypergradients_are_in_full_precision(method):
    case = cases.case("dense-deq", size=6, images=2, features=4, seed=0)
    options = {"tolerance": 1e-6, "max_evaluations": 3}
    solver = SOLVERS["picard" if method == "truncated" else "anderson"](**options)
    solve = hypergradients.METHODS[method](case.G, solver, **options)

    def loss(weights: Any, f: jax.Array) -> jax.Array:
        return jnp.mean(solve(case.params | weights, f, jnp.zeros_like(f))[0] ** 2)

    found = products(jax.grad(loss), case.weights, case.f)
    assert len(found) > 2 and set(found) == {ASKED["highest"]}


def test_a_product_without_a_precision_is_seen():
    @jax.custom_vjp
    def inner(x: jax.Array) -> jax.Array:
        return x

    inner.defvjp(lambda x: (x, x), lambda x, g: (g @ x,))

    def scanned(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jax.jit(inner)(x), None), x, length=2)[0]

    derivative = jax.grad(lambda x: jnp.sum(scanned(x)))
    assert products(derivative, jnp.eye(3)) == [None]
    assert products(precision.at("highest", derivative), jnp.eye(3)) == [ASKED["highest"]]
    with jax.default_matmul_precision("tensorfloat32"):
        inside = products(precision.highest(derivative), jnp.eye(3))
    assert inside == [ASKED["tensorfloat32"]]


# ---- dtypes


@float64
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["bilevel", "deq"])
def test_everything_has_the_dtype_of_the_weights(name, dtype):
    model = models.build("deblurring", name, SHAPE)
    weights = jax.tree.map(lambda x: x.astype(dtype), model.init(jax.random.key(0)))
    params = weights | models.hyperparameters(**SCALARS)
    for setting in SETTINGS.values():
        trainer = learning.trainer(model, setting, total_steps=2, batch_size=2)
        state = trainer.init(params)
        after, metrics = jax.eval_shape(trainer.steps, state, IMAGES, ORDER, KEYS)
        evaluated = jax.eval_shape(trainer.evaluate, state.params, IMAGES, jax.random.key(0))
        found = jax.tree.leaves((state.params, after.params, after.optimiser, metrics, evaluated))
        floating = {x.dtype for x in found if jnp.issubdtype(x.dtype, jnp.floating)}
        assert floating == {jnp.dtype(dtype)}
    u, info = jax.eval_shape(lambda params: model.reconstruct(converged(), params, IMAGES), params)
    assert u.dtype == info.residual.dtype == dtype


def test_the_readmes_snippet_runs_in_double_precision():
    """In a process of their own, that has it from the beginning."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    small, sizes = re.subn(r"(train|test)_size=\d+", r"\1_size=20", code[1])
    small, steps = re.subn(r"total_steps=2 \* \d+", "total_steps=2", small)
    small, names = re.subn(r'\("bilevel", "deq"\)', '("bilevel",)', small)
    assert (sizes, steps, names) == (2, 1, 1)
    program = small + (
        "state = trainer.init(model.init(key) | scalars)\n"
        "epochs = learning.run(trainer, setting, state, *digits[:2], epochs=1, key=key)\n"
        "state, record = next(epochs)\n"
        "assert state.params['A'].dtype == record['test_loss'].dtype == 'float64'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"JAX_ENABLE_X64": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bilevel ")


def test_float64_is_on_meanwhile_alone():
    with pytest.raises(RuntimeError, match="mine"), precision.float64():
        assert jnp.ones(1).dtype == jnp.float64
        raise RuntimeError("mine")
    assert jnp.ones(1).dtype == jnp.float32
