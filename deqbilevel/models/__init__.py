"""Models: the lower level of a learning problem, of an operator K, a regulariser R, a data fidelity
D and a step. They make the map G whose fixed point u* = G(u*, params, f) reconstructs f.

    model = models.build("denoising", "bilevel", (28, 28))         # [REB]: a task and one word
    model = models.assemble(K, convolutional.convolutional(K.shape))    # your own choice of parts
    params = model.init(key) | models.hyperparameters(tau=0.9, gamma=0.1, activation="relu")

A regulariser with an energy makes it bilevel learning, one without a deep equilibrium model (DEQ).

>>> K, f = operators.identity((1, 2)), jnp.array([[2.0, 4.0]])
>>> model = models.assemble(K, regularizers.dense.dense((1, 2)))
>>> params = {"A": jnp.eye(2), "b": jnp.zeros(2), "phi": potentials.identity()}
>>> params = models.with_scalars(params)  # lam = gamma = 1
>>> print(isinstance(model, models.Model), model.reconstruct(solvers.picard(), params, f)[0])
True [[1. 2.]]
>>> print(models.measure(K, f, 0.0, jax.random.key(0)))  # K f, and no noise
[[2. 4.]]
>>> print(models.inverse(K, model.R, params, damping=0.5))  # 1 / (1 + 1/2 + 1/2)
[[0.5 0. ]
 [0.  0.5]]
"""

from deqbilevel.models.assembling import assemble
from deqbilevel.models.base import Model, measure, with_scalars
from deqbilevel.models.dense import MODELS, TASKS, build, hyperparameters
from deqbilevel.models.direct import direct
from deqbilevel.models.matrices import inverse
from deqbilevel.models.stopping import until_noise

__all__ = [
    "MODELS",
    "TASKS",
    "Model",
    "assemble",
    "build",
    "direct",
    "hyperparameters",
    "inverse",
    "measure",
    "until_noise",
    "with_scalars",
]
