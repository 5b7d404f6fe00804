"""Upper-level algorithms: the methods of [CF] section 5, as pairs (init, step).

problem, data, gamma, x, _ = algorithms.quadratic()
method = algorithms.aid(problem, optax.sgd(1.0), lower_iterations=10, adjoint_iterations=3)
state = method.init(gamma, x)
state, info = jax.jit(method.step)(state, data, jax.random.key(0))
"""

from deqbilevel.algorithms.aid import aid
from deqbilevel.algorithms.base import Algorithm, Calls, Info, Problem, from_cost
from deqbilevel.algorithms.problems import PROBLEMS, Posed, quadratic

__all__ = [
    "PROBLEMS",
    "Algorithm",
    "Calls",
    "Info",
    "Posed",
    "Problem",
    "aid",
    "from_cost",
    "quadratic",
]

METHODS = {"aid": aid}
