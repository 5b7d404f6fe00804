"""Lanes: a function of one run becomes a function of many, spread over the devices that there are.

A lane is one run of a study. Arrays over lanes have a leading axis that is sharded over a mesh of
all devices of all processes; a device takes its own lanes `width` at a time under `vmap`. Lanes
never communicate, so that no device waits for another inside a program.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Key

from deqbilevel import checks


class Lanes(NamedTuple):
    """How many lanes run at once, and where.

    Raises: ValueError for another number of keys than lanes, see `keys`.

    >>> four = lanes.lanes(each=4)
    >>> double = four.over(lambda x, y: x + y, (0, None))
    >>> print(double(four.put(np.arange(four.count)), jnp.array(10))[:4])
    [10 11 12 13]
    """

    mesh: Mesh
    each: int
    """Lanes of a chunk on each device."""
    width: int
    """Of those, how many at once under `vmap`; the rest follow. A vmapped solve lasts as long as
    its slowest lane. 1 is fastest on a CPU, where products are no faster together."""

    @property
    def count(self) -> int:
        """Lanes of a chunk, on all devices."""
        return self.mesh.size * self.each

    @property
    def local(self) -> slice:
        """The lanes of a chunk that this process holds."""
        held = self.count // jax.process_count()
        return slice(jax.process_index() * held, (jax.process_index() + 1) * held)

    def over(self, function: Callable[..., Any], in_axes: Sequence[int | None]) -> Any:
        """`function` over a leading lane axis of the arguments whose entry of `in_axes` is 0."""

        def program(*arguments: Any) -> Any:
            pairs = list(zip(arguments, in_axes, strict=True))

            def one(own: tuple[Any, ...]) -> Any:
                parts = iter(own)
                return function(*(x if axis is None else next(parts) for x, axis in pairs))

            own = tuple(x for x, axis in pairs if axis is not None)
            return jax.lax.map(one, own, batch_size=self.width if self.width > 1 else None)

        lane, shared = PartitionSpec("lane"), PartitionSpec()
        specs = tuple(shared if axis is None else lane for axis in in_axes)
        return jax.shard_map(
            program, mesh=self.mesh, in_specs=specs, out_specs=lane, check_vma=False
        )

    def put(self, tree: Any) -> Any:
        """NumPy arrays over this process's lanes -> arrays over all lanes, on their devices."""
        sharding = NamedSharding(self.mesh, PartitionSpec("lane"))
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
        )

    def share(self, array: Any) -> jax.Array:
        """The same array on every device; every process gives it."""
        return jax.device_put(np.asarray(array), NamedSharding(self.mesh, PartitionSpec()))

    def keys(self, keys: Sequence[Key[Any, ""]]) -> Key[Any, " lanes"]:
        """One random key for each of this process's lanes -> an array over all lanes.

        Raises: ValueError for another number of keys, and what is none.
        """
        held = self.local.stop - self.local.start
        if len(keys) != held:
            raise ValueError(f"{len(keys)} keys: expected {held}, one for each lane here")
        keys = [checks.key("key", key) for key in keys]
        return jax.random.wrap_key_data(
            self.put(np.stack([np.asarray(jax.random.key_data(key)) for key in keys]))
        )


def lanes(each: int = 1, width: int | None = None) -> Lanes:
    """All devices, `each` lanes on each of them; vmapped all at once unless `width` says less.

    Raises: ValueError unless `each` is a multiple of `width`, both whole numbers of 1 or more.

    >>> print(lanes.lanes(each=4, width=2).count // jax.device_count())
    4
    """
    each = checks.whole("each", each)
    width = each if width is None else checks.whole("width", width)
    if each % width:
        raise ValueError(f"each={each}, width={width}: expected a multiple of the width, above 0")
    return Lanes(Mesh(np.asarray(jax.devices()), ("lane",)), each, width)


def mine(tree: Any) -> Any:
    """Arrays over all lanes -> NumPy arrays over the lanes that this process holds.

    >>> some = lanes.lanes(each=2)
    >>> print(lanes.mine(some.put(np.arange(some.count)))[:2])
    [0 1]
    """

    def own(x: jax.Array) -> np.ndarray:
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(own, tree)


def everything(tree: Any) -> Any:
    """Arrays over all lanes -> NumPy arrays over all lanes, in every process.

    >>> some = lanes.lanes(each=2)
    >>> print(lanes.everything(some.put(np.arange(some.count)))[:2])
    [0 1]
    """
    return multihost_utils.process_allgather(tree, tiled=True)
