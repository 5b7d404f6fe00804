"""Models: the lower level of a learning problem, of an operator K, a regulariser R, a data fidelity
D and a step. They make the map G whose fixed point u* = G(u*, params, f) reconstructs f.

    model = models.build("denoising", "bilevel", (28, 28))         # [REB]: a task and one word
    model = models.assemble(K, convolutional.convolutional(K.shape))    # your own choice of parts
    params = model.init(key) | models.hyperparameters(tau=0.9, gamma=0.1, activation="relu")

A regulariser with an energy makes it bilevel learning, one without a deep equilibrium model (DEQ).
"""

from deqbilevel.models.base import Model, assemble, inverse, measure, with_scalars
from deqbilevel.models.dense import MODELS, TASKS, build, hyperparameters

__all__ = [
    "MODELS",
    "TASKS",
    "Model",
    "assemble",
    "build",
    "hyperparameters",
    "inverse",
    "measure",
    "with_scalars",
]
