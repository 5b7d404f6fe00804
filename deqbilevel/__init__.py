r"""Learning the regularisers of imaging inverse problems by differentiating through fixed points.

A measurement $f = K u + \text{noise}$ of an image $u$ is reconstructed by a fixed point

$$ u^* = G(u^*, \theta, f), \qquad
G(u, \theta, f) = u - \tau \big(\lambda K^T D'(K u; f) + \gamma N(u)\big), $$

and the parameters $\theta$ (`params`) of the regulariser $N$ are learned through its derivative,

$$ \frac{d\ell}{d\theta} = \Big(\frac{\partial G}{\partial \theta}\Big)^T w, \qquad
\Big(I - \frac{\partial G}{\partial u}\Big)^T w = \frac{\partial \ell}{\partial u}. $$

Where N is the gradient of an energy this is bilevel learning; for any other map N it is a deep
equilibrium model (DEQ). Images are rows of pixels, `[batch, pixels]`. Sources:

[REB] Riccio, Ehrhardt, Benning, "Regularization of Inverse Problems: Deep Equilibrium Models versus
Bilevel Learning", arXiv:2206.13193. [CF] Crockett, Fessler, "Bilevel Methods for Image
Reconstruction", arXiv:2109.09610. Numbers in brackets, as (4.8), are of their equations.

Every example of this reference begins with

    import jax, jax.numpy as jnp, numpy as np, optax
    from deqbilevel import models, operators, solvers    # and what else it names of the library
    np.set_printoptions(precision=4, suppress=True)

and, where products are in less than float32 by default, as on a GPU, in the context
`jax.default_matmul_precision("highest")`. All of them are run by the tests.

Here the weight $e^w$ of $R(u) = e^w/2 \, \|D u\|^2$ is learned, by which a noisy signal is
smoothed; printed are the errors of the signal, of what is smoothed at first, and as it is learned:

>>> def energy(u, w):
...     return jnp.exp(w) / 2 * jnp.sum(jnp.diff(u) ** 2, axis=1)
>>> R = regularizers.function((1, 16), energy, lambda key: jnp.zeros(()), energy=True)
>>> model = models.assemble(operators.OPERATORS["identity"]((1, 16)), R)
>>> truth = jnp.sin(jnp.linspace(0, 3, 16))[None]
>>> scalars = models.hyperparameters(tau=0.1, gamma=1.0, noise=0.3, activation=None)
>>> params = model.init(jax.random.key(0)) | scalars
>>> f = model.measure(params, truth, jax.random.key(1))
>>> limits = {"tolerance": 1e-5, "max_evaluations": 100}
>>> way = hypergradients.METHODS["conjugate_gradient"]  # for a DEQ: "gmres"
>>> solve = way(model.G, solvers.anderson(**limits), **limits)
>>> def loss(w):
...     u, info = solve(params | {"network": w}, f, f)
...     return losses.mean_squared_error(u, truth)
>>> w = -3.0
>>> for _ in range(20):
...     w = w - 20 * jax.grad(loss)(w)
>>> print(f"{losses.mean_squared_error(f, truth):.3f} {loss(-3.0):.3f} {loss(w):.3f}")
0.059 0.053 0.028

The layers, from the bottom up; imports only ever run downwards:

- `types`, `disk`, `lanes`, `precision`: the vocabulary, files, many runs as one, products
- `operators`, `fidelities`, `potentials`, `convolutions`, `solvers`, `pictures`, `results`: what a
  problem is made of
- `losses`, `simulation`: what a reconstruction is judged by, and measurements on a finer grid
- `maps`, `regularizers`, `layers`, `hypergradients`, `data`, `plots`: the map, its regulariser, and
  every way to differentiate through its fixed point
- `variational`: exact problems with a 1-norm, such as total variation
- `single_level`: filters that make images sparse, learned without a task
- `langevin`: samples of what a learned cost leaves open
- `settings`, `models`, `pretrained`: a problem as one record, and how it is solved
- `learning`, `algorithms`, `conditions`, `baselines`: one learner, and upper-level algorithms
- `contraction`, `studies`, `courses`, `recipes`, `unrolled`, `upper`, `search`: grids of runs,
  trained models as files, learned iterations and flows, searches without gradients
- `crossover`: what was learned for denoising, for other operators
- `commands`: `deqbilevel learn` and `deqbilevel reconstruct`
"""

__version__ = "0.1.0"
