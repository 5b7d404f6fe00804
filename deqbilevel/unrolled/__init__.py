r"""Learnable optimisation algorithms: T iterations of an algorithm whose parameters are learned,
[CF] 7.1, and gradient flows with a learned stopping time, [CF] 4.4.1.

    net = unrolled.gradient(K, R, iterations=10, tied=False)
    params = net.init(key)                      # params["layers"]: one set for each iteration
    u = net.reconstruct(params, f)              # or net.model() for the one learner

What is learned is the reconstruction after so many iterations, and no fixed point:

$$ u^* = u_T(\theta_1, \dots, \theta_T; f). $$

    >>> K = operators.identity((8, 8))
    >>> R = regularizers.REGULARIZERS["convolutional"]((8, 8), filters=(3, 2, 2))
    >>> net = unrolled.gradient(K, R, iterations=5, tied=False)
    >>> truth = jnp.tile(jnp.array([1.0, -1.0]), 32)[None]
    >>> params = net.init(jax.random.key(0))
    >>> learner = learning.Learner(
    ...     (net.model(),), unrolled.setting(0.1), learning.adam(20), net.learned)
    >>> state = learning.start(learner, params | {"tau": 1.0})
    >>> f = truth + 0.5 * jax.random.normal(jax.random.key(1), (1, 64))
    >>> state, metrics = learning.steps(learner, state, truth, 20, f=f)
    >>> print(bool(metrics.loss[-1] < metrics.loss[0] / 2))
    True
"""

from collections.abc import Callable

from deqbilevel.checks import Registry
from deqbilevel.unrolled.analysis import analysis_network
from deqbilevel.unrolled.base import (
    Checkpoint,
    Unrolled,
    iterations,
    setting,
    with_iterations,
)
from deqbilevel.unrolled.flows import check_step, flow, part_of_bound, refined, stopping_slope
from deqbilevel.unrolled.gradient import gradient
from deqbilevel.unrolled.greedy import after_stage, stage, stage_params
from deqbilevel.unrolled.networks import of_splines, variational_network
from deqbilevel.unrolled.primal_dual import primal_dual
from deqbilevel.unrolled.reversal import recovery, reversed_flow
from deqbilevel.unrolled.shrinking import lista, soft

__all__ = [
    "NETWORKS",
    "Checkpoint",
    "Unrolled",
    "after_stage",
    "analysis_network",
    "check_step",
    "flow",
    "gradient",
    "iterations",
    "lista",
    "of_splines",
    "part_of_bound",
    "primal_dual",
    "recovery",
    "refined",
    "reversed_flow",
    "setting",
    "soft",
    "stage",
    "stage_params",
    "stopping_slope",
    "variational_network",
    "with_iterations",
]

NETWORKS: Registry[Callable[..., Unrolled]] = Registry(
    "unrolled algorithm",
    {
        "lista": lista,
        "variational_network": variational_network,
        "primal_dual": primal_dual,
        "analysis_network": analysis_network,
    },
)
"""Those of an operator and a shape, with options of their own; `gradient` and `flow` take a
regulariser too. The shared property tests walk this table."""
