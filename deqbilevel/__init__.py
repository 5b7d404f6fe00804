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

Imports only ever run downwards: `types`; `operators`, `potentials`, `losses`, `solvers`, `results`;
`maps`, `regularizers`, `hypergradients`, `data`, `plots`; `settings`, `models`; `learning`,
`algorithms`, `conditions`; `contraction`, `studies`, `recipes`.
"""

__version__ = "0.1.0"
