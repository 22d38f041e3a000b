"""Batches as pure functions of (seed, step), padded and masked.

Every batch has the same shapes, so that a compiled step is compiled once: the
last, incomplete batch of an epoch is padded with copies of example 0, and its
mask is False there.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate
from robust_info.data import source

_ALL = slice(None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """One batch, a pytree.

  Attributes:
    image: uint8 [B, H, W, channels].
    label: int32 [B].
    mask: bool [B]; rows where it is False are padding and must not count.
  """

  image: jax.typing.ArrayLike
  label: jax.typing.ArrayLike
  mask: jax.typing.ArrayLike


def to_float(images: jax.typing.ArrayLike) -> jax.Array:
  """uint8 images as float32 in [0, 1]: `images / 255`, correctly rounded.

  Call it inside a compiled step: bytes then travel to the device, a quarter of
  the size of floats. 0 maps to 0 and 255 to 1 exactly.

  Args:
    images: uint8 [...].

  Returns:
    float32 [...].

  Raises:
    TypeError: images are not uint8 (usually they were converted before).
  """
  images = jnp.asarray(images)
  if images.dtype != jnp.uint8:
    raise TypeError(
      f"Expected uint8 images in [0, 255], got dtype={images.dtype}; float "
      "images in [0, 1] need no conversion."
    )
  # x / 256 + x / 65,280, whose rounded sum is x / 255 rounded, for every byte
  # (a test): divisions on GPUs are not correctly rounded.
  images = images.astype(jnp.float32)
  return images * (1 / 256) + images * (1 / 65280)


def epoch_permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """The order of an epoch, a pure function of its arguments.

  This is the sort order of `num_examples` draws of the counter-based generator
  Philox4x64 with key (seed, epoch). Only the raw stream is used, which NumPy
  keeps stable across versions, so a run can be resumed under another version.

  Args:
    seed: seed of the order, in [0, 2^64).
    epoch: number of the epoch, from 0.
    num_examples: number of examples, N.

  Returns:
    int64 [N], a permutation of range(N); read-only.
  """
  _validate.nonnegative_int("seed", seed)
  _validate.nonnegative_int("epoch", epoch)
  _validate.positive_int("num_examples", num_examples)
  return _permutation(int(seed), int(epoch), int(num_examples))


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  generator = np.random.Philox(key=np.array([seed, epoch], np.uint64))
  order = np.argsort(generator.random_raw(num_examples), kind="stable")
  order.flags.writeable = False
  return order


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """ceil(num_examples / batch_size): an incomplete last batch is a step."""
  _validate.positive_int("num_examples", num_examples)
  _validate.positive_int("batch_size", batch_size)
  return -(-num_examples // batch_size)


def train_batch(
  split: source.Split,
  *,
  seed: int,
  step: int,
  batch_size: int,
  rows: slice = _ALL,
) -> Batch:
  """The batch of one training step, a pure function of (seed, step).

  Every epoch visits every example exactly once, in the order of
  `epoch_permutation(seed, epoch, N)`.

  Args:
    split: split of N examples.
    seed: seed of the order, in [0, 2^64).
    step: step of the run, from 0; its epoch is
      `step // steps_per_epoch(N, batch_size)`.
    batch_size: number of rows, B; it may exceed N.
    rows: the requested part of the B rows; other examples are not read.

  Returns:
    A `Batch` of those rows in fresh NumPy arrays. The last batch of an epoch
    is padded and masked where B does not divide N.
  """
  _validate.nonnegative_int("step", step)
  epoch, position = divmod(step, steps_per_epoch(len(split), batch_size))
  order = epoch_permutation(seed, epoch, len(split))
  start = position * batch_size
  return _gather(split, order[start : start + batch_size], batch_size, rows)


def eval_batches(
  split: source.Split, *, batch_size: int, rows: slice = _ALL
) -> Iterator[Batch]:
  """All examples in file order; the last batch is padded and masked.

  Args:
    split: split of N examples.
    batch_size: number of rows, B.
    rows: the requested part of the B rows of every batch.

  Returns:
    An iterator over `steps_per_epoch(N, B)` batches of B rows each, whose
    masks are True exactly N times; with `rows`, of only these rows.
  """
  steps = steps_per_epoch(len(split), batch_size)

  def generate():
    for step in range(steps):
      stop = min((step + 1) * batch_size, len(split))
      examples = np.arange(step * batch_size, stop)
      yield _gather(split, examples, batch_size, rows)

  return generate()


def _gather(
  split: source.Split, examples: np.ndarray, batch_size: int, rows: slice
) -> Batch:
  indices = np.zeros(batch_size, np.int64)
  indices[: len(examples)] = examples
  indices = indices[rows]
  return Batch(
    image=split.images[indices],
    label=split.labels[indices],
    mask=(np.arange(batch_size) < len(examples))[rows],
  )
