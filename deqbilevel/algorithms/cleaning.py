"""Data cleaning: weights for training digits of which a share has wrong labels.

    corpus = cleaning.digits("sample", wrong=0.5)
    problem, data, gamma, x, _ = cleaning.pose(corpus, batch=64)

The standard problem of stochastic bilevel optimisation (Franceschi et al. 2017; stocBiO; benchopt's
benchmark_bilevel). The lower level is multinomial logistic regression on the training digits, each
with a learned weight sigmoid(gamma_i); the upper level is its loss on validation digits with true
labels, so that wrong ones lose their weight.

    l = mean_j CE(x; a'_j, b'_j)
    Phi = mean_i sigmoid(gamma_i) CE(x; a_i, b_i) + c ||x||^2

x: [1, features, 10]; gamma: [train], zeros at first. Phi is strongly convex with mu = 2c.
"""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy
from jaxtyping import Array, Float, Float32, Int, Int32, PRNGKeyArray

from deqbilevel import data
from deqbilevel.algorithms.base import Gamma, Posed, from_cost
from deqbilevel.checks import finite
from deqbilevel.rules import POSITIVE, SWITCH, TEXT, Rule, count, options, real

CLASSES = 10
"""How many kinds of digits there are."""

BATCH = Rule(lambda x: x is None or count(1).holds(x), "a whole number, 1 or more, or None for all")
"""What `pose` takes for its batch."""


class Digits(NamedTuple):
    """Standardised images as rows, and their labels."""

    images: Float32[np.ndarray, "n features"]
    labels: Int32[np.ndarray, " n"]


class Corpus(NamedTuple):
    """What is trained on, validated on and tested on, in float32."""

    train: Digits
    """Some labels are wrong."""
    wrong: Any
    """[train] bool: which."""
    validation: Digits
    test: Digits


@options(
    spec=TEXT,
    train_size=count(1),
    validation_size=count(1),
    wrong=real(least=0, most=1),
    seed=count(0),
    intercept=SWITCH,
)
def digits(
    spec: str = "sample",
    *,
    train_size: int | None = None,
    validation_size: int | None = None,
    wrong: float = 0.5,
    seed: int = 0,
    intercept: bool = False,
) -> Corpus:
    """MNIST digits, some for training with wrong labels, some for validation, and the test digits.

    Args:

        spec: `sample`, the digits that ship with the package, or `idx:DIR` with MNIST's IDX files.
        train_size, validation_size: disjoint, of the training digits; None: 4/5 and 1/5 of them,
            but at most 20000 and 5000, as in the benchmarks.
        wrong: the share of training labels that are another digit's, each drawn uniformly from the
            nine. (benchmark_bilevel draws from all ten, so that its 0.5 is 0.45 here.)
        seed: decides which are for training, which labels are wrong, and how.
        intercept: append a feature 1, as stocBiO; benchmark_bilevel has none.

    Every pixel has mean 0 and variance 1 over the training digits, and is 0 where it is constant.

    Raises:

        ValueError: another spec, a share outside [0, 1], more digits than there are, labels beyond
            9, and training digits that are all the same.

    >>> corpus = algorithms.cleaning.digits("sample", train_size=20, validation_size=10, wrong=0.5)
    >>> print(corpus.train.images.shape, corpus.wrong.sum())
    (20, 784) 10
    """
    images, (labels, test_labels) = _labelled(spec)
    available = len(labels)
    train_size = min(20000, available * 4 // 5) if train_size is None else train_size
    if validation_size is None:
        validation_size = min(5000, available // 5)
    if min(train_size, validation_size) < 1 or train_size + validation_size > available:
        raise ValueError(
            f"train_size={train_size}, validation_size={validation_size}: expected at least 1 "
            f"each, and together at most the {available} training digits of {spec}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(available)[: train_size + validation_size]
    chosen, held_out = order[:train_size], order[train_size:]
    flawed = np.zeros(train_size, bool)
    flawed[rng.permutation(train_size)[: round(wrong * train_size)]] = True
    other = (labels[chosen] + rng.integers(1, CLASSES, train_size)) % CLASSES

    if max(labels.max(), test_labels.max()) >= CLASSES:
        raise ValueError(
            f"{spec}: labels up to {max(labels.max(), test_labels.max())}, expected 0-9"
        )
    mean, deviation = images.train[chosen].mean(0), images.train[chosen].std(0)
    if not deviation.any():
        raise ValueError(f"{spec}: all of its training digits are the same; nothing to tell apart")
    deviation[deviation == 0] = 1

    def standardised(rows: np.ndarray, labels: np.ndarray) -> Digits:
        rows = (rows - mean) / deviation
        if intercept:
            rows = np.append(rows, np.ones((len(rows), 1)), axis=1)
        return Digits(rows.astype(np.float32), labels.astype(np.int32))

    return Corpus(
        standardised(images.train[chosen], np.where(flawed, other, labels[chosen])),
        flawed,
        standardised(images.train[held_out], labels[held_out]),
        standardised(images.test, test_labels),
    )


def _labelled(spec: str) -> tuple[data.Images, tuple[np.ndarray, np.ndarray]]:
    """The images, and the labels of both splits."""
    if spec == "sample":
        with as_file(files(data) / "mnist") as shipped:
            return data.load("sample"), data.load_idx_labels(shipped)
    kind, _, folder = spec.partition(":")
    if kind != "idx" or not folder:
        raise ValueError(f"{spec!r}: labels are needed; write sample or idx:DIR")
    return data.load(spec), data.load_idx_labels(Path(folder))


class Split(NamedTuple):
    """Labelled images, where they are in their whole, and their weights in a mean."""

    images: Float[Array, "n features"]
    labels: Int[Array, " n"]
    index: Int[Array, " n"]
    weight: Float[Array, " n"]


class Cleaning(NamedTuple):
    """Training and validation digits, all or a sample."""

    train: Split
    validation: Split
    size: Any
    """How many of a sample of the static `batch` count, see `scheduling.growing`."""


@options(
    corpus=Rule(lambda x: isinstance(x, Corpus), "what digits() gives, a Corpus"),
    batch=BATCH,
    regularisation=POSITIVE,
)
def pose(corpus: Corpus, *, batch: int | None = 64, regularisation: float = 0.2) -> Posed:
    """The problem, in the default precision.

    Args:

        corpus: of `digits`, or your own.
        batch: training digits and validation digits that one call of an oracle draws, with
            replacement, with keys of their own; None: all of them, the deterministic problem.
        regularisation: c, 0.2 as in benchmark_bilevel; stocBiO has 0.001 on images that are not
            standardised for each pixel.

    The lower-level step is 1/L with L = max_i sigmoid(gamma_i) ||A||^2 / (2 n) + 2c for the matrix
    A: [n, features] of the training images. It contracts on all of them; a batch may be worse.
    Raises: ValueError for a batch below 1, a regularisation that is not positive, and digits that
    are not finite, without labels from 0 to 9, or none.

    >>> clean = algorithms.cleaning
    >>> some = clean.Digits(np.eye(2, 3, dtype=np.float32), np.array([7, 9], np.int32))
    >>> posed = clean.pose(clean.Corpus(some, np.zeros(2, bool), some, some))
    >>> print(posed.gamma.shape, posed.x.shape, posed.problem.strong_convexity)
    (2,) (1, 3, 10) 0.4
    """
    for name, part in zip(
        ("train", "validation", "test"), (corpus.train, *corpus[2:]), strict=True
    ):
        _check_digits(name, part, corpus.train.images.shape[-1])
    train, validation = (_split(part) for part in (corpus.train, corpus.validation))
    features = corpus.train.images.shape[1]
    gram = corpus.train.images.T @ corpus.train.images / len(corpus.train.images)
    (largest,) = scipy.linalg.eigvalsh(gram, subset_by_index=[features - 1, features - 1])
    curvature = float(largest) / 2

    def upper(gamma: Gamma, x: Array, data: Cleaning) -> Float[Array, ""]:
        part = data.validation
        return jnp.sum(part.weight * cross_entropy(x, part.images, part.labels))

    def lower(x: Array, gamma: Gamma, data: Cleaning) -> Float[Array, ""]:
        part = data.train
        weight = part.weight * jax.nn.sigmoid(gamma[part.index])
        fit = jnp.sum(weight * cross_entropy(x, part.images, part.labels))
        return fit + regularisation * jnp.sum(x**2)

    def lower_step(gamma: Gamma) -> Array:
        return 1 / (jnp.max(jax.nn.sigmoid(gamma)) * curvature + 2 * regularisation)

    def draw(data: Cleaning, key: PRNGKeyArray) -> Cleaning:
        if batch is None:
            return data
        for_train, for_validation = jax.random.split(key)
        train = _sample(data.train, for_train, batch, data.size)
        return Cleaning(
            train, _sample(data.validation, for_validation, batch, data.size), data.size
        )

    problem = from_cost(upper, lower, lower_step, draw=draw, strong_convexity=2 * regularisation)
    gamma = jnp.zeros(len(corpus.train.labels))
    x = jnp.zeros((1, features, CLASSES))
    size = jnp.asarray(len(gamma) if batch is None else batch)
    return Posed(problem, Cleaning(train, validation, size), gamma, x)


def _check_digits(name: str, part: Digits, features: int) -> None:
    images, labels = np.asarray(part.images), np.asarray(part.labels)
    if images.shape != (len(labels), features) or not images.size:
        raise ValueError(
            f"{name}: images {images.shape} and labels {labels.shape}, expected "
            f"[n, {features}] and [n]"
        )
    finite(f"{name} images", images)
    if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, range(CLASSES)).all():
        raise ValueError(f"{name}: labels of {labels.dtype}, expected whole numbers from 0 to 9")


def _split(part: Digits) -> Split:
    n = len(part.labels)
    images = jnp.asarray(part.images, float)
    return Split(images, jnp.asarray(part.labels), jnp.arange(n), jnp.full(n, 1 / n))


def _sample(part: Split, key: PRNGKeyArray, batch: int, size: Any) -> Split:
    """`batch` of them, of which the first `size` count."""
    chosen = jax.random.randint(key, (batch,), 0, len(part.labels))
    size = jnp.clip(size, 1, batch)
    weight = jnp.where(jnp.arange(batch) < size, 1 / size, 0).astype(part.weight.dtype)
    return Split(part.images[chosen], part.labels[chosen], part.index[chosen], weight)


def cross_entropy(
    x: Float[Array, "1 features classes"],
    images: Float[Array, "n features"],
    labels: Int[Array, " n"],
) -> Float[Array, " n"]:
    """-log softmax(a x)_b of each image a with the label b.

    >>> x, images = jnp.zeros((1, 2, 10)), jnp.ones((1, 2))
    >>> print(algorithms.cleaning.cross_entropy(x, images, jnp.array([3])))  # log 10
    [2.3026]
    """
    return optax.softmax_cross_entropy_with_integer_labels(images @ x[0], labels)


def accuracy(x: Float[Array, "1 features classes"], images: Any, labels: Any) -> Float[Array, ""]:
    """The share of images whose label has the largest score.

    >>> x, images = jnp.array([[[0.0, 1.0]]]), jnp.array([[1.0], [-1.0]])
    >>> print(algorithms.cleaning.accuracy(x, images, jnp.array([1, 1])))
    0.5
    """
    return jnp.mean(jnp.argmax(images @ x[0], axis=1) == labels)
