"""A model of its parts, which have to go together."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Inexact

from deqbilevel import adjoints, checks, fidelities, maps, operators
from deqbilevel.fidelities import Fidelity
from deqbilevel.jacobians import ConvolutionalStep
from deqbilevel.models.base import Model, told
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.regularizers import Regularizer
from deqbilevel.types import FixedPointMap, Images, Params


def assemble(
    K: Operator,
    R: Regularizer,
    *,
    D: Fidelity = fidelities.squares,
    step: Callable[..., FixedPointMap] = maps.gradient_step,
    start: Callable[[Inexact[Array, "batch data"]], Images] | None = None,
    nonnegative: bool = False,
) -> Model:
    """The model of an operator, a regulariser, a data fidelity and a step, one of `maps`.

    start: f -> where the lower level is solved from; None: K^T f, or 0 where K is not linear. A
    gradient step puts its Jacobian together where the regulariser does, for `linearised.SOLVERS`.
    nonnegative: u* is sought among u >= 0 by `maps.nonnegative`, for images in 0..1.
    Raises: ValueError for an operator whose adjoint is that of another, see `adjoints.check`, for a
    step that D or K has not, counts of complex data, and a nonnegative model of another step than
    the gradient's.
    """
    if not isinstance(R, Regularizer):
        raise ValueError(
            f"R: a {type(R).__name__}; expected a Regularizer, such as one of "
            "regularizers.REGULARIZERS, or what regularizers.function makes of your own"
        )
    checks.function("step", step)
    adjoints.check(K, checks.pixels(R.shape))
    _check_data(K, R, D)
    if step is not maps.gradient_step:
        require_linear(getattr(step, "__name__", "step"), K)
    together = R.linearised is not None and step is maps.gradient_step and D is fidelities.squares
    together = together and operators.linear(K)
    if checks.switch("nonnegative", nonnegative):
        if step is not maps.gradient_step:
            raise ValueError(
                f"nonnegative with {getattr(step, '__name__', step)}: a fixed point of it, "
                "projected, minimises nothing; take gradient_step"
            )
        G = maps.nonnegative(step(K, R.gradient, D))
    else:
        G = ConvolutionalStep(K, R) if together else step(K, R.gradient, D)
    G = G if R.told is None else _of_measurement(G, K, R)
    if start is None:
        start = K.adjoint if operators.linear(K) else lambda f: jnp.zeros_like(K.adjoint(f))
    model = Model(K, R, G, start, D, _known_norm(K, R), nonnegative)
    if R.preconditioner is None or R.told is not None or step is not maps.gradient_step:
        return model
    return model if nonnegative else model._replace(G=Preconditioned(G, model.preconditioner))


@dataclass(frozen=True, eq=False)
class Preconditioned:
    """A gradient step G with about (I - dG/du)^{-1}, for `solvers.preconditioned_momentum`."""

    G: FixedPointMap
    of_cost: Callable[[Images, Params], Callable[[Images], Images]]
    """About the inverse of the Hessian of the cost."""

    def __call__(self, u: Images, params: Params, f: Array) -> Images:
        return self.G(u, params, f)

    def preconditioner(self, u: Images, params: Params, f: Array) -> Callable[[Images], Images]:
        """At u, a pytree."""
        return Partial(_over, params["tau"], self.of_cost(u, params))


def _over(tau: Array, apply: Callable[[Images], Images], r: Images) -> Images:
    return apply(r) / tau


def _of_measurement(G: FixedPointMap, K: Operator, R: Regularizer) -> FixedPointMap:
    """The map with params that are told the measurement first."""
    return lambda u, params, f: G(u, told(K, R, params, f), f)


def _check_data(K: Operator, R: Regularizer, D: Fidelity) -> None:
    """Raises: ValueError for complex data, of which there are no counts."""
    image = jax.ShapeDtypeStruct((1, checks.pixels(R.shape)), jnp.result_type(float))
    data = jax.eval_shape(lambda u: K.apply(u), image)
    if D.counts and jnp.issubdtype(data.dtype, jnp.complexfloating):
        raise ValueError(
            f"{type(K).__name__}: makes complex data, and D is of counts, which are real; take "
            "squares or huber"
        )


def _known_norm(K: Operator, R: Regularizer) -> float | None:
    """||K|| as a number, which no step has to find again; None where K is traced."""
    if checks.traced(K):
        return None
    with jax.ensure_compile_time_eval():
        norm = operators.norm(K, checks.pixels(R.shape))
    return None if checks.traced(norm) else float(norm)
