"""Data parallelism: batches split over all devices, everything else copied.

One mesh axis, `data`, runs over every device of every process. Compiled
functions see whole batches: for any number of devices, sums, masks and batch
statistics are those of the global batch, and results differ by rounding only. A
single device takes the same code path.

Shape letters: N rows of a batch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AXIS = "data"


@functools.cache
def mesh() -> jax.sharding.Mesh:
  """The mesh of all devices, those of one process next to each other."""
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  return jax.sharding.Mesh(np.array(devices), (AXIS,))


def replicated() -> jax.sharding.NamedSharding:
  """The sharding with a whole copy on every device."""
  return jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec())


def by_rows(axis: int = 0) -> jax.sharding.NamedSharding:
  """The sharding of the first axis in equal parts, in the order of `mesh`."""
  spec = jax.sharding.PartitionSpec(*[None] * axis, AXIS)
  return jax.sharding.NamedSharding(mesh(), spec)


def num_devices() -> int:
  """The number of devices of all processes together."""
  return mesh().size


def round_up(num_rows: int) -> int:
  """The next number of rows that divides evenly over all devices."""
  return -(-num_rows // num_devices()) * num_devices()


def require_batch_size(size: int, *, accumulate: int) -> None:
  """Requires a batch that splits evenly over devices and micro-batches.

  Args:
    size: size of the batch, `config.train.batch_size`.
    accumulate: number of micro-batches per step.

  Raises:
    ValueError: devices times micro-batches do not divide the batch.
  """
  unit = num_devices() * accumulate
  if size % unit:
    times = f" times config.train.accumulate={accumulate}"
    raise ValueError(
      "Expected config.train.batch_size to be a multiple of the "
      f"{num_devices()} devices{times if accumulate > 1 else ''}, got {size}; "
      f"try {-(-size // unit) * unit}."
    )


def local_rows(num_rows: int) -> slice:
  """The rows that lie on devices of this process, and so are read here.

  Args:
    num_rows: number N of rows, a multiple of `num_devices()`.
  """
  share = num_rows // jax.process_count()
  start = jax.process_index() * share
  return slice(start, start + share)


def split_rows(local: Any) -> Any:
  """Splits a batch over the devices, for compiled functions.

  Args:
    local: a pytree of NumPy arrays, the `local_rows` of the batch.

  Returns:
    Arrays [N, ...] of the global batch. If the only device is the host, they
    are returned unchanged: a call reads them in place, and copying them first
    would cost a quarter of a millisecond.
  """
  if num_devices() == 1 and jax.default_backend() == "cpu":
    return local
  if jax.process_count() == 1:
    return jax.device_put(local, by_rows())
  return jax.tree.map(
    lambda rows: jax.make_array_from_process_local_data(by_rows(), rows), local
  )


def local_copy(replicated: Any) -> Any:
  """Replicated arrays as arrays on one device of this process.

  Use it for work that every process does by itself.
  """

  def pick(array: Any) -> Any:
    return array.addressable_data(0) if isinstance(array, jax.Array) else array

  return jax.tree.map(pick, replicated)


def replicate(host: Any, like: Any) -> Any:
  """Copies a pytree to every device, into memory that may be donated.

  Args:
    host: a pytree of NumPy arrays, the same on every process.
    like: a pytree with the dtypes of the result; for PRNG keys, `host` holds
      their data.

  Returns:
    A pytree of arrays.
  """

  def place(array: np.ndarray, like: Any) -> jax.Array:
    # One copy per device, because on CPU an array may be used in place.
    placed = jax.make_array_from_callback(
      array.shape, replicated(), lambda index: np.array(array[index])
    )
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
      impl = jax.random.key_impl(jnp.empty((), like.dtype))
      return jax.random.wrap_key_data(placed, impl=impl)
    return placed

  return jax.tree.map(place, host, like)
