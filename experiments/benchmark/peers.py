"""Training steps of the same bilevel model by other libraries, written as a user of each would.

A peer gets the same initial weights, batches and level of noise as our own step, and the options
of the setting `paper`: Anderson acceleration with a window of 5, a ridge of 1e-4, 50 evaluations
and 1e-3 both ways. What differs is the library's own: TorchDEQ stops when its slowest image meets
the tolerance; jaxopt measures it in absolute terms, and solves the adjoint system by conjugate
gradients on the normal equations.
"""

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deqbilevel import models
from deqbilevel.losses import mean_squared_error
from deqbilevel.types import Params

WINDOW, RIDGE, BUDGET, TOLERANCE = 5, 1e-4, 50, 1e-3

Evaluations = tuple[float | None, float | None]
"""Evaluations of the map and of its vector-Jacobian product; None where a library does not say."""

Step = Callable[[int], Evaluations]
"""The i-th training step of some library; returns when it is done."""


class Problem(NamedTuple):
    """What every library is given: data alone, so that it can be sent to another process."""

    task: str
    kind: str
    """bilevel or deq."""
    activation: str
    shape: tuple[int, int]
    params: Params
    """Initial weights and hyperparameters."""
    images: Float[np.ndarray, "n pixels"]
    order: Int[np.ndarray, "steps batch"]
    """The images of each step."""
    seed: int
    """Of the noise."""
    gpu: bool = False
    """Whether a GPU takes the steps."""

    @property
    def model(self) -> models.Model:
        return models.build(self.task, self.kind, self.shape)

    @property
    def keys(self) -> PRNGKeyArray:
        """Of the noise of each step."""
        return jax.random.split(jax.random.key(self.seed), len(self.order))


def torchdeq(problem: Problem) -> Step:
    """TorchDEQ: implicit differentiation, Anderson both ways, torch's Adam.

    TorchDEQ hands no window to its adjoint solver, so its own solver is registered once more
    under the name of each direction, with the window set and the evaluations counted.
    """
    torch, library = importlib.import_module("torch"), importlib.import_module("torchdeq")
    solvers, functional = importlib.import_module("torchdeq.solver"), torch.nn.functional
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_default_device("cuda" if problem.gpu else "cpu")
    torch.manual_seed(problem.seed)
    counts = {"counted_forward": 0, "counted_adjoint": 0}

    def register(direction: str) -> None:
        def solver(func: Callable, x0: Any, **options: Any) -> Any:
            def counted(x: Any) -> Any:
                counts[direction] += 1
                return func(x)

            return solvers.get_solver("anderson")(counted, x0, m=WINDOW, lam=RIDGE, **options)

        solvers.register_solver(direction, solver)

    for direction in counts:
        register(direction)
    deq = library.get_deq(
        core="indexing",
        ift=True,
        f_solver="counted_forward",
        b_solver="counted_adjoint",
        f_max_iter=BUDGET,
        b_max_iter=BUDGET,
        f_tol=TOLERANCE,
        b_tol=TOLERANCE,
        f_stop_mode="rel",
        b_stop_mode="rel",
    )
    tau, gamma, lam, noise, rate = (
        float(problem.params[name]) for name in ("tau", "gamma", "lam", "noise", "learning_rate")
    )
    apply, adjoint = _torch_operator(torch, problem)
    sigma = {
        "identity": lambda z: z,
        "relu": functional.relu,
        "softshrink": lambda z: functional.softshrink(z, tau),
    }[problem.activation]
    A, b = (torch.tensor(np.array(problem.params[n]), requires_grad=True) for n in ("A", "b"))
    optimiser = torch.optim.Adam([A, b], lr=rate)
    images, order = torch.tensor(problem.images), torch.tensor(problem.order)

    def step(i: int) -> Evaluations:
        counts.update(dict.fromkeys(counts, 0))
        truth = images[order[i]]
        f = apply(truth)
        f = f + noise * torch.randn_like(f)

        def G(u: Any) -> Any:
            regulariser = sigma(functional.linear(u, A, b)) @ A
            return u - tau * (lam * adjoint(apply(u) - f) + gamma * regulariser)

        solutions, _ = deq(G, torch.zeros_like(truth))
        optimiser.zero_grad()
        functional.mse_loss(solutions[-1], truth).backward()
        optimiser.step()
        if problem.gpu:
            torch.cuda.synchronize()
        return counts["counted_forward"], counts["counted_adjoint"]

    return step


def _torch_operator(torch: Any, problem: Problem) -> tuple[Callable, Callable]:
    """K and K^T in torch; the blur by rolls, five times faster than its convolution."""
    K: Any = problem.model.K
    if problem.task == "denoising":
        return (lambda u: u), (lambda v: v)
    if problem.task == "inpainting":
        mask = torch.tensor(np.array(K.mask))
        return (lambda u: u * mask), (lambda v: v * mask)
    taps = [(float(w), offset) for w, offset in zip(K.weights, K.offsets, strict=True)]

    def convolve(u: Any, sign: int) -> Any:
        x = u.view(-1, *problem.shape)
        total = torch.zeros_like(x)
        for weight, (i, j) in taps:
            total = total + weight * torch.roll(x, (sign * i, sign * j), (1, 2))
        return total.view(u.shape)

    return (lambda u: convolve(u, 1)), (lambda v: convolve(v, -1))


def plain_jaxopt(problem: Problem) -> Step:
    """jaxopt: a solver for one image under vmap, with its default implicit differentiation."""
    import jaxopt

    model, params = problem.model, problem.params
    weights: Any = {"A": params["A"], "b": params["b"]}

    def G(u: Array, weights: Params, f: Array) -> Array:
        return model.G(u[None], params | weights, f[None])[0]

    solver = jaxopt.AndersonAcceleration(
        G, history_size=WINDOW, maxiter=BUDGET, tol=TOLERANCE, ridge=RIDGE
    )
    optimiser = optax.adam(params["learning_rate"])
    moments = optimiser.init(weights)

    def loss(weights: Params, f: Array, truth: Array) -> tuple[Array, Array]:
        u, state = jax.vmap(lambda u0, f: solver.run(u0, weights, f))(jnp.zeros_like(f), f)
        return mean_squared_error(u, truth), jnp.max(state.num_fun_eval)

    @jax.jit
    def advance(weights: Params, moments: Any, truth: Array, key: PRNGKeyArray) -> Any:
        f = models.measure(model.K, truth, params["noise"], key)
        gradient, evaluations = jax.grad(loss, has_aux=True)(weights, f, truth)
        updates, moments = optimiser.update(gradient, moments)
        return optax.apply_updates(weights, updates), moments, evaluations

    images, order, keys = jnp.asarray(problem.images), jnp.asarray(problem.order), problem.keys

    def step(i: int) -> Evaluations:
        nonlocal weights, moments
        weights, moments, evaluations = advance(weights, moments, images[order[i]], keys[i])
        jax.block_until_ready(weights)
        return float(evaluations), None

    return step


class Peer(NamedTuple):
    """A library to compare with."""

    modules: tuple[str, ...]
    """What has to be importable."""
    step: Callable[[Problem], Step]


PEERS: dict[str, Peer] = {
    "torchdeq": Peer(("torch", "torchdeq"), torchdeq),
    "jaxopt": Peer(("jaxopt",), plain_jaxopt),
}
"""Every library that our own step is compared with."""


def missing(name: str) -> str | None:
    """What to say of a peer that is not installed, or cannot use the GPU; None if it can."""
    if not all(importlib.util.find_spec(module) for module in PEERS[name].modules):
        return "not installed; pip install 'deqbilevel[bench]'"
    if name == "torchdeq" and jax.default_backend() == "gpu":
        if not importlib.import_module("torch").cuda.is_available():
            return "torch finds no GPU; install a build of it with CUDA"
    return None


@contextlib.contextmanager
def apart(name: str, problem: Problem) -> Iterator[Step]:
    """The step of a peer in a process of its own.

    In one process the idle threads of XLA and torch take the cores from each other: TorchDEQ's
    step of denoising took 44 ms beside ours and 37 ms apart, ours 29 ms either way.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(name, problem, there), daemon=True)
    # JAX would take most of the GPU's memory there, which torch needs, as it has taken it here.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    process.start()
    there.close()

    def step(i: int) -> Evaluations:
        here.send(i)
        return here.recv()

    try:
        yield step
    finally:
        here.close()
        process.join()


def _serve(name: str, problem: Problem, connection: Connection) -> None:
    """Take the steps that are asked for until the other end is closed."""
    step = PEERS[name].step(problem)
    with contextlib.suppress(EOFError):
        while True:
            connection.send(step(connection.recv()))
