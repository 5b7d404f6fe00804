r"""Upper-level algorithms: the methods of [CF] section 5, as pairs (init, step).

$$ \min_\gamma \ell(\gamma; \hat x(\gamma)), \qquad
\hat x(\gamma) = \arg\min_x \Phi(x; \gamma), \qquad \text{[CF] (UL), (LL)} $$

gamma is a pytree; x: [batch, ...] holds independent lower-level problems, one for each image. With
H = grad_xx Phi and J = grad_xgamma Phi the hypergradient is

$$ \nabla \ell(\gamma) = \nabla_\gamma \ell - J^T v, \qquad H v = \nabla_x \ell.
\qquad \text{[CF] (4.8)} $$

    problem, data, gamma, x, _ = algorithms.quadratic()
    method = algorithms.aid(problem, optax.sgd(1.0), lower_iterations=10, adjoint_iterations=3)
    state = method.init(gamma, x)
    state, info = jax.jit(method.step)(state, data, jax.random.key(0))

`guarded` freezes what diverges, `run` scans, and `steps` has what moves gamma beside optax. All
raise ValueError for an option that is not of its kind, and for what is no problem or algorithm.
"""

from collections.abc import Callable, Mapping

from deqbilevel.algorithms import cleaning, steps
from deqbilevel.algorithms.aid import aid
from deqbilevel.algorithms.ba import accelerated_ba, ba
from deqbilevel.algorithms.base import Algorithm, Calls, Info, Posed, Problem, from_cost
from deqbilevel.algorithms.batching import minibatches, run
from deqbilevel.algorithms.bsa import bsa
from deqbilevel.algorithms.guarding import Guarded, guarded
from deqbilevel.algorithms.hoag import hoag
from deqbilevel.algorithms.imaging import posed
from deqbilevel.algorithms.itd import itd
from deqbilevel.algorithms.lagrangian import lagrangian
from deqbilevel.algorithms.maid import maid
from deqbilevel.algorithms.mrbo import mrbo, sustain
from deqbilevel.algorithms.penalty import augmented_penalty, penalty
from deqbilevel.algorithms.problems import PROBLEMS, coupled, quadratic
from deqbilevel.algorithms.scheduling import enlarging, growing, scheduled
from deqbilevel.algorithms.stable import stable
from deqbilevel.algorithms.stocbio import stocbio
from deqbilevel.algorithms.stochastic_quadratic import stochastic_quadratic
from deqbilevel.algorithms.surrogate import surrogate
from deqbilevel.algorithms.ttsa import ttsa
from deqbilevel.algorithms.vrbo import vrbo
from deqbilevel.checks import Registry

__all__ = [
    "DOUBLE_LOOP",
    "METHODS",
    "OWN_STEPS",
    "PROBLEMS",
    "Algorithm",
    "Calls",
    "Guarded",
    "Info",
    "Posed",
    "Problem",
    "accelerated_ba",
    "aid",
    "augmented_penalty",
    "ba",
    "bsa",
    "cleaning",
    "coupled",
    "enlarging",
    "from_cost",
    "growing",
    "guarded",
    "hoag",
    "itd",
    "lagrangian",
    "maid",
    "minibatches",
    "mrbo",
    "penalty",
    "posed",
    "quadratic",
    "run",
    "scheduled",
    "stable",
    "steps",
    "stocbio",
    "stochastic_quadratic",
    "surrogate",
    "sustain",
    "ttsa",
    "vrbo",
]

METHODS: Mapping[str, Callable[..., Algorithm]] = Registry(
    "method",
    {
        "hoag": hoag,
        "ba": ba,
        "accelerated_ba": accelerated_ba,
        "aid": aid,
        "itd": itd,
        "maid": maid,
        "surrogate": surrogate,
        "bsa": bsa,
        "stocbio": stocbio,
        "vrbo": vrbo,
        "penalty": penalty,
        "augmented_penalty": augmented_penalty,
        "ttsa": ttsa,
        "stable": stable,
        "mrbo": mrbo,
        "sustain": sustain,
        "lagrangian": lagrangian,
    },
)
"""Every method; each is called with a problem, an optimiser of optax, and options of its own."""

DOUBLE_LOOP = (
    *("hoag", "ba", "accelerated_ba", "aid", "itd", "maid", "surrogate", "bsa", "stocbio", "vrbo"),
    *("penalty", "augmented_penalty"),
)
"""Those with several lower-level steps in each upper-level step; the others take one with each."""

OWN_STEPS = ("maid", "surrogate", "lagrangian")
"""Those whose direction is no gradient, or whose step size is their own: a rate damps `surrogate`
and `lagrangian`, and is the first step size of `maid`."""
