"""Learning: one learner for every model, hypergradient, loss and optimiser.

    min_params  loss(u*(params), truth),    u* = G(u*, params, f)

`trainer` and `run` train on images of one shape with fresh noise, in epochs and over lanes;
`start`, `step` and `steps` are the same steps on anything: with measurements that stay, on
minibatches, on images of several shapes, with lower levels that go on warm.

>>> model, u = models.build("denoising", "bilevel", (1, 2)), jnp.array([[0.5, -0.5]])
>>> scalars = models.hyperparameters(tau=0.5, gamma=0.1, activation="identity")
>>> setting, sgd = settings.SETTINGS["paper"], learning.fixed(optax.sgd(0.1))
>>> learner = learning.Learner((model,), setting, sgd, learned=("A", "b"))
>>> state = learning.start(learner, model.init(jax.random.key(0)) | scalars)
>>> state, first = learning.step(learner, state, u, f=u)
>>> state, more = learning.steps(learner, state, u, 3, f=u)
>>> print(more.loss.shape, bool(more.loss[-1] < first.loss))
(3,) True
"""

from deqbilevel.learning import knowing
from deqbilevel.learning.base import Learner, Metrics, State, check, directly
from deqbilevel.learning.epochs import (
    EXECUTION,
    RECORDS,
    Epoch,
    ahead,
    block,
    compiled,
    compiles,
    epoch,
    keys,
    measures_compiled,
    run,
)
from deqbilevel.learning.evaluation import BATCH, HUGE, evaluation, finite
from deqbilevel.learning.rates import (
    SCHEDULES,
    SEARCHING,
    Optimiser,
    Schedule,
    adam,
    adam_direction,
    cosine,
    fixed,
    gradient_descent,
    lbfgs,
    linear,
)
from deqbilevel.learning.searching import BETA_0, Search, search, upper_level
from deqbilevel.learning.starting import start
from deqbilevel.learning.stepping import step, steps
from deqbilevel.learning.training import Trainer, steps_per_epoch, trainer

__all__ = [
    "BATCH",
    "BETA_0",
    "EXECUTION",
    "HUGE",
    "RECORDS",
    "SCHEDULES",
    "SEARCHING",
    "Epoch",
    "Learner",
    "Metrics",
    "Optimiser",
    "Schedule",
    "Search",
    "State",
    "Trainer",
    "adam",
    "adam_direction",
    "ahead",
    "block",
    "check",
    "compiled",
    "compiles",
    "cosine",
    "directly",
    "epoch",
    "evaluation",
    "finite",
    "fixed",
    "gradient_descent",
    "keys",
    "knowing",
    "lbfgs",
    "linear",
    "measures_compiled",
    "run",
    "search",
    "start",
    "step",
    "steps",
    "steps_per_epoch",
    "trainer",
    "upper_level",
]
