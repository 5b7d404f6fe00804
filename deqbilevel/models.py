"""Models: a forward operator and a regulariser make a fixed-point map; a task names the operator.

    model = models.build("denoising", "bilevel", (28, 28))
    params = model.init(key) | models.hyperparameters(tau=0.9, gamma=0.1, activation="relu")

Bilevel learning (tied, C = A) and a deep equilibrium model (untied) differ in that one word.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import adjoints, checks, maps, operators, potentials, precision
from deqbilevel.checks import Registry
from deqbilevel.jacobians import ConvolutionalStep
from deqbilevel.operators import Operator
from deqbilevel.regularizers import dense, normalised
from deqbilevel.regularizers.normalised import Normalised
from deqbilevel.solvers import as_solver
from deqbilevel.types import At, FixedPointMap, Images, Info, Params, Solve, Solver

TASKS: Registry[str] = Registry(
    "task",
    {
        "denoising": "identity",
        "inpainting": "row_mask",
        "deblurring": "diagonal_blur",
    },
)
"""The tasks of [REB] 3.3 and the names of their forward operators."""

MODELS: Registry[bool] = Registry(
    "model",
    {
        "bilevel": True,
        "deq": False,
    },
)
"""The models and whether their regulariser is tied."""

ACTIVATIONS: Registry[Callable[[float], potentials.PiecewiseQuadratic]] = Registry(
    "activation",
    {
        "identity": lambda threshold: potentials.identity(),
        "relu": lambda threshold: potentials.relu(),
        "softshrink": potentials.softshrink,
        "clipping": potentials.clipping,
    },
)
"""The activations of [REB] 3.2, built for a threshold (the study takes tau for it)."""


def _unchanged(params: Params) -> Params:
    return params


class Model(NamedTuple):
    """What is solved, as pure functions; how it is solved is a setting."""

    K: Operator
    N: maps.Regularizer
    G: FixedPointMap
    tied: bool
    shape: tuple[int, int]
    init: Callable[[PRNGKeyArray], dict[str, Any]]
    """key -> the weights that are learned, and what `refresh` keeps up to date."""
    start: Callable[[Images], Images] = jnp.zeros_like
    """f -> where the lower level is solved from."""
    refresh: Callable[[Params], Params] = _unchanged
    """params -> params after a step has moved the weights: norms and the like, which the next step
    takes as constants."""

    def solve(
        self,
        params: Params,
        differentiable: Callable[[FixedPointMap], Solve],
        *,
        preconditioned: bool = False,
    ) -> tuple[Solve, Params]:
        """The differentiable reconstruction `(params, f, u0, probe) -> (u*, info)`, and its params.

        differentiable: how a map is solved and differentiated, see `hypergradients.METHODS`. If
        `preconditioned`, through `maps.preconditioned_step` with P made from these params; a
        DEQ (untied) is not preconditioned.
        """
        self.require(params)
        if not (preconditioned and self.tied):
            return differentiable(self.G), params
        G = maps.preconditioned_step(self.K, self.N)
        params = params | {"inverse": preconditioner(self.K, params)}
        return differentiable(G), params

    def reconstruct(self, solver: Solver, params: Params, f: Images) -> tuple[Images, Info]:
        """u* from f: [batch, pixels], from `start(f)`: `(u, info)`, in the dtype of the weights.

        Raises: ValueError for what is no solver of a fixed point, for measurements that are not of
        images of this model's shape, and for params that are none of this model, see `require`.
        """
        solver = as_solver(solver)
        self.check(f)
        self.require(params)
        params, f = precision.as_weights(params, f)
        return solver(At(self.G, params, f), self.start(f))

    def check(self, f: Images) -> None:
        """Raises: ValueError for measurements f that are not `[batch, data]` of images of this
        model's shape, one or more, of finite floating numbers."""
        checks.finite("f", checks.floating("f", f))
        image = jax.ShapeDtypeStruct((1, checks.pixels(self.shape)), f.dtype)
        size = jax.eval_shape(lambda u: self.K.apply(u), image).shape[1:]
        if f.shape[1:] != size or not len(f):
            wanted = ", ".join(map(str, ("batch", *size)))
            raise ValueError(
                f"f: of shape {list(f.shape)}; expected measurements [{wanted}] of one image of "
                f"{self.shape[0]}x{self.shape[1]} or more"
            )

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
        return self.G(u, params, self.K.apply(u))


@lru_cache
def _names(init: Callable[[PRNGKeyArray], dict[str, Any]]) -> frozenset[str]:
    return frozenset(jax.eval_shape(init, jax.random.key(0)))


def build(task: str, model: str, shape: tuple[int, int], features: int | None = None) -> Model:
    """The dense model of [REB] 3.2 with the gradient step, (14) or (18).

    `features` is the number of rows of A; None: as many as pixels, as in the paper.
    Raises: ValueError for an unknown task or model, a shape without pixels, and fewer than one
    feature.
    """
    checks.pixels(shape)
    K = operators.OPERATORS[TASKS[task]](shape)
    return assemble(K, tied=MODELS[model], shape=shape, features=features)


def assemble(
    K: Operator,
    *,
    tied: bool,
    shape: tuple[int, int],
    features: int | None = None,
    step: Callable[[Operator, maps.Regularizer], FixedPointMap] = maps.gradient_step,
) -> Model:
    """A dense model from your own forward operator and choice of map.

    Raises: ValueError for a shape without pixels, fewer than one feature, and an operator whose
    adjoint is that of another, see `adjoints.check`.
    """
    pixels = checks.pixels(shape)
    if features is not None:
        checks.whole("features", features)
    checks.switch("tied", tied)
    checks.function("step", step)
    adjoints.check(K, pixels)
    init = partial(dense.init, pixels=pixels, tied=tied, features=features)
    return Model(K, dense.gradient, step(K, dense.gradient), tied, shape, init)


def convolutional(
    K: Operator, regularizer: Normalised, *, tied: bool, kernels: tuple[int, int] = (30, 3)
) -> Model:
    """The convolutional model of [REB]'s experiments with faces: a gradient step, started at f.

    kernels: number and height and width of the random ones to start with, of which C is a copy;
    `regularizer.init` starts with others.
    Raises: ValueError for fewer than one kernel or entry, kernels that are larger than the images,
    and an operator whose adjoint is that of another, see `adjoints.check`.
    """
    count, size = (checks.whole("kernels", n) for n in kernels)
    if size > min(regularizer.shape):
        raise ValueError(
            f"kernels of {size}x{size} pixels are larger than the image of "
            f"{regularizer.shape[0]}x{regularizer.shape[1]}; take smaller ones"
        )
    adjoints.check(K, checks.pixels(regularizer.shape))

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        A = normalised.uniform(key, count, size, size)
        return regularizer.init(A, None if tied else A)

    return Model(
        K,
        regularizer.gradient,
        ConvolutionalStep(K, regularizer),
        tied,
        regularizer.shape,
        init,
        start=lambda f: f,
        refresh=regularizer.refresh,
    )


def hyperparameters(
    *,
    tau: float,
    gamma: float,
    activation: str | None,
    lam: float = 1.0,
    noise: float = 0.0,
    learning_rate: float | None = None,
    threshold: float | None = None,
) -> Params:
    """The scalars of a run as leaves in JAX's default precision; all may be vmapped over.

    tau: step size, and threshold of Softshrink unless that is given; gamma: weight of the
    regulariser; lam: weight of the data fidelity; noise: standard deviation alpha on the scale of
    images in [-1, 1]; activation: None where the regulariser brings its own; learning_rate: None
    for the setting's.
    Raises: ValueError for an unknown activation or a negative or infinite number.
    """
    scalars = {"tau": tau, "gamma": gamma, "lam": lam, "noise": noise}
    if learning_rate is not None:
        scalars["learning_rate"] = learning_rate
    for name, value in scalars.items():
        least = {"above": 0} if name in ("tau", "learning_rate") else {"least": 0}
        if isinstance(value, list | tuple):
            raise ValueError(f"{name}={value}: expected a number, or an array of them")
        checks.number(name, value, **least)
    if threshold is not None:
        checks.number("threshold", threshold, least=0)
    if activation is None:
        return jax.tree.map(partial(jnp.array, dtype=float), scalars)
    threshold = tau if threshold is None else threshold
    phi = ACTIVATIONS[activation](threshold)
    return jax.tree.map(partial(jnp.array, dtype=float), scalars | {"phi": phi})


def measure(K: Operator, u: Images, noise: Float[Array, ""], key: PRNGKeyArray) -> Images:
    """f = K u + noise * N(0, 1), also where K is zero, as in [REB] 4.

    Raises: ValueError for what is no operator, a negative or infinite noise or more numbers than
    one, what is no key, and images that are not finite, or of whole numbers.
    """
    checks.function("K.apply", getattr(K, "apply", None))
    if np.shape(checks.number("noise", noise, least=0)):
        raise ValueError(f"noise of shape {list(np.shape(noise))}: expected one number")
    key = checks.key("key", key)
    f = K.apply(checks.finite("u", checks.floating("u", u)))
    return f + noise * jax.random.normal(key, f.shape, f.dtype)


def energy(K: Operator) -> Callable[[Images, Params, Images], Float[Array, " batch"]]:
    """The lower-level cost of bilevel learning for each image, whose minimiser is u*, [REB] (13b):

    lam/2 ||K u - f||^2 + gamma 1' phi(A u + b)
    """

    def cost(u: Images, params: Params, f: Images) -> Float[Array, " batch"]:
        checks.entries("params", params, ("lam", "gamma", "phi", "A", "b"))
        checks.alike(**{"K u": jax.eval_shape(lambda u: K.apply(u), u), "f": f})
        fidelity = 0.5 * jnp.sum((K.apply(u) - f) ** 2, axis=-1)
        return params["lam"] * fidelity + params["gamma"] * dense.energy(u, params)

    return cost


def preconditioner(K: Operator, params: Params, damping: float = 0.3) -> Float[Array, "n n"]:
    """The inverse of P = lam K^T K + gamma/2 C^T A + damping I, for `maps.preconditioned_step`.

    Half of the features are taken as active, as they are for ReLU at the start.
    Raises: ValueError for a negative damping, and params without A, gamma or lam.
    """
    checks.number("damping", damping, least=0)
    checks.entries("params", params, ("A", "gamma", "lam"))
    eye = jnp.eye(params["A"].shape[1], dtype=params["A"].dtype)
    hessian = params["gamma"] / 2 * params.get("C", params["A"]).T @ params["A"]
    return jnp.linalg.inv(params["lam"] * K.adjoint(K.apply(eye)) + hessian + damping * eye)
