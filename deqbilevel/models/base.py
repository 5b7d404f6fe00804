"""The model: operator, regulariser, data fidelity and step as one record."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from deqbilevel import checks, fidelities, maps, operators, precision
from deqbilevel.fidelities import Fidelity
from deqbilevel.models import matrices
from deqbilevel.operators import Identity, Operator
from deqbilevel.regularizers import Regularizer
from deqbilevel.solvers import as_solver
from deqbilevel.types import At, FixedPointMap, Images, Info, Params, Solve, Solver


class Model(NamedTuple):
    """What is solved, as pure functions; how it is solved is a setting."""

    K: Operator
    R: Regularizer
    G: FixedPointMap
    start: Callable[[Inexact[Array, "batch data"]], Images]
    """f -> where the lower level is solved from."""
    D: Fidelity = fidelities.squares
    K_norm: Any = None
    """||K||, or a bound on it, of the K above; None: found where it is needed."""
    nonnegative: bool = False
    """Whether u* is sought among images u >= 0, so that G ends in max(., 0)."""
    simulation: Any = None
    """What measures true images in the place of K, see `simulation`; None: K itself."""
    factors: Callable[[Params], Any] | None = None
    """params -> the factors of the matrix of a lower level that is linear, see `direct`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.R.shape

    @property
    def tied(self) -> bool:
        """Whether u* minimises a cost: bilevel learning, and no DEQ."""
        return self.R.tied

    @property
    def N(self) -> Callable[[Images, Params], Images]:
        """The regulariser's gradient, or in a DEQ its map."""
        return self.R.gradient

    @property
    def descent(self) -> str:
        """The one of `solvers.DESCENTS` for the lower level of a model with an energy: that of the
        regulariser, but of a nonnegative model one that has a projected form."""
        return "nesterov" if self.nonnegative else self.R.descent

    @property
    def init(self) -> Callable[[PRNGKeyArray], dict[str, Any]]:
        """key -> the weights of the regulariser, and what `refresh` keeps up to date."""
        return self.R.init

    @property
    def refresh(self) -> Callable[[Params], Params]:
        """params -> params after a step has moved the weights."""
        return self.R.refresh

    def measure(self, params: Params, u: Images, key: PRNGKeyArray) -> Inexact[Array, "batch data"]:
        """A measurement of images by the K of the model, or its `simulation`, with the noise
        `params["noise"]` of its fidelity, or the counts of one that has these.

        Raises: ValueError, see `measure`, and for negative values where u* has none.
        """
        if self.nonnegative and not checks.traced(u) and jnp.min(u) < 0:
            raise ValueError(
                f"u: from {jnp.min(u):.3g}; this model is nonnegative: take images in 0..1"
            )
        K = self.simulation or self.K
        return measure(K, u, 0.0 if self.D.counts else params["noise"], key, self.D)

    def told(self, params: Params, f: Inexact[Array, "batch data"]) -> Params:
        """The params at measurements, where the regulariser depends on them."""
        return told(self.K, self.R, params, f)

    def stationarity(self) -> FixedPointMap:
        """F(u, params, f), which vanishes at a fixed point (of a nonnegative model where u* > 0):
        in bilevel learning the gradient of the lower-level cost."""
        F = maps.stationarity(self.K, self.N, self.D)
        return lambda u, params, f: F(u, self.told(with_scalars(params), f), f)

    def energy(
        self, u: Images, params: Params, f: Inexact[Array, "batch data"]
    ) -> Float[Array, " batch"]:
        """The lower-level cost of each image, whose minimiser is u*, [REB] (13b):

        lam D(K u; f) + gamma R(u)

        Raises: ValueError for a DEQ, which has none, and for an f that is not like K u.
        """
        if self.R.energy is None:
            raise ValueError("energy: this model is a DEQ, whose fixed point minimises no cost")
        params = self.told(with_scalars(params), f)
        v = operators.of(self.K, params).apply(u)
        checks.alike(**{"K u": v, "f": f})
        return params["lam"] * self.D.value(v, f) + params["gamma"] * self.R.energy(u, params)

    def lipschitz(self, params: Params) -> Float[Array, ""]:
        """A Lipschitz constant of F: lam sup D'' ||K||^2 + gamma Lip(N); about one where K is not
        linear, with the norm of K'(0).

        Raises: ValueError for a regulariser that has none.
        """
        if self.R.lipschitz is None:
            raise ValueError(
                "params: no tau, and of this regulariser no Lipschitz constant is known, from "
                "which it would follow; give the step size tau in params"
            )
        params = with_scalars(params)
        of_regularizer = params["gamma"] * self.R.lipschitz(params)
        return params["lam"] * self.D.curvature * self._norm(params) ** 2 + of_regularizer

    def _norm(self, params: Params) -> Any:
        """||K|| or a bound on it, anew only where K is learned."""
        if self.K_norm is not None and "K" not in params:
            return self.K_norm
        return operators.norm(operators.of(self.K, params), checks.pixels(self.shape))

    def completed(self, params: Params) -> Params:
        """`params` with what a map needs: lam and gamma, 1 where there are none, the factors of
        `direct`, and the step size tau = 1/L of `lipschitz`, constants of differentiation: what is
        differentiated is where a solver goes, not how fast.

        Raises: ValueError where tau is needed, see `lipschitz`.
        """
        params = with_scalars(params)
        if self.factors is not None and "factors" not in params:
            params = params | {"factors": self.factors(params)}
        if "tau" in params:
            return params
        return params | {"tau": jax.lax.stop_gradient(1 / self.lipschitz(params))}

    def preconditioner(self, u: Images, params: Params) -> Callable[[Images], Images]:
        """About the inverse of dF/du at u, for conjugate gradients; the identity without one.

        K^T K is taken as ||K||^2 / 2 where K is not the identity: half-way between what K sees and
        what it does not.
        """
        if self.R.preconditioner is None:
            return lambda r: r
        params = with_scalars(params)
        seen = 1.0 if isinstance(self.K, Identity) else self._norm(params) ** 2 / 2
        gamma = params["gamma"]
        apply = self.R.preconditioner(u, params, params["lam"] * self.D.curvature * seen / gamma)
        return Partial(_over, gamma, apply)

    def solve(
        self,
        params: Params,
        differentiable: Callable[[FixedPointMap], Solve],
        *,
        preconditioned: bool = False,
    ) -> tuple[Solve, Params]:
        """The differentiable reconstruction `(params, f, u0, probe) -> (u*, info)`, and its params.

        differentiable: how a map is solved and differentiated, see `hypergradients.METHODS`. If
        `preconditioned`, through `maps.preconditioned_step` with the P of these params, see
        `inverse`; a DEQ, a nonnegative model, a regulariser without a matrix and a K that is not
        linear are not.
        """
        self.require(params)
        if self.factors is not None:
            return self._counted(differentiable(self.G)), self.completed(params)
        matrix = self.tied and self.R.matrix and operators.linear(self.K)
        if self.nonnegative or not (preconditioned and matrix):
            return differentiable(self.G), self.completed(params)
        params = with_scalars(params)
        G = maps.preconditioned_step(self.K, self.N, self.D)
        return differentiable(G), params | {"inverse": matrices.inverse(self.K, self.R, params)}

    def preparation(self, batch: int) -> int:
        """Evaluations of a gradient step on a batch that `completed` costs, of `direct`; else 0."""
        if self.factors is None:
            return 0
        return matrices.evaluations(checks.pixels(self.shape), batch)

    def _counted(self, solve: Solve) -> Solve:
        """With the preparation in the evaluations of the Info."""

        def counted(
            params: Params, f: Array, u0: Array, probe: Info | None = None
        ) -> tuple[Array, Info]:
            u, info = solve(params, f, u0, probe)
            return u, info._replace(evaluations=info.evaluations + self.preparation(len(u0)))

        return counted

    def reconstruct(
        self, solver: Solver, params: Params, f: Inexact[Array, "batch data"]
    ) -> tuple[Images, Info]:
        """u* from f: [batch, data], from `start(f)`: `(u, info)`, in the dtype of the weights.

        Raises: ValueError for what is no solver of a fixed point, for measurements that are not of
        images of this model's shape, and for params that are none of this model, see `require`.
        """
        solver = as_solver(solver)
        self.check(f)
        self.require(params)
        params, f = precision.as_weights(params, f)
        return solver(At(self.G, self.told(self.completed(params), f), f), self.start(f))

    def check(self, f: Inexact[Array, "batch data"]) -> None:
        """Raises: ValueError for measurements f that are not `[batch, data]` of images of this
        model's shape, one or more, of finite floating numbers, or not what its fidelity takes."""
        checks.finite("f", checks.floating("f", f, of_complex=True))
        self.D.check(f)
        image = jax.ShapeDtypeStruct((1, checks.pixels(self.shape)), jnp.finfo(f.dtype).dtype)
        data = jax.eval_shape(lambda u: self.K.apply(u), image)
        if f.shape[1:] != data.shape[1:] or not len(f):
            wanted = ", ".join(map(str, ("batch", *data.shape[1:])))
            raise ValueError(
                f"f: of shape {list(f.shape)}; expected measurements [{wanted}] of one image of "
                f"{self.shape[0]}x{self.shape[1]} or more"
            )
        if jnp.iscomplexobj(f) and not jnp.issubdtype(data.dtype, jnp.complexfloating):
            raise ValueError(f"f: of type {f.dtype}; expected real measurements, as K makes them")

    def require(self, params: Params) -> None:
        """Raises ValueError for `params` that are none of this model: without some of its weights,
        with C where it is tied, not finite, or of names and shapes that its map does not take.

        A DEQ without C would be bilevel, and bilevel learning with C a DEQ.
        """
        expected = "; expected what its init returns, and hyperparameters"
        checks.entries("params", params, ())
        names = _names(self.init)
        if missing := sorted(names - set(params)):
            raise ValueError(
                f"params: no {', '.join(missing)}, which the weights of this model have{expected}"
            )
        if self.tied and "C" in params and "C" not in names:
            raise ValueError("params: C, which a tied model has not; take a deq, or leave C out")
        checks.finite("params", params)
        for leaf in jax.tree.leaves({name: params[name] for name in names}):
            checks.floating("params", leaf)
        try:
            jax.eval_shape(self._step, params)
        except KeyError as error:
            raise ValueError(f"params: no {error}, which this model needs{expected}") from error
        except (TypeError, ValueError, AttributeError) as error:
            forms = {name: jax.tree.map(jnp.shape, x) for name, x in params.items()}
            raise ValueError(
                f"params of shapes {forms}: the map of this model fails ({error}){expected}"
            ) from error

    def _step(self, params: Params) -> Images:
        """One evaluation of the map."""
        u = jnp.zeros((1, checks.pixels(self.shape)), precision.dtype_of(params))
        params = self.completed(params)
        return self.G(u, params, operators.of(self.K, params).apply(u))


def _over(gamma: Array, apply: Callable[[Images], Images], r: Images) -> Images:
    return apply(r) / gamma


def told(K: Operator, R: Regularizer, params: Params, f: Inexact[Array, "batch data"]) -> Params:
    """`Model.told` of its parts."""
    return params if R.told is None else R.told(params, operators.of(K, params).adjoint(f))


@lru_cache
def _names(init: Callable[[PRNGKeyArray], dict[str, Any]]) -> frozenset[str]:
    return frozenset(jax.eval_shape(init, jax.random.key(0)))


def with_scalars(params: Params) -> Params:
    """`params` with lam = 1 and gamma = 1 where it has none, as in [CF], whose cost has neither."""
    one = jnp.ones((), precision.dtype_of(params))
    return {"lam": one, "gamma": one} | params


def measure(
    K: Operator,
    u: Images,
    noise: Any,
    key: PRNGKeyArray,
    D: Fidelity = fidelities.squares,
) -> Inexact[Array, "batch data"]:
    """A measurement of images by K, with the noise that a fidelity stands for: f = K u + noise
    N(0, 1) for squares.

    Raises: ValueError for what is no operator, noise or key, and images that are not finite, or of
    whole numbers.
    """
    checks.function("K.apply", getattr(K, "apply", None))
    return D.measure(K.apply(checks.finite("u", checks.floating("u", u))), noise, key)
