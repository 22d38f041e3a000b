"""The one place that chooses how loops and batches reach the device.

XLA's CPU backend runs the convolutions of input gradients inside a rolled loop
three to five times slower than the same steps unrolled, and a partly unrolled
loop is as slow as a rolled one: only outside of loops does it bring their
kernels into the form that its fast convolution takes. Forward passes lose
nothing. GPU and TPU backends lose nothing by rolling either, and rolled loops
compile faster. Every loop over network evaluations goes through `scan` below.

Measured (2 CPU cores, jax 0.10.1, conv 16-32 network, batch 128, 20 signed
gradient steps): rolled 808 ms, `unroll=10` 837 ms, fully unrolled 222 ms.
Ten pullbacks of the same network: `vmap` 135 ms, one batch of ten copies
176 ms, unrolled 54 ms.

The same backend runs the gradient of a small convolution on little more than
one core, but operations that do not depend on each other side by side: halves
of a batch, see `side_by_side`. Measured (as above, time in halves over time
whole, ratio of medians of 9): input gradients of the 28x28 network 0.75 at
batch 128 and 0.62 at 512, its parameter gradients 0.94 and 0.58, its forward
passes 1.14 and 1.05; input gradients of the 8x8 network 0.99 and 1.01, of a
dense network 1.17, of ResNet-20 (64 images) 0.93, of VGG13 (16 images) 0.99.
Quarters gain a few percent more at most sizes and compile for twice as long.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Beyond this many steps compile time outweighs the faster step.
MAX_UNROLL_ON_CPU = 128
# More parts compile for longer; of less input a part, they gain nothing.
_MAX_PARTS = 2
_MIN_VALUES = 2**14


def unroll_length(length: int) -> int:
  """How many steps of a `length`-step loop to unroll on this backend."""
  if jax.default_backend() == "cpu" and length <= MAX_UNROLL_ON_CPU:
    return max(length, 1)
  return 1


def scan(
  step: Callable[[Any, Any], tuple[Any, Any]],
  init: Any,
  xs: Any,
  *,
  length: int,
  backward: bool = True,
) -> tuple[Any, Any]:
  """`jax.lax.scan`, unrolled where rolled loops are slow.

  `backward=False` says that no step takes a backward pass: the loop stays
  rolled.

  A single step is called as it is: `lax.scan` makes a loop even of that, and
  its convolutions are then as slow as in a long one.
  """
  if length == 1:
    carry, out = step(init, jax.tree.map(lambda leaf: leaf[0], xs))
    return carry, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], out)
  unroll = unroll_length(length) if backward else 1
  return jax.lax.scan(step, init, xs, length=length, unroll=unroll)


def in_batches(
  fn: Callable[[jax.Array], Any], x: jax.Array, *, batch_size: int | None
) -> Any:
  """`fn` over the leading axis of x, at most `batch_size` rows at a time.

  Args:
    fn: treats the rows of its argument independently; every leaf it returns
      has them on its leading axis.
    x: [N, ...].
    batch_size: rows a call; `None` for all of them together.

  Returns:
    What `fn(x)` returns. The last batch is filled up with copies of the last
    row, which are dropped. Batches run one after another in a rolled loop: a
    batch is an unrolled loop of its own already, and memory is the point.
  """
  num_rows = x.shape[0]
  if batch_size is None or batch_size >= num_rows:
    return fn(x)
  num_batches = -(-num_rows // batch_size)
  index = jnp.minimum(jnp.arange(num_batches * batch_size), num_rows - 1)

  def step(rows):
    return fn(x[rows])

  stacked = jax.lax.map(step, index.reshape(num_batches, batch_size))
  return jax.tree.map(
    lambda leaf: leaf.reshape((-1, *leaf.shape[2:]))[:num_rows], stacked
  )


def side_by_side(
  fn: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
  """`fn` on parts of its batch, where that lets its gradient use all cores.

  For functions that will be differentiated: forward passes gain nothing.

  Args:
    fn: [N, ...] -> [N, ...], treats rows independently.

  Returns:
    A function of the same values, up to rounding. On one CPU device the parts
    of a large batch are independent operations of the program; `fn` itself on
    other backends, for small batches, and where nothing is convolved (tracing
    traces `fn` once more to see that).
  """

  def call(x: jax.Array) -> jax.Array:
    parts = min(_MAX_PARTS, x.shape[0], x.size // _MIN_VALUES)
    if (
      parts < 2
      or jax.default_backend() != "cpu"
      # Several CPU devices share the cores already.
      or jax.device_count() > 1
      or "conv_general_dilated" not in str(jax.make_jaxpr(fn)(x))
    ):
      return fn(x)
    bounds = [part * x.shape[0] // parts for part in range(parts + 1)]
    return jnp.concatenate([fn(x[a:b]) for a, b in itertools.pairwise(bounds)])

  return call
