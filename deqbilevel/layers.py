"""A convolutional layer for networks that a solver iterates, in the place of `flax.linen.Conv`.

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):  # [batch, height, width, 1]
            return Conv(1, (3, 3))(nn.relu(Conv(16, (3, 3))(x)))

Values and weights are those of flax; the derivative in a loop on a CPU is several times as fast,
see `convolutions.channels`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.checks import Registry
from deqbilevel.convolutions.channels import padded

PADDING: Registry[str | None] = Registry(
    "padding", {"SAME": "constant", "CIRCULAR": "wrap", "REFLECT": "reflect", "VALID": None}
)
"""The modes of `jnp.pad` by flax's names of what is beyond the border of an image."""


class Conv(nn.Module):
    """y = x * kernel + bias, as `flax.linen.Conv` with a stride of one.

    features: the channels that come out; kernel_size: its rows and columns; padding: one of
    `PADDING`, with flax's names, of which REFLECT does not repeat the outermost pixels.
    Raises: ValueError for sizes that are none, another padding, and x of another number of axes.

    >>> conv = layers.Conv(1, (3, 3), kernel_init=jax.nn.initializers.ones)
    >>> y, _ = conv.init_with_output(jax.random.key(0), jnp.ones((1, 3, 3, 1)))
    >>> print(y[0, :, :, 0])  # neighbours counted, with zeros outside
    [[4. 6. 4.]
     [6. 9. 6.]
     [4. 6. 4.]]
    """

    features: int
    kernel_size: tuple[int, int]
    padding: str = "SAME"
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.constant(0.0)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch rows columns features"]:
        checks.whole("features", self.features)
        mode = PADDING[self.padding]
        size: Any = self.kernel_size
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise ValueError(f"kernel_size={size!r}: expected rows and columns, such as (3, 3)")
        for entry in size:
            checks.whole("kernel_size", entry)
        if jnp.ndim(x) != 4:
            raise ValueError(
                f"x {list(jnp.shape(x))}: expected [batch, height, width, inputs]; give images "
                "that are rows of pixels their shape, and one channel, by x.reshape"
            )
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features))
        y = padded(x, kernel, mode)
        return y + self.param("bias", self.bias_init, (self.features,)) if self.use_bias else y
