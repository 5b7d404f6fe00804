"""What a learnable optimisation algorithm is to everything above, and to the one learner."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PRNGKeyArray

from deqbilevel import checks, fidelities
from deqbilevel.fidelities import Fidelity
from deqbilevel.hypergradients.base import scanned
from deqbilevel.models import Model, assemble
from deqbilevel.operators import Operator
from deqbilevel.regularizers import Regularizer
from deqbilevel.regularizers.base import unchanged
from deqbilevel.settings import SETTINGS, Budget, Setting
from deqbilevel.types import Images, Params

LAYERS = "layers"
"""The entry of `params` whose leaves have a leading axis of iterations."""

ANY = 1e6
"""A tolerance that one evaluation meets: what it returns is the result, and no iterate."""

Checkpoint = Literal["none", "layer", "sqrt"]
"""What reverse mode keeps of T iterations: all of each; the state of each; of about sqrt(T)."""


class Unrolled(NamedTuple):
    """T iterations of an algorithm, whose parameters are learned: [CF] 7.1.

    Iteration t takes `params | params["layers"]` at t: what stands at the top is shared by all,
    what stands in `layers` has a leading axis of iterations, and its length is their number.

    >>> net = unrolled.gradient(operators.identity((1, 2)), regularizers.dense.dense((1, 2)))
    >>> print(net.shape, net.learned)
    (1, 2) ('A', 'b', 'layers')
    """

    K: Operator
    shape: tuple[int, int]
    init: Callable[[PRNGKeyArray], dict[str, Any]]
    """key -> params, with what `refresh` keeps up to date."""
    learned: tuple[str, ...]
    """The entries of params that are learned unless others are asked for."""
    start: Callable[[Params, Inexact[Array, "batch data"]], Any]
    """(params, f) -> the state before the first iteration."""
    layer: Callable[[Any, Params, Inexact[Array, "batch data"]], Any]
    """(state, params of an iteration, f) -> the state after it."""
    image: Callable[[Any, Params], Images]
    """(state, shared params) -> its image."""
    D: Fidelity = fidelities.squares
    refresh: Callable[[Params], Params] = unchanged
    """params -> params after a step has moved the weights."""
    whole: Callable[[Params, Any, Inexact[Array, "batch data"]], Any] | None = None
    """(params, state, f) -> the state after all iterations, where these have a derivative of their
    own, see `reversal`; None: one after the other."""

    def reconstruct(
        self,
        params: Params,
        f: Inexact[Array, "batch data"],
        checkpoint: Checkpoint = "none",
    ) -> Images:
        """The image after as many iterations as `params` has layers.

        Raises: ValueError for another checkpoint, and params without layers or of several lengths.
        """
        own, count = shared(params), iterations(params)
        segment = {"none": count, "layer": 1, "sqrt": math.isqrt(count)}
        length = segment[checks.known("checkpoint", checkpoint, segment)]

        def layer(state: Any, at: Params) -> Any:
            return self.layer(state, own | at, f)

        if checkpoint == "sqrt":  # of a segment too only the states, while it is computed again
            layer = jax.checkpoint(layer, prevent_cse=False)
        state = self.start(params, f)
        if self.whole is not None:
            return self.image(self.whole(params, state, f), own)
        return self.image(scanned(layer, state, params[LAYERS], length), own)

    def model(self, checkpoint: Checkpoint = "none") -> Model:
        """The model whose G(u, params, f) is what is reconstructed of f, whatever u: one evaluation
        solves it, and its derivative is reverse mode. Learn it with `setting`."""

        def G(u: Images, params: Params, f: Array) -> Images:
            return self.reconstruct(params, f, checkpoint)

        R = Regularizer(self.shape, self._init, _no_gradient, self.learned, refresh=self.refresh)
        return assemble(self.K, R, D=self.D)._replace(G=G)

    def _init(self, key: PRNGKeyArray) -> dict[str, Any]:
        # A step of G in u is that of a fixed point, and of no length.
        return self.init(key) | {"tau": jnp.ones(())}


def _no_gradient(u: Images, params: Params) -> Images:
    raise ValueError(
        "an unrolled algorithm has no lower-level cost and no map N(u) of its own; take its "
        "`reconstruct`, or a model of its regulariser"
    )


def setting(learning_rate: float = 1e-3) -> Setting:
    """How the learner takes `Unrolled.model`: one evaluation, differentiated as it is.

    >>> print(unrolled.setting(1e-2).hypergradient, unrolled.setting().budget.forward)
    unrolled 1
    """
    one = Budget(1, 1)
    return SETTINGS["paper"]._replace(
        solver="picard",
        hypergradient="unrolled",
        budget=one,
        limit=one,
        forward_tolerance=ANY,
        adjoint_tolerance=ANY,
        evaluation_tolerance=ANY,
        evaluation_budget=1,
        learning_rate=checks.number("learning_rate", learning_rate, above=0),
    )


def shared(params: Params) -> Params:
    """What all iterations share.

    >>> print(unrolled.base.shared({"A": 1.0, "layers": {"b": jnp.zeros(3)}}))
    {'A': 1.0}
    """
    checks.entries("params", params, (LAYERS,))
    return {name: x for name, x in params.items() if name != LAYERS}


def iterations(params: Params) -> int:
    """How many iterations params have.

    Raises: ValueError for params without layers, and layers of several lengths.

    >>> print(unrolled.iterations({"layers": {"log_step": jnp.zeros(3)}}))
    3
    """
    checks.entries("params", params, (LAYERS,))
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(params[LAYERS])}
    if len(counts) != 1 or counts in ({()}, {(0,)}):
        raise ValueError(
            f"params: layers of leading axes {sorted(counts)}; expected one number of iterations, "
            "1 or more, in all of them"
        )
    return counts.pop()[0]


def with_iterations(params: Params, count: int) -> Params:
    """The params of another number of iterations: the first of them, or the last once more.

    >>> params = {"layers": {"log_step": jnp.array([1.0, 2.0])}}
    >>> print(unrolled.with_iterations(params, 4)["layers"]["log_step"])
    [1. 2. 2. 2.]
    """
    checks.whole("count", count)
    index = jnp.minimum(jnp.arange(count), iterations(params) - 1)
    return params | {LAYERS: jax.tree.map(lambda x: x[index], params[LAYERS])}


def repeated(x: Any, count: int) -> Any:
    """The same leaves for each of so many iterations.

    >>> print(unrolled.base.repeated(jnp.array([1.0, 2.0]), 2))
    [[1. 2.]
     [1. 2.]]
    """
    return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x, float)[None], count, axis=0), x)
