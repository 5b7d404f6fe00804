"""Dictionaries D: [pixels, atoms] of patches: cosines, learned without a task, and with it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from deqbilevel import checks, fidelities, losses, variational
from deqbilevel.hypergradients import no_info
from deqbilevel.operators import Operator

BATCH, RATE = 200, 1e-2
"""Of a step, and of Adam, falling to 0 along a cosine."""
PRODUCTS, ACCURACY = 150, 1e-3
"""Of MINRES, at most, and its tolerance."""

Dictionary = Float[Array, "pixels atoms"]
Rows = Float[Array, "patches pixels"]


def weights(w: Any, D: Dictionary) -> tuple[Array]:
    """Of each atom: none of the constant one."""
    return (jnp.full(D.shape[1], w).at[0].set(0.0),)


def cosines(config: Any) -> Dictionary:
    """Products of cosines along columns and rows, of unit length, without means but for one."""
    n, k = config.patch, config.frequencies
    rows = np.cos(np.pi * np.outer(np.arange(n) + 0.5, np.arange(k)) / k)
    rows[:, 1:] -= rows[:, 1:].mean(axis=0)
    D = np.kron(rows, rows)
    return jnp.asarray(D / np.linalg.norm(D, axis=0), float)


def without_task(config: Any, train: Rows, D: Dictionary) -> Dictionary:
    """By scikit-learn, of true patches less their means, from all but the constant atom."""
    library = checks.needed("sklearn.decomposition", "--tables dictionary", "search")
    centred = np.asarray(train - jnp.mean(train, axis=1, keepdims=True), float)
    method = library.MiniBatchDictionaryLearning(
        n_components=D.shape[1] - 1,
        alpha=config.noise,
        fit_algorithm="cd",
        batch_size=min(BATCH, len(centred)),
        max_iter=max(1, config.dictionary_steps // 10),
        dict_init=np.asarray(D[:, 1:].T, float),
        random_state=config.seed,
    )
    atoms = jnp.asarray(method.fit(centred).components_.T, float)
    return jnp.concatenate((D[:, :1], atoms), axis=1)


def learned(
    config: Any, solver: Any, train: Rows, K: Operator, D: Dictionary, w: float
) -> tuple[Dictionary, float]:
    """D after the steps, and the largest residual of a hypergradient."""
    solve = variational.differentiable(solver, tolerance=ACCURACY, max_evaluations=PRODUCTS)
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, max(1, config.dictionary_steps)))

    def error(D: Dictionary, probe: Any, K: Operator, f: Rows, truth: Rows) -> Array:
        z, _ = solve(variational.synthesis(K, D), weights(w, D), f, None, probe)
        return losses.mean_squared_error(z @ D.T, truth)

    @jax.jit
    def step(k: Any, D: Dictionary, state: Any, K: Operator, train: Rows) -> Any:
        draw, noise = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2 + k))
        truth = train[jax.random.choice(draw, len(train), (min(BATCH, len(train)),), False)]
        f = K.apply(fidelities.normal(truth, config.noise, noise))
        gradient, adjoint = jax.grad(error, (0, 1))(D, no_info(f.dtype), K, f, truth)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(D, updates), state, adjoint.residual

    state, residual = optimiser.init(D), 0.0
    for k in range(config.dictionary_steps):
        D, state, own = step(k, D, state, K, train)
        residual = max(residual, float(own))
    return D, residual
