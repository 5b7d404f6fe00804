"""Single-level learning, [CF] 2.3: filters that make images sparse, whatever they are used for.

    method = single_level.convolutional_analysis(shape, beta=1e-4, without_constant=True)
    filters, objective = single_level.run(method, start, images, steps=100)
    params = single_level.params_of(filters)      # of regularizers.convolutional

A method is a pair of pure functions, `init(operator, data)` and `step(state, data)`, which returns
the objective with the State.
"""

from deqbilevel.single_level.analysis import analysis, coherence, tightness
from deqbilevel.single_level.base import Method, patches, run, thresholded
from deqbilevel.single_level.constraints import (
    CONSTRAINTS,
    coherences,
    constraint,
    mutual_coherence,
)
from deqbilevel.single_level.contrastive import contrastive_divergence
from deqbilevel.single_level.convolutional import convolutional_analysis, frame
from deqbilevel.single_level.experts import score_matching
from deqbilevel.single_level.filters import filters_of, params_of
from deqbilevel.single_level.ksvd import analysis_ksvd, cosparse
from deqbilevel.single_level.random_fields import (
    GaussianField,
    conditional_field,
    gaussian_field,
)
from deqbilevel.single_level.transform import transform

__all__ = [
    "CONSTRAINTS",
    "GaussianField",
    "Method",
    "analysis",
    "analysis_ksvd",
    "coherence",
    "coherences",
    "conditional_field",
    "constraint",
    "contrastive_divergence",
    "convolutional_analysis",
    "cosparse",
    "filters_of",
    "frame",
    "gaussian_field",
    "mutual_coherence",
    "params_of",
    "patches",
    "run",
    "score_matching",
    "thresholded",
    "tightness",
    "transform",
]
