"""What was learned for denoising, used at other noise and for other operators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal

from deqbilevel import crossover, data, models, operators, pretrained, recipes, solvers

SHAPE = (32, 32)


@functools.cache
def photographs() -> jax.Array:
    """Parts of three of them, in [0, 1]."""
    return (jnp.asarray(data.load("photographs", shape=SHAPE, test_size=3).test) + 1) / 2


def measured(noise: float) -> jax.Array:
    return photographs() + noise * normal(3, 3, 32 * 32).astype(np.float32)


@functools.cache
def by_filters(noise: float) -> float:
    """What the filters that ship restore."""
    K = operators.Identity()
    return psnr(crossover.reconstruct("natural", K, measured(noise), SHAPE, noise=noise)[0])


def psnr(u: jax.Array) -> float:
    """In the mean over them."""
    return float(jnp.mean(-10 * jnp.log10(jnp.mean((u - photographs()) ** 2, axis=1))))


@pytest.mark.parametrize("name", pretrained.MODELS)
def test_models_that_ship_denoise(name):
    noise = 25 / 255
    f = measured(noise)
    u, info = crossover.reconstruct(name, operators.Identity(), f, SHAPE, noise=noise)
    assert jnp.max(info.residual) <= 1e-5
    behind = 2.0 if name == "ridge" else 0.0  # a convex one: these parts are smooth
    assert psnr(u) > max(psnr(f) + 5, by_filters(noise) - behind)
    assert recipes.load(name).about["made"]
    with pytest.raises(ValueError, match=f"{name}: a whole model.*recipes.load has it"):
        pretrained.load(name)


def test_one_model_is_for_all_noise():
    """Its scales follow the noise, where another has its weight changed."""
    learned = recipes.load("spline-ridge")
    for noise in (5 / 255, 25 / 255):
        at = crossover.at_noise(learned, noise)
        assert float(at.params["lam"]) == 1 and float(at.params["noise"]) == np.float32(noise)
        f = measured(noise)
        u, _ = crossover.reconstruct(learned, operators.Identity(), f, SHAPE, noise=noise)
        assert psnr(u) > psnr(f) + 1


def test_the_distance_to_the_minimiser_is_bounded_by_the_gradient():
    """||u - u*|| <= ||grad|| of a cost whose convexity is that of lam/2 ||u - f||^2, here 1."""
    learned = recipes.load("ridge")
    model = models.assemble(operators.Identity(), learned.model(SHAPE).R)
    f = measured(0.1)

    def solve(tolerance: float, count: int) -> jax.Array:
        solver = solvers.optimized_gradient(tolerance=tolerance, max_evaluations=count)
        return model.reconstruct(solver, learned.params, f)[0]

    exact = solve(1e-7, 3000)
    for count in (3, 30):
        u = solve(0.0, count)
        gradient = model.stationarity()(u, learned.params, f)
        distance = jnp.linalg.norm(u - exact)
        assert 1e-3 < distance <= jnp.linalg.norm(gradient)


def test_what_has_no_cost_or_noise_is_refused():
    recipe = recipes.Recipe("identity", {}, "denoiser", {"channels": 2, "layers": 2})
    params = recipe.init(recipe.model(SHAPE), jax.random.key(0))
    scalars = {"noise": jnp.asarray(0.1), "lam": jnp.asarray(1.0), "gamma": jnp.asarray(1.0)}
    learned = recipes.Learned(recipe, SHAPE, (0.0, 1.0), params | scalars, {})
    with pytest.raises(ValueError, match="denoiser: of no cost"):
        crossover.reconstruct(learned, operators.Identity(), photographs(), SHAPE, noise=0.1)
    with pytest.raises(ValueError, match=r"noise=0\.0: of learning it was"):
        crossover.at_noise(learned, 0.0)
    with pytest.raises(ValueError, match="spline_ridge was learned for noise up to"):
        crossover.at_noise(recipes.load("spline-ridge"), 0.2)
